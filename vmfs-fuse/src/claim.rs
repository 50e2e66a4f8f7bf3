//! What programs of one machine do to each other that write to a volume.
//!
//! Where the LUN has commands for locks they are hosts like any others. Where it hasn't there may
//! be one: the heartbeat on the volume would tell, but it takes a lease to find out that a host is
//! dead. Programs of one machine have something quicker, which ends with the program whatever
//! ends it: the lock of an image file, and the exclusive opening of a block device, which also
//! keeps mkfs and others away from it.

use std::fs::File;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::fs::{FlockOperation, OFlags};
use rustix::io::Errno;
use vmfs_core::scsi::IscsiUrl;

use crate::mount_table;

/// How long a program may take to write back what it has after its mount is gone.
const PATIENCE: Duration = Duration::from_secs(30);
/// Time between two attempts.
const PAUSE: Duration = Duration::from_millis(20);

/// Keeps other programs from mounting the same devices read-write.
#[derive(Debug)]
pub(crate) struct Claim {
    _files: Vec<File>,
}

impl Claim {
    /// Claims `devices`, with others that do so if they are `shared`. While they are claimed by a
    /// program whose mount is gone already, waits for its end.
    ///
    /// # Errors
    /// When another program has one of them.
    pub(crate) fn take(devices: &[PathBuf], shared: bool) -> anyhow::Result<Self> {
        let start = Instant::now();
        let mut files = Vec::with_capacity(devices.len());
        // An iSCSI LUN isn't this machine's; there the volume's hosts have to do.
        let of_this_machine = |device: &&PathBuf| !IscsiUrl::is_one(device);
        for device in devices.iter().filter(of_this_machine) {
            loop {
                if let Some(file) = claim(device, shared)? {
                    files.push(file);
                    break;
                }
                if let Some(place) = mounted_on(devices) {
                    bail!(
                        "{} is mounted read-write on {} already; use that mount, or mount read-only with -o ro",
                        device.display(),
                        place.display()
                    );
                }
                if start.elapsed() > PATIENCE {
                    bail!(
                        "{} is in use by another program, perhaps a mount that is gone but whose files are still open; mount read-only with -o ro, or find it with fuser(1)",
                        device.display()
                    );
                }
                thread::sleep(PAUSE);
            }
        }
        Ok(Self { _files: files })
    }
}

/// Claims one device; `None` while another program has it.
fn claim(device: &Path, shared: bool) -> anyhow::Result<Option<File>> {
    let shown = || format!("can't open {}", device.display());
    let mut options = File::options();
    options.read(true);
    let kind = device.metadata().with_context(shown)?.file_type();
    if kind.is_block_device() {
        let exclusive = OFlags::EXCL.bits().cast_signed();
        return match options.custom_flags(exclusive).open(device) {
            Err(error) if Errno::from_io_error(&error) == Some(Errno::BUSY) => Ok(None),
            file => file.map(Some).with_context(shown),
        };
    }
    let file = options.open(device).with_context(shown)?;
    let how = if shared {
        FlockOperation::NonBlockingLockShared
    } else {
        FlockOperation::NonBlockingLockExclusive
    };
    match rustix::fs::flock(&file, how) {
        Ok(()) => Ok(Some(file)),
        Err(Errno::WOULDBLOCK) => Ok(None),
        // Not every file system that holds an image can lock; what the volume itself says of its
        // hosts has to do there.
        Err(error) => {
            tracing::debug!("can't lock {}: {error}", device.display());
            Ok(Some(file))
        }
    }
}

/// Where one of the devices is mounted.
fn mounted_on(devices: &[PathBuf]) -> Option<PathBuf> {
    let sources: Vec<PathBuf> = devices
        .iter()
        .map(|device| mount_table::source(device))
        .collect();
    let table = mount_table::read()?;
    let mount = table
        .into_iter()
        .find(|entry| sources.contains(&entry.source))?;
    Some(mount.path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_claimed_once_until_it_is_given_back() {
        let file = tempfile::NamedTempFile::new().expect("file");
        let claim = |shared| claim(file.path(), shared).expect("claim");
        let first = claim(false);
        assert!(first.is_some());
        assert!(claim(false).is_none() && claim(true).is_none());
        drop(first);
        let first = claim(true);
        assert!(first.is_some() && claim(true).is_some() && claim(false).is_none());
    }
}
