use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::damage::{At, Damage};
use super::uuid::Uuid;

/// Volume offset of the file system descriptor.
pub const FS_DESCRIPTOR_OFFSET: u64 = 0x20_0000;
/// Magic of a VMFS volume.
pub const VMFS_MAGIC: u32 = 0x2fab_f15e;
/// Magic of a VMFS-L (local) volume.
pub const VMFSL_MAGIC: u32 = 0x2fab_f15f;

/// The file system descriptor (FORMAT.md, "File system descriptor").
#[derive(Debug, Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
#[allow(
    missing_docs,
    reason = "the fields are described one by one in FORMAT.md"
)]
pub struct FsDescriptor {
    pub magic: U32,
    pub major_version: U32,
    pub minor_version: u8,
    pub uuid: Uuid,
    pub config: U32,
    pub label: [u8; 128],
    pub disk_block_size: U32,
    pub file_block_size: U64,
    pub creation_time: U32,
    pub snap_id: U32,
    /// UUID of the logical volume, then its snapshot number.
    pub volume_info: [u8; 32],
    pub fdc_cluster_group_offset: U32,
    pub fdc_clusters_per_group: U32,
    pub sub_block_size: U32,
    pub max_journal_slots_per_txn: U32,
    pub pb2_vol_addr: U64,
    pub pb2_fd_addr: U32,
    pub host_uuid: Uuid,
    pub gbl_generation: U64,
    pub sdd_vol_addr: U64,
    pub sdd_fd_addr: U32,
    pub checksum_type: u8,
    pub unmap_priority: U16,
    pub pad1: [u8; 4],
    pub checksum_gen: U64,
    pub checksum: [u8; 16],
    pub phys_disk_block_size: U32,
    pub md_alignment: U32,
    pub sfb_to_lfb_shift: U16,
    pub reserved1: [u8; 4],
    pub ptr_block_shift: U16,
    pub sfb_addr_bits: U16,
    pub reserved2: U16,
    pub tbz_granularity: U32,
    pub journal_block_size: U32,
    pub lease_interval_ms: U32,
    pub reclaim_window_ms: U32,
    pub local_stamp_us: U64,
    pub local_mount_owner: [u8; 6],
    pub unmap_method: u8,
    pub unmap_bandwidth: U32,
    pub unmap_bandwidth_min: U32,
    pub unmap_bandwidth_max: U32,
}

const _: () = assert!(size_of::<FsDescriptor>() == 0x16f);
const _: () = assert!(std::mem::offset_of!(FsDescriptor, disk_block_size) == 0x9d);
const _: () = assert!(std::mem::offset_of!(FsDescriptor, pb2_vol_addr) == 0xe1);
const _: () = assert!(std::mem::offset_of!(FsDescriptor, md_alignment) == 0x134);

/// The descriptor's config word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FsConfig(pub u32);

impl FsConfig {
    /// Sub-block addresses have six resource bits instead of four.
    pub const DENSE_SUB_BLOCKS: Self = Self(0x4);

    /// Every bit with the name that is known for it.
    const NAMES: [(u32, &'static str); 15] = [
        (0x1, "bit0"),
        (0x2, "bit1"),
        (0x4, "dense-sub-blocks"),
        (0x8, "maintenance"),
        (0x10, "bit4"),
        (0x20, "bit5"),
        (0x40, "bit6"),
        (0x80, "bit7"),
        (0x100, "local"),
        (0x200, "resource-optimized"),
        (0x400, "shared"),
        (0x800, "osdata"),
        (0x1000, "vsan"),
        (0x2000, "vmfs-l"),
        (0x4000, "bit14"),
    ];

    /// Whether all bits of `other` are set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The set bits by name; bits without a known meaning are called `bitN`.
    pub fn names(self) -> Vec<&'static str> {
        Self::NAMES
            .iter()
            .filter(|(bit, _)| self.0 & bit != 0)
            .map(|(_, name)| *name)
            .collect()
    }
}

impl FsDescriptor {
    /// Reads the descriptor from the bytes at [`FS_DESCRIPTOR_OFFSET`].
    ///
    /// # Errors
    /// [`Damage`] when there is no descriptor there.
    pub fn parse(bytes: &[u8]) -> Result<&Self, Damage> {
        const NAME: &str = "file system descriptor";
        let at = At::Volume(FS_DESCRIPTOR_OFFSET);
        let fsd: &Self = super::view(bytes, NAME, at)?;
        if !matches!(fsd.magic.get(), VMFS_MAGIC | VMFSL_MAGIC) {
            let expected = format!("{VMFS_MAGIC:#x} (VMFS) or {VMFSL_MAGIC:#x} (VMFS-L)");
            return Err(Damage::hex(
                NAME,
                at,
                "magic",
                fsd.magic.get().into(),
                expected,
            ));
        }
        Ok(fsd)
    }

    /// Whether the volume is a VMFS-L one.
    pub fn is_local(&self) -> bool {
        self.magic.get() == VMFSL_MAGIC
    }

    /// The config word.
    pub fn config(&self) -> FsConfig {
        FsConfig(self.config.get())
    }

    /// The label as text, damaged bytes replaced.
    pub fn label(&self) -> String {
        String::from_utf8_lossy(super::text(&self.label)).into_owned()
    }

    /// The UUID of the logical volume that this file system was made on.
    pub fn volume_uuid(&self) -> Uuid {
        Uuid::read_from_prefix(&self.volume_info)
            .map(|(uuid, _)| uuid)
            .unwrap_or_default()
    }
}
