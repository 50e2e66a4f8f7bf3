//! Why commands fail.

use std::io;

use vmfs_iscsi::{Sense, Status};

/// Why a command failed.
#[derive(Debug)]
pub(in crate::scsi::iscsi) enum Failure {
    /// Another host has reserved the LUN.
    Conflict,
    /// A reservation or registration of this host is gone.
    ReservationLost {
        /// With its connection, and nothing since was done without it.
        by_cut: bool,
    },
    /// The target doesn't take the command.
    Illegal(Sense),
    /// The blocks were not as expected.
    Miscompare,
    /// Nobody knows whether it was carried out.
    Unclear,
    /// Whoever gave it may not change blocks any more.
    Fenced,
    /// Anything else.
    Io(io::Error),
}

impl Failure {
    /// The error for where there is none of its own.
    pub(in crate::scsi::iscsi) fn into_io(self) -> io::Error {
        match self {
            Self::Io(error) => error,
            Self::Conflict => io::Error::new(
                io::ErrorKind::ResourceBusy,
                "another host has reserved the LUN",
            ),
            Self::ReservationLost { .. } => io::Error::other("this host's reservation is gone"),
            Self::Illegal(sense) => {
                let text = format!("the target doesn't take the command: {sense}");
                io::Error::new(io::ErrorKind::Unsupported, text)
            }
            Self::Fenced => io::Error::other("this host may not write any more"),
            Self::Miscompare => io::Error::other("the blocks are not as expected"),
            Self::Unclear => io::Error::new(
                io::ErrorKind::TimedOut,
                "the connection was lost; whether the command was carried out isn't known",
            ),
        }
    }
}

/// Of a status that no command of ours expects.
pub(super) fn unexpected(status: Status) -> Failure {
    let kind = match status {
        Status::CheckCondition(Sense { key: 7, .. }) => io::ErrorKind::ReadOnlyFilesystem,
        _ => io::ErrorKind::Other,
    };
    Failure::Io(io::Error::new(
        kind,
        format!("the target answered {status}"),
    ))
}
