//! Mounts that clean up after themselves.

#![allow(dead_code, reason = "each test binary uses a part")]

pub(crate) mod volume;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::mount::UnmountFlags;
use rustix::process::{Pid, Signal};
use tempfile::TempDir;

/// Longest wait for something that happens at once on an idle machine.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) const VMFS_FUSE: &str = env!("CARGO_BIN_EXE_vmfs-fuse");
pub(crate) const MOUNT_VMFS: &str = env!("CARGO_BIN_EXE_mount-vmfs");

/// A mount that is there; unmounted when dropped.
pub(crate) struct Mount {
    folder: TempDir,
}

impl Mount {
    /// Mounts `devices` read-only, with `options`.
    pub(crate) fn new(devices: &[&Path], options: &[&str]) -> Self {
        let options: Vec<&str> = ["-o", "ro"].iter().chain(options).copied().collect();
        Self::writable(devices, &options)
    }

    /// Mounts `devices` with `options`, read-write unless they say otherwise.
    pub(crate) fn writable(devices: &[&Path], options: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("mountpoint");
        let mount = Self { folder };
        let output = run(VMFS_FUSE, devices, mount.path(), options);
        assert!(output.status.success(), "{}", text(&output));
        mount
    }

    /// Guards a mount that a test makes itself on [`Mount::path`].
    pub(crate) fn empty() -> Self {
        let folder = tempfile::tempdir().expect("mountpoint");
        Self { folder }
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    pub(crate) fn is_mounted(&self) -> bool {
        let table = fs::read_to_string("/proc/self/mountinfo").expect("mount table");
        let path = format!(" {} ", self.path().display());
        table.lines().any(|line| line.contains(&path))
    }

    /// The daemon that serves the mount.
    pub(crate) fn daemon(&self) -> Option<Pid> {
        let path = self.path().as_os_str().as_encoded_bytes();
        let is_it = |line: &[u8]| line.split(|&byte| byte == 0).any(|word| word == path);
        fs::read_dir("/proc").expect("/proc").find_map(|entry| {
            let folder = entry.ok()?.path();
            let pid = folder.file_name()?.to_str()?.parse().ok()?;
            let line = fs::read(folder.join("cmdline")).ok()?;
            is_it(&line).then(|| Pid::from_raw(pid)).flatten()
        })
    }

    /// Sends the daemon a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        let daemon = self.daemon().expect("a daemon");
        rustix::process::kill_process(daemon, signal).expect("signal");
    }

    /// Waits until neither mount nor daemon are there.
    pub(crate) fn wait_until_gone(&self) {
        wait_for("the mount to go", || {
            !self.is_mounted() && self.daemon().is_none()
        });
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if !self.is_mounted() {
            return;
        }
        let lazily = UnmountFlags::DETACH;
        if rustix::mount::unmount(self.path(), lazily).is_err() {
            let mut command = Command::new("fusermount3");
            let _ = command.arg("-uz").arg(self.path()).status();
        }
        if !thread::panicking() {
            self.wait_until_gone();
        }
    }
}

/// Runs a mount program to its end and returns what it said.
pub(crate) fn run(program: &str, devices: &[&Path], mountpoint: &Path, options: &[&str]) -> Output {
    Command::new(program)
        .args(devices)
        .arg(mountpoint)
        .args(options)
        .stdin(Stdio::null())
        .output()
        .expect("the program starts")
}

/// What a program said on standard error.
pub(crate) fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Waits until `condition` holds; fails when it doesn't after a long time.
pub(crate) fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "waited in vain for {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// The error number of a call that must fail.
pub(crate) fn errno<T>(result: io::Result<T>) -> rustix::io::Errno {
    let error = result.err().expect("an error");
    rustix::io::Errno::from_io_error(&error).unwrap_or_else(|| panic!("{error}"))
}

/// A sparse copy of `source` in `folder` that others may read.
pub(crate) fn copy(source: &Path, folder: &Path) -> PathBuf {
    let target = folder.join(source.file_name().expect("a name"));
    let status = Command::new("cp")
        .args(["--sparse=always", "--"])
        .args([source, target.as_path()])
        .status();
    assert!(status.expect("cp").success());
    target
}

/// Opens a file for reading.
pub(crate) fn open(path: &Path) -> File {
    File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
