use vmfs_core::format::Damage;
use vmfs_core::fs::FsError;
use vmfs_core::lvm::LvmError;
use vmfs_core::resource::MetaError;

/// A file system could not be grown.
#[derive(Debug, thiserror::Error)]
pub enum GrowError {
    /// The volume below failed.
    #[error(transparent)]
    Lvm(#[from] LvmError),
    /// A structure of the file system is damaged.
    #[error(transparent)]
    Damage(#[from] Damage),
    /// A structure of the file system can't be read.
    #[error(transparent)]
    Meta(#[from] MetaError),
    /// The file system can't be opened.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// Hosts have the volume mounted.
    #[error(
        "mounted, or not unmounted before they died, by: {}; a mounted volume isn't safe to change: unmount it there first, or use --force if none of them is alive",
        hosts.join(", ")
    )]
    InUse {
        /// UUID and address of each.
        hosts: Vec<String>,
    },
    /// `.fbb.sf` can't be read.
    #[error("the file block bitmap '.fbb.sf' can't be read: run fsck.vmfs")]
    NoBlockFile,
    /// The file system's addresses don't reach so far.
    #[error("the file system can't address more than {most} bytes with its file block size")]
    TooLarge {
        /// The most.
        most: u64,
    },
    /// `.fbb.sf` would need a map of pointer blocks, or further ones.
    #[error(
        "the file block bitmap '.fbb.sf' would need {needed} blocks, but its map has room for {room}: make the volume at most as large as that allows"
    )]
    MapFull {
        /// Blocks that it would need.
        needed: u64,
        /// Blocks that it can have.
        room: u64,
    },
    /// A large block that nobody could know of is in use.
    #[error(
        "large file block {block} is in use, but the file system ends before it: run fsck.vmfs"
    )]
    Unannounced {
        /// Its number.
        block: u64,
    },
}
