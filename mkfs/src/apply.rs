use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::sync::Arc;

use rustix::fs::FallocateFlags;
use vmfs_core::scsi::{DeviceOffset, Lun};

use super::plan::Plan;
use super::steps::Step;

/// Where a plan's writes for one device go.
pub trait Target {
    /// Writes all of `bytes` at `offset`.
    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Makes `length` bytes from `offset` on read as zeros.
    fn zero(&self, offset: u64, length: u64) -> io::Result<()>;
    /// Makes everything written so far durable.
    fn flush(&self) -> io::Result<()>;
}

/// Bytes of zeros written at a time where the device can't zero by itself.
const CHUNK: usize = 1 << 20;

impl Target for File {
    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn zero(&self, offset: u64, length: u64) -> io::Result<()> {
        if length == 0 {
            return Ok(());
        }
        // A hole in a file; on a device discarded blocks may not read as zeros, so ask for those.
        let ways: &[FallocateFlags] = if self.metadata()?.file_type().is_block_device() {
            &[FallocateFlags::ZERO_RANGE]
        } else {
            &[FallocateFlags::PUNCH_HOLE, FallocateFlags::ZERO_RANGE]
        };
        for &way in ways {
            match rustix::fs::fallocate(self, way | FallocateFlags::KEEP_SIZE, offset, length) {
                Ok(()) => return Ok(()),
                Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let zeros = vec![0; CHUNK];
        let mut done = 0;
        while done < length {
            let now = (length - done).min(CHUNK as u64);
            self.write_all_at(&zeros[..now as usize], offset + done)?;
            done += now;
        }
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        self.sync_data()
    }
}

impl Target for Arc<dyn Lun> {
    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        Lun::write(self, DeviceOffset(offset), bytes).map_err(io::Error::other)
    }

    fn zero(&self, offset: u64, length: u64) -> io::Result<()> {
        if length == 0 {
            return Ok(());
        }
        Lun::write_zeros(self, DeviceOffset(offset), length).map_err(io::Error::other)
    }

    fn flush(&self) -> io::Result<()> {
        Lun::flush(self).map_err(io::Error::other)
    }
}

/// Carries out `plan` on one target per device, in the plan's order.
///
/// The targets must already have the sizes that the plan was made for. After an error, or if
/// the process dies, the devices hold no volume that mounts: its headers are written last.
///
/// # Errors
/// The first error of a target, with the step that failed; `InvalidInput` when there isn't one
/// target per device.
pub fn apply<T: Target>(plan: &Plan, targets: &[T]) -> io::Result<()> {
    if targets.len() != plan.devices().len() {
        let message = format!(
            "{} targets for {} devices",
            targets.len(),
            plan.devices().len()
        );
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    for step in plan.steps() {
        let failed = |what: String| {
            move |error: io::Error| io::Error::new(error.kind(), format!("{what}: {error}"))
        };
        match step {
            Step::Write {
                device,
                offset,
                bytes,
            } => targets[device]
                .write(offset, &bytes)
                .map_err(failed(format!("write at {offset:#x} of device {device}")))?,
            Step::Zero {
                device,
                offset,
                length,
            } => targets[device]
                .zero(offset, length)
                .map_err(failed(format!("zero at {offset:#x} of device {device}")))?,
            Step::Flush => {
                for (device, target) in targets.iter().enumerate() {
                    target
                        .flush()
                        .map_err(failed(format!("flush of device {device}")))?;
                }
            }
        }
    }
    Ok(())
}
