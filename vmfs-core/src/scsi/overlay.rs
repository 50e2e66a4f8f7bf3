use super::array::{Attention, LunIdentity};
use super::counters::Counters;
use super::error::LunError;
use super::lun::{Access, Capabilities, Comparison, DeviceOffset, Lun};
use super::persistent::{PersistentReserve, Reservations};

/// A read-only LUN with some bytes changed, so that a damaged volume can be tried without
/// copying it.
#[derive(Debug)]
pub struct OverlayLun<L> {
    base: L,
    patches: Vec<(u64, Vec<u8>)>,
}

impl<L: Lun> OverlayLun<L> {
    /// `base`, reading `patches` (offset and bytes) in place of what is there; of patches that
    /// overlap the later wins.
    pub fn new(base: L, patches: Vec<(u64, Vec<u8>)>) -> Self {
        Self { base, patches }
    }
}

impl<L: Lun> Lun for OverlayLun<L> {
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
        Access::ReadOnly
    }

    fn identity(&self) -> Option<&LunIdentity> {
        self.base.identity()
    }

    fn read(&self, offset: DeviceOffset, buf: &mut [u8]) -> Result<(), LunError> {
        self.base.read(offset, buf)?;
        let end = offset.0 + buf.len() as u64;
        for (start, bytes) in &self.patches {
            let from = offset.0.max(*start);
            let to = end.min(start + bytes.len() as u64);
            if from < to {
                let source = &bytes[(from - start) as usize..(to - start) as usize];
                buf[(from - offset.0) as usize..(to - offset.0) as usize].copy_from_slice(source);
            }
        }
        Ok(())
    }

    fn write(&self, _: DeviceOffset, _: &[u8]) -> Result<(), LunError> {
        Err(LunError::read_only(self.name()))
    }

    fn flush(&self) -> Result<(), LunError> {
        Ok(())
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            compare_and_write: false,
            unmap: false,
            ..self.base.capabilities()
        }
    }

    fn compare_and_write(
        &self,
        _: DeviceOffset,
        _: &[u8],
        _: &[u8],
    ) -> Result<Comparison, LunError> {
        Err(LunError::read_only(self.name()))
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

    fn unmap(&self, _: DeviceOffset, _: u64) -> Result<(), LunError> {
        Err(LunError::read_only(self.name()))
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
