//! A FUSE file system that runs as a child of this process, and goes with it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::mount::UnmountFlags;
use rustix::process::Pid;

use crate::process::{Processes, Running, end, wait_for};

/// Longest wait for a mount to come or, having written everything, to go.
const PATIENCE: Duration = Duration::from_secs(180);

/// A mount and the program that serves it.
#[derive(Debug)]
pub struct Mount {
    path: PathBuf,
    log: PathBuf,
    server: Running,
}

impl Mount {
    /// Starts `command`, which must stay in the foreground, and waits for the mount on `path`;
    /// what it says goes to the file `log`.
    ///
    /// # Errors
    /// With the server's own words when it ends instead.
    pub fn new(
        processes: &Processes,
        command: &mut Command,
        path: &Path,
        log: &Path,
    ) -> Result<Self> {
        let words = File::options().create(true).append(true).open(log)?;
        command
            .stdin(Stdio::null())
            .stdout(words.try_clone()?)
            .stderr(words);
        let mut mount = Self {
            path: path.to_owned(),
            log: log.to_owned(),
            server: processes.start(command)?,
        };
        let mut ended = false;
        let there = wait_for(PATIENCE, || {
            ended = !matches!(mount.server.child().try_wait(), Ok(None));
            ended || is_mounted(path)
        });
        ensure!(there && !ended, "it doesn't mount: {}", mount.said());
        Ok(mount)
    }

    /// What the server said so far, at its end.
    pub fn said(&self) -> String {
        let words = fs::read(&self.log).unwrap_or_default();
        end(&String::from_utf8_lossy(&words)).to_owned()
    }

    /// Whether the server still runs.
    pub fn is_served(&mut self) -> bool {
        matches!(self.server.child().try_wait(), Ok(None))
    }

    /// Unmounts, and waits until the server has ended.
    ///
    /// # Errors
    /// When something uses the mount, or the server doesn't end well.
    pub fn unmount(mut self) -> Result<()> {
        // A program that has just ended may hold the mount for a moment.
        let mut result = Ok(());
        wait_for(Duration::from_secs(10), || {
            result = rustix::mount::unmount(&self.path, UnmountFlags::empty());
            result.is_ok()
        });
        result.with_context(|| format!("unmount {}", self.path.display()))?;
        let status = self.server.wait(PATIENCE)?;
        ensure!(status.success(), "its server: {status}: {}", self.said());
        Ok(())
    }

    /// Kills the server as `kill -9` does, and takes the dead mount away.
    ///
    /// # Errors
    /// When it had ended before, or the mount stays.
    pub fn kill(mut self) -> Result<()> {
        if !self.is_served() {
            bail!("its server had ended before: {}", self.said());
        }
        self.server.kill();
        detach(&self.path);
        ensure!(
            !is_mounted(&self.path),
            "{} stays mounted",
            self.path.display()
        );
        Ok(())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // The server goes first: a process that hangs in the mount goes with it.
        if is_mounted(&self.path) {
            self.server.kill();
            detach(&self.path);
        }
    }
}

/// Takes everything away that is mounted on `path`.
pub fn detach(path: &Path) {
    while is_mounted(path) {
        if rustix::mount::unmount(path, UnmountFlags::DETACH).is_err() {
            let mut command = Command::new("fusermount3");
            let done = command.arg("-uz").arg(path).status();
            if !done.is_ok_and(|status| status.success()) {
                break;
            }
        }
    }
}

/// Whether something is mounted on `path`.
pub fn is_mounted(path: &Path) -> bool {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let path = path.display().to_string();
    table
        .lines()
        .any(|line| line.split(' ').nth(4) == Some(path.as_str()))
}

/// Processes that run `program` with a path below `folder` among their arguments.
pub fn servers(program: &Path, folder: &Path) -> Vec<Pid> {
    let folder = folder.as_os_str().as_encoded_bytes();
    let is_one = |process: &Path| {
        let runs = fs::read_link(process.join("exe")).is_ok_and(|path| path == program);
        let line = fs::read(process.join("cmdline")).unwrap_or_default();
        runs && line
            .split(|&byte| byte == 0)
            .any(|word| word.starts_with(folder))
    };
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            is_one(&entry.path()).then(|| Pid::from_raw(pid)).flatten()
        })
        .collect()
}
