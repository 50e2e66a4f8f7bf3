//! Header, volume table and extents of each device, against each other.

use std::sync::Arc;

use vmfs_core::format::{
    At, DEVICE_HEADER_OFFSET, DevMetadata, ExtDevMetadata, LVM_MAGIC, MAX_PE_MAPS, PE_SIZE,
    PES_PER_MAP, PeTableEntry, VolTableEntry,
};
use vmfs_core::scsi::{DeviceOffset, Lun};
use zerocopy::{FromZeros, IntoBytes};

use super::entries;
use super::header::{DATA_OFFSET, read};
use crate::check::Check;
use crate::code::Code;
use crate::finding::Finding;
use crate::plan::Stage;

/// Pairs of bitmap and table in a metadata region, at most.
const MOST_MAPS: u64 = MAX_PE_MAPS as u64;

/// Checks every device of a volume.
pub(super) fn run(check: &mut Check<'_>, devices: &[Arc<dyn Lun>]) {
    let headers: Vec<_> = devices.iter().map(|device| header(check, device)).collect();
    let settled = entries::run(check, devices);
    for ((device, header), settled) in devices.iter().zip(headers).zip(settled) {
        // Where an extent must lie follows from both.
        if let (Some(header), true) = (header, settled) {
            extents(check, device, &header);
        }
    }
}

/// The device header, its numbers mended from the volume table and the extents.
fn header(check: &mut Check<'_>, lun: &Arc<dyn Lun>) -> Option<DevMetadata> {
    let found: DevMetadata = read(&**lun, DEVICE_HEADER_OFFSET)?;
    let mut expected = found.clone();
    let six = six(&**lun, &found);
    if !(3..=6).contains(&found.major_version.get()) || (found.major_version.get() == 6) != six {
        expected.major_version = if six { 6 } else { 5 }.into();
    }
    if six {
        expected.md_alignment = 4096.into();
    } else if found.major_version.get() != expected.major_version.get() {
        expected.md_alignment = 0.into();
    }
    let entry: VolTableEntry = read(&**lun, DEVICE_HEADER_OFFSET + expected.volume_table())?;
    data_offset(&**lun, &entry, &mut expected);
    let next = found.ext_metadata_offset.get();
    let needed = !six && u64::from(entry.pes.get()) > MOST_MAPS * PES_PER_MAP;
    if next != 0 && !needed && !is_region(&**lun, next) {
        expected.ext_metadata_offset = 0.into();
    }
    let room = lun.capacity().saturating_sub(expected.data_offset.get()) / PE_SIZE;
    let pes = u64::from(entry.pes.get());
    if found.volumes.get() != 1 {
        expected.volumes = 1.into();
    }
    // Larger devices go on in further regions, whose numbers this leaves alone.
    let plain = expected.ext_metadata_offset.get() == 0 && pes > 0 && pes <= room;
    if plain && six {
        expected.pes = 1.into();
        expected.last_pe = 0.into();
        if u64::from(found.pe_units.get()) != length(&**lun, &expected) {
            expected.pe_units = (length(&**lun, &expected) as u32).into();
        }
    } else if plain && pes <= MOST_MAPS * PES_PER_MAP {
        let used = used_entries(&**lun, &expected, pes);
        if used == pes {
            expected.pes = (pes as u32).into();
            expected.last_pe = (pes as u32 - 1).into();
        }
    }
    if u64::from(found.pe_maps.get()) > MOST_MAPS {
        let has_maps = expected.major_version.get() == 5;
        let maps = pes.div_ceil(PES_PER_MAP).min(MOST_MAPS) as u32;
        expected.pe_maps = if has_maps { maps } else { 0 }.into();
    }
    let end = if six {
        u64::from(expected.pe_units.get())
    } else {
        expected.pes.get().into()
    };
    let end = end
        .saturating_mul(PE_SIZE)
        .saturating_add(expected.data_offset.get());
    if plain && expected.total_bytes.get() < end && end <= lun.capacity() {
        expected.total_bytes = lun.capacity().into();
    }
    let mut details = Vec::new();
    let mut compare = |field: &str, found: u64, expected: u64| {
        if found != expected {
            details.push(format!("{field} is {found:#x}, expected {expected:#x}"));
        }
    };
    macro_rules! fields {
        ($($field:ident),+) => {
            $(compare(stringify!($field), found.$field.get().into(), expected.$field.get().into());)+
        };
    }
    fields!(
        total_bytes,
        data_offset,
        major_version,
        md_alignment,
        volumes,
        pes,
        last_pe,
        pe_units,
        pe_maps,
        ext_metadata_offset
    );
    if details.is_empty() {
        return Some(found);
    }
    let finding = Finding::new(
        Code::DeviceHeaderDamaged,
        format!("device header of {}", lun.name()),
        details.join("; "),
    )
    .at(At::Device(DEVICE_HEADER_OFFSET))
    .repair("write what the volume table and the extents say");
    if check.found(finding) {
        put(check, lun, DEVICE_HEADER_OFFSET, expected.as_bytes());
        return Some(expected);
    }
    None
}

