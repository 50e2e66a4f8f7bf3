use std::io;

use vmfs_core::fs::FsError;
use vmfs_core::lvm::LvmError;
use vmfs_core::scsi::LunError;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The arguments make no sense together.
    #[error("{0}")]
    Usage(String),
    /// The volume could not be opened.
    #[error("{0}")]
    Open(String),
    /// A path on the volume could not be read.
    #[error("{path}: {source}")]
    Path {
        /// The path as given.
        path: String,
        /// Why.
        source: Box<FsError>,
    },
    /// Something on the volume could not be read.
    #[error("{0}")]
    Fs(Box<FsError>),
    /// The volume layer failed.
    #[error("{0}")]
    Lvm(Box<LvmError>),
    /// A LUN didn't carry out a command.
    #[error("{0}")]
    Lun(Box<LunError>),
    /// The file system could not be grown.
    #[error("{0}")]
    Grow(String),
    /// A repair could not be undone.
    #[error("{0}")]
    Undo(Box<fsck_vmfs::undo::UndoError>),
    /// The output could not be written.
    #[error("{0}")]
    Output(#[from] io::Error),
    /// Failures that were reported one by one.
    #[error("some files failed")]
    Reported,
}

impl From<FsError> for Error {
    fn from(error: FsError) -> Self {
        Self::Fs(Box::new(error))
    }
}

impl From<LunError> for Error {
    fn from(error: LunError) -> Self {
        Self::Lun(Box::new(error))
    }
}

impl From<LvmError> for Error {
    fn from(error: LvmError) -> Self {
        Self::Lvm(Box::new(error))
    }
}

impl From<serde_json::Error> for Error {
    fn from(error: serde_json::Error) -> Self {
        Self::Output(error.into())
    }
}

impl Error {
    /// The exit code that tells a script the kind of failure.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Open(_) => 3,
            _ => 1,
        }
    }

    /// Whether the reader of our output went away.
    pub(crate) fn is_broken_pipe(&self) -> bool {
        matches!(self, Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }
}
