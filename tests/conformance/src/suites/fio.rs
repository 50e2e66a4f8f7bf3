//! fio: what is written carries checksums, which are verified at once and after a remount.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use super::{LONG, Session};

pub(super) fn run(session: &mut Session<'_>) -> Result<()> {
    let size = session.pick("16m", "256m");
    let mut after_remount = Vec::new();
    for pattern in ["write", "randwrite"] {
        for jobs in ["1", "4"] {
            for direct in [false, true] {
                for map in [true, false] {
                    // Sequential writes never come twice to one place.
                    if pattern == "write" && !map {
                        continue;
                    }
                    let mut name = format!("{pattern}-{jobs}-jobs");
                    name.push_str(if direct { "-direct" } else { "" });
                    name.push_str(if map { "" } else { "-norandommap" });
                    let mut options = vec![
                        format!("--name={name}"),
                        format!("--size={size}"),
                        format!("--rw={pattern}"),
                        format!("--numjobs={jobs}"),
                        format!("--direct={}", u8::from(direct)),
                        format!("--bs={}", if pattern == "write" { "256k" } else { "4k" }),
                    ];
                    if !map {
                        options.push("--norandommap".into());
                    }
                    let path = session.place.path().to_owned();
                    let good = session.check(&name, &mut fio(&path, &options), LONG);
                    // Without a map fio doesn't remember which of several writes was the last.
                    if good && map {
                        after_remount.push((name, options));
                    }
                }
            }
        }
    }
    session.place.remount()?;
    for (name, mut options) in after_remount {
        options.push("--verify_only".into());
        let path = session.place.path().to_owned();
        let name = format!("{name}-remounted");
        session.check(&name, &mut fio(&path, &options), LONG);
    }
    Ok(())
}

fn fio(path: &Path, options: &[String]) -> Command {
    let mut command = Command::new("fio");
    command.current_dir(path);
    command.args(["--ioengine=psync", "--verify=crc32c", "--verify_fatal=1"]);
    command.args([
        "--verify_state_save=0",
        "--end_fsync=1",
        "--directory=.",
        "--minimal",
    ]);
    command.args(options);
    command
}
