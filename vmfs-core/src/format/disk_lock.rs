use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::address::ResourceKind;
use super::uuid::Uuid;

/// The disk lock that begins every file descriptor and resource cluster
/// (FORMAT.md, "Disk lock").
#[derive(Debug, Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct DiskLock {
    /// What the lock protects, see [`LockKind`].
    pub kind: U32,
    /// The lock's own volume offset.
    pub address: U64,
    /// Volume offset of the last holder's heartbeat.
    pub heartbeat: U64,
    /// Generation of that heartbeat.
    pub heartbeat_generation: U64,
    /// Counts changes of the lock; 1 when fresh.
    pub token: U64,
    /// See [`LockMode`].
    pub mode: U32,
    /// UUID of the host that holds the lock, zero when it is free.
    pub owner: Uuid,
    /// VMFS5 and VMFS6: counts the locks written by the host; VMFS3: a time on its own clock.
    pub mtime: U64,
    /// Entries used in `holders`.
    pub holder_count: U32,
    /// The hosts that share the lock.
    pub holders: [LockHolder; 8],
    /// Meaning unknown, carried over.
    pub unknown: [u8; 32],
    /// Meaning unknown, carried over.
    pub global_holder_count: U32,
    /// Meaning unknown, carried over.
    pub global_generation: U64,
    /// Meaning unknown, carried over.
    pub global_break: U32,
}

const _: () = assert!(size_of::<DiskLock>() == 0x174);
const _: () = assert!(std::mem::offset_of!(DiskLock, mtime) == 0x38);

/// One of the hosts that share a lock.
#[derive(Debug, Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct LockHolder {
    /// Volume offset of the holder's heartbeat.
    pub heartbeat: U64,
    /// Generation of that heartbeat.
    pub generation: U64,
    /// The holder.
    pub host: Uuid,
}

/// What a lock protects: the lock's first word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum LockKind {
    /// A file descriptor.
    FileDescriptor = 0x10c0_0001,
    /// A cluster of file blocks, on VMFS6 of small file blocks.
    FileBlocks = 0x10c0_0002,
    /// A cluster of sub-blocks.
    SubBlocks = 0x10c0_0003,
    /// A cluster of pointer blocks.
    PointerBlocks = 0x10c0_0004,
    /// A cluster of file descriptors.
    FileDescriptors = 0x10c0_0005,
    /// A cluster of the second pointer block file.
    PointerBlocks2 = 0x10c0_0006,
    /// A cluster of journal blocks.
    Journals = 0x10c0_0007,
    /// A cluster of large file blocks.
    LargeFileBlocks = 0x10c0_0008,
    /// A part of `.unmap.sf`.
    Unmap = 0x10c0_0009,
}

/// How a lock is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum LockMode {
    /// Nobody holds it.
    Free,
    /// One host holds it for writing.
    Exclusive,
    /// Hosts share it for reading.
    ReadOnly,
    /// Hosts share it for writing.
    MultiWriter,
    /// A number that the format doesn't use.
    Unknown(u32),
}

impl LockKind {
    /// The kind that a cluster of such resources has.
    pub const fn of_cluster(kind: ResourceKind) -> Self {
        match kind {
            ResourceKind::FileBlock => Self::FileBlocks,
            ResourceKind::SubBlock => Self::SubBlocks,
            ResourceKind::PointerBlock => Self::PointerBlocks,
            ResourceKind::FileDescriptor => Self::FileDescriptors,
            ResourceKind::PointerBlock2 => Self::PointerBlocks2,
            ResourceKind::JournalBlock => Self::Journals,
            ResourceKind::LargeFileBlock => Self::LargeFileBlocks,
        }
    }
}

impl DiskLock {
    /// A lock that nobody has held, at volume offset `address`.
    pub fn fresh(kind: LockKind, address: u64) -> Self {
        let mut lock = Self::new_zeroed();
        lock.kind = (kind as u32).into();
        lock.address = address.into();
        lock.token = 1.into();
        lock.mtime = 1.into();
        lock
    }

    /// Whether `bytes` begin with a lock of this kind that belongs at volume offset `address`.
    pub fn lies_in(bytes: &[u8], kind: LockKind, address: u64) -> bool {
        Self::ref_from_prefix(bytes)
            .is_ok_and(|(lock, _)| lock.kind == kind as u32 && lock.address == address)
    }

    /// How the lock is held.
    pub fn mode(&self) -> LockMode {
        match self.mode.get() {
            0 => LockMode::Free,
            1 => LockMode::Exclusive,
            2 => LockMode::ReadOnly,
            3 => LockMode::MultiWriter,
            other => LockMode::Unknown(other),
        }
    }
}
