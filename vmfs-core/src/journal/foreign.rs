use crate::format::{Family, Layout};
use crate::lvm::{LvmError, Volume, VolumeOffset};

/// Bytes of a log block of ESXi's VMFS6 journals.
const LOG_BLOCK: usize = 4096;
/// Log blocks behind the header block.
const LOG_BLOCKS: usize = 511;
/// Starts each of them.
const LOG_BLOCK_TAG: &[u8; 4] = b"TO6J";
/// Index of a log block that wasn't written since the host took the journal.
const NOT_WRITTEN: [u8; 2] = [0xff; 2];

/// Whether ESXi's journal block at `place` surely has nothing in it: on VMFS6 no log block was
/// written, on VMFS5 all is zero (FORMAT.md, "Journals").
pub fn is_unused(volume: &Volume, layout: &Layout, place: VolumeOffset) -> Result<bool, LvmError> {
    let length = match layout.family {
        Family::Vmfs6 => LOG_BLOCK as u64 * (1 + LOG_BLOCKS as u64),
        Family::Vmfs3 | Family::Vmfs5 => layout.file_block_size(),
    };
    if place.0.saturating_add(length) > volume.size() {
        return Ok(false);
    }
    let mut bytes = vec![0; length as usize];
    volume.read(place, &mut bytes)?;
    Ok(match layout.family {
        Family::Vmfs6 => bytes
            .chunks_exact(LOG_BLOCK)
            .skip(1)
            .all(|block| block.starts_with(LOG_BLOCK_TAG) && block[4..6] == NOT_WRITTEN),
        Family::Vmfs3 | Family::Vmfs5 => bytes.iter().all(|&byte| byte == 0),
    })
}
