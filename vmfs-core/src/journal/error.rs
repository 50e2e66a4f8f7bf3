use crate::format::Damage;
use crate::lvm::LvmError;

/// A change of metadata could not be made or made durable.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The volume below failed.
    #[error(transparent)]
    Volume(#[from] LvmError),
    /// The journal block isn't what it should be.
    #[error(transparent)]
    Damage(#[from] Damage),
    /// One change is larger than the journal.
    #[error("a change of {bytes} bytes of metadata doesn't fit into a journal of {capacity}")]
    TooLarge {
        /// Bytes of the change.
        bytes: u64,
        /// Bytes that a change may have.
        capacity: u64,
    },
    /// The volume isn't open for writing.
    #[error("the volume is mounted read-only")]
    ReadOnly,
}
