use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// A directory entry of VMFS3 and VMFS5; a directory is an array of these
/// (FORMAT.md, "Directories of VMFS5").
#[derive(Debug, Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct DirEntry5 {
    /// See [`super::FileKind`].
    pub kind: U32,
    /// File descriptor address, zero when the entry is unused.
    pub fd: U32,
    /// Generation of that file descriptor.
    pub generation: U32,
    /// The name, zero-padded.
    pub name: [u8; 128],
}

const _: () = assert!(size_of::<DirEntry5>() == 140);

impl DirEntry5 {
    /// Bytes of one entry.
    pub const SIZE: u64 = size_of::<Self>() as u64;

    /// The name without its padding.
    pub fn name(&self) -> &[u8] {
        super::text(&self.name)
    }
}
