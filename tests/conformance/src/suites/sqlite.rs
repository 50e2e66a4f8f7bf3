//! SQLite: transactions in both journal modes, also while the mount is killed under them.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{LONG, Session, script};

const MODES: [&str; 2] = ["delete", "wal"];

pub(super) fn run(session: &mut Session<'_>) -> Result<()> {
    let transactions = session.pick("100", "3000");
    for mode in MODES {
        let path = session.file(&format!("{mode}.db"));
        let mut load = python("load", &path, mode);
        session.check(&format!("{mode}-load"), load.arg(transactions), LONG);
        session.check(
            &format!("{mode}-check"),
            &mut python("check", &path, mode),
            LONG,
        );
    }
    session.place.remount()?;
    for mode in MODES {
        let path = session.file(&format!("{mode}.db"));
        let name = format!("{mode}-remounted");
        session.check(&name, &mut python("check", &path, mode), LONG);
    }
    for mode in MODES {
        for cut in 0..session.pick(1, 5) {
            let name = format!("{mode}-killed-{cut}");
            if session.place.can_be_killed() {
                let result = killed(session, mode, 30 + 47 * cut);
                session.checks.note(name, result);
            } else {
                session.skip(&name, "a plain directory can't be killed");
            }
        }
    }
    Ok(())
}

/// Kills the mount once `transactions` are committed, and checks that all are there that were
/// committed by then, and none besides but one that the kill may have caught at its end.
fn killed(session: &mut Session<'_>, mode: &str, transactions: usize) -> Result<()> {
    let path = session.file(&format!("{mode}-{transactions}.db"));
    let log = session.place.beside("sqlite")?.join("words");
    let mut command = python("load", &path, mode);
    command.arg("1000000000").stdin(Stdio::null());
    command
        .stdout(Stdio::piped())
        .stderr(fs::File::create(&log)?);
    let mut load = session.place.tools().processes.start(&mut command)?;
    let out = load.child().stdout.take().context("its output")?;
    let mut lines = BufReader::new(out).lines();
    let mut committed = 0;
    while committed < transactions {
        let line = lines.next().context("it ended early")??;
        committed = line.parse().context(line)?;
    }
    session.place.kill()?;
    // It may have committed more before.
    for line in lines {
        let line = line?;
        committed = line.parse().context(line)?;
    }
    ensure!(
        !load.wait(Duration::from_secs(60))?.success(),
        "it didn't notice"
    );
    session.place.mount()?;
    let mut check = python("check", &path, mode);
    let found = session.must(&mut check, LONG)?;
    let found: usize = found.trim().parse()?;
    ensure!(
        (committed..=committed + 1).contains(&found),
        "{committed} transactions were committed, {found} are there"
    );
    Ok(())
}

fn python(what: &str, path: &Path, mode: &str) -> Command {
    let mut command = Command::new("python3");
    command.arg(script("sqlite_load.py"));
    command.arg(what).arg(path).arg(mode);
    command
}
