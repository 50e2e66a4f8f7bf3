//! What can be run on a place.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use crate::outcome::{Checks, Verdict};
use crate::place::Place;

mod disks;
mod fio;
mod fsx;
mod git;
mod guest;
mod pjdfstest;
mod rsync;
mod sqlite;
mod trees;
mod xfstests;

/// A suite.
#[derive(Debug)]
pub struct Suite {
    /// What it is called on the command line.
    pub name: &'static str,
    /// What it does, in one line.
    pub about: &'static str,
    /// Runs it on a new place. An error means that it could not go on.
    pub run: fn(&mut Session<'_>) -> Result<()>,
}

/// All suites, in the order that they run in.
pub const SUITES: &[Suite] = &[
    Suite {
        name: "pjdfstest",
        about: "POSIX: modes, owners, times, names, errors",
        run: pjdfstest::run,
    },
    Suite {
        name: "fsx",
        about: "random operations on one file, with and without O_DIRECT and mmap",
        run: fsx::run,
    },
    Suite {
        name: "fio",
        about: "written data verified by checksum, at once and after a remount",
        run: fio::run,
    },
    Suite {
        name: "trees",
        about: "trees, large files, sparse disks and colliding names, read back by other readers",
        run: trees::run,
    },
    Suite {
        name: "disks",
        about: "qemu-img: raw, qcow2 and VMDK to and from each other",
        run: disks::run,
    },
    Suite {
        name: "guest",
        about: "a virtual machine boots from a disk on the mount, which is killed under it",
        run: guest::run,
    },
    Suite {
        name: "git",
        about: "git clone, gc and fsck",
        run: git::run,
    },
    Suite {
        name: "sqlite",
        about: "SQLite transactions, also while the mount is killed",
        run: sqlite::run,
    },
    Suite {
        name: "rsync",
        about: "rsync twice: the second run copies nothing",
        run: rsync::run,
    },
    Suite {
        name: "xfstests",
        about: "the generic quick group of the checkout that XFSTESTS_DIR names",
        run: xfstests::run,
    },
];

/// One run of a suite.
#[derive(Debug)]
pub struct Session<'a> {
    /// Where.
    pub place: &'a mut Place,
    /// Only a part.
    pub quick: bool,
    /// What came out so far.
    pub checks: &'a mut Checks,
}

impl Session<'_> {
    /// `all`, or `quick` in a quick run.
    pub fn pick<T>(&self, quick: T, all: T) -> T {
        if self.quick { quick } else { all }
    }

    /// Runs a program that must succeed, and returns its standard output.
    ///
    /// # Errors
    /// When it fails or takes longer than `limit`.
    pub fn must(&self, command: &mut Command, limit: Duration) -> Result<String> {
        self.place.tools().processes.must(command, limit)
    }

    /// Runs a program as the check `name`.
    pub fn check(&mut self, name: &str, command: &mut Command, limit: Duration) -> bool {
        let result = self.must(command, limit).map(drop);
        let good = result.is_ok();
        self.checks.note(name, result);
        good
    }

    /// Notes that `name` can't be checked here.
    pub fn skip(&mut self, name: &str, why: &str) {
        self.checks.add(name, Verdict::Skipped(why.to_owned()));
    }

    /// `name` on the place.
    pub fn file(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }
}

/// A long time for a step that takes seconds or minutes.
const LONG: Duration = Duration::from_secs(1800);

/// Where a program is that cargo installed.
fn cargo_program(name: &str) -> PathBuf {
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cargo")));
    match home.map(|home| home.join("bin").join(name)) {
        Some(path) if path.exists() => path,
        _ => name.into(),
    }
}

/// A script of this crate.
fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("programs")
        .join(name)
}
