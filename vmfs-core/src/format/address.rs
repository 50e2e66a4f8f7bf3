//! Block and file descriptor addresses (FORMAT.md, "Addresses").
//!
//! The low three bits of every address are its type. VMFS3 and VMFS5 use 32 bits, VMFS6 uses 64
//! for everything but file descriptors and journal blocks.

use std::fmt;

use super::layout::{Family, Layout};

/// The kinds of resource an address can name; the numbers are the on-disk address types.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
#[repr(u8)]
pub enum ResourceKind {
    /// A file block (VMFS3, VMFS5) or small file block (VMFS6).
    FileBlock = 1,
    /// A part of the sub-block file.
    SubBlock = 2,
    /// A pointer block in `.pbc.sf`.
    PointerBlock = 3,
    /// A file descriptor in `.fdc.sf`.
    FileDescriptor = 4,
    /// A pointer block in `.pb2.sf`.
    PointerBlock2 = 5,
    /// A journal block in `.jbc.sf` (VMFS6).
    JournalBlock = 6,
    /// A large file block (VMFS6).
    LargeFileBlock = 7,
}

impl fmt::Display for ResourceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::FileBlock => "file block",
            Self::SubBlock => "sub-block",
            Self::PointerBlock => "pointer block",
            Self::FileDescriptor => "file descriptor",
            Self::PointerBlock2 => "pointer block 2",
            Self::JournalBlock => "journal block",
            Self::LargeFileBlock => "large file block",
        })
    }
}

/// Address of a file descriptor: a cluster of `.fdc.sf` and a resource in it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FdAddr(u32);

impl FdAddr {
    /// The root directory's file descriptor, the same on every volume.
    pub const ROOT: Self = Self(0x4);

    /// Reads a raw address; `None` when its type bits don't say "file descriptor".
    pub const fn from_raw(raw: u32) -> Option<Self> {
        if raw & 0x7 == ResourceKind::FileDescriptor as u32 {
            Some(Self(raw))
        } else {
            None
        }
    }

    /// Builds the address of resource `resource` (10 bits) of cluster `cluster` (16 bits).
    pub const fn new(cluster: u32, resource: u32) -> Self {
        Self(
            (resource & 0x3ff) << 22
                | (cluster & 0xffff) << 6
                | ResourceKind::FileDescriptor as u32,
        )
    }

    /// The number as it stands on disk.
    pub const fn raw(self) -> u32 {
        self.0
    }

    /// Cluster number in `.fdc.sf`.
    pub const fn cluster(self) -> u32 {
        self.0 >> 6 & 0xffff
    }

    /// Resource number in the cluster.
    pub const fn resource(self) -> u32 {
        self.0 >> 22
    }
}

impl fmt::Debug for FdAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FdAddr({:#010x})", self.0)
    }
}

impl fmt::Display for FdAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:#010x} (cluster {}, resource {})",
            self.0,
            self.cluster(),
            self.resource()
        )
    }
}

/// A decoded entry of a block map: of a file descriptor's address array or of a pointer block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockAddr {
    /// Zero: nothing is allocated, reads give zeros.
    Hole,
    /// A file block, counted in file blocks from the start of the volume.
    FileBlock {
        /// Block number on the volume.
        block: u64,
        /// To-be-zeroed bits: if any is set the block reads as zeros (FORMAT.md, "To be zeroed").
        tbz: u8,
        /// Copy-on-write mark.
        cow: bool,
    },
    /// A large file block, counted in large file blocks from the start of the volume.
    LargeFileBlock {
        /// Block number on the volume.
        block: u64,
        /// To-be-zeroed bits, as for a file block.
        tbz: u8,
        /// Copy-on-write mark.
        cow: bool,
    },
    /// A resource that lies in one of the resource files.
    Resource {
        /// Which resource file.
        kind: ResourceKind,
        /// Cluster number in it.
        cluster: u64,
        /// Resource number in the cluster.
        resource: u32,
        /// Copy-on-write mark.
        cow: bool,
    },
    /// Type bits that no version of the format uses here.
    Invalid(u64),
}

