//! LVM's structures on a device.

use vmfs_core::format::{
    DEVICE_HEADER_OFFSET, DevMetadata, ExtDevMetadata, LVM_MAGIC, PE_SIZE, PES_PER_MAP,
    PeTableEntry, Uuid, VolTableEntry,
};
use zerocopy::{FromZeros, IntoBytes};

use super::devices::{DeviceLayout, Region};
use super::options::{DeviceSpec, LvmVersion, Options};

/// Bytes of one name in the table of device names.
const NAME_SIZE: usize = 256;

/// What the headers of all devices of a volume share.
#[derive(Debug, Clone)]
pub(crate) struct LvmHeaders {
    pub(crate) version: LvmVersion,
    pub(crate) volume: Uuid,
    pub(crate) volume_size: u64,
    pub(crate) devices: usize,
    pub(crate) total_extents: u64,
    pub(crate) time_us: u64,
    pub(crate) sector_size: u32,
}

impl LvmHeaders {
    fn is_lvm6(&self) -> bool {
        self.version == LvmVersion::V6
    }

    /// The header of a device, one sector, which makes everything else on it valid.
    pub(crate) fn device(&self, index: usize, device: &DeviceLayout, spec: &DeviceSpec) -> Vec<u8> {
        let mut header = DevMetadata::new_zeroed();
        header.magic = LVM_MAGIC.into();
        let (major, minor) = match self.version {
            LvmVersion::V3 => (3, 16),
            LvmVersion::V4 => (4, 16),
            LvmVersion::V6 => (6, 21),
            LvmVersion::V5 | LvmVersion::None => (5, 21),
        };
        header.major_version = major.into();
        header.minor_version = minor.into();
        let id = &spec.disk_id[..spec.disk_id.len().min(44)];
        if !id.is_empty() {
            header.disk_id.kind = 1;
            header.disk_id.length = id.len() as u8;
            header.disk_id.id[..id.len()].copy_from_slice(id);
        }
        header.disk_block_size = self.sector_size.into();
        header.total_bytes = device.length.into();
        header.volumes = 1.into();
        // The first device of a spanned volume has seen each later one arrive.
        header.generation = (3 + 2 * (self.devices - 1 - index) as u64).into();
        let data = device.regions.first().map_or(0, |region| region.data);
        header.data_offset = data.into();
        header.uuid = device.uuid;
        header.init_time_us = self.time_us.into();
        header.mod_time_us = self.time_us.into();
        if self.is_lvm6() {
            header.pes = 1.into();
            header.md_alignment = 4096.into();
            header.pe_units = (device.extents as u32).into();
        } else {
            header.pes = (device.extents as u32).into();
            header.last_pe = (device.extents.saturating_sub(1) as u32).into();
            let first = device.regions.first().map_or(0, |region| region.extents);
            if self.version == LvmVersion::V5 {
                header.pe_maps = maps(first).into();
            }
            let next = device.regions.get(1).map_or(0, |region| region.offset);
            header.ext_metadata_offset = next.into();
        }
        sector(header.as_bytes())
    }

    /// The volume table's one entry on `device`.
    fn volume_entry(&self, device: &DeviceLayout) -> VolTableEntry {
        let mut entry = VolTableEntry::new_zeroed();
        entry.logical_size = self.volume_size.into();
        let generation = if self.is_lvm6() {
            2 * self.devices as u64
        } else {
            self.total_extents + self.devices as u64
        };
        entry.generation = generation.into();
        entry.state = 1.into();
        let name = self.volume.to_string();
        entry.name[..name.len()].copy_from_slice(name.as_bytes());
        entry.uuid = self.volume;
        entry.snap_id = 1.into();
        entry.creation_time_us = self.time_us.into();
        entry.pes = (device.extents as u32).into();
        entry.first_pe = device.first_extent.into();
        entry.last_pe = (device.first_extent + device.extents - 1).into();
        entry.mod_time_us = self.time_us.into();
        entry.devices = (self.devices as u32).into();
        entry.consumed_pes = u32::from(self.is_lvm6()).into();
        entry
    }

