use crate::cluster::Host;
use crate::format::Damage;
use crate::lvm::{LvmError, VolumeOffset};

/// How a host that has a file open holds its lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum OpenMode {
    /// With other hosts that read it.
    Read,
    /// With other hosts that write to it, too.
    MultiWriter,
    /// Alone.
    Write,
}

/// A lock could not be had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another host has it.
    #[error("the lock at {place} is held by host {}", by.shown())]
    Held {
        /// Where the lock lies.
        place: VolumeOffset,
        /// The host.
        by: Box<Host>,
        /// It has it for an open file, not for a moment.
        is_open: bool,
    },
    /// Other threads of this host have had it for so long that it is to be given back first.
    #[error("the lock at {place} is to be given back first")]
    Turn {
        /// Where the lock lies.
        place: VolumeOffset,
    },
    /// As many hosts as the format has room for share it.
    #[error("the lock at {place} is shared by eight hosts already, as many as the format allows")]
    Crowded {
        /// Where the lock lies.
        place: VolumeOffset,
    },
    /// A host has it that is dead, and must be taken over from first.
    #[error("the lock at {place} is held by host {}, which is dead", host.shown())]
    Dead {
        /// Where the lock lies.
        place: VolumeOffset,
        /// The host.
        host: Box<Host>,
    },
    /// The volume failed.
    #[error(transparent)]
    Volume(#[from] LvmError),
    /// What lies there is no lock.
    #[error(transparent)]
    Damage(#[from] Damage),
}