impl BlockAddr {
    /// Decodes `raw` as the address array and pointer blocks of a volume with `layout` hold it.
    pub fn decode(raw: u64, layout: &Layout) -> Self {
        if raw == 0 {
            return Self::Hole;
        }
        match layout.family {
            Family::Vmfs6 => Self::decode_64(raw, layout),
            Family::Vmfs3 | Family::Vmfs5 => Self::decode_32(raw as u32, layout),
        }
    }

    /// Encodes the address for a volume with `layout`; the inverse of [`BlockAddr::decode`].
    pub fn encode(self, layout: &Layout) -> u64 {
        let wide = layout.family == Family::Vmfs6;
        match self {
            Self::Hole => 0,
            Self::Invalid(raw) => raw,
            Self::FileBlock { block, tbz, cow } if wide => {
                let per_cluster = layout.file_blocks_per_cluster;
                (block % per_cluster) << 51
                    | (block / per_cluster) << 15
                    | u64::from(tbz) << 7
                    | u64::from(cow) << 5
                    | ResourceKind::FileBlock as u64
            }
            Self::FileBlock { block, tbz, cow } => {
                block << 6
                    | u64::from(tbz != 0) << 5
                    | u64::from(cow) << 4
                    | ResourceKind::FileBlock as u64
            }
            Self::LargeFileBlock { block, tbz, cow } => {
                block << 15
                    | u64::from(tbz) << 7
                    | u64::from(cow) << 5
                    | ResourceKind::LargeFileBlock as u64
            }
            Self::Resource {
                kind: ResourceKind::FileDescriptor,
                cluster,
                resource,
                ..
            } => FdAddr::new(cluster as u32, resource).raw().into(),
            Self::Resource {
                kind: ResourceKind::JournalBlock,
                cluster,
                resource,
                ..
            } => u64::from(resource) << 26 | cluster << 3 | ResourceKind::JournalBlock as u64,
            Self::Resource {
                kind,
                cluster,
                resource,
                cow,
            } if wide => {
                u64::from(resource) << 56 | cluster << 6 | u64::from(cow) << 5 | kind as u64
            }
            Self::Resource {
                kind,
                cluster,
                resource,
                cow,
            } => {
                let high = if kind == ResourceKind::SubBlock {
                    u64::from(resource >> 4 & 0x3)
                } else {
                    0
                };
                u64::from(resource & 0xf) << 28
                    | cluster << 6
                    | u64::from(cow) << 5
                    | high << 3
                    | kind as u64
            }
        }
    }

    fn decode_32(raw: u32, layout: &Layout) -> Self {
        let resource = |kind| Self::Resource {
            kind,
            cluster: u64::from(raw >> 6 & 0x3f_ffff),
            resource: raw >> 28,
            cow: raw & 0x20 != 0,
        };
        match raw & 0x7 {
            1 => Self::FileBlock {
                block: u64::from(raw >> 6),
                tbz: u8::from(raw & 0x20 != 0),
                cow: raw & 0x10 != 0,
            },
            2 => Self::Resource {
                kind: ResourceKind::SubBlock,
                cluster: u64::from(raw >> 6 & 0x3f_ffff),
                resource: raw >> 28
                    | if layout.dense_sub_blocks {
                        (raw & 0x18) << 1
                    } else {
                        0
                    },
                cow: raw & 0x20 != 0,
            },
            3 => resource(ResourceKind::PointerBlock),
            5 => resource(ResourceKind::PointerBlock2),
            4 => Self::file_descriptor(raw),
            _ => Self::Invalid(raw.into()),
        }
    }

