//! Putting a volume together whose headers don't say how.
//!
//! Locks and heartbeats store their own volume offset. A device on which some of them are found therefore
//! says where on the volume it lies, whatever has become of its partition table and its device header.

use std::collections::HashMap;
use std::sync::Arc;

use zerocopy::FromBytes;

use super::device::Device;
use super::open::open_luns;
use super::volume::{Extent, Volume, VolumeOffset};
use crate::format::{
    DEVICE_HEADER_OFFSET, FS_DESCRIPTOR_OFFSET, FsDescriptor, HEARTBEAT_OFFSET, PE_SIZE,
    VolTableEntry, VolumeState,
};
use crate::scsi::{DeviceOffset, Lun, look_through};

/// Device offset of extent 0 on every device that ESXi or mkfs makes.
const USUAL_DATA_OFFSET: u64 = 0x110_0000;
/// How far into a device structures that know their own place are looked for.
const LOOKED_AT: u64 = 2 << 30;
/// Bytes read at a time.
const PIECE: usize = 1 << 20;
/// Structures that have to agree about a device's place before the search ends.
const AGREEING: u32 = 64;
/// Fewer than this could be data that looks like a structure.
const BELIEVED: u32 = 4;
/// Where a structure can begin.
const SECTOR: usize = 512;

/// A volume that was put together, and how.
#[derive(Debug)]
pub struct Assembled {
    /// The volume; what isn't known of it is missing.
    pub volume: Volume,
    /// What was wrong and what was done about it, for people.
    pub notes: Vec<String>,
}

/// Where a LUN's bytes belong on the volume.
struct Placed {
    lun: Arc<dyn Lun>,
    extents: Vec<(u64, DeviceOffset, u64)>,
}

/// Puts the volume together that `luns` hold, as [`open_luns`] does where it can, else from what the
/// devices still show.
pub fn assemble_damaged(luns: &[Arc<dyn Lun>]) -> Assembled {
    let error = match open_luns(luns.to_vec()) {
        Ok(volume) => {
            return Assembled {
                volume,
                notes: Vec::new(),
            };
        }
        Err(error) => error,
    };
    let mut notes = vec![format!("the volume can't be put together: {error}")];
    let (mut placed, mut unplaced) = (Vec::new(), Vec::new());
    for lun in luns {
        match place(lun, &mut notes) {
            Some(found) => placed.push(found),
            None => unplaced.push(Arc::clone(lun)),
        }
    }
    for lun in unplaced {
        // What is left can only follow: the volume's first device is full of structures.
        let end = placed.iter().flat_map(|p| &p.extents).map(|e| e.0 + e.2);
        let start = end.max().unwrap_or(0).next_multiple_of(PE_SIZE);
        let length = lun.capacity().saturating_sub(USUAL_DATA_OFFSET);
        if placed.is_empty() || length == 0 {
            notes.push(format!(
                "{}: nothing on it says where it belongs; left out",
                lun.name()
            ));
            continue;
        }
        notes.push(format!(
            "{}: nothing on it says where it belongs; taken for the volume's part from {start:#x} on",
            lun.name()
        ));
        let extents = vec![(start, DeviceOffset(USUAL_DATA_OFFSET), length)];
        placed.push(Placed { lun, extents });
    }
    let volume = join(placed);
    Assembled { volume, notes }
}

fn place(lun: &Arc<dyn Lun>, notes: &mut Vec<String>) -> Option<Placed> {
    let inside = look_through(lun)
        .into_iter()
        .map(|partition| Arc::new(partition) as Arc<dyn Lun>);
    let candidates: Vec<_> = std::iter::once(Arc::clone(lun)).chain(inside).collect();
    for lun in &candidates {
        if let Ok(device) = Device::open(Arc::clone(lun))
            && !device.extents().is_empty()
        {
            let extents = device.extents().iter();
            let extents = extents.map(|e| (e.logical, DeviceOffset(e.physical), e.length));
            return Some(Placed {
                lun: Arc::clone(lun),
                extents: extents.collect(),
            });
        }
    }
    for lun in &candidates {
        if let Some(first) = table_says(&**lun) {
            notes.push(format!(
                "{}: its volume table says that it lies at {first:#x} of the volume",
                lun.name()
            ));
            return linear(
                lun,
                i128::from(USUAL_DATA_OFFSET) - i128::from(first),
                first,
            );
        }
    }
    for lun in &candidates {
        if holds_descriptor(&**lun, FS_DESCRIPTOR_OFFSET) {
            return linear(lun, 0, 0);
        }
        if holds_descriptor(&**lun, USUAL_DATA_OFFSET + FS_DESCRIPTOR_OFFSET) {
            notes.push(format!(
                "{}: its file system descriptor shows that it is the volume's first",
                lun.name()
            ));
            return linear(lun, USUAL_DATA_OFFSET.into(), 0);
        }
    }
    let (delta, votes) = structures_say(&**lun)?;
    notes.push(format!(
        "{}: {votes} structures on it say that the volume begins at its offset {delta:#x}",
        lun.name()
    ));
    // The volume's part on a later device begins where that device's extents do.
    let first =
        (i128::from(USUAL_DATA_OFFSET) - delta).max(0) / i128::from(PE_SIZE) * i128::from(PE_SIZE);
    linear(lun, delta, u64::try_from(first).unwrap_or(0))
}

