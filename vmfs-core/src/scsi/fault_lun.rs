use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use super::error::LunError;
use super::lun::{Comparison, DeviceOffset, Lun};

/// Which commands of a LUN fail: some, then as many as it is away for, and then none any more.
#[derive(Debug)]
pub struct Faults {
    reads: bool,
    flushes: bool,
    seen: AtomicU64,
    /// Number of the first command that fails, and of the first that works again.
    from: AtomicU64,
    to: AtomicU64,
}

impl Faults {
    /// None yet, to come among the commands that write, and those that `reads` and `flushes` say.
    pub fn none(reads: bool, flushes: bool) -> Self {
        Self {
            reads,
            flushes,
            seen: AtomicU64::new(0),
            from: AtomicU64::new(u64::MAX),
            to: AtomicU64::new(u64::MAX),
        }
    }

    /// The LUN goes away after `good` more commands, and is back after `bad` that failed.
    pub fn set(&self, good: u64, bad: u64) {
        let from = self.seen().saturating_add(good);
        self.to.store(from.saturating_add(bad), SeqCst);
        self.from.store(from, SeqCst);
    }

    /// Commands so far that could have failed.
    pub fn seen(&self) -> u64 {
        self.seen.load(SeqCst)
    }

    /// Counts a command; whether it fails.
    fn take(&self) -> bool {
        let number = self.seen.fetch_add(1, SeqCst);
        (self.from.load(SeqCst)..self.to.load(SeqCst)).contains(&number)
    }
}

/// A LUN whose commands fail when they are meant to: for good, as when a host dies in the middle of
/// a job, or for a while, as when a path goes away.
#[derive(Debug)]
pub struct FaultLun<L> {
    base: L,
    faults: Arc<Faults>,
}

impl<L: Lun> FaultLun<L> {
    /// `base` with `faults`; LUNs that share them fail together.
    pub fn new(base: L, faults: Arc<Faults>) -> Self {
        Self { base, faults }
    }

    /// Counts a command that may fail, or fails it.
    fn take(
        &self,
        operation: &'static str,
        offset: DeviceOffset,
        length: usize,
    ) -> Result<(), LunError> {
        if !self.faults.take() {
            return Ok(());
        }
        Err(LunError::Io {
            lun: self.name().to_owned(),
            operation,
            offset,
            length,
            source: io::Error::other("the LUN was cut off on purpose"),
        })
    }
}

impl<L: Lun> Lun for FaultLun<L> {
    crate::forward_lun!(base: name capacity block_size access identity next_mapped capabilities reserve release persistent_reserve reservations reset attentions counters);

    fn read(&self, offset: DeviceOffset, buf: &mut [u8]) -> Result<(), LunError> {
        if self.faults.reads {
            self.take("read", offset, buf.len())?;
        }
        self.base.read(offset, buf)
    }

    fn write(&self, offset: DeviceOffset, data: &[u8]) -> Result<(), LunError> {
        self.take("write", offset, data.len())?;
        self.base.write(offset, data)
    }

    fn write_zeros(&self, offset: DeviceOffset, length: u64) -> Result<(), LunError> {
        self.take("zeroing", offset, length as usize)?;
        self.base.write_zeros(offset, length)
    }

    fn flush(&self) -> Result<(), LunError> {
        if self.faults.flushes {
            self.take("flush", DeviceOffset(0), 0)?;
        }
        self.base.flush()
    }

    fn compare_and_write(
        &self,
        offset: DeviceOffset,
        expected: &[u8],
        new: &[u8],
    ) -> Result<Comparison, LunError> {
        self.take("COMPARE AND WRITE", offset, new.len())?;
        self.base.compare_and_write(offset, expected, new)
    }

    fn unmap(&self, offset: DeviceOffset, length: u64) -> Result<(), LunError> {
        self.take("UNMAP", offset, length as usize)?;
        self.base.unmap(offset, length)
    }
}