    /// The names of all devices, which the first device of a volume stores.
    fn names(specs: &[DeviceSpec], devices: &[DeviceLayout]) -> Vec<u8> {
        let mut table = Vec::new();
        for (spec, device) in specs.iter().zip(devices) {
            let name = match &spec.name {
                Some(name) => name.clone(),
                None => format!("openvmfs.{}:1", device.uuid),
            };
            let used = name.len().min(NAME_SIZE - 1);
            table.extend_from_slice(&name.as_bytes()[..used]);
            table.resize(table.len() + NAME_SIZE - used, 0);
        }
        table
    }

    /// Everything of device `index` but its header, as offsets on the device and bytes.
    pub(crate) fn tables<'a>(
        &'a self,
        index: usize,
        options: &'a Options,
        devices: &'a [DeviceLayout],
    ) -> impl Iterator<Item = (u64, Vec<u8>)> + 'a {
        let device = &devices[index];
        let header = device.start + DEVICE_HEADER_OFFSET;
        let (volume_table, bitmap_size) = if self.is_lvm6() {
            (4096, 4096)
        } else {
            (512, 1024)
        };
        let mut small = vec![(
            header + volume_table,
            self.volume_entry(device).as_bytes().to_vec(),
        )];
        let has_names = matches!(self.version, LvmVersion::V5 | LvmVersion::V6);
        if index == 0 && has_names {
            let names = Self::names(&options.devices, devices);
            let offset = header + volume_table + 1024 * 512 - 32 * NAME_SIZE as u64;
            small.push((offset, names));
        }
        let extended = device.regions.iter().enumerate().skip(1);
        small.extend(extended.map(|(number, region)| {
            let next = device.regions.get(number + 1).map_or(0, |next| next.offset);
            let mut header = ExtDevMetadata::new_zeroed();
            header.magic = LVM_MAGIC.into();
            header.pe_maps = maps(region.extents).into();
            header.data_offset = region.data.into();
            header.next = next.into();
            (device.start + region.offset, sector(header.as_bytes()))
        }));
        let first_map = volume_table + 1024 * 512;
        let maps = device.regions.iter().flat_map(move |region| {
            let count = if self.is_lvm6() {
                1
            } else {
                u64::from(maps(region.extents))
            };
            (0..count).map(move |map| {
                let stride = bitmap_size + PES_PER_MAP * PeTableEntry::STRIDE;
                let offset = device.start + region.offset + first_map + map * stride;
                (offset, self.extent_map(device, region, map, bitmap_size))
            })
        });
        small.into_iter().chain(maps)
    }

    /// Bitmap and table of one map of `region`.
    fn extent_map(
        &self,
        device: &DeviceLayout,
        region: &Region,
        map: u64,
        bitmap_size: u64,
    ) -> Vec<u8> {
        let (first, count, length) = if self.is_lvm6() {
            (0, 1, region.extents * PE_SIZE)
        } else {
            let first = map * PES_PER_MAP;
            (first, (region.extents - first).min(PES_PER_MAP), PE_SIZE)
        };
        let mut bytes = vec![0; (bitmap_size + count * PeTableEntry::STRIDE) as usize];
        for index in 0..count {
            bytes[index as usize / 8] |= 1 << (index % 8);
            let in_region = first + index;
            let mut entry = PeTableEntry::new_zeroed();
            entry.used = 1;
            entry.id = ((region.first_extent + in_region) as u32).into();
            entry.physical = (region.data + in_region * PE_SIZE).into();
            let on_volume = device.first_extent + region.first_extent + in_region;
            entry.logical = (on_volume * PE_SIZE).into();
            entry.length = length.into();
            entry.version = 1.into();
            let at = (bitmap_size + index * PeTableEntry::STRIDE) as usize;
            bytes[at..at + size_of::<PeTableEntry>()].copy_from_slice(entry.as_bytes());
        }
        bytes
    }
}

/// Maps that `extents` physical extents need.
fn maps(extents: u64) -> u32 {
    extents.div_ceil(PES_PER_MAP) as u32
}

/// `bytes`, filled up with zeros to a sector.
fn sector(bytes: &[u8]) -> Vec<u8> {
    let mut sector = bytes.to_vec();
    sector.resize(512, 0);
    sector
}
