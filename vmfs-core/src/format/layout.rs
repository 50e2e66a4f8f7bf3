//! How the versions differ, as data (FORMAT.md, "Versions").

use super::address::FdAddr;
use super::damage::{At, Damage};
use super::fs_descriptor::{FS_DESCRIPTOR_OFFSET, FsConfig, FsDescriptor};
use super::heartbeat::{HEARTBEAT_OFFSET, HEARTBEAT_SLOTS_5, HEARTBEAT_SLOTS_6};

/// The generations of the format that share one set of structures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub enum Family {
    /// Major versions below 14: no resident data, no double pointer blocks.
    #[serde(rename = "vmfs3")]
    Vmfs3,
    /// Major versions 14 to 23.
    #[serde(rename = "vmfs5")]
    Vmfs5,
    /// Major version 24.
    #[serde(rename = "vmfs6")]
    Vmfs6,
}

impl std::fmt::Display for Family {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Vmfs3 => "VMFS3",
            Self::Vmfs5 => "VMFS5",
            Self::Vmfs6 => "VMFS6",
        })
    }
}

/// The system files, by their fixed resource number in file descriptor cluster 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum SystemFile {
    /// `.fbb.sf`: file block bitmap; on VMFS6 large blocks, with small ones nested.
    FileBlocks = 1,
    /// `.fdc.sf`: file descriptors.
    FileDescriptors = 2,
    /// `.pbc.sf`: pointer blocks.
    PointerBlocks = 3,
    /// `.sbc.sf`: sub-blocks.
    SubBlocks = 4,
    /// `.vh.sf`: the volume header, from offset 0 to the end of the heartbeats.
    VolumeHeader = 5,
    /// `.pb2.sf`: second pointer block file.
    PointerBlocks2 = 6,
    /// `.sdd.sf`: directory of system data.
    SystemData = 7,
    /// `.jbc.sf`: journal blocks (VMFS6).
    Journals = 8,
    /// `.unmap.sf`: unmap state (VMFS6).
    Unmap = 9,
}

impl SystemFile {
    /// The file descriptor address it has on every volume whose descriptor doesn't say otherwise.
    pub const fn fd(self) -> FdAddr {
        FdAddr::new(0, self as u32)
    }

    /// Its name in the root directory.
    pub const fn name(self) -> &'static str {
        match self {
            Self::FileBlocks => ".fbb.sf",
            Self::FileDescriptors => ".fdc.sf",
            Self::PointerBlocks => ".pbc.sf",
            Self::SubBlocks => ".sbc.sf",
            Self::VolumeHeader => ".vh.sf",
            Self::PointerBlocks2 => ".pb2.sf",
            Self::SystemData => ".sdd.sf",
            Self::Journals => ".jbc.sf",
            Self::Unmap => ".unmap.sf",
        }
    }
}

/// Everything about a volume's geometry that depends on its version and descriptor.
///
/// All sizes are bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// Which generation of structures the volume has.
    pub family: Family,
    /// Size of a lock block or metadata block: 512, on VMFS6 the descriptor's mdAlignment.
    pub md_block: u64,
    /// log2 of the file block size.
    pub file_block_shift: u32,
    /// log2 of the sub-block size.
    pub sub_block_shift: u32,
    /// log2 of the large file block size (VMFS6; elsewhere the file block's).
    pub large_block_shift: u32,
    /// Small file blocks in a cluster, the unit of VMFS6 addresses (elsewhere 1).
    pub file_blocks_per_cluster: u64,
    /// Sub-block addresses have two more resource bits (VMFS5).
    pub dense_sub_blocks: bool,
    /// Size of a file descriptor, lock included.
    pub fd_size: u64,
    /// Where in a file descriptor its metadata starts.
    pub fd_meta: u64,
    /// Where in a file descriptor resident data and RDM mappings start.
    pub fd_data: u64,
    /// Largest resident data.
    pub fd_data_size: u64,
    /// Where in a file descriptor the address array starts.
    pub fd_addresses: u64,
    /// Entries in the address array.
    pub fd_address_count: u64,
    /// Bytes of an address in arrays and pointer blocks: 4 or 8.
    pub address_size: u64,
    /// Addresses in a pointer block.
    pub pointers_per_block: u64,
    /// Volume offset of the first heartbeat.
    pub heartbeats: u64,
    /// Distance between heartbeats.
    pub heartbeat_size: u64,
    /// Number of heartbeat slots.
    pub heartbeat_slots: u64,
    /// Volume offset of file descriptor 0 of cluster 0, needed before `.fdc.sf` can be read.
    pub first_fd: u64,
}

