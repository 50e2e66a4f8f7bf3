use std::sync::Arc;

use zerocopy::FromBytes;

use super::error::LvmError;
use crate::format::{
    At, DEVICE_HEADER_OFFSET, Damage, DevMetadata, ExtDevMetadata, LVM_MAGIC, MAX_PE_MAPS,
    PES_PER_MAP, PeTableEntry, VolTableEntry, view,
};
use crate::scsi::{DeviceOffset, Lun};

/// Extents that a device may have: twice what the largest device, 64 TiB, needs.
const MAX_PES: u64 = 2 * 262_144;
/// Extended metadata regions that a device may have, likewise.
const MAX_REGIONS: usize = 8;
/// Names in the table of device names.
const MAX_NAMES: usize = 32;

/// A physical extent, or a run of them that is contiguous on both sides; lengths in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct PhysicalExtent {
    /// Number of the volume on this device.
    pub volume_id: u32,
    /// Device offset.
    pub physical: u64,
    /// Volume offset.
    pub logical: u64,
    /// Length.
    pub length: u64,
}

/// A device with an LVM header.
#[derive(Debug, Clone)]
pub struct Device {
    lun: Arc<dyn Lun>,
    metadata: DevMetadata,
    volumes: Vec<VolTableEntry>,
    extents: Vec<PhysicalExtent>,
    names: Vec<String>,
    regions: usize,
}

impl Device {
    /// Whether `lun` has an LVM header at all, and it can be read.
    pub fn is_lvm(lun: &dyn Lun) -> bool {
        Self::has_header(lun).unwrap_or(false)
    }

    /// Whether `lun` has an LVM header at all.
    ///
    /// # Errors
    /// When another host has the LUN reserved, so that nobody else can tell.
    pub(super) fn has_header(lun: &dyn Lun) -> Result<bool, LvmError> {
        let mut magic = [0; 4];
        let there = super::open::has(lun.read(DeviceOffset(DEVICE_HEADER_OFFSET), &mut magic))?;
        Ok(there && u32::from_le_bytes(magic) == LVM_MAGIC)
    }

    /// Reads the header of `lun`, its volume table and its extents.
    pub fn open(lun: Arc<dyn Lun>) -> Result<Self, LvmError> {
        let mut header = [0; 512];
        lun.read(DeviceOffset(DEVICE_HEADER_OFFSET), &mut header)?;
        let metadata = DevMetadata::parse(&header)?.clone();
        let volumes = read_volumes(&*lun, &metadata)?;
        let (extents, regions) = read_extents(&*lun, &metadata)?;
        let names = read_names(&*lun, &metadata);
        Ok(Self {
            lun,
            metadata,
            volumes,
            extents,
            names,
            regions,
        })
    }

    /// The LUN below.
    pub fn lun(&self) -> &Arc<dyn Lun> {
        &self.lun
    }

    /// What a message calls the device.
    pub fn name(&self) -> &str {
        self.lun.name()
    }

    /// The device header.
    pub fn metadata(&self) -> &DevMetadata {
        &self.metadata
    }

    /// The volumes that the device belongs to; in practice one.
    pub fn volumes(&self) -> &[VolTableEntry] {
        &self.volumes
    }

    /// The extents in use, runs merged, in table order.
    pub fn extents(&self) -> &[PhysicalExtent] {
        &self.extents
    }

    /// The names of the volume's devices as this device stores them; only the first device of a
    /// volume does, from LVM 5 on.
    pub fn device_names(&self) -> &[String] {
        &self.names
    }

    /// Extended metadata regions that the device has.
    pub fn regions(&self) -> usize {
        self.regions
    }
}

fn read_volumes(lun: &dyn Lun, metadata: &DevMetadata) -> Result<Vec<VolTableEntry>, LvmError> {
    let mut table = vec![0; metadata.volumes.get() as usize * size_of::<VolTableEntry>()];
    lun.read(
        DeviceOffset(DEVICE_HEADER_OFFSET + metadata.volume_table()),
        &mut table,
    )?;
    let entries = table.chunks_exact(size_of::<VolTableEntry>());
    Ok(entries
        .filter_map(|entry| VolTableEntry::read_from_bytes(entry).ok())
        .collect())
}

fn read_names(lun: &dyn Lun, metadata: &DevMetadata) -> Vec<String> {
    let Some(table) = metadata.device_names() else {
        return Vec::new();
    };
    let mut bytes = vec![0; MAX_NAMES * 256];
    if lun
        .read(DeviceOffset(DEVICE_HEADER_OFFSET + table), &mut bytes)
        .is_err()
    {
        return Vec::new();
    }
    bytes
        .chunks_exact(256)
        .map(|name| String::from_utf8_lossy(crate::format::text(name)).into_owned())
        .take_while(|name| !name.is_empty())
        .collect()
}

