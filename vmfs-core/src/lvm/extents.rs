//! What growing and extending share: writing a device's extents, and making the volume table
//! entries of all devices agree with the extents there are.

use zerocopy::{FromZeros, IntoBytes};

use super::device::Device;
use super::error::LvmError;
use super::resignature::{entry_of, flush, write_entry};
use super::volume::Volume;
use crate::format::{
    DEVICE_HEADER_OFFSET, DevMetadata, MAX_PE_MAPS, PE_SIZE, PES_PER_MAP, PeTableEntry,
};
use crate::scsi::{DeviceOffset, Lun};

/// Bytes that are written at once.
const SECTOR: usize = 512;
/// The largest volume, from VMware's documents.
const MAX_VOLUME: u64 = 64 << 40;

pub(super) fn is_lvm6(metadata: &DevMetadata) -> bool {
    metadata.major_version.get() >= 6
}

/// Extents of 256 MiB that the device's header counts.
pub(super) fn in_header(metadata: &DevMetadata) -> u64 {
    if is_lvm6(metadata) {
        metadata.pe_units.get().into()
    } else {
        metadata.pes.get().into()
    }
}

/// Extents of 256 MiB that the device's table has. On LVM 6 they are more than the header counts
/// when growing was cut off.
pub(super) fn count(device: &Device) -> u64 {
    let bytes: u64 = device.extents().iter().map(|extent| extent.length).sum();
    bytes / PE_SIZE
}

/// Extents that a device of `capacity` bytes has room for.
pub(super) fn fitting(
    metadata: &DevMetadata,
    capacity: u64,
    device: &str,
) -> Result<u64, LvmError> {
    let extents = capacity.saturating_sub(metadata.data_offset.get()) / PE_SIZE;
    let most = match metadata.major_version.get() {
        6.. => MAX_VOLUME / PE_SIZE,
        5 => PES_PER_MAP * u64::from(MAX_PE_MAPS),
        _ => PES_PER_MAP,
    };
    if extents > most {
        return Err(LvmError::TooManyExtents {
            device: device.to_owned(),
            extents,
            most,
        });
    }
    Ok(extents)
}

/// Refuses a volume that is longer than any may be.
pub(super) fn refuse_too_large(size: u64) -> Result<(), LvmError> {
    if size > MAX_VOLUME {
        return Err(LvmError::TooLarge {
            size,
            most: MAX_VOLUME,
        });
    }
    Ok(())
}

/// The volume of `devices`, of which none may be missing.
pub(super) fn whole_volume(devices: Vec<Device>) -> Result<Volume, LvmError> {
    let given = devices.len();
    let mut expected = given;
    for device in &devices {
        expected = expected.max(entry_of(device)?.devices.get() as usize);
    }
    let volume = Volume::assemble(devices)?;
    let gaps = volume.missing().count();
    if expected > given || gaps > 0 {
        return Err(LvmError::Incomplete {
            given,
            expected: expected.max(given + gaps),
        });
    }
    let extents: u64 = volume.devices().iter().map(count).sum();
    if extents * PE_SIZE != volume.size() {
        return Err(LvmError::OddExtents {
            extents,
            size: volume.size(),
        });
    }
    Ok(volume)
}

