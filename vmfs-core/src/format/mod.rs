//! On-disk structures and addresses: plain little-endian views, one module per structure.
//!
//! Nothing here does I/O or has behaviour beyond checked reads and writes. Field meanings,
//! and how each was verified, are in `docs/FORMAT.md`; the section is named at each structure.

mod address;
mod cluster;
mod cluster_image;
mod damage;
mod directory5;
mod directory6;
mod disk_lock;
mod fd_image;
mod file_descriptor;
mod fs_descriptor;
mod heartbeat;
mod layout;
mod lvm_device;
mod lvm_volume;
mod name_hash;
mod resource_header;
mod uuid;

pub use address::{BlockAddr, FdAddr, ResourceKind};
pub use cluster::{ClusterHeader, ClusterMeta5, ClusterMeta6, RCMD_SIGNATURE};
pub use cluster_image::{ClusterImage, ClusterShape};
pub use damage::{At, Damage};
pub use directory5::DirEntry5;
pub use directory6::{
    DIR_BLOCKS_START, DIR_VERSION, DIR_VERSION_DEBUG, DirBlockHeader, DirBlockKind, DirEntry6,
    DirHeader, DirLinkGroup, HASH_SLOTS, LINKS_PER_GROUP, Location, MAP_NIBBLE_FREE,
    MAP_NIBBLE_NOT_WRITTEN, MAX_MAP_BLOCKS,
};
pub use disk_lock::{DiskLock, LockHolder, LockKind, LockMode};
pub use fd_image::FdImage;
pub use file_descriptor::{FDMD_SIGNATURE, FileKind, FileMetadata, RdmMapping, ZeroLevel};
pub use fs_descriptor::{FS_DESCRIPTOR_OFFSET, FsConfig, FsDescriptor, VMFS_MAGIC, VMFSL_MAGIC};
pub use heartbeat::{
    HEARTBEAT_OFFSET, HEARTBEAT_SLOTS_5, HEARTBEAT_SLOTS_6, Heartbeat, HeartbeatState, HostNote,
};
pub use layout::{Family, Layout, SystemFile};
pub use lvm_device::{
    DEVICE_HEADER_OFFSET, DevMetadata, ExtDevMetadata, LVM_MAGIC, MAX_PE_MAPS, PE_SIZE,
    PES_PER_MAP, ScsiDiskId,
};
pub use lvm_volume::{PeTableEntry, VolTableEntry, VolumeState};
pub use name_hash::{NameHash, name_hash, system_file_hash};
pub use resource_header::{RFMD_SIGNATURE, ResourceHeader, RfFlags};
pub use uuid::Uuid;

use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

/// Views the first bytes of `bytes` as a `T`.
///
/// # Errors
/// [`Damage`] when `bytes` is shorter than the structure.
pub fn view<'a, T>(bytes: &'a [u8], structure: &'static str, at: At) -> Result<&'a T, Damage>
where
    T: FromBytes + KnownLayout + Immutable + Unaligned,
{
    T::ref_from_prefix(bytes)
        .map(|(view, _)| view)
        .map_err(|_| {
            Damage::new(
                structure,
                at,
                "length",
                bytes.len(),
                format!("at least {} bytes", size_of::<T>()),
            )
        })
}

/// The text in a fixed-size field: everything before the first zero byte.
pub fn text(field: &[u8]) -> &[u8] {
    let end = field.iter().position(|&b| b == 0).unwrap_or(field.len());
    &field[..end]
}
