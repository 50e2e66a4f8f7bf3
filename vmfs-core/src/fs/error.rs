use rustix::io::Errno;

use crate::cluster::LockError;
use crate::file::FileError;
use crate::format::{Damage, FdAddr};
use crate::journal::JournalError;
use crate::lvm::LvmError;
use crate::resource::{AllocError, MetaError};

/// A call to the file system failed.
#[derive(Debug, thiserror::Error)]
pub enum FsError {
    /// A file could not be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// The volume could not be opened or read.
    #[error(transparent)]
    Volume(#[from] LvmError),
    /// There is no such name.
    #[error("{}: no such file or directory", String::from_utf8_lossy(name))]
    NotFound {
        /// The name or path that was looked for.
        name: Vec<u8>,
    },
    /// The name is longer than the format allows.
    #[error(
        "{}: name too long, at most {max} bytes",
        String::from_utf8_lossy(name)
    )]
    NameTooLong {
        /// The name.
        name: Vec<u8>,
        /// What the format allows.
        max: usize,
    },
    /// The name is there already.
    #[error("{}: file exists", String::from_utf8_lossy(name))]
    Exists {
        /// The name.
        name: Vec<u8>,
    },
    /// The directory has entries.
    #[error("directory {fd} isn't empty")]
    NotEmpty {
        /// The directory.
        fd: FdAddr,
    },
    /// The file is a directory, and the call isn't for those.
    #[error("{fd} is a directory")]
    IsDirectory {
        /// The directory.
        fd: FdAddr,
    },
    /// The volume is open for reading only.
    #[error("the volume is mounted read-only")]
    ReadOnly,
    /// A system file, which only the file system itself may change.
    #[error("{fd} is a system file, which can't be changed")]
    SystemFile {
        /// The file.
        fd: FdAddr,
    },
    /// The call makes no sense.
    #[error("{0}")]
    Invalid(&'static str),
    /// The format has no such thing.
    #[error("VMFS has no {0}")]
    Unsupported(&'static str),
    /// The file would get longer than the format allows.
    #[error("file {fd} can't be longer than {max} bytes")]
    TooLarge {
        /// The file.
        fd: FdAddr,
        /// What the format allows.
        max: u64,
    },
    /// The file has as many names as it can have.
    #[error("file {fd} can't have more names")]
    TooManyLinks {
        /// The file.
        fd: FdAddr,
    },
    /// The volume can't be opened for writing.
    #[error("can't write to this volume: {0}")]
    NotWritable(String),
    /// Another host took this one for dead and recovered the volume.
    #[error("this host lost its hold on the volume; unmount and mount again")]
    Fenced,
    /// The LUN failed to make writes durable.
    #[error("what was written to file {fd} may be lost: the LUN could not make it durable")]
    Lost {
        /// The file.
        fd: FdAddr,
    },
    /// Another host has the file open, or a structure locked for too long.
    #[error("host {by} has it locked")]
    Busy {
        /// The host.
        by: String,
    },
    /// Another host has deleted the file.
    #[error("file {fd} is gone: another host has deleted it")]
    Stale {
        /// The file.
        fd: FdAddr,
    },
    /// The call has to be done again, which it is inside the file system.
    #[error("interrupted")]
    Again,
    /// A path leads through too many symbolic links.
    #[error("{}: too many levels of symbolic links", String::from_utf8_lossy(path))]
    Loop {
        /// The path.
        path: Vec<u8>,
    },
}

impl FsError {
    /// The error number that tells a Unix program the same.
    pub fn errno(&self) -> Errno {
        match self {
            Self::File(FileError::WrongKind {
                wanted: "directory",
                ..
            }) => Errno::NOTDIR,
            Self::File(FileError::WrongKind { .. }) | Self::Invalid(_) => Errno::INVAL,
            Self::File(FileError::RawDisk { .. }) => Errno::NXIO,
            Self::File(FileError::Alloc(AllocError::Meta(error)) | FileError::Meta(error)) => {
                match error {
                    MetaError::Journal(JournalError::ReadOnly) => Errno::ROFS,
                    _ => Errno::IO,
                }
            }
            Self::File(FileError::Alloc(_) | FileError::DirectoryFull) => Errno::NOSPC,
            Self::File(FileError::TooLarge { .. }) | Self::TooLarge { .. } => Errno::FBIG,
            Self::Volume(_) | Self::Fenced | Self::Lost { .. } => Errno::IO,
            Self::NotFound { .. } => Errno::NOENT,
            Self::Exists { .. } => Errno::EXIST,
            Self::NotEmpty { .. } => Errno::NOTEMPTY,
            Self::IsDirectory { .. } => Errno::ISDIR,
            Self::ReadOnly | Self::NotWritable(_) => Errno::ROFS,
            Self::SystemFile { .. } => Errno::PERM,
            Self::Unsupported(_) => Errno::OPNOTSUPP,
            Self::TooManyLinks { .. } => Errno::MLINK,
            Self::NameTooLong { .. } => Errno::NAMETOOLONG,
            Self::Loop { .. } => Errno::LOOP,
            Self::Busy { .. } => Errno::BUSY,
            Self::Stale { .. } => Errno::STALE,
            Self::Again => Errno::INTR,
        }
    }

    /// The damage that was met, if that is what failed.
    pub fn damage(&self) -> Option<&Damage> {
        match self {
            Self::File(FileError::Meta(MetaError::Damage(damage)))
            | Self::Volume(LvmError::Damage(damage)) => Some(damage),
            _ => None,
        }
    }
}

impl From<MetaError> for FsError {
    fn from(error: MetaError) -> Self {
        Self::File(error.into())
    }
}

impl From<Damage> for FsError {
    fn from(damage: Damage) -> Self {
        Self::File(damage.into())
    }
}

impl From<LockError> for FsError {
    fn from(error: LockError) -> Self {
        match error {
            LockError::Held { by, .. } => Self::Busy { by: by.shown() },
            LockError::Dead { host, .. } => Self::Busy { by: host.shown() },
            LockError::Turn { .. } => Self::Again,
            LockError::Crowded { .. } => Self::Busy {
                by: "eight others, as many as the format allows".to_owned(),
            },
            LockError::Volume(error) => error.into(),
            LockError::Damage(damage) => damage.into(),
        }
    }
}
