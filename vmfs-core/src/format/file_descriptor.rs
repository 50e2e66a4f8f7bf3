use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::damage::{At, Damage};
use super::layout::{Family, Layout};
use super::lvm_device::ScsiDiskId;

/// `fdmd`: signature of a file descriptor's metadata on VMFS6.
pub const FDMD_SIGNATURE: u32 = 0x6664_6d64;

/// The metadata of a file descriptor, after its lock (FORMAT.md, "File descriptors").
#[derive(Debug, Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
#[allow(
    missing_docs,
    reason = "the fields are described one by one in FORMAT.md"
)]
pub struct FileMetadata {
    pub address: U32,
    pub generation: U32,
    pub links: U32,
    pub kind: U32,
    pub flags: U32,
    pub length: U64,
    pub block_size: U64,
    pub blocks: U64,
    pub mtime: U32,
    pub ctime: U32,
    pub atime: U32,
    pub uid: U32,
    pub gid: U32,
    pub mode: U32,
    pub zero_level: U32,
    pub tbz_blocks_lo: U32,
    pub cow_blocks_lo: U32,
    pub new_since_epoch_lo: U32,
    pub tbz_blocks_hi: U32,
    pub cow_blocks_hi: U32,
    pub pointer_blocks: U32,
    pub new_since_epoch_hi: U32,
    pub signature: U32,
    pub affinity_fd: U32,
    pub tbz_granularity_shift: U32,
    pub parent_fd: U32,
    pub last_sfb_cluster: U32,
    pub unknown4: U32,
    pub unknown5: U32,
    pub affinity_bitmap: U32,
    pub preallocated_blocks: u8,
    pub unknown7: [u8; 4],
    pub block_offset_shift: u8,
    pub tracked: u8,
    pub unknown12: u8,
    pub large_blocks: U32,
    pub unknown13: [u8; 216],
    pub last_free_sfb_cluster: U32,
}

const _: () = assert!(size_of::<FileMetadata>() == 0x16c);
const _: () = assert!(std::mem::offset_of!(FileMetadata, zero_level) == 0x44);
const _: () = assert!(std::mem::offset_of!(FileMetadata, block_offset_shift) == 0x89);

/// What a file descriptor or directory entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
#[repr(u32)]
pub enum FileKind {
    /// A directory.
    Directory = 2,
    /// A regular file.
    Regular = 3,
    /// A symbolic link.
    Symlink = 4,
    /// A system file; `.sdd.sf` is one and a directory as well, by its mode.
    System = 5,
    /// A pointer to a raw disk.
    Rdm = 6,
}

impl FileKind {
    /// Reads the on-disk number.
    pub const fn from_raw(raw: u32) -> Option<Self> {
        Some(match raw {
            2 => Self::Directory,
            3 => Self::Regular,
            4 => Self::Symlink,
            5 => Self::System,
            6 => Self::Rdm,
            _ => return None,
        })
    }
}

/// What the entries of the address array are ("zero level address type").
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ZeroLevel {
    /// Nothing: an empty file or an RDM pointer.
    None,
    /// File blocks.
    FileBlock,
    /// Sub-blocks.
    SubBlock,
    /// Pointer blocks, whose entries are file blocks.
    PointerBlock,
    /// Pointer blocks, named by addresses into `.pb2.sf`.
    PointerBlock2,
    /// Pointer blocks, whose entries are pointer blocks, whose entries are file blocks.
    DoublePointerBlock,
    /// The data itself lies in the file descriptor.
    Resident,
}

impl ZeroLevel {
    /// Reads the on-disk number.
    pub const fn from_raw(raw: u32) -> Option<Self> {
        Some(match raw {
            0 => Self::None,
            1 => Self::FileBlock,
            2 => Self::SubBlock,
            3 => Self::PointerBlock,
            5 => Self::PointerBlock2,
            0x10d0 => Self::DoublePointerBlock,
            0x10d1 => Self::Resident,
            _ => return None,
        })
    }

    /// The on-disk number.
    pub const fn raw(self) -> u32 {
        match self {
            Self::None => 0,
            Self::FileBlock => 1,
            Self::SubBlock => 2,
            Self::PointerBlock => 3,
            Self::PointerBlock2 => 5,
            Self::DoublePointerBlock => 0x10d0,
            Self::Resident => 0x10d1,
        }
    }

