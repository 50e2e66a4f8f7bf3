//! Directories of VMFS6: a header with a hash table, then blocks of entries, of links for
//! hash collisions, and of the allocation map (FORMAT.md, "Directories of VMFS6").

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Version in every directory header seen.
pub const DIR_VERSION: u32 = 0x00f5_0001;
/// Version of ESXi's debug builds.
pub const DIR_VERSION_DEBUG: u32 = 0x00fd_c001;
/// Offset in the directory where its blocks start.
pub const DIR_BLOCKS_START: u64 = 0x1_0000;
/// Slots of the hash table.
pub const HASH_SLOTS: u32 = 16001;
/// Links in a link group.
pub const LINKS_PER_GROUP: usize = 12;
/// Allocation map blocks that the header has room for.
pub const MAX_MAP_BLOCKS: usize = 128;
/// Allocation map nibble bit: the block has a free slot.
pub const MAP_NIBBLE_FREE: u8 = 0x4;
/// Allocation map nibble bit: the block was never written.
pub const MAP_NIBBLE_NOT_WRITTEN: u8 = 0x8;

/// A directory entry.
#[derive(Debug, Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct DirEntry6 {
    /// See [`super::FileKind`].
    pub kind: U32,
    /// File descriptor address.
    pub fd: U32,
    /// Generation of that file descriptor.
    pub generation: U32,
    /// Bits 0 to 15 of the name's hash.
    pub hash_lo: U16,
    /// Bits 16 to 31 of the name's hash.
    pub hash_hi: U16,
    /// The entry's own offset in the directory.
    pub offset: U64,
    /// The name, zero-padded.
    pub name: [u8; 256],
    /// Zero on every volume seen.
    pub unknown: U64,
}

const _: () = assert!(size_of::<DirEntry6>() == 0x120);

impl DirEntry6 {
    /// Bytes of one entry.
    pub const SIZE: u64 = size_of::<Self>() as u64;

    /// The name without its padding.
    pub fn name(&self) -> &[u8] {
        super::text(&self.name)
    }
}

/// The first 0x5f8 bytes of a directory; the hash table follows.
#[derive(Debug, Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct DirHeader {
    /// [`DIR_VERSION`].
    pub version: U32,
    /// Entries, `.` and `..` included.
    pub entries: U32,
    /// Equals `entries` on every volume seen.
    pub allocated: U32,
    /// Allocation map blocks used.
    pub map_block_count: U32,
    /// Block numbers of the allocation map blocks.
    pub map_blocks: [U32; MAX_MAP_BLOCKS],
    /// Meaning unknown.
    pub unknown: [u8; 0x198],
    /// Checksum; zero on volumes with checksum type 0.
    pub checksum: U64,
    /// Generation of the checksum.
    pub checksum_gen: U64,
    /// `.`.
    pub this: DirEntry6,
    /// `..`.
    pub parent: DirEntry6,
}

const _: () = assert!(size_of::<DirHeader>() == 0x5f8);
const _: () = assert!(std::mem::offset_of!(DirHeader, this) == 0x3b8);
const _: () = assert!(size_of::<DirHeader>() as u64 + HASH_SLOTS as u64 * 4 <= DIR_BLOCKS_START);

impl DirHeader {
    /// Bytes of the header, the offset of the hash table.
    pub const SIZE: u64 = size_of::<Self>() as u64;
}

/// What a directory block holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum DirBlockKind {
    /// Directory entries.
    Entries = 1,
    /// Link groups.
    Links = 2,
    /// The allocation map.
    Map = 3,
}

/// The header of a directory block.
#[derive(Debug, Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct DirBlockHeader {
    /// 1 in entry and link blocks, 0 in map blocks.
    pub version: U16,
    /// See [`DirBlockKind`].
    pub kind: U16,
    /// Slots in the block.
    pub slots: U16,
    /// Slots of it that are free.
    pub free: U16,
    /// One bit a slot, set = free.
    pub bitmap: [u8; 56],
}

const _: () = assert!(size_of::<DirBlockHeader>() == 0x40);

impl DirBlockHeader {
    /// Bytes of the header, the offset of slot 0.
    pub const SIZE: u64 = size_of::<Self>() as u64;

    /// Whether `slot` is in use.
    pub fn is_used(&self, slot: u32) -> bool {
        self.bitmap
            .get(slot as usize / 8)
            .is_some_and(|byte| byte >> (slot % 8) & 1 == 0)
    }
}

/// Where a hash slot or a link points.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Location {
    /// Nowhere.
    Empty,
    /// A slot of an entry block.
    Entry {
        /// Block number.
        block: u32,
        /// Slot in it.
        slot: u32,
    },
    /// A slot of a link block.
    Links {
        /// Block number.
        block: u32,
        /// Slot in it.
        slot: u32,
    },
    /// A type that the format doesn't use.
    Invalid(u32),
}

impl Location {
    /// Reads the on-disk number.
    pub const fn from_raw(raw: u32) -> Self {
        let (block, slot) = (raw >> 2 & 0x3f_ffff, raw >> 24);
        match raw & 3 {
            0 => Self::Empty,
            1 => Self::Entry { block, slot },
            2 => Self::Links { block, slot },
            _ => Self::Invalid(raw),
        }
    }

    /// The on-disk number.
    pub const fn raw(self) -> u32 {
        match self {
            Self::Empty => 0,
            Self::Entry { block, slot } => slot << 24 | (block & 0x3f_ffff) << 2 | 1,
            Self::Links { block, slot } => slot << 24 | (block & 0x3f_ffff) << 2 | 2,
            Self::Invalid(raw) => raw,
        }
    }
}

/// One link: a location and bits 16 to 31 of the hash of the name there.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct DirLink {
    /// See [`Location`].
    pub location: U32,
    /// Bits 16 to 31 of the name's hash.
    pub hash_hi: U16,
}

/// A group of links for one hash slot.
#[derive(Debug, Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct DirLinkGroup {
    /// The hash slot that the group belongs to.
    pub hash_slot: U16,
    /// Links in the group.
    pub total: u8,
    /// Links of it that are free.
    pub free: u8,
    /// Where the next link goes.
    pub next_free: u8,
    /// Zero on every volume seen.
    pub pad1: u8,
    /// The links.
    pub links: [DirLink; LINKS_PER_GROUP],
    /// The next group of the same hash slot, see [`Location`].
    pub next: U32,
    /// Zero on every volume seen.
    pub pad2: U16,
}

const _: () = assert!(size_of::<DirLinkGroup>() == 84);

impl DirLinkGroup {
    /// Bytes of one group.
    pub const SIZE: u64 = size_of::<Self>() as u64;
}
