use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::uuid::Uuid;

/// Volume offset of the first heartbeat slot.
pub const HEARTBEAT_OFFSET: u64 = 0x30_0000;
/// Slots on VMFS3 and VMFS5, each 512 bytes.
pub const HEARTBEAT_SLOTS_5: u64 = 2048;
/// Slots on VMFS6, each one metadata block.
pub const HEARTBEAT_SLOTS_6: u64 = 1024;

/// A host's heartbeat slot (FORMAT.md, "Heartbeats").
#[derive(Debug, Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Heartbeat {
    /// See [`HeartbeatState`].
    pub state: U32,
    /// The slot's own volume offset.
    pub address: U64,
    /// Counts the slot's takings, and perhaps releases.
    pub generation: U64,
    /// Microseconds since the host's boot at the last renewal.
    pub stamp: U64,
    /// The host.
    pub host: Uuid,
    /// Raw address of the host's journal block.
    pub journal_addr: U32,
    /// Major version of the host's driver.
    pub driver_major: U32,
    /// Minor version of the host's driver.
    pub driver_minor: u8,
    /// How the host locks.
    pub lock_implementation: u8,
    /// The host's IP address as text.
    pub ip: [u8; 46],
    /// Volume offset of the host's journal block.
    pub journal_offset: U64,
    /// The host whose journal this one is replaying.
    pub replay_host: Uuid,
    /// Meaning unknown, carried over.
    pub unknown: [u8; 24],
    /// Volume offset of the heartbeat being replayed.
    pub replay_heartbeat: U64,
    /// Generation of the heartbeat being replayed.
    pub replay_generation: U64,
}

const _: () = assert!(size_of::<Heartbeat>() == 0xa4);
const _: () = assert!(std::mem::offset_of!(Heartbeat, journal_offset) == 0x64);

/// What an OpenVMFS host keeps behind the heartbeat, in the same sector: no real volume has
/// anything there.
#[derive(Debug, Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct HostNote {
    /// [`HostNote::MAGIC`].
    pub magic: [u8; 8],
    /// How the host locks: 1 by ATS, 2 by SCSI-2 reservations, 0 not at all.
    pub lock_method: u8,
    /// 1 while the host leaves nothing in memory or its journal that others must see.
    pub shares: u8,
    /// Zero.
    pub unused: [u8; 6],
    /// What the host is registered with at the LUNs, zero if it isn't.
    pub key: U64,
    /// Volume offset of the heartbeat of the host that takes over from this one, zero if none does.
    pub taken_by: U64,
    /// Generation of that heartbeat.
    pub taken_by_generation: U64,
}

impl HostNote {
    /// How a note begins.
    pub const MAGIC: [u8; 8] = *b"OpenVMFS";
    /// Where in the slot it lies.
    pub const OFFSET: usize = 0x100;
}

const _: () = assert!(HostNote::OFFSET + size_of::<HostNote>() <= 512);

/// Whether a slot has an owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum HeartbeatState {
    /// 0xabcdef01: nobody's.
    Free,
    /// 0xabcdef02: a host has the volume mounted, or died while it had.
    InUse,
    /// A number that the format doesn't use.
    Unknown(u32),
}

impl Heartbeat {
    /// Whether the slot has an owner.
    pub fn state(&self) -> HeartbeatState {
        match self.state.get() {
            0xabcd_ef01 => HeartbeatState::Free,
            0xabcd_ef02 => HeartbeatState::InUse,
            other => HeartbeatState::Unknown(other),
        }
    }
}
