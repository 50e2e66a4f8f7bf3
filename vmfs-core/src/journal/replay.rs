use super::codec::Redo;
use super::error::JournalError;
use super::log::{JournalHeader, Log};
use super::meta_reader::MetaReader;
use super::patch::{PIECE, PatchMap, SECTOR};
use crate::format::FdAddr;
use crate::lvm::{Volume, VolumeOffset};

/// Longest write that brings metadata in place.
const MAX_WRITE: usize = 1 << 20;

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
    let unfinished = unfinished(volume, &transactions)?;
    let patches = outcome(volume, place, unfinished)?;
    for (offset, bytes) in patches.runs(MAX_WRITE) {
        volume.write(VolumeOffset(offset), &bytes)?;
    }
    volume.flush()?;
    let pending = match transactions.last() {
        Some(redo) => {
            let files = redo.pending.iter();
            files.filter_map(|&raw| FdAddr::from_raw(raw)).collect()
        }
        None => header.pending().collect(),
    };
    Ok(Replayed {
        transactions: unfinished.len(),
        bytes: patches.bytes(),
        pending,
    })
}

/// Lets `reader` show the volume as a replay of the journal at `place` would leave it, without
/// writing anything; how many transactions that are.
///
/// # Errors
/// As for [`replay`].
pub fn look_through(
    reader: &MetaReader,
    place: VolumeOffset,
    header: &JournalHeader,
) -> Result<usize, JournalError> {
    let transactions = Log::read_all(reader.volume(), place, header)?;
    let unfinished = unfinished(reader.volume(), &transactions)?;
    let patches = outcome(reader.volume(), place, unfinished)?;
    reader.show(&patches);
    Ok(unfinished.len())
}

/// How many transactions of the journal at `place` may not be in place.
///
/// # Errors
/// When the volume fails.
pub fn pending(
    volume: &Volume,
    place: VolumeOffset,
    header: &JournalHeader,
) -> Result<usize, JournalError> {
    let transactions = Log::read_all(volume, place, header)?;
    Ok(unfinished(volume, &transactions)?.len())
}

/// The transactions that may not be in place.
///
/// A host that shares the volume gives the locks of a transaction back once it is in place, and
/// brings each in place before the next: so none is missing up to the last one of which a lock has
/// moved on, and other hosts may have changed what these protect since.
fn unfinished<'a>(volume: &Volume, transactions: &'a [Redo]) -> Result<&'a [Redo], JournalError> {
    for (index, redo) in transactions.iter().enumerate().rev() {
        for &(lock, token) in &redo.locks {
            if crate::cluster::has_moved_on(volume, VolumeOffset(lock), token)? {
                return Ok(&transactions[index + 1..]);
            }
        }
    }
    Ok(transactions)
}

/// The sectors that `transactions` change, as the last of them leaves each.
fn outcome(
    volume: &Volume,
    place: VolumeOffset,
    transactions: &[Redo],
) -> Result<PatchMap, JournalError> {
    let mut patches = PatchMap::default();
    for redo in transactions {
        for &(offset, length) in &redo.revoked {
            Log::check_range(volume, place, offset, length, PIECE)?;
            // It may hold data by now, which earlier images must not overwrite.
            patches.forget(&(offset..offset + length));
        }
        for image in &redo.images {
            let length = image.bytes.len() as u64;
            Log::check_range(volume, place, image.offset, length, SECTOR as u64)?;
            for (index, sector) in image.bytes.chunks_exact(SECTOR).enumerate() {
                let at = image.offset + (index * SECTOR) as u64;
                let number = (at % PIECE) as usize / SECTOR;
                patches.set(at / PIECE, number, sector);
            }
        }
    }
    Ok(patches)
}
