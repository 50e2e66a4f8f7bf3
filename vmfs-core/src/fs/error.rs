use rustix::io::Errno;

use crate::file::FileError;
use crate::format::Damage;
use crate::lvm::LvmError;
use crate::resource::MetaError;

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
            Self::File(FileError::WrongKind { .. }) => Errno::INVAL,
            Self::File(FileError::RawDisk { .. }) => Errno::NXIO,
            Self::File(FileError::Meta(_)) | Self::Volume(_) => Errno::IO,
            Self::NotFound { .. } => Errno::NOENT,
            Self::NameTooLong { .. } => Errno::NAMETOOLONG,
            Self::Loop { .. } => Errno::LOOP,
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