/// Whether an extended metadata region begins at `offset`.
fn is_region(lun: &dyn Lun, offset: u64) -> bool {
    let region: Option<ExtDevMetadata> = read(lun, offset);
    // The device header has the same magic.
    offset != DEVICE_HEADER_OFFSET
        && region.is_some_and(|region| {
            region.magic.get() == LVM_MAGIC && (1..=MAX_PE_MAPS).contains(&region.pe_maps.get())
        })
}

/// Where the data begins: as the first extent has it, if that is sound and begins where data does on
/// every device seen.
fn data_offset(lun: &dyn Lun, entry: &VolTableEntry, expected: &mut DevMetadata) {
    let Some(first) = read::<PeTableEntry>(lun, table(expected)) else {
        return;
    };
    let sound = first.used == 1
        && first.id.get() == 0
        && first.logical.get() == entry.first_pe.get().saturating_mul(PE_SIZE);
    if sound && first.physical.get() == DATA_OFFSET {
        expected.data_offset = DATA_OFFSET.into();
    }
}

/// Whether the device has the tables of LVM 6.
fn six(lun: &dyn Lun, header: &DevMetadata) -> bool {
    let entry = |offset: u64| {
        let entry: Option<VolTableEntry> = read(lun, DEVICE_HEADER_OFFSET + offset);
        entry.is_some_and(|entry| (1..=3).contains(&entry.state.get()) && entry.pes.get() > 0)
    };
    match (entry(512), entry(4096)) {
        (true, false) => false,
        (false, true) => true,
        _ => header.major_version.get() == 6,
    }
}

pub(super) fn table(header: &DevMetadata) -> u64 {
    DEVICE_HEADER_OFFSET + header.pe_bitmap() + header.pe_bitmap_size()
}

/// Extents of 256 MiB that the only table entry of LVM 6 has.
pub(super) fn length(lun: &dyn Lun, header: &DevMetadata) -> u64 {
    let entry: Option<PeTableEntry> = read(lun, table(header));
    let bytes = entry.map_or(0, |entry| entry.length.get());
    let fitting = lun.capacity().saturating_sub(header.data_offset.get());
    if bytes == 0 || bytes > fitting || !bytes.is_multiple_of(PE_SIZE) {
        return header.pe_units.get().into();
    }
    bytes / PE_SIZE
}

/// Entries in use among the first `count`.
fn used_entries(lun: &dyn Lun, header: &DevMetadata, count: u64) -> u64 {
    let entries = (0..count).filter(|&index| {
        let place = place_of(header, index);
        let entry: Option<PeTableEntry> = read(lun, place);
        entry.is_some_and(|entry| entry.used != 0)
    });
    entries.count() as u64
}