/// Largest file block that any version allows.
const MAX_FILE_BLOCK: u64 = 8 << 20;
/// Largest metadata block accepted; ESXi uses 4 KiB, the readers allow up to 64 KiB.
const MAX_MD_BLOCK: u64 = 64 << 10;

impl Layout {
    /// Derives the layout from a file system descriptor.
    ///
    /// # Errors
    /// [`Damage`] naming the descriptor field whose value no version allows.
    pub fn new(fsd: &FsDescriptor) -> Result<Self, Damage> {
        let bad = |field, found: u64, expected: &str| {
            Damage::hex(
                "file system descriptor",
                At::Volume(FS_DESCRIPTOR_OFFSET),
                field,
                found,
                expected,
            )
        };
        let power_of_two = |field, value: u64, min: u64, max: u64| {
            if value.is_power_of_two() && (min..=max).contains(&value) {
                Ok(value.trailing_zeros())
            } else {
                Err(bad(
                    field,
                    value,
                    &format!("a power of two from {min:#x} to {max:#x}"),
                ))
            }
        };

        let family = match fsd.major_version.get() {
            1..=13 => Family::Vmfs3,
            14..=23 => Family::Vmfs5,
            24 => Family::Vmfs6,
            other => return Err(bad("majorVersion", other.into(), "1 to 24")),
        };
        let file_block = fsd.file_block_size.get();
        let sub_block = fsd.sub_block_size.get().into();
        let file_block_shift = power_of_two("fileBlockSize", file_block, 64 << 10, MAX_FILE_BLOCK)?;
        let sub_block_shift = power_of_two("subBlockSize", sub_block, 512, file_block)?;
        let header_size = u64::from(fsd.fdc_cluster_group_offset.get());
        let clusters_per_group = u64::from(fsd.fdc_clusters_per_group.get());
        if header_size > file_block || clusters_per_group > 4096 {
            return Err(bad(
                "fdcClusterGroupOffset",
                header_size,
                "at most a file block",
            ));
        }

        let mut layout = Self {
            family,
            md_block: 512,
            file_block_shift,
            sub_block_shift,
            large_block_shift: file_block_shift,
            file_blocks_per_cluster: 1,
            dense_sub_blocks: fsd.config().contains(FsConfig::DENSE_SUB_BLOCKS),
            fd_size: 2048,
            fd_meta: 512,
            fd_data: 1024,
            fd_data_size: 1024,
            fd_addresses: 1024,
            fd_address_count: 256,
            address_size: 4,
            pointers_per_block: 1024,
            heartbeats: HEARTBEAT_OFFSET,
            heartbeat_size: 512,
            heartbeat_slots: HEARTBEAT_SLOTS_5,
            first_fd: 0,
        };
        if family == Family::Vmfs6 {
            let md = u64::from(fsd.md_alignment.get());
            power_of_two("mdAlignment", md, 4096, MAX_MD_BLOCK)?;
            let lfb_shift = u32::from(fsd.sfb_to_lfb_shift.get());
            if lfb_shift > 16 {
                return Err(bad("sfbToLfbShift", lfb_shift.into(), "at most 16"));
            }
            let address_bytes = if md <= 4096 { 2560 } else { md / 2 };
            layout = Self {
                md_block: md,
                large_block_shift: file_block_shift + lfb_shift,
                file_blocks_per_cluster: (0x2000_0000 / file_block).min(0x2000),
                dense_sub_blocks: false,
                fd_size: 2 * md,
                fd_meta: md,
                fd_data: md + 512,
                fd_data_size: md - 512,
                fd_addresses: 2 * md - address_bytes,
                fd_address_count: address_bytes / 8,
                address_size: 8,
                pointers_per_block: 8192.max(md / 8),
                heartbeat_size: md,
                heartbeat_slots: HEARTBEAT_SLOTS_6,
                ..layout
            };
        }
        // `.fdc.sf` starts in the first file block after the heartbeats; its first cluster group
        // begins with the headers of all its clusters, each a lock block and a metadata block.
        let heartbeats_end = layout.heartbeats + layout.heartbeat_slots * layout.heartbeat_size;
        // VMFS6 rounds to 1 MiB, VMFS3 and VMFS5 to the file block, which may be larger.
        let unit = if family == Family::Vmfs6 {
            1 << 20
        } else {
            file_block
        };
        layout.first_fd = heartbeats_end.next_multiple_of(unit)
            + header_size
            + clusters_per_group * 2 * layout.md_block;
        Ok(layout)
    }

