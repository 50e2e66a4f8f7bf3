//! Directories of VMFS3 and VMFS5: an array of entries.

use zerocopy::FromBytes;

use super::directory::{DirEntry, MAX_DIRECTORY, entry_of};
use super::error::FileError;
use super::inode::Inode;
use super::store::FileStore;
use crate::format::{At, Damage, DirEntry5, FdAddr};
use crate::resource::Place;

/// Entries read at a time.
const ENTRIES_PER_READ: u64 = 512;

/// Positions count down from here: the last entry is listed first.
const TOP: u64 = 1 << 40;

/// Calls `visit` with the entries from position `from` on until it returns false.
///
/// From the last to the first: the last entry takes the place of one that is removed, so whoever
/// removes what was listed, as `rm -r` does, misses nothing. The position behind entry number *n*
/// is `TOP` - *n*.
pub(super) fn for_each(
    store: &FileStore,
    inode: &Inode,
    from: u64,
    visit: &mut dyn FnMut(DirEntry) -> bool,
) -> Result<(), FileError> {
    let total = checked_length(inode)? / DirEntry5::SIZE;
    let mut end = match from {
        0 => total,
        position => total.min(TOP.saturating_sub(position)),
    };
    let mut buf = vec![0; (ENTRIES_PER_READ * DirEntry5::SIZE) as usize];
    while end > 0 {
        let first = end.saturating_sub(ENTRIES_PER_READ);
        let run = store.run_at(inode, first * DirEntry5::SIZE, end * DirEntry5::SIZE)?;
        if run.place == Place::Hole && run.end() >= end * DirEntry5::SIZE {
            // Zeros are unused entries.
            end = first;
            continue;
        }
        let bytes = &mut buf[..((end - first) * DirEntry5::SIZE) as usize];
        store.read(inode, first * DirEntry5::SIZE, bytes)?;
        let entries = bytes.chunks_exact(DirEntry5::SIZE as usize).enumerate();
        for (index, bytes) in entries.rev() {
            let number = first + index as u64;
            let entry = DirEntry5::ref_from_bytes(bytes).ok();
            let Some(entry) = entry.and_then(|entry| checked(entry, inode, TOP - number)) else {
                continue;
            };
            if !visit(entry) {
                return Ok(());
            }
        }
        end = first;
    }
    Ok(())
}

/// The directory that the entry `..` names.
pub(super) fn parent(store: &FileStore, inode: &Inode) -> Result<FdAddr, FileError> {
    let mut parent = None;
    for_each(store, inode, 0, &mut |entry| {
        if entry.name == b".." {
            parent = Some(entry.fd);
        }
        parent.is_none()
    })?;
    // The system data directory has no way up but the root.
    Ok(parent.unwrap_or(FdAddr::ROOT))
}

fn checked_length(inode: &Inode) -> Result<u64, Damage> {
    let length = inode.length();
    if length > MAX_DIRECTORY {
        let at = At::Volume(inode.offset().0);
        return Err(Damage::new(
            "directory",
            at,
            "length",
            length,
            "at most 1 GiB",
        ));
    }
    Ok(length)
}

fn checked(entry: &DirEntry5, inode: &Inode, next: u64) -> Option<DirEntry> {
    if entry.fd.get() == 0 {
        return None;
    }
    let fields = (entry.kind.get(), entry.fd.get(), entry.generation.get());
    entry_of(inode, next, entry.name(), fields)
}