/// Where the table entry of extent `index` lies.
fn place_of(header: &DevMetadata, index: u64) -> u64 {
    let stride = header.pe_bitmap_size() + PES_PER_MAP * PeTableEntry::STRIDE;
    table(header) + index / PES_PER_MAP * stride + index % PES_PER_MAP * PeTableEntry::STRIDE
}

pub(super) fn put(check: &mut Check<'_>, lun: &Arc<dyn Lun>, offset: u64, bytes: &[u8]) {
    check.plan.set_stage(Stage::Refer);
    if let Err(error) = lun.write(DeviceOffset(offset), bytes) {
        tracing::warn!(lun = lun.name(), %error, "can't be repaired");
    }
}

/// Every entry of the table of extents, and the bitmap, as they follow from the volume table.
fn extents(check: &mut Check<'_>, lun: &Arc<dyn Lun>, header: &DevMetadata) {
    if header.ext_metadata_offset.get() != 0 {
        return;
    }
    let place = DEVICE_HEADER_OFFSET + header.volume_table();
    let Some(entry) = read::<VolTableEntry>(&**lun, place) else {
        return;
    };
    let six = header.major_version.get() >= 6;
    let count = u64::from(header.pes.get());
    if count > MOST_MAPS * PES_PER_MAP {
        return;
    }
    for index in 0..count {
        let at = place_of(header, index);
        let Some(found) = read::<PeTableEntry>(&**lun, at) else {
            return;
        };
        let mut expected = PeTableEntry::new_zeroed();
        expected.used = 1;
        expected.id = (index as u32).into();
        expected.volume_id = entry.volume_id;
        expected.physical = header
            .data_offset
            .get()
            .wrapping_add(index * PE_SIZE)
            .into();
        let first = entry.first_pe.get();
        expected.logical = (first.saturating_add(index).saturating_mul(PE_SIZE)).into();
        expected.length = if six {
            (u64::from(header.pe_units.get()) * PE_SIZE).into()
        } else {
            PE_SIZE.into()
        };
        expected.version = 1.into();
        if found.as_bytes() == expected.as_bytes() {
            continue;
        }
        let finding = Finding::new(
            Code::ExtentWrong,
            format!("physical extent {index} of {}", lun.name()),
            format!(
                "it lies at {:#x}, volume offset {:#x}, {:#x} bytes, in use {}; expected {:#x}, {:#x}, {:#x}, 1",
                found.physical,
                found.logical,
                found.length,
                found.used,
                expected.physical,
                expected.logical,
                expected.length
            ),
        )
        .at(At::Device(at))
        .repair("write where it must lie by the volume table");
        if check.found(finding) {
            put(check, lun, at, expected.as_bytes());
        }
    }
    bitmaps(check, lun, header, count);
}

fn bitmaps(check: &mut Check<'_>, lun: &Arc<dyn Lun>, header: &DevMetadata, count: u64) {
    let stride = header.pe_bitmap_size() + PES_PER_MAP * PeTableEntry::STRIDE;
    for map in 0..count.div_ceil(PES_PER_MAP).max(1) {
        let at = DEVICE_HEADER_OFFSET + header.pe_bitmap() + map * stride;
        let mut found = vec![0; (PES_PER_MAP / 8) as usize];
        if lun.read(DeviceOffset(at), &mut found).is_err() {
            return;
        }
        let mut expected = vec![0; found.len()];
        let used = count.saturating_sub(map * PES_PER_MAP).min(PES_PER_MAP);
        for index in 0..used as usize {
            expected[index / 8] |= 1 << (index % 8);
        }
        if found == expected {
            continue;
        }
        let finding = Finding::new(
            Code::ExtentBitmapWrong,
            format!("extent bitmap {map} of {}", lun.name()),
            "it differs from the table of extents",
        )
        .at(At::Device(at))
        .repair("write what the table says");
        if check.found(finding) {
            put(check, lun, at, &expected);
        }
    }
}
