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
    /// More of them, if what gave their descriptors back never came in place: then one of `unmoved` is that
    /// of the descriptor.
    pub doubtful: Vec<FdAddr>,
    /// Locks of the last transaction that have not changed since.
    pub unmoved: Vec<VolumeOffset>,
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
    let (older, transactions) = Log::read_halves(volume, place, header)?;
    let unfinished = unfinished(volume, &transactions, header.slot())?;
    let patches = outcome(volume, place, unfinished)?;
    for (offset, bytes) in patches.runs(MAX_WRITE) {
        volume.write(VolumeOffset(offset), &bytes)?;
    }
    volume.flush()?;
    let pending = match transactions.last() {
        Some(redo) => pending_of(redo),
        None => header.pending().collect(),
    };
    let mut replayed = Replayed {
        transactions: unfinished.len(),
        bytes: patches.bytes(),
        pending,
        ..Replayed::default()
    };
    if let [earlier @ .., last] = transactions.as_slice()
        && unfinished.is_empty()
    {
        // It is in place, or the power went before it was durable: with it may have gone the taking of locks that
        // other hosts have had since, and then it never was.
        let before = earlier.last().or(older.last());
        replayed.doubtful = before.map_or_else(|| header.pending().collect(), pending_of);
        let pending = &replayed.pending;
        replayed.doubtful.retain(|file| !pending.contains(file));
        if !replayed.doubtful.is_empty() {
            for &(lock, token) in &last.locks {
                let lock = VolumeOffset(lock);
                if !crate::cluster::has_moved_on(volume, lock, token, header.slot())? {
                    replayed.unmoved.push(lock);
                }
            }
        }
    }
    Ok(replayed)
}

/// The files whose blocks were being given back when `redo` was written.
fn pending_of(redo: &Redo) -> Vec<FdAddr> {
    let files = redo.pending.iter();
    files.filter_map(|&raw| FdAddr::from_raw(raw)).collect()
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
    let unfinished = unfinished(reader.volume(), &transactions, header.slot())?;
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
    Ok(unfinished(volume, &transactions, header.slot())?.len())
}

/// The transactions that may not be in place, of the host with this place and generation of its
/// heartbeat.
///
/// A host that shares the volume gives the locks of a transaction back once it is in place, and
/// brings each in place before the next: so none is missing up to the last one of which a lock has
/// moved on, and other hosts may have changed what these protect since.
fn unfinished<'a>(
    volume: &Volume,
    transactions: &'a [Redo],
    slot: (u64, u64),
) -> Result<&'a [Redo], JournalError> {
    for (index, redo) in transactions.iter().enumerate().rev() {
        for &(lock, token) in &redo.locks {
            if crate::cluster::has_moved_on(volume, VolumeOffset(lock), token, slot)? {
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use zerocopy::{FromZeros, IntoBytes};

    use super::*;
    use crate::format::{DiskLock, Uuid};
    use crate::scsi::MemoryLun;

    const PLACE: VolumeOffset = VolumeOffset(1 << 20);

    fn transaction(pending: &[u32], locks: &[(u64, u64)]) -> Redo {
        Redo {
            pending: pending.to_vec(),
            locks: locks.to_vec(),
            ..Redo::default()
        }
    }

    /// Place and generation of the dead host's heartbeat, and of another's.
    const SLOTS: [(u64, u64); 2] = [(3 << 20, 1), (3 << 20 | 512, 1)];

    fn set_lock(volume: &Volume, place: u64, token: u64, slot: (u64, u64)) {
        let mut lock = DiskLock::new_zeroed();
        lock.heartbeat = slot.0.into();
        lock.heartbeat_generation = slot.1.into();
        lock.token = token.into();
        volume
            .write(VolumeOffset(place), lock.as_bytes())
            .expect("write");
    }

    #[test]
    fn a_deletion_that_went_with_the_power_is_pending_yet() {
        let file = FdAddr::from_raw(0x40_0004).expect("an address");
        let (cluster, descriptor) = (4096, 8192);
        let last = transaction(&[], &[(cluster, 5), (descriptor, 9)]);
        for in_first in [false, true] {
            let volume = Volume::without_lvm(Arc::new(MemoryLun::new("journal", 4 << 20)));
            let header = JournalHeader::new(Uuid::default(), SLOTS[0].0, SLOTS[0].1, 32 << 10, 5);
            let mut log = Log::create(&volume, PLACE, &header).expect("create");
            let deletes = transaction(&[file.raw()], &[(descriptor, 7)]);
            let mut sequence = 0;
            let mut append = |log: &mut Log, redo: &Redo| {
                sequence += 1;
                let bytes = log.encode(redo, sequence).expect("room");
                log.append(&volume, &bytes).expect("append");
                log.advance(bytes.len());
            };
            append(&mut log, &deletes);
            if in_first {
                log.restart();
                append(&mut log, &deletes);
            }
            log.restart();
            append(&mut log, &last);
            let replayed = |tokens: (u64, u64)| {
                set_lock(&volume, cluster, tokens.0, SLOTS[0]);
                set_lock(&volume, descriptor, tokens.1, SLOTS[0]);
                replay(&volume, PLACE, &header).expect("replay")
            };
            // Others have had the cluster's lock since, whose taking was lost; the descriptor's nobody.
            for token in [8, 9] {
                let found = replayed((7, token));
                assert_eq!(found.transactions, 0, "{token}");
                assert_eq!((found.pending, found.doubtful), (vec![], vec![file]));
                assert_eq!(found.unmoved, [VolumeOffset(descriptor)], "{token}");
            }
            // Both were given back: it is in place, and the descriptor may be another file's.
            let found = replayed((6, 10));
            assert_eq!(found.unmoved, []);
            // It is brought in place.
            let found = replayed((5, 9));
            assert_eq!((found.transactions, found.doubtful), (1, vec![]));
        }
    }

    #[test]
    fn a_lock_that_another_host_took_with_the_same_number_has_moved_on() {
        let [dead, other] = SLOTS;
        let volume = Volume::without_lvm(Arc::new(MemoryLun::new("journal", 4 << 20)));
        let header = JournalHeader::new(Uuid::default(), dead.0, dead.1, 32 << 10, 5);
        let mut log = Log::create(&volume, PLACE, &header).expect("create");
        let redo = transaction(&[], &[(4096, 5)]);
        let bytes = log.encode(&redo, 1).expect("room");
        log.append(&volume, &bytes).expect("append");
        let rejoined = (dead.0, dead.1 + 1);
        for (token, slot, replays) in [
            (4, other, true),
            (5, dead, true),
            (5, other, false),
            (5, rejoined, false),
            (6, dead, false),
        ] {
            set_lock(&volume, 4096, token, slot);
            let replayed = replay(&volume, PLACE, &header).expect("replay");
            let wanted = usize::from(replays);
            assert_eq!(replayed.transactions, wanted, "{token} {slot:?}");
        }
    }
}
