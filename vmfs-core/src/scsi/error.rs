use std::io;
use std::path::PathBuf;

use super::array::Refusal;
use super::lun::DeviceOffset;

/// A command to a LUN failed, or the LUN could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum LunError {
    /// The path could not be opened.
    #[error("can't open {}: {source}", path.display())]
    Open {
        /// The path as given.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The path is neither a regular file nor a block device.
    #[error("{}: {found}; give an image file or a block device", path.display())]
    NotALun {
        /// The path as given.
        path: PathBuf,
        /// What it is.
        found: &'static str,
    },
    /// An `iscsi://` URL makes no sense. It isn't repeated: there may be a secret in it.
    #[error("{problem}; write iscsi://[USER[%SECRET]@]HOST[:PORT]/TARGET/LUN")]
    Url {
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A command failed.
    #[error("{operation} of {length} bytes at {offset} of {lun} failed: {source}")]
    Io {
        /// Name of the LUN.
        lun: String,
        /// The command.
        operation: &'static str,
        /// Where.
        offset: DeviceOffset,
        /// How many bytes.
        length: usize,
        /// What the system said.
        source: io::Error,
    },
    /// The range isn't on the LUN.
    #[error(
        "{lun} ends at {capacity:#x}, so it has no {length} bytes at {offset}: the image is cut short, or an address in it is damaged"
    )]
    PastEnd {
        /// Name of the LUN.
        lun: String,
        /// Where.
        offset: DeviceOffset,
        /// How many bytes.
        length: usize,
        /// Size of the LUN.
        capacity: u64,
    },
    /// A write to a LUN that was opened read-only.
    #[error("{lun} is opened read-only")]
    ReadOnly {
        /// Name of the LUN.
        lun: String,
    },
    /// A command that the LUN doesn't have.
    #[error("{lun} doesn't know the command {command}")]
    Unsupported {
        /// Name of the LUN.
        lun: String,
        /// The command.
        command: &'static str,
    },
    /// Another host took this one for dead, so it must not write any more.
    #[error("{lun}: this host lost its right to write to it")]
    Fenced {
        /// Name of the LUN.
        lun: String,
    },
    /// Another host has reserved the LUN.
    #[error("{command} on {lun}: another host has reserved it")]
    ReservationConflict {
        /// Name of the LUN.
        lun: String,
        /// The command.
        command: &'static str,
    },
    /// This host's reservation is gone: the LUN was reset.
    #[error("{command} on {lun}: its reset took away this host's reservation")]
    ReservationLost {
        /// Name of the LUN.
        lun: String,
        /// The command.
        command: &'static str,
    },
    /// The LUN doesn't carry the command out because of what it asks for (ILLEGAL REQUEST).
    #[error("{command} on {lun}: {reason}")]
    Invalid {
        /// Name of the LUN.
        lun: String,
        /// The command.
        command: &'static str,
        /// What is wrong.
        reason: &'static str,
    },
}

impl LunError {
    /// The error that `refusal` of a command is.
    pub(super) fn refused(lun: &str, command: &'static str, refusal: Refusal) -> Self {
        let lun = lun.to_owned();
        match refusal {
            Refusal::Conflict => Self::ReservationConflict { lun, command },
            Refusal::Invalid(reason) => Self::Invalid {
                lun,
                command,
                reason,
            },
        }
    }

    pub(super) fn lost(lun: &str, command: &'static str) -> Self {
        Self::ReservationLost {
            lun: lun.to_owned(),
            command,
        }
    }

    pub(super) fn read_only(lun: &str) -> Self {
        Self::ReadOnly {
            lun: lun.to_owned(),
        }
    }

    pub(crate) fn fenced(lun: &str) -> Self {
        Self::Fenced {
            lun: lun.to_owned(),
        }
    }

    pub(super) fn unsupported(lun: &str, command: &'static str) -> Self {
        Self::Unsupported {
            lun: lun.to_owned(),
            command,
        }
    }
}
