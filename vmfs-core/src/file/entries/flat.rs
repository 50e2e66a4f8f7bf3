//! Directories of VMFS5: an array of entries without a gap, since not all readers skip unused
//! ones. The last entry takes the place of one that goes.

use std::collections::HashMap;

use zerocopy::{FromZeros, IntoBytes};

use super::content::{self, DirContent, NewEntry, entry_of};
use crate::file::directory::{DirEntry, MAX_DIRECTORY};
use crate::file::error::FileError;
use crate::format::{At, Damage, DirEntry5, FdAddr, FileKind};

const SIZE: u64 = DirEntry5::SIZE;
/// Entries read at a time.
const AT_ONCE: u64 = 512;
/// Names that an index has at most, some 24 MiB of them: in larger directories every entry is
/// looked at.
const MAX_INDEXED: usize = 250_000;

/// What is known of a directory, so that it needn't be looked through for each name. Dropped and
/// made again it is the same.
#[derive(Debug, Default)]
pub struct DirHint {
    /// Where names are, in a directory without a hash table.
    index: Option<HashMap<Box<[u8]>, u64>>,
    /// The directory has too many names for that.
    is_large: bool,
    /// No block before these has a free slot for an entry, for a link group.
    pub(super) first_free: [u32; 2],
}

fn entry(name: &[u8], kind: FileKind, fd: FdAddr, generation: u32) -> DirEntry5 {
    let mut entry = DirEntry5::new_zeroed();
    entry.kind = (kind as u32).into();
    entry.fd = fd.raw().into();
    entry.generation = generation.into();
    let used = name.len().min(entry.name.len() - 1);
    entry.name[..used].copy_from_slice(&name[..used]);
    entry
}

pub(super) fn initialise(
    content: &mut dyn DirContent,
    this: (FdAddr, u32),
    parent: (FdAddr, u32),
) -> Result<(), FileError> {
    content.set_length(2 * SIZE)?;
    let dots = [
        entry(b".", FileKind::Directory, this.0, this.1),
        entry(b"..", FileKind::Directory, parent.0, parent.1),
    ];
    content.write(0, dots.as_bytes())
}

pub(super) fn set_parent(
    content: &mut dyn DirContent,
    parent: (FdAddr, u32),
) -> Result<(), FileError> {
    let dots = entry(b"..", FileKind::Directory, parent.0, parent.1);
    content.write(SIZE, dots.as_bytes())
}

pub(super) fn add(
    content: &mut dyn DirContent,
    new: &NewEntry<'_>,
    hint: &mut DirHint,
) -> Result<(), FileError> {
    let number = content.length() / SIZE;
    if (number + 1) * SIZE > MAX_DIRECTORY {
        return Err(FileError::DirectoryFull);
    }
    content.set_length((number + 1) * SIZE)?;
    let bytes = entry(new.name, new.kind, new.fd, new.generation);
    content.write(number * SIZE, bytes.as_bytes())?;
    if let Some(index) = &mut hint.index {
        index.insert(new.name.into(), number);
    }
    Ok(())
}

pub(super) fn remove(
    content: &mut dyn DirContent,
    name: &[u8],
    hint: &mut DirHint,
) -> Result<(), FileError> {
    let Some((number, _)) = find(content, name, hint)? else {
        return Ok(());
    };
    let last = (content.length() / SIZE).saturating_sub(1);
    if number < last {
        let moved: DirEntry5 = content::read(content, last * SIZE)?;
        content.write(number * SIZE, moved.as_bytes())?;
        if let Some(index) = &mut hint.index {
            index.insert(moved.name().into(), number);
        }
    }
    if let Some(index) = &mut hint.index {
        index.remove(name);
    }
    content.write(last * SIZE, &[0; SIZE as usize])?;
    content.set_length(last * SIZE)
}

pub(super) fn replace(
    content: &mut dyn DirContent,
    name: &[u8],
    (fd, kind, generation): (FdAddr, FileKind, u32),
    hint: &mut DirHint,
) -> Result<(), FileError> {
    let Some((number, _)) = find(content, name, hint)? else {
        return Ok(());
    };
    let bytes = entry(name, kind, fd, generation);
    content.write(number * SIZE, bytes.as_bytes())
}

pub(super) fn lookup(
    content: &dyn DirContent,
    name: &[u8],
    hint: &mut DirHint,
) -> Result<Option<DirEntry>, FileError> {
    let found = find(content, name, hint)?;
    Ok(found.and_then(|(_, entry)| {
        let fields = (entry.kind.get(), entry.fd.get(), entry.generation.get());
        entry_of(entry.name(), fields.0, fields.1, fields.2)
    }))
}

/// The entry called `name` and its number.
fn find(
    content: &dyn DirContent,
    name: &[u8],
    hint: &mut DirHint,
) -> Result<Option<(u64, DirEntry5)>, FileError> {
    if content.length() > MAX_DIRECTORY {
        let (at, found) = (At::Volume(0), content.length());
        let expected = "at most 1 GiB";
        return Err(Damage::new("directory", at, "length", found, expected).into());
    }
    if hint.index.is_none() && !hint.is_large {
        let mut index = HashMap::new();
        for_each(content, &mut |number, entry| {
            index.entry(entry.name().into()).or_insert(number);
            index.len() <= MAX_INDEXED
        })?;
        hint.is_large = index.len() > MAX_INDEXED;
        hint.index = (!hint.is_large).then_some(index);
    }
    let Some(index) = &hint.index else {
        let mut found = None;
        for_each(content, &mut |number, entry| {
            if entry.name() == name {
                found = Some((number, entry.clone()));
            }
            found.is_none()
        })?;
        return Ok(found);
    };
    let Some(&number) = index.get(name) else {
        return Ok(None);
    };
    Ok(Some((number, content::read(content, number * SIZE)?)))
}

/// Calls `visit` with the entries in use until it returns false.
fn for_each(
    content: &dyn DirContent,
    visit: &mut dyn FnMut(u64, &DirEntry5) -> bool,
) -> Result<(), FileError> {
    let total = content.length() / SIZE;
    let mut bytes = vec![0; (AT_ONCE * SIZE) as usize];
    for first in (0..total).step_by(AT_ONCE as usize) {
        let count = AT_ONCE.min(total - first);
        let bytes = &mut bytes[..(count * SIZE) as usize];
        content.read(first * SIZE, bytes)?;
        for (number, raw) in (first..).zip(bytes.chunks_exact(SIZE as usize)) {
            let Ok(entry) = <DirEntry5 as zerocopy::FromBytes>::ref_from_bytes(raw) else {
                break;
            };
            if entry.fd.get() != 0 && !visit(number, entry) {
                return Ok(());
            }
        }
    }
    Ok(())
}