    /// Pointer blocks between the address array and the data.
    pub const fn depth(self) -> u32 {
        match self {
            Self::PointerBlock | Self::PointerBlock2 => 1,
            Self::DoublePointerBlock => 2,
            _ => 0,
        }
    }
}

/// The pointer to a raw disk, in the data part of an RDM's file descriptor.
#[derive(Debug, Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct RdmMapping {
    /// The disk's SCSI identity.
    pub disk: ScsiDiskId,
    /// Meaning unknown.
    pub unknown: U16,
}

/// No version has files larger than 64 TiB; a longer length is damage.
const MAX_LENGTH: u64 = 64 << 40;

impl FileMetadata {
    /// Reads the metadata of the file descriptor `expected` from its [`Layout::fd_size`] bytes.
    ///
    /// # Errors
    /// [`Damage`] naming the field that is wrong.
    pub fn parse<'a>(
        bytes: &'a [u8],
        expected: super::FdAddr,
        layout: &Layout,
        at: At,
    ) -> Result<&'a Self, Damage> {
        const NAME: &str = "file descriptor";
        let meta = bytes.get(layout.fd_meta as usize..).unwrap_or_default();
        let fd: &Self = super::view(meta, NAME, at)?;
        let bad =
            |field, found: u64, expected: String| Damage::hex(NAME, at, field, found, expected);
        if fd.address.get() != expected.raw() {
            let expected = format!("{:#x}", expected.raw());
            return Err(bad("own address", fd.address.get().into(), expected));
        }
        if layout.family == Family::Vmfs6 && fd.signature.get() != FDMD_SIGNATURE {
            return Err(bad(
                "signature",
                fd.signature.get().into(),
                "0x66646d64 ('fdmd')".into(),
            ));
        }
        if FileKind::from_raw(fd.kind.get()).is_none() {
            return Err(bad("type", fd.kind.get().into(), "2 to 6".into()));
        }
        if ZeroLevel::from_raw(fd.zero_level.get()).is_none() {
            let expected = "0, 1, 2, 3, 5, 0x10d0 or 0x10d1".into();
            return Err(bad(
                "zero level address type",
                fd.zero_level.get().into(),
                expected,
            ));
        }
        if fd.length.get() > MAX_LENGTH {
            return Err(bad("length", fd.length.get(), "at most 64 TiB".into()));
        }
        let block = fd.block_size.get();
        if !block.is_power_of_two() || !(512..=layout.large_block_size()).contains(&block) {
            let expected = format!(
                "a power of two from 512 to {:#x}",
                layout.large_block_size()
            );
            return Err(bad("blockSize", block, expected));
        }
        Ok(fd)
    }

    /// What the descriptor is; [`FileMetadata::parse`] has checked the number.
    pub fn kind(&self) -> FileKind {
        FileKind::from_raw(self.kind.get()).unwrap_or(FileKind::Regular)
    }

    /// What the address array holds; [`FileMetadata::parse`] has checked the number.
    pub fn zero_level(&self) -> ZeroLevel {
        ZeroLevel::from_raw(self.zero_level.get()).unwrap_or(ZeroLevel::None)
    }

    /// log2 of the bytes that one entry of the address tree covers.
    ///
    /// VMFS3 descriptors don't store the shift; there it is the block size's.
    pub fn block_shift(&self) -> u32 {
        match self.block_offset_shift {
            stored @ 9..=40 => stored.into(),
            _ => self.block_size.get().trailing_zeros(),
        }
    }

    /// Whether the descriptor is a directory: by its type, or for a system file by its mode.
    pub fn is_directory(&self) -> bool {
        match self.kind() {
            FileKind::Directory => true,
            FileKind::System => self.mode.get() & 0o170_000 == 0o040_000,
            _ => false,
        }
    }

    /// Blocks allocated but to be zeroed.
    pub fn tbz_blocks(&self) -> u64 {
        u64::from(self.tbz_blocks_hi.get()) << 32 | u64::from(self.tbz_blocks_lo.get())
    }
}
