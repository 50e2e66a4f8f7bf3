//! git: a clone of this repository on the mount, packed, checked, and compared with its source.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};

use super::{LONG, Session};

pub(super) fn run(session: &mut Session<'_>) -> Result<()> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let clone = session.file("clone");
    // Objects are sent and unpacked, not linked or copied as files.
    let mut command = git(None);
    command.args(["clone", "--quiet", "--no-local"]);
    command.arg(&source).arg(&clone);
    ensure!(session.check("clone", &mut command, LONG), "nothing cloned");
    check_clone(session, "clone", &source)?;
    let mut commit = git(Some(&clone));
    commit.args(["-c", "user.name=n", "-c", "user.email=n@example.org"]);
    commit.args(["commit", "--quiet", "--allow-empty", "-m", "one more"]);
    session.check("commit", &mut commit, LONG);
    let mut undo = git(Some(&clone));
    session.check("reset", undo.args(["reset", "--quiet", "HEAD~1"]), LONG);
    let mut gc = git(Some(&clone));
    session.check("gc", gc.args(["gc", "--quiet", "--prune=now"]), LONG);
    check_clone(session, "gc", &source)?;
    session.place.remount()?;
    check_clone(session, "remounted", &source)?;
    let mut again = git(None);
    let second = session.file("second");
    again.args(["clone", "--quiet"]).arg(&clone).arg(&second);
    session.check("clone-with-hard-links", &mut again, LONG);
    let mut fsck = git(Some(&second));
    session.check(
        "fsck-of-links",
        fsck.args(["fsck", "--full", "--strict"]),
        LONG,
    );
    Ok(())
}

/// The clone is whole, nothing differs from what is checked in, and it is at the source's commit.
fn check_clone(session: &mut Session<'_>, when: &str, source: &Path) -> Result<()> {
    let clone = session.file("clone");
    let mut fsck = git(Some(&clone));
    session.check(
        &format!("fsck-{when}"),
        fsck.args(["fsck", "--full", "--strict"]),
        LONG,
    );
    // Without the index's times, so that each file is read.
    let mut refresh = git(Some(&clone));
    session.must(refresh.args(["read-tree", "HEAD"]), LONG)?;
    let mut status = git(Some(&clone));
    let status = session.must(status.args(["status", "--porcelain"]), LONG);
    let same = status.and_then(|changed| {
        ensure!(changed.is_empty(), "{changed}");
        let head = |path| session.must(git(Some(path)).args(["rev-parse", "HEAD"]), LONG);
        ensure!(head(&clone)? == head(source)?, "another commit");
        Ok(())
    });
    session.checks.note(format!("same-{when}"), same);
    Ok(())
}

fn git(directory: Option<&Path>) -> Command {
    let mut command = Command::new("git");
    // The source may belong to somebody else.
    command.args(["-c", "safe.directory=*"]);
    if let Some(directory) = directory {
        command.arg("-C").arg(directory);
    }
    command.env("GIT_CONFIG_COUNT", "1");
    command.env("GIT_CONFIG_KEY_0", "safe.directory");
    command.env("GIT_CONFIG_VALUE_0", "*");
    command
}
