//! From devices to a file system that is open to be read, or written as well.

use std::fmt::Display;
use std::path::PathBuf;

use anyhow::{Context, anyhow};
use rustix::io::Errno;
use vmfs_core::fs::{FileSystem, FsError};
use vmfs_core::lvm::{self, LvmError, Volume};
use vmfs_core::scsi::{Access, LunError};

use crate::caching::longest_kept;
use crate::claim::Claim;
use crate::host;
use crate::options::{Options, Writing};

/// An open file system.
#[derive(Debug)]
pub(crate) struct Opened {
    /// The file system.
    pub(crate) fs: FileSystem,
    /// Keeps others from writing to it.
    pub(crate) claim: Option<Claim>,
}

/// Opens the volume on `devices` as `options` ask for.
///
/// # Errors
/// When it can't be opened, or should be written to and can't be; the message says why and what
/// to do.
pub(crate) fn open(devices: &[PathBuf], options: &Options) -> anyhow::Result<Opened> {
    if options.writing.is_never() {
        return open_to_read(devices, options);
    }
    let host = options.host.name.as_deref();
    let volume = match lvm::open_paths_as(devices, Access::ReadWrite, host) {
        Err(LvmError::Lun(LunError::Open { path, source })) if is_protected(&source) => {
            let shown = path.display();
            if options.writing == Writing::Required {
                return Err(anyhow!(
                    "{shown} is write-protected ({source}); mount without rw, or with -o ro"
                ));
            }
            tracing::warn!("{shown} is write-protected, mounting read-only");
            return open_to_read(devices, options);
        }
        opened => opened.map_err(whole_message)?,
    };
    let shared = volume.luns().iter().all(|lun| {
        let can = lun.capabilities();
        can.compare_and_write || can.reserve
    });
    let claim = Claim::take(devices, shared)?;
    let mut host = host::config(&options.host)?;
    host.kept = longest_kept(options);
    let opened = FileSystem::open_for_writing(volume, host);
    let fs = opened.map_err(|error| match error {
        FsError::NotWritable(ref reason)
            if !reason.contains("-o ro") && !reason.contains("--force-ro") =>
        {
            anyhow!("{error}; or mount it read-only, with -o ro")
        }
        error => whole_message(error),
    })?;
    with_root(fs, Some(claim))
}

/// Opens the volume on `devices`, however they can be opened, to be read.
pub(crate) fn open_to_read(devices: &[PathBuf], options: &Options) -> anyhow::Result<Opened> {
    let host = options.host.name.as_deref();
    let volume = lvm::open_paths_as(devices, Access::ReadOnly, host).map_err(whole_message)?;
    warn_of_missing(&volume);
    with_root(FileSystem::open(volume).map_err(whole_message)?, None)
}

/// Whether a device that can't be opened can perhaps be read.
fn is_protected(error: &std::io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::ACCESS | Errno::ROFS | Errno::PERM)
    )
}

fn with_root(fs: FileSystem, claim: Option<Claim>) -> anyhow::Result<Opened> {
    fs.root()
        .map_err(whole_message)
        .context("the root directory can't be read")?;
    Ok(Opened { fs, claim })
}

fn warn_of_missing(volume: &Volume) {
    if volume.missing().next().is_some() {
        let names = volume.missing_names().join(", ");
        tracing::warn!(
            "{} of the volume's devices missing{}{names}: files on them can't be read",
            volume.missing_devices(),
            if names.is_empty() { "" } else { ": " },
        );
    }
}

/// An error of the file system; its message has those below it already.
fn whole_message(error: impl Display) -> anyhow::Error {
    anyhow!("{error}")
}
