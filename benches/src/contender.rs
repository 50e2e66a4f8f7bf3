//! A file system that runs as a process of its own, mounted for as long as a value lives.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Longest that a file system may take to mount.
const MOUNT_LIMIT: Duration = Duration::from_secs(60);
/// How long a process may go on after its unmount before it is killed.
const EXIT_LIMIT: Duration = Duration::from_secs(5);
/// How often the mount is looked for: what a mount time is exact to.
const POLL: Duration = Duration::from_micros(200);

/// A command that mounts in the foreground.
#[derive(Debug, Clone)]
pub struct Daemon {
    /// The program.
    pub program: PathBuf,
    /// Its arguments; `{}` stands for the mount point.
    pub arguments: Vec<OsString>,
}

/// A running [`Daemon`]. Dropping it unmounts and ends the process.
#[derive(Debug)]
pub struct Mount {
    child: Child,
    point: PathBuf,
    /// From the start of the process to the first answered stat(2) of the root.
    pub took: Duration,
}

impl Daemon {
    /// Starts the program and waits until its root answers. `log` gets what it prints.
    ///
    /// # Errors
    /// The program can't be started, ends, or doesn't mount in time.
    pub fn mount(&self, point: &Path, log: &Path) -> Result<Mount> {
        fs::create_dir_all(point)?;
        let before = fs::metadata(point)?.dev();
        let output = fs::File::create(log)?;
        let arguments = self.arguments.iter().map(|argument| {
            if argument == "{}" {
                point.as_os_str()
            } else {
                argument
            }
        });
        let start = Instant::now();
        let child = Command::new(&self.program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("start {}", self.program.display()))?;
        let mut mount = Mount {
            child,
            point: point.to_owned(),
            took: Duration::ZERO,
        };
        loop {
            if fs::metadata(point).is_ok_and(|root| root.dev() != before) {
                mount.took = start.elapsed();
                return Ok(mount);
            }
            if let Some(status) = mount.child.try_wait()? {
                bail!(
                    "{} ended before it mounted, {status}: {}",
                    self.program.display(),
                    fs::read_to_string(log).unwrap_or_default().trim()
                );
            }
            if start.elapsed() > MOUNT_LIMIT {
                bail!("{} doesn't mount", self.program.display());
            }
            thread::sleep(POLL);
        }
    }
}

impl Mount {
    /// Where the file system is.
    pub fn point(&self) -> &Path {
        &self.point
    }

    /// Resident memory of the process in KiB: now, and at most so far.
    ///
    /// # Errors
    /// The process has ended.
    pub fn resident(&self) -> Result<(u64, u64)> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.trim().trim_end_matches(" kB").parse().ok()
        };
        let now = field("VmRSS:").context("VmRSS")?;
        Ok((now, field("VmHWM:").context("VmHWM")?))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        unmount(&self.point);
        let start = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) {
            if start.elapsed() > EXIT_LIMIT {
                let _ = self.child.kill();
            }
            thread::sleep(Duration::from_millis(2));
        }
        let _ = fs::remove_dir(&self.point);
    }
}

/// Unmounts lazily, as root or through fusermount3; a path that isn't mounted stays as it is.
pub(crate) fn unmount(point: &Path) {
    let quiet = |program: &str, flag: &str| -> io::Result<bool> {
        Ok(Command::new(program)
            .arg(flag)
            .arg(point)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()?
            .success())
    };
    if !quiet("umount", "-l").unwrap_or(false) {
        let _ = quiet("fusermount3", "-uz");
    }
}
