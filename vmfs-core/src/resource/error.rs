use crate::format::Damage;
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
}