/// All of `lun` in one piece: volume offset *v*, from `first` on, lies at *v* + `delta`.
fn linear(lun: &Arc<dyn Lun>, delta: i128, first: u64) -> Option<Placed> {
    let start = u64::try_from(i128::from(first) + delta).ok()?;
    let length = lun.capacity().checked_sub(start)?;
    Some(Placed {
        lun: Arc::clone(lun),
        extents: vec![(first, DeviceOffset(start), length)],
    })
}

/// Volume offset of the device's first extent, by its volume table, which may have outlived the header.
fn table_says(lun: &dyn Lun) -> Option<u64> {
    for table in [512, 4096] {
        let mut bytes = [0; size_of::<VolTableEntry>()];
        lun.read(DeviceOffset(DEVICE_HEADER_OFFSET + table), &mut bytes)
            .ok()?;
        let Ok(entry) = VolTableEntry::read_from_bytes(&bytes) else {
            continue;
        };
        let (size, first) = (entry.logical_size.get(), entry.first_pe.get());
        let pes = u64::from(entry.pes.get());
        let sound = entry.state() == VolumeState::Normal
            && entry.name[0].is_ascii_graphic()
            && pes > 0
            && entry.last_pe.get() == first.wrapping_add(pes).wrapping_sub(1)
            && size / PE_SIZE >= pes
            && first <= size / PE_SIZE;
        if sound {
            return Some(first * PE_SIZE);
        }
    }
    None
}

fn holds_descriptor(lun: &dyn Lun, at: u64) -> bool {
    let mut bytes = [0; size_of::<FsDescriptor>()];
    lun.read(DeviceOffset(at), &mut bytes).is_ok() && FsDescriptor::parse(&bytes).is_ok()
}

/// What most structures that store their own volume offset say: their device offset minus that, and how
/// many agree.
fn structures_say(lun: &dyn Lun) -> Option<(i128, u32)> {
    let mut votes: HashMap<i128, u32> = HashMap::new();
    let mut best = (0, 0);
    let mut bytes = vec![0; PIECE];
    let end = lun.capacity().min(LOOKED_AT);
    let mut at = 0;
    while at < end {
        let length = (end - at).min(PIECE as u64) as usize;
        let piece = &mut bytes[..length];
        if lun.read(DeviceOffset(at), piece).is_ok() {
            for (index, sector) in piece.chunks_exact(SECTOR).enumerate() {
                let Some(own) = own_address(sector) else {
                    continue;
                };
                let here = at + (index * SECTOR) as u64;
                let delta = i128::from(here) - i128::from(own);
                let count = votes.entry(delta).or_default();
                *count += 1;
                if *count > best.1 {
                    best = (delta, *count);
                }
            }
        }
        if best.1 >= AGREEING {
            break;
        }
        at += length as u64;
    }
    (best.1 >= BELIEVED).then_some(best)
}

/// The volume offset that a lock or a heartbeat says it has.
fn own_address(sector: &[u8]) -> Option<u64> {
    const HEARTBEATS: [u32; 2] = [0xabcd_ef01, 0xabcd_ef02];
    let kind = u32::from_le_bytes(sector.get(..4)?.try_into().ok()?);
    let address = u64::from_le_bytes(sector.get(4..12)?.try_into().ok()?);
    let is_lock = (0x10c0_0001..=0x10c0_0009).contains(&kind);
    let is_heartbeat = HEARTBEATS.contains(&kind);
    let sound = (is_lock || is_heartbeat)
        && address.is_multiple_of(SECTOR as u64)
        && (HEARTBEAT_OFFSET..1 << 56).contains(&address);
    sound.then_some(address)
}

/// The volume that the parts make up; where two claim the same place, the first has it.
fn join(placed: Vec<Placed>) -> Volume {
    let mut found: Vec<Extent> = Vec::new();
    let mut luns = Vec::new();
    for Placed { lun, extents } in placed {
        let index = luns.len();
        let capacity = lun.capacity();
        luns.push(lun);
        for (logical, physical, length) in extents {
            let length = length.min(capacity.saturating_sub(physical.0));
            found.push(Extent {
                logical: VolumeOffset(logical),
                length,
                place: Some((index, physical)),
            });
        }
    }
    found.sort_by_key(|extent| extent.logical);
    let mut end = 0;
    found.retain_mut(|extent| {
        let covered = end.max(extent.logical.0) - extent.logical.0;
        if covered >= extent.length {
            return false;
        }
        extent.logical = extent.logical + covered;
        extent.length -= covered;
        extent.place = extent.place.map(|(lun, start)| (lun, start + covered));
        end = extent.logical.0 + extent.length;
        true
    });
    Volume::of_extents(luns, found)
}
