use crate::format::Damage;
use crate::journal::JournalError;
use crate::lvm::{LvmError, VolumeOffset};

/// A structure could not be read, or is not what the format allows.
#[derive(Debug, thiserror::Error)]
pub enum MetaError {
    /// The volume below could not be read.
    #[error(transparent)]
    Volume(#[from] LvmError),
    /// A structure is damaged.
    #[error(transparent)]
    Damage(#[from] Damage),
    /// Disk locks have to be taken before the change can be made.
    #[error("{} disk locks are missing, the first at {}", places.len(), places.first().copied().unwrap_or_default())]
    NeedsLocks {
        /// Where they lie.
        places: Vec<VolumeOffset>,
    },
    /// A change could not be made.
    #[error(transparent)]
    Journal(#[from] JournalError),
}
