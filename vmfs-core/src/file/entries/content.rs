use zerocopy::{FromBytes, FromZeros, IntoBytes};

use crate::file::directory::DirEntry;
use crate::file::error::FileError;
use crate::format::{FdAddr, FileKind};

/// The content of a directory that is looked at or changed.
pub trait DirContent {
    /// Bytes of it.
    fn length(&self) -> u64;

    /// Fills `buf` from `offset`; what lies behind the length is zeros.
    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<(), FileError>;

    /// Stores bytes inside the length.
    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), FileError>;

    /// Makes it shorter or longer; new bytes are zeros.
    fn set_length(&mut self, length: u64) -> Result<(), FileError>;
}

/// A name to be added, and what it leads to.
#[derive(Debug, Clone, Copy)]
pub struct NewEntry<'a> {
    /// The name.
    pub name: &'a [u8],
    /// What the file is.
    pub kind: FileKind,
    /// Its descriptor.
    pub fd: FdAddr,
    /// The descriptor's generation.
    pub generation: u32,
}

/// Reads a structure.
pub(super) fn read<T: FromBytes + IntoBytes + FromZeros>(
    content: &dyn DirContent,
    offset: u64,
) -> Result<T, FileError> {
    let mut value = T::new_zeroed();
    content.read(offset, value.as_mut_bytes())?;
    Ok(value)
}

/// Reads a number.
pub(super) fn number(content: &dyn DirContent, offset: u64) -> Result<u32, FileError> {
    let mut bytes = [0; 4];
    content.read(offset, &mut bytes)?;
    Ok(u32::from_le_bytes(bytes))
}

/// What an entry's fields say; `None` when they name no file.
pub(super) fn entry_of(name: &[u8], kind: u32, fd: u32, generation: u32) -> Option<DirEntry> {
    Some(DirEntry {
        name: name.to_vec(),
        fd: FdAddr::from_raw(fd)?,
        kind: FileKind::from_raw(kind)?,
        generation,
        next: 0,
    })
}
