use std::io;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use super::array::{Attention, LunIdentity};
use super::counters::Counters;
use super::error::LunError;
use super::lun::{Access, Capabilities, Comparison, DeviceOffset, Lun};
use super::persistent::{PersistentReserve, Reservations};

/// A LUN that is cut off after so many writes (COMPARE AND WRITE and UNMAP are some too): those
/// before reach it, all later ones fail, as when a host dies in the middle of a job.
#[derive(Debug)]
pub struct FaultLun<L> {
    base: L,
    writes_left: std::sync::Arc<AtomicU64>,
}

impl<L: Lun> FaultLun<L> {
    /// `base`, which the next `writes_left` writes still reach. LUNs that share the counter are
    /// cut off together.
    pub fn new(base: L, writes_left: std::sync::Arc<AtomicU64>) -> Self {
        Self { base, writes_left }
    }

    /// Counts one write, or fails it.
    fn take(&self, offset: DeviceOffset, length: usize) -> Result<(), LunError> {
        let taken = self
            .writes_left
            .fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1));
        if taken.is_ok() {
            return Ok(());
        }
        Err(LunError::Io {
            lun: self.name().to_owned(),
            operation: "write",
            offset,
            length,
            source: io::Error::other("the LUN was cut off on purpose"),
        })
    }
}

impl<L: Lun> Lun for FaultLun<L> {
    fn name(&self) -> &str {
        self.base.name()
    }

    fn capacity(&self) -> u64 {
        self.base.capacity()
    }

    fn block_size(&self) -> u32 {
        self.base.block_size()
    }

    fn access(&self) -> Access {
        self.base.access()
    }

    fn identity(&self) -> Option<&LunIdentity> {
        self.base.identity()
    }

    fn read(&self, offset: DeviceOffset, buf: &mut [u8]) -> Result<(), LunError> {
        self.base.read(offset, buf)
    }

    fn write(&self, offset: DeviceOffset, data: &[u8]) -> Result<(), LunError> {
        self.take(offset, data.len())?;
        self.base.write(offset, data)
    }

    fn write_zeros(&self, offset: DeviceOffset, length: u64) -> Result<(), LunError> {
        self.take(offset, length as usize)?;
        self.base.write_zeros(offset, length)
    }

    fn flush(&self) -> Result<(), LunError> {
        self.base.flush()
    }

    fn capabilities(&self) -> Capabilities {
        self.base.capabilities()
    }

    fn compare_and_write(
        &self,
        offset: DeviceOffset,
        expected: &[u8],
        new: &[u8],
    ) -> Result<Comparison, LunError> {
        self.take(offset, new.len())?;
        self.base.compare_and_write(offset, expected, new)
    }

    fn reserve(&self) -> Result<(), LunError> {
        self.base.reserve()
    }

    fn release(&self) -> Result<(), LunError> {
        self.base.release()
    }

    fn persistent_reserve(&self, action: PersistentReserve) -> Result<(), LunError> {
        self.base.persistent_reserve(action)
    }

    fn reservations(&self) -> Result<Reservations, LunError> {
        self.base.reservations()
    }

    fn unmap(&self, offset: DeviceOffset, length: u64) -> Result<(), LunError> {
        self.take(offset, length as usize)?;
        self.base.unmap(offset, length)
    }

    fn reset(&self) -> Result<(), LunError> {
        self.base.reset()
    }

    fn attentions(&self) -> Vec<Attention> {
        self.base.attentions()
    }

    fn counters(&self) -> &Counters {
        self.base.counters()
    }
}
