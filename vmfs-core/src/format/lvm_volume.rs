//! A device's view of the volume that it belongs to, and its physical extents
//! (FORMAT.md, "Volume table" and "Physical extents").

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::uuid::Uuid;

/// An entry of the volume table.
#[derive(Debug, Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
#[allow(
    missing_docs,
    reason = "the fields are described one by one in FORMAT.md"
)]
pub struct VolTableEntry {
    pub logical_size: U64,
    pub generation: U64,
    pub state: U32,
    pub name: [u8; 64],
    pub uuid: Uuid,
    pub snap_id: U32,
    pub creation_time_us: U64,
    pub volume_id: U32,
    pub pes: U32,
    pub first_pe: U64,
    pub last_pe: U64,
    pub mod_time_us: U64,
    pub devices: U32,
    pub pad1: [u8; 124],
    pub consumed_pes: U32,
    pub pad2: [u8; 236],
}

const _: () = assert!(size_of::<VolTableEntry>() == 512);
const _: () = assert!(std::mem::offset_of!(VolTableEntry, devices) == 0x90);

/// A volume's state in the volume table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum VolumeState {
    /// In order.
    Normal,
    /// A resignature has begun.
    ResignaturePending,
    /// A resignature has ended.
    ResignatureDone,
    /// A number that the format doesn't use.
    Unknown(u32),
}

impl VolTableEntry {
    /// The volume's state.
    pub fn state(&self) -> VolumeState {
        match self.state.get() {
            1 => VolumeState::Normal,
            2 => VolumeState::ResignaturePending,
            3 => VolumeState::ResignatureDone,
            other => VolumeState::Unknown(other),
        }
    }
}

/// An entry of the table of physical extents; entries are 128 bytes apart.
#[derive(Debug, Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct PeTableEntry {
    /// Whether the extent belongs to a volume.
    pub used: u8,
    /// The extent's number on its device.
    pub id: U32,
    /// Number of the volume on this device.
    pub volume_id: U32,
    /// Device offset of the extent.
    pub physical: U64,
    /// Volume offset of the extent.
    pub logical: U64,
    /// Bytes of the extent.
    pub length: U64,
    /// Version.
    pub version: U32,
}

const _: () = assert!(size_of::<PeTableEntry>() == 37);

impl PeTableEntry {
    /// Distance between entries.
    pub const STRIDE: u64 = 128;
}
