use crate::format::Damage;
use crate::journal::JournalError;
use crate::lvm::LvmError;

/// A structure could not be read, or is not what the format allows.
#[derive(Debug, thiserror::Error)]
pub enum MetaError {
    /// The volume below could not be read.
    #[error(transparent)]
    Volume(#[from] LvmError),
    /// A structure is damaged.
    #[error(transparent)]
    Damage(#[from] Damage),
    /// A change could not be made.
    #[error(transparent)]
    Journal(#[from] JournalError),
}
