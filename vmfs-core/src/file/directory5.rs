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

/// Calls `visit` with the entries from number `from` on until it returns false.
pub(super) fn for_each(
    store: &FileStore,
    inode: &Inode,
    from: u64,
    visit: &mut dyn FnMut(DirEntry) -> bool,
) -> Result<(), FileError> {
    let length = checked_length(inode)?;
    let total = length / DirEntry5::SIZE;
    let mut number = from;
    let mut buf = vec![0; (ENTRIES_PER_READ * DirEntry5::SIZE) as usize];
    while number < total {
        let offset = number * DirEntry5::SIZE;
        let run = store.run_at(inode, offset, offset + buf.len() as u64)?;
        if run.place == Place::Hole && run.length >= DirEntry5::SIZE {
            // Zeros are unused entries.
            number += run.length / DirEntry5::SIZE;
            continue;
        }
        let read = store.read(inode, offset, &mut buf)?;
        for bytes in buf[..read].chunks_exact(DirEntry5::SIZE as usize) {
            number += 1;
            let Ok(entry) = DirEntry5::ref_from_bytes(bytes) else {
                break;
            };
            let Some(entry) = checked(entry, inode, number) else {
                continue;
            };
            if !visit(entry) {
                return Ok(());
            }
        }
        if (read as u64) < DirEntry5::SIZE {
            break;
        }
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
