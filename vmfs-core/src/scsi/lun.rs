use std::fmt;
use std::ops::Add;

use super::array::LunIdentity;
use super::counters::Counters;
use super::error::LunError;

/// A byte offset on a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(transparent)]
pub struct DeviceOffset(pub u64);

impl Add<u64> for DeviceOffset {
    type Output = Self;

    fn add(self, bytes: u64) -> Self {
        Self(self.0.saturating_add(bytes))
    }
}

impl fmt::Display for DeviceOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// Whether a LUN is opened for writing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// The file is opened `O_RDONLY`; writes fail without reaching it.
    ReadOnly,
    /// Reads and writes.
    ReadWrite,
}

/// A logical unit: an array of blocks that answers commands.
///
/// Commands may come from any thread. Offsets and lengths are bytes and need no alignment; an
/// implementation that needs one does the rounding itself.
pub trait Lun: Send + Sync + fmt::Debug {
    /// What a message calls the LUN: the path it was opened by.
    fn name(&self) -> &str;

    /// Size in bytes.
    fn capacity(&self) -> u64;

    /// Bytes of a logical block: 512 or 4096.
    fn block_size(&self) -> u32;

    /// Whether writes are refused.
    fn access(&self) -> Access;

    /// What the LUN says it is; `None` when it can't tell.
    fn identity(&self) -> Option<&LunIdentity> {
        None
    }

    /// Fills `buf` with the bytes at `offset`.
    fn read(&self, offset: DeviceOffset, buf: &mut [u8]) -> Result<(), LunError>;

    /// Stores `data` at `offset`; durable only after [`Lun::flush`].
    fn write(&self, offset: DeviceOffset, data: &[u8]) -> Result<(), LunError>;

    /// Stores `length` zero bytes at `offset`, as WRITE SAME does; durable only after
    /// [`Lun::flush`].
    fn write_zeros(&self, offset: DeviceOffset, length: u64) -> Result<(), LunError> {
        const CHUNK: u64 = 1 << 20;
        let zeros = vec![0; length.min(CHUNK) as usize];
        for start in (0..length).step_by(CHUNK as usize) {
            let part = CHUNK.min(length - start) as usize;
            self.write(offset + start, &zeros[..part])?;
        }
        Ok(())
    }

    /// Returns once every write that was answered before is durable.
    fn flush(&self) -> Result<(), LunError>;

    /// Commands that reached the LUN so far.
    fn counters(&self) -> &Counters;
}

impl<L: Lun + ?Sized> Lun for std::sync::Arc<L> {
    fn name(&self) -> &str {
        (**self).name()
    }

    fn capacity(&self) -> u64 {
        (**self).capacity()
    }

    fn block_size(&self) -> u32 {
        (**self).block_size()
    }

    fn access(&self) -> Access {
        (**self).access()
    }

    fn identity(&self) -> Option<&LunIdentity> {
        (**self).identity()
    }

    fn read(&self, offset: DeviceOffset, buf: &mut [u8]) -> Result<(), LunError> {
        (**self).read(offset, buf)
    }

    fn write(&self, offset: DeviceOffset, data: &[u8]) -> Result<(), LunError> {
        (**self).write(offset, data)
    }

    fn write_zeros(&self, offset: DeviceOffset, length: u64) -> Result<(), LunError> {
        (**self).write_zeros(offset, length)
    }

    fn flush(&self) -> Result<(), LunError> {
        (**self).flush()
    }

    fn counters(&self) -> &Counters {
        (**self).counters()
    }
}

/// Checks that `len` bytes at `offset` lie inside a LUN of `capacity` bytes.
pub(super) fn check_range(lun: &dyn Lun, offset: DeviceOffset, len: usize) -> Result<(), LunError> {
    match offset.0.checked_add(len as u64) {
        Some(end) if end <= lun.capacity() => Ok(()),
        _ => Err(LunError::PastEnd {
            lun: lun.name().to_owned(),
            offset,
            length: len,
            capacity: lun.capacity(),
        }),
    }
}
