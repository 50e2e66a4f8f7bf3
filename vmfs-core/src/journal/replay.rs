use super::error::JournalError;
use super::log::{JournalHeader, Log};
use crate::format::FdAddr;
use crate::lvm::{Volume, VolumeOffset};

/// What a replay did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Replayed {
    /// Transactions that were complete.
    pub transactions: usize,
    /// Bytes written in place.
    pub bytes: u64,
    /// Files whose blocks were being given back.
    pub pending: Vec<FdAddr>,
}

/// Brings what is in the journal at `place` in place, durably. Doing it again does no harm.
///
/// # Errors
/// [`JournalError`] when a transaction names what isn't on the volume, or the volume fails.
pub fn replay(
    volume: &Volume,
    place: VolumeOffset,
    header: &JournalHeader,
) -> Result<Replayed, JournalError> {
    let transactions = Log::read_all(volume, place, header)?;
    let mut done = Replayed {
        transactions: transactions.len(),
        ..Replayed::default()
    };
    for redo in &transactions {
        for image in &redo.images {
            Log::check_range(volume, place, image.offset, image.bytes.len() as u64)?;
        }
        for &(offset, length) in &redo.revoked {
            Log::check_range(volume, place, offset, length)?;
        }
    }
    for (index, redo) in transactions.iter().enumerate() {
        // A range that a later transaction revoked holds data by now, which must stay.
        let revoked: Vec<(u64, u64)> = transactions[index + 1..]
            .iter()
            .flat_map(|later| later.revoked.iter().copied())
            .collect();
        for image in &redo.images {
            for (sector, bytes) in (0..).zip(image.bytes.chunks(512)) {
                let offset = image.offset + sector * 512;
                let is_revoked = revoked
                    .iter()
                    .any(|&(start, length)| (start..start + length).contains(&offset));
                if !is_revoked {
                    volume.write(VolumeOffset(offset), bytes)?;
                    done.bytes += bytes.len() as u64;
                }
            }
        }
    }
    volume.flush()?;
    let pending = transactions.last().map(|redo| redo.pending.as_slice());
    done.pending = pending
        .unwrap_or_default()
        .iter()
        .filter_map(|&raw| FdAddr::from_raw(raw))
        .collect();
    Ok(done)
}
