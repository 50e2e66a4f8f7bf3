use std::ops::Range;

use super::error::LunError;
use super::lun::{Access, Capabilities, Comparison, DeviceOffset, Lun};

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
    crate::forward_lun!(base: name capacity block_size identity reserve release persistent_reserve reservations reset attentions counters);

    fn next_mapped(&self, offset: DeviceOffset) -> Result<Option<Range<u64>>, LunError> {
        let patches = self.patches.iter().map(|(start, bytes)| {
            let end = start + bytes.len() as u64;
            offset.0.max(*start)..end
        });
        let patches = patches.filter(|patch| !patch.is_empty());
        let mapped = self.base.next_mapped(offset)?;
        Ok(mapped
            .into_iter()
            .chain(patches)
            .min_by_key(|next| next.start))
    }

    fn access(&self) -> Access {
        Access::ReadOnly
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

    fn unmap(&self, _: DeviceOffset, _: u64) -> Result<(), LunError> {
        Err(LunError::read_only(self.name()))
    }
}