/// Writes table entries and bitmap bits for the extents from `from` to `to` of a device whose
/// first extent is `first` of the volume.
///
/// Up to LVM 5 they mean nothing until the header counts them; on LVM 6 they lengthen the only
/// entry.
pub(super) fn write(
    lun: &dyn Lun,
    metadata: &DevMetadata,
    volume_id: u32,
    first: u64,
    (from, to): (u64, u64),
) -> Result<(), LvmError> {
    let base = DEVICE_HEADER_OFFSET + metadata.pe_bitmap();
    let entry = |index: u64, length: u64| {
        let mut entry = PeTableEntry::new_zeroed();
        entry.used = 1;
        entry.id = (index as u32).into();
        entry.volume_id = volume_id.into();
        entry.physical = (metadata.data_offset.get() + index * PE_SIZE).into();
        entry.logical = ((first + index) * PE_SIZE).into();
        entry.length = length.into();
        entry.version = 1.into();
        let mut bytes = [0; PeTableEntry::STRIDE as usize];
        bytes[..size_of::<PeTableEntry>()].copy_from_slice(entry.as_bytes());
        bytes
    };
    if is_lvm6(metadata) {
        lun.write(DeviceOffset(base), &[1])?;
        let table = base + metadata.pe_bitmap_size();
        return Ok(lun.write(DeviceOffset(table), &entry(0, to * PE_SIZE))?);
    }
    let stride = metadata.pe_bitmap_size() + PES_PER_MAP * PeTableEntry::STRIDE;
    for map in from / PES_PER_MAP..to.div_ceil(PES_PER_MAP) {
        let (start, end) = (map * PES_PER_MAP, ((map + 1) * PES_PER_MAP).min(to));
        let bitmap = base + map * stride;
        let new = from.max(start)..end;
        let table = bitmap + metadata.pe_bitmap_size() + (new.start - start) * PeTableEntry::STRIDE;
        let entries: Vec<u8> = new.flat_map(|index| entry(index, PE_SIZE)).collect();
        lun.write(DeviceOffset(table), &entries)?;
        let mut bits = vec![0; metadata.pe_bitmap_size() as usize];
        for index in 0..(end - start) as usize {
            bits[index / 8] |= 1 << (index % 8);
        }
        lun.write(DeviceOffset(bitmap), &bits)?;
    }
    Ok(())
}

/// Writes the device header; what follows it in its sector stays.
pub(super) fn write_header(lun: &dyn Lun, metadata: &DevMetadata) -> Result<(), LvmError> {
    let at = DeviceOffset(DEVICE_HEADER_OFFSET);
    let mut sector = [0; SECTOR];
    lun.read(at, &mut sector)?;
    sector[..metadata.as_bytes().len()].copy_from_slice(metadata.as_bytes());
    Ok(lun.write(at, &sector)?)
}

/// The generation that the volume table gets with `number` devices and `extents` in all: the entries'
/// own if one has those numbers already. ESXi counts one for each extent and device added, on
/// LVM 6 two for a device.
pub(super) fn next_generation(
    devices: &[Device],
    number: usize,
    extents: u64,
) -> Result<u64, LvmError> {
    let (mut newest, mut there, mut before) = (0, None, 0);
    for device in devices {
        let entry = entry_of(device)?;
        let generation = entry.generation.get();
        newest = newest.max(generation);
        before = before.max(entry.logical_size.get() / PE_SIZE);
        if is_current(&entry, number, extents) {
            there = there.max(Some(generation));
        }
    }
    let lvm6 = devices
        .first()
        .is_some_and(|device| is_lvm6(device.metadata()));
    let step = if lvm6 {
        2
    } else {
        extents.saturating_sub(before) + 1
    };
    Ok(there.unwrap_or(newest.wrapping_add(step)))
}

fn is_current(entry: &crate::format::VolTableEntry, devices: usize, extents: u64) -> bool {
    // Volumes of LVM 3 may not count their devices.
    let counted = entry.devices.get() as usize;
    entry.logical_size.get() == extents * PE_SIZE
        && (counted == devices || counted == 0 && devices == 1)
}

/// Makes the volume table entries of `devices`, all of the volume, say what extents there are;
/// returns whether one was wrong.
pub(super) fn agree(devices: &[Device], time_us: u64) -> Result<bool, LvmError> {
    let extents = devices.iter().map(count).sum();
    let generation = next_generation(devices, devices.len(), extents)?;
    let mut changed = false;
    for device in devices {
        let mut entry = entry_of(device)?;
        let own = count(device);
        if is_current(&entry, devices.len(), extents) && u64::from(entry.pes.get()) == own {
            continue;
        }
        changed = true;
        // The header first: once the entry is right, nothing tells that the header isn't.
        let mut metadata = device.metadata().clone();
        metadata.generation = metadata.generation.get().wrapping_add(2).into();
        metadata.mod_time_us = time_us.into();
        if is_lvm6(&metadata) {
            metadata.pe_units = (own as u32).into();
        }
        write_header(&**device.lun(), &metadata)?;
        entry.logical_size = (extents * PE_SIZE).into();
        entry.generation = generation.into();
        entry.pes = (own as u32).into();
        entry.last_pe = (entry.first_pe.get() + own).saturating_sub(1).into();
        entry.mod_time_us = time_us.into();
        if entry.devices.get() != 0 || devices.len() > 1 {
            entry.devices = (devices.len() as u32).into();
        }
        write_entry(device, &entry)?;
    }
    flush(devices)?;
    Ok(changed)
}
