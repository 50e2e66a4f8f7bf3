//! The header of a device in a volume (FORMAT.md, "Device header").

use std::fmt::Write;

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::damage::{At, Damage};
use super::uuid::Uuid;

/// Device offset of the header.
pub const DEVICE_HEADER_OFFSET: u64 = 0x10_0000;
/// Magic of a device header and of an extended metadata region.
pub const LVM_MAGIC: u32 = 0xc001_d00d;
/// Size of a physical extent on LVM 3, 4 and 5, and the unit of counts on LVM 6.
pub const PE_SIZE: u64 = 256 << 20;
/// Physical extents that one bitmap and table describe.
pub const PES_PER_MAP: u64 = 8192;
/// Bitmap and table pairs that one metadata region has room for.
pub const MAX_PE_MAPS: u32 = 8;

/// The identity that a SCSI device reported when it was written.
#[derive(Debug, Clone, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct ScsiDiskId {
    /// Kind of identifier.
    pub kind: u8,
    /// Bytes used of `id`.
    pub length: u8,
    /// LUN number.
    pub lun: U16,
    /// SCSI peripheral device type.
    pub device_type: u8,
    /// SCSI level.
    pub scsi_level: u8,
    /// INQUIRY vendor.
    pub vendor: [u8; 8],
    /// INQUIRY product.
    pub model: [u8; 16],
    /// INQUIRY revision.
    pub revision: [u8; 4],
    /// The identifier itself.
    pub id: [u8; 44],
}

const _: () = assert!(size_of::<ScsiDiskId>() == 78);

impl ScsiDiskId {
    /// The identity that [`ScsiDiskId::text`] gives back as `id`, cut to what there is room for.
    pub fn from_text(id: &str) -> Self {
        let mut disk: Self = zerocopy::FromZeros::new_zeroed();
        let used = id.len().min(disk.id.len());
        disk.kind = 1;
        disk.length = used as u8;
        disk.id[..used].copy_from_slice(&id.as_bytes()[..used]);
        disk
    }

    /// The identifier as text: as it is if printable, else in hexadecimal.
    pub fn text(&self) -> String {
        let used = &self.id[..usize::from(self.length).min(self.id.len())];
        if used.iter().all(|byte| (0x20..0x7f).contains(byte)) {
            String::from_utf8_lossy(used).trim_end().to_owned()
        } else {
            used.iter().fold(String::new(), |mut text, byte| {
                let _ = write!(text, "{byte:02x}");
                text
            })
        }
    }
}

/// The device header.
#[derive(Debug, Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
#[allow(
    missing_docs,
    reason = "the fields are described one by one in FORMAT.md"
)]
pub struct DevMetadata {
    pub magic: U32,
    pub major_version: U32,
    pub minor_version: U32,
    pub disk_id: ScsiDiskId,
    pub disk_block_size: U32,
    pub total_bytes: U64,
    pub volumes: U32,
    pub pes: U32,
    pub last_pe: U32,
    pub generation: U64,
    pub data_offset: U64,
    pub uuid: Uuid,
    pub init_time_us: U64,
    pub mod_time_us: U64,
    pub locked_by: Uuid,
    pub locked_when_us: U64,
    pub unknown0: U32,
    pub pe_maps: U32,
    pub ext_metadata_offset: U64,
    pub md_alignment: U32,
    /// Extents in units of [`PE_SIZE`] on LVM 6, where `pes` counts table entries.
    pub pe_units: U32,
    pub flags: U32,
}

const _: () = assert!(size_of::<DevMetadata>() == 0xd6);
const _: () = assert!(std::mem::offset_of!(DevMetadata, data_offset) == 0x7a);
const _: () = assert!(std::mem::offset_of!(DevMetadata, md_alignment) == 0xca);

/// The header of an extended metadata region, on devices whose extents need more than eight maps.
#[derive(Debug, Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct ExtDevMetadata {
    /// [`LVM_MAGIC`].
    pub magic: U32,
    /// Maps in this region.
    pub pe_maps: U32,
    /// Device offset of the data that this region describes.
    pub data_offset: U64,
    /// Device offset of the next region, zero in the last one.
    pub next: U64,
}

const _: () = assert!(size_of::<ExtDevMetadata>() == 0x18);

impl DevMetadata {
    /// Reads a device header from the bytes at [`DEVICE_HEADER_OFFSET`].
    ///
    /// # Errors
    /// [`Damage`] when there is none, or its version or geometry is not of a known kind.
    pub fn parse(bytes: &[u8]) -> Result<&Self, Damage> {
        const NAME: &str = "LVM device header";
        let at = At::Device(DEVICE_HEADER_OFFSET);
        let header: &Self = super::view(bytes, NAME, at)?;
        let bad = |field, found: U32, expected: &str| {
            Damage::hex(NAME, at, field, found.get().into(), expected)
        };
        if header.magic.get() != LVM_MAGIC {
            return Err(bad("magic", header.magic, "0xc001d00d"));
        }
        if !(3..=6).contains(&header.major_version.get()) {
            return Err(bad("majorVersion", header.major_version, "3 to 6"));
        }
        if header.volumes.get() > header.max_volumes() {
            let expected = format!("at most {}", header.max_volumes());
            return Err(bad("numVolumes", header.volumes, &expected));
        }
        if header.pe_maps.get() > MAX_PE_MAPS {
            return Err(bad("numPEMaps", header.pe_maps, "at most 8"));
        }
        let md = header.md_alignment.get();
        if header.is_lvm6() && !(md.is_power_of_two() && (512..=64 << 10).contains(&md)) {
            return Err(bad(
                "mdAlignment",
                header.md_alignment,
                "a power of two from 512 to 64 KiB",
            ));
        }
        Ok(header)
    }

    fn is_lvm6(&self) -> bool {
        self.major_version.get() >= 6
    }

    /// Volumes that the volume table has room for.
    pub fn max_volumes(&self) -> u32 {
        if self.is_lvm6() { 1 } else { 512 }
    }

    /// Offset of the volume table from the start of the header.
    pub fn volume_table(&self) -> u64 {
        if self.is_lvm6() {
            self.md_alignment.get().into()
        } else {
            512
        }
    }

    /// Offset of the table of device names from the start of the header (LVM 5 and 6).
    pub fn device_names(&self) -> Option<u64> {
        // Volume table and names together fill 1024 sectors, the names the last 8 KiB of them.
        (self.major_version.get() >= 5).then(|| self.volume_table() + 1024 * 512 - 32 * 256)
    }

    /// Offset of the first extent bitmap from the start of a metadata region.
    pub fn pe_bitmap(&self) -> u64 {
        self.volume_table() + 1024 * 512
    }

    /// Bytes of an extent bitmap.
    pub fn pe_bitmap_size(&self) -> u64 {
        let bytes = PES_PER_MAP / 8;
        if self.is_lvm6() {
            bytes.max(self.md_alignment.get().into())
        } else {
            bytes
        }
    }
}