    /// Size of a file block.
    pub const fn file_block_size(&self) -> u64 {
        1 << self.file_block_shift
    }

    /// Size of a large file block.
    pub const fn large_block_size(&self) -> u64 {
        1 << self.large_block_shift
    }

    /// Size of a sub-block.
    pub const fn sub_block_size(&self) -> u64 {
        1 << self.sub_block_shift
    }

    /// Size of a pointer block.
    pub const fn pointer_block_size(&self) -> u64 {
        self.pointers_per_block * self.address_size
    }

    /// Size of a resource cluster's header: its lock block and its metadata block.
    pub const fn cluster_header_size(&self) -> u64 {
        2 * self.md_block
    }

    /// Longest file name in bytes.
    ///
    /// The VMFS6 field has 256 bytes, of which ESXi uses 127; the reader takes what is there.
    pub const fn max_name(&self) -> usize {
        if matches!(self.family, Family::Vmfs6) {
            255
        } else {
            127
        }
    }

    /// The layout that ESXi gives a fresh volume with 1 MiB file blocks: for tools that look at
    /// structures without their volume.
    ///
    /// # Errors
    /// None in practice: the values are valid.
    pub fn usual(family: Family) -> Result<Self, Damage> {
        let mut fsd: FsDescriptor = zerocopy::FromZeros::new_zeroed();
        fsd.file_block_size = (1 << 20).into();
        fsd.fdc_cluster_group_offset = 65536.into();
        let (major, sub_block, clusters) = match family {
            Family::Vmfs3 => (4, 64 << 10, 32),
            Family::Vmfs5 => (14, 8 << 10, 64),
            Family::Vmfs6 => (24, 64 << 10, 8),
        };
        fsd.major_version = major.into();
        fsd.sub_block_size = sub_block.into();
        fsd.fdc_clusters_per_group = clusters.into();
        if family == Family::Vmfs6 {
            fsd.md_alignment = 4096.into();
            fsd.sfb_to_lfb_shift = 9.into();
        } else {
            fsd.config = FsConfig::DENSE_SUB_BLOCKS.0.into();
        }
        Self::new(&fsd)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_fd_lies_where_real_volumes_have_it() {
        assert_eq!(
            Layout::usual(Family::Vmfs5).expect("valid").first_fd,
            0x42_0000
        );
        assert_eq!(
            Layout::usual(Family::Vmfs6).expect("valid").first_fd,
            0x72_0000
        );
    }

    #[test]
    fn vmfs6_address_array_ends_the_descriptor() {
        let layout = Layout::usual(Family::Vmfs6).expect("valid");
        assert_eq!(layout.fd_addresses, 0x1600);
        assert_eq!(layout.fd_address_count, 320);
        assert_eq!(layout.fd_data_size, 0xe00);
    }
}