    fn decode_64(raw: u64, layout: &Layout) -> Self {
        let tbz = (raw >> 7) as u8;
        let cow = raw & 0x20 != 0;
        let number = raw >> 15 & 0x7fff_ffff;
        let resource = |kind| Self::Resource {
            kind,
            cluster: raw >> 6 & 0xf_ffff_ffff,
            resource: (raw >> 56) as u32,
            cow,
        };
        match raw & 0x7 {
            1 => {
                let block = number * layout.file_blocks_per_cluster + (raw >> 51);
                Self::FileBlock { block, tbz, cow }
            }
            2 => resource(ResourceKind::SubBlock),
            3 => resource(ResourceKind::PointerBlock),
            5 => resource(ResourceKind::PointerBlock2),
            7 => Self::LargeFileBlock {
                block: number,
                tbz,
                cow,
            },
            4 => Self::file_descriptor(raw as u32),
            6 => Self::Resource {
                kind: ResourceKind::JournalBlock,
                cluster: raw >> 3 & 0x1fff,
                resource: (raw >> 26 & 0x3f) as u32,
                cow: false,
            },
            _ => Self::Invalid(raw),
        }
    }

    fn file_descriptor(raw: u32) -> Self {
        let fd = FdAddr(raw);
        Self::Resource {
            kind: ResourceKind::FileDescriptor,
            cluster: fd.cluster().into(),
            resource: fd.resource(),
            cow: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decodes_addresses_seen_on_real_vmfs5_volumes() {
        let layout = Layout::usual(Family::Vmfs5).expect("valid");
        assert_eq!(
            BlockAddr::decode(0x15e41, &layout),
            BlockAddr::FileBlock {
                block: 0x579,
                tbz: 0,
                cow: false
            }
        );
        assert_eq!(
            BlockAddr::decode(0x1003_4483, &layout),
            BlockAddr::Resource {
                kind: ResourceKind::PointerBlock,
                cluster: 0xd12,
                resource: 1,
                cow: false
            }
        );
    }

    #[test]
    fn decodes_addresses_seen_on_real_vmfs6_volumes() {
        let layout = Layout::usual(Family::Vmfs6).expect("valid");
        assert_eq!(
            BlockAddr::decode(0x06f0_0000_0000_8001, &layout),
            BlockAddr::FileBlock {
                block: 512 + 0xde,
                tbz: 0,
                cow: false
            }
        );
        assert_eq!(
            BlockAddr::decode(0x0100_0000_0000_08c2, &layout),
            BlockAddr::Resource {
                kind: ResourceKind::SubBlock,
                cluster: 0x23,
                resource: 1,
                cow: false
            }
        );
    }

    #[test]
    fn dense_sub_blocks_take_two_more_bits() {
        let mut layout = Layout::usual(Family::Vmfs5).expect("valid");
        let raw = 0x1000_0482 | 0x18;
        let resource = |layout: &Layout| match BlockAddr::decode(raw, layout) {
            BlockAddr::Resource { resource, .. } => resource,
            other => panic!("{other:?}"),
        };
        assert_eq!(resource(&layout), 0x31);
        layout.dense_sub_blocks = false;
        assert_eq!(resource(&layout), 0x1);
    }

    #[test]
    fn encode_is_the_inverse_of_decode() {
        for (family, raws) in [
            (
                Family::Vmfs5,
                &[
                    0x15e41_u64,
                    0x15e71,
                    0x1003_4483,
                    0x1000_049a,
                    0x5,
                    0x1b80_0104,
                ][..],
            ),
            (
                Family::Vmfs6,
                &[
                    0x06f0_0000_0000_8001,
                    0x06f0_0000_0000_ffa1,
                    0x0100_0000_0000_08c2,
                    0x5,
                    0x0000_0000_0001_8007,
                    0x16,
                    0x1c0_03c4,
                ][..],
            ),
        ] {
            let layout = Layout::usual(family).expect("valid");
            for &raw in raws {
                let decoded = BlockAddr::decode(raw, &layout);
                assert_eq!(decoded.encode(&layout), raw, "{raw:#x} {decoded:?}");
            }
        }
    }
}
