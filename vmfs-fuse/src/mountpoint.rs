//! The mountpoint of a volume that is mounted: how to leave it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context;
use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use crate::mount_table;

/// Where a volume is mounted.
#[derive(Debug, Clone)]
pub(crate) struct Mountpoint {
    path: PathBuf,
    /// `major:minor` of the mount, which tells it from others at the same place.
    device: String,
}

impl Mountpoint {
    /// The mount that was just made at `path`, an absolute path without symbolic links.
    ///
    /// # Errors
    /// When the mount doesn't answer.
    pub(crate) fn find(path: PathBuf) -> anyhow::Result<Self> {
        let metadata = fs::metadata(&path)
            .with_context(|| format!("the mount on {} doesn't answer", path.display()))?;
        let (major, minor) = (
            rustix::fs::major(metadata.dev()),
            rustix::fs::minor(metadata.dev()),
        );
        Ok(Self {
            path,
            device: format!("{major}:{minor}"),
        })
    }

    /// The path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Sets how far the kernel reads ahead, which only root may do.
    ///
    /// FUSE itself can only lower it from the kernel's default of 128 KiB.
    pub(crate) fn set_readahead(&self, kib: u32) {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let setting = format!("/sys/class/bdi/{}/read_ahead_kb", self.device);
        if let Err(error) = fs::write(&setting, kib.to_string()) {
            tracing::debug!("can't set {setting}: {error}");
        }
    }

    /// Unmounts; if files are open, they stay readable until they are closed, and the mount goes
    /// with the last one.
    pub(crate) fn unmount(&self) {
        if !self.is_there() {
            tracing::warn!(
                "{} is not unmounted: the topmost mount there is another one",
                self.path.display()
            );
            return;
        }
        let result = match rustix::mount::unmount(&self.path, UnmountFlags::NOFOLLOW) {
            Err(Errno::BUSY) => {
                tracing::warn!(
                    "files on {} are open: it goes away when they are closed, or with the next signal",
                    self.path.display()
                );
                self.detach()
            }
            Err(Errno::PERM) => self.detach(),
            result => result,
        };
        self.report(result);
    }

    /// Unmounts at once; what is open fails from then on if nobody serves it.
    pub(crate) fn unmount_lazily(&self) {
        if self.is_there() {
            self.report(self.detach());
        }
    }

    fn detach(&self) -> Result<(), Errno> {
        let flags = UnmountFlags::NOFOLLOW | UnmountFlags::DETACH;
        match rustix::mount::unmount(&self.path, flags) {
            Err(Errno::PERM) => self.ask_fusermount(),
            result => result,
        }
    }

    /// Ordinary users unmount through the program that they mounted with.
    fn ask_fusermount(&self) -> Result<(), Errno> {
        for program in ["fusermount3", "fusermount"] {
            let status = Command::new(program)
                .args(["-u", "-q", "-z", "--"])
                .arg(&self.path)
                .stdin(Stdio::null())
                .status();
            if let Ok(status) = status {
                return if status.success() {
                    Ok(())
                } else {
                    Err(Errno::PERM)
                };
            }
        }
        Err(Errno::NOENT)
    }

    fn report(&self, result: Result<(), Errno>) {
        if let Err(error) = result {
            tracing::error!("can't unmount {}: {error}", self.path.display());
        }
    }

    /// Whether the topmost mount at the path is this one, asked without touching the mount.
    fn is_there(&self) -> bool {
        let Some(table) = mount_table::read() else {
            return true;
        };
        let topmost = table.iter().rfind(|entry| entry.path == self.path);
        topmost.is_some_and(|entry| entry.device == self.device)
    }
}
