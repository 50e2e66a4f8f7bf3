use crate::format::{Damage, FdAddr, FileKind};
use crate::lvm::LvmError;
use crate::resource::{AllocError, MetaError};

/// A file could not be read.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// A structure below is damaged or out of reach.
    #[error(transparent)]
    Meta(#[from] MetaError),
    /// What the file needs could not be allocated.
    #[error(transparent)]
    Alloc(#[from] AllocError),
    /// The file would get longer than its map or the format allows.
    #[error("file {fd} can't be longer than {max} bytes")]
    TooLarge {
        /// The file.
        fd: FdAddr,
        /// What is allowed.
        max: u64,
    },
    /// The directory has as many entries as it can have.
    #[error("the directory has no room for more names")]
    DirectoryFull,
    /// The file is of a kind that can't do what was asked.
    #[error("file {fd} is a {found:?}, not a {wanted}")]
    WrongKind {
        /// The file.
        fd: FdAddr,
        /// What it is.
        found: FileKind,
        /// What it would have to be.
        wanted: &'static str,
    },
    /// The file is a pointer to a raw disk, whose data lies there.
    #[error(
        "file {fd} points to the raw disk {disk}: its data is on that disk, not on this volume"
    )]
    RawDisk {
        /// The file.
        fd: FdAddr,
        /// The disk's SCSI identity.
        disk: String,
    },
}

impl From<Damage> for FileError {
    fn from(damage: Damage) -> Self {
        Self::Meta(damage.into())
    }
}

impl From<LvmError> for FileError {
    fn from(error: LvmError) -> Self {
        Self::Meta(error.into())
    }
}