/// A metadata region: where it starts and how many maps it has.
struct Region {
    offset: u64,
    maps: u64,
}

fn regions(lun: &dyn Lun, metadata: &DevMetadata) -> Result<Vec<Region>, LvmError> {
    const NAME: &str = "extended metadata region";
    let maps = u64::from(metadata.pe_maps.get().max(1));
    let mut found = vec![Region {
        offset: DEVICE_HEADER_OFFSET,
        maps,
    }];
    let mut next = metadata.ext_metadata_offset.get();
    while next != 0 {
        let at = At::Device(next);
        if found.len() > MAX_REGIONS || found.iter().any(|region| region.offset == next) {
            let expected = "a chain of at most 8 regions that doesn't come back";
            return Err(Damage::hex(NAME, at, "offset", next, expected).into());
        }
        let mut bytes = [0; size_of::<ExtDevMetadata>()];
        lun.read(DeviceOffset(next), &mut bytes)?;
        let region: &ExtDevMetadata = view(&bytes, NAME, at)?;
        if region.magic.get() != LVM_MAGIC {
            let found = region.magic.get().into();
            return Err(Damage::hex(NAME, at, "magic", found, "0xc001d00d").into());
        }
        if !(1..=MAX_PE_MAPS).contains(&region.pe_maps.get()) {
            let found = region.pe_maps.get();
            return Err(Damage::new(NAME, at, "numPEMaps", found, "1 to 8").into());
        }
        found.push(Region {
            offset: next,
            maps: region.pe_maps.get().into(),
        });
        next = region.next.get();
    }
    Ok(found)
}

/// Reads every extent in use; returns them with the number of extended regions.
fn read_extents(
    lun: &dyn Lun,
    metadata: &DevMetadata,
) -> Result<(Vec<PhysicalExtent>, usize), LvmError> {
    let mut left = u64::from(metadata.pes.get());
    if left > MAX_PES {
        let at = At::Device(DEVICE_HEADER_OFFSET);
        return Err(Damage::new("LVM device header", at, "numPEs", left, "at most 524288").into());
    }
    let regions = regions(lun, metadata)?;
    let table_size = PES_PER_MAP * PeTableEntry::STRIDE;
    let mut extents: Vec<PhysicalExtent> = Vec::new();
    let mut table = Vec::new();
    for region in &regions {
        for map in 0..region.maps {
            let in_map = left.min(PES_PER_MAP);
            let start = region.offset
                + metadata.pe_bitmap()
                + map * (metadata.pe_bitmap_size() + table_size)
                + metadata.pe_bitmap_size();
            table.resize((in_map * PeTableEntry::STRIDE) as usize, 0);
            lun.read(DeviceOffset(start), &mut table)?;
            for (index, bytes) in table
                .chunks_exact(PeTableEntry::STRIDE as usize)
                .enumerate()
            {
                let at = At::Device(start + index as u64 * PeTableEntry::STRIDE);
                let entry: &PeTableEntry = view(bytes, "physical extent", at)?;
                if entry.used != 0 {
                    push_merged(&mut extents, checked(entry, at)?);
                }
            }
            left -= in_map;
        }
    }
    if left > 0 {
        let at = At::Device(DEVICE_HEADER_OFFSET);
        let found = metadata.pes.get();
        let expected = "at most 8192 for each map of each metadata region";
        return Err(Damage::new("LVM device header", at, "numPEs", found, expected).into());
    }
    Ok((extents, regions.len() - 1))
}

fn checked(entry: &PeTableEntry, at: At) -> Result<PhysicalExtent, Damage> {
    let (physical, logical, length) = (
        entry.physical.get(),
        entry.logical.get(),
        entry.length.get(),
    );
    // Offsets beyond 2^56 can't be real and would overflow sums.
    let limit = 1 << 56;
    for (field, value) in [
        ("pOffset", physical),
        ("lOffset", logical),
        ("length", length),
    ] {
        if value > limit {
            return Err(Damage::hex(
                "physical extent",
                at,
                field,
                value,
                "at most 2^56",
            ));
        }
    }
    Ok(PhysicalExtent {
        volume_id: entry.volume_id.get(),
        physical,
        logical,
        length,
    })
}

fn push_merged(extents: &mut Vec<PhysicalExtent>, next: PhysicalExtent) {
    match extents.last_mut() {
        Some(last)
            if last.volume_id == next.volume_id
                && last.physical + last.length == next.physical
                && last.logical + last.length == next.logical =>
        {
            last.length += next.length;
        }
        _ => extents.push(next),
    }
}
