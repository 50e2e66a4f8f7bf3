//! fsx: random operations on one file, each read compared with what must be there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use super::{LONG, Session, cargo_program, script};
use crate::place::Kind;

/// Operations of a run, and of a run in CI.
const OPERATIONS: (u32, u32) = (200_000, 5_000);

/// A seed and the largest file it makes, so that a file's map goes through all its forms.
const SEEDS: [(u32, u32); 4] = [(1, 256 << 10), (2, 3 << 20), (3, 12 << 20), (4, 40 << 20)];

pub(super) fn run(session: &mut Session<'_>) -> Result<()> {
    let folder = session.place.beside("fsx")?;
    let shim = direct(session, &folder)?;
    let operations = session.pick(OPERATIONS.1, OPERATIONS.0);
    let seeds = session.pick(&SEEDS[1..3], &SEEDS[..]);
    // passthrough_ll can't.
    let punch = if *session.place.kind() == Kind::Passthrough {
        0
    } else {
        3
    };
    for mapped in [false, true] {
        for direct in [false, true] {
            for &(seed, length) in seeds {
                let name = format!(
                    "seed-{seed}{}{}",
                    if mapped { "-mmap" } else { "" },
                    if direct { "-direct" } else { "" }
                );
                if direct && matches!(session.place.kind(), Kind::Directory(_)) {
                    session.skip(&name, "fsx doesn't align, which only FUSE's O_DIRECT takes");
                    continue;
                }
                let config = folder.join(format!("{name}.toml"));
                fs::write(&config, configuration(mapped, length, punch))?;
                let mut command = Command::new(cargo_program("fsx"));
                command.args(["-N", &operations.to_string(), "-S", &seed.to_string()]);
                command.arg("-f").arg(&config).arg("-P").arg(&folder);
                command.arg(session.file(&name)).env("RUST_BACKTRACE", "0");
                if direct {
                    command.env("LD_PRELOAD", &shim);
                }
                session.check(&name, &mut command, LONG);
            }
        }
    }
    Ok(())
}

fn configuration(mapped: bool, length: u32, punch: u32) -> String {
    let map = if mapped { 10 } else { 0 };
    let size = 65_536.max(length / 32);
    format!(
        "flen = {length}\n[opsize]\nmax = {size}\n[weights]\nclose_open = 1\nread = 10\nwrite = 10\n\
         mapread = {map}\nmapwrite = {map}\ninvalidate = {}\ntruncate = 3\nfsync = 0.5\n\
         fdatasync = 0.5\nposix_fallocate = 2\npunch_hole = {punch}\nsendfile = 3\nposix_fadvise = 1\n\
         copy_file_range = 4\n",
        map / 10
    )
}

/// fsx has no O_DIRECT of its own; this library adds it to what it opens.
fn direct(session: &Session<'_>, folder: &Path) -> Result<PathBuf> {
    let shim = folder.join("direct.so");
    let mut command = Command::new("cc");
    command.args(["-O1", "-shared", "-fPIC", "-o"]).arg(&shim);
    command.arg(script("direct.c")).arg("-ldl");
    session.must(&mut command, LONG)?;
    Ok(shim)
}
