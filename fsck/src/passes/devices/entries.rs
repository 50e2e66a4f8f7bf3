//! The volume table's entry on each device, against its extents and the other devices' entries.

use std::sync::Arc;

use vmfs_core::format::{
    At, DEVICE_HEADER_OFFSET, DevMetadata, PE_SIZE, PeTableEntry, Uuid, VolTableEntry, VolumeState,
    text,
};
use vmfs_core::scsi::Lun;
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use super::header::read;
use super::tables::{length, put, table};
use crate::check::Check;
use crate::code::Code;
use crate::finding::Finding;

/// An entry as it stands, and what tells of it.
struct Own {
    lun: Arc<dyn Lun>,
    header: DevMetadata,
    entry: VolTableEntry,
    /// The device's extents of 256 MiB.
    extents: u64,
    /// The number of its first one in the volume.
    first: u64,
}

impl Own {
    fn of(lun: &Arc<dyn Lun>) -> Option<Self> {
        let header: DevMetadata = read(&**lun, DEVICE_HEADER_OFFSET)?;
        let entry: VolTableEntry = read(&**lun, DEVICE_HEADER_OFFSET + header.volume_table())?;
        let extents = if header.major_version.get() >= 6 {
            length(&**lun, &header)
        } else {
            header.pes.get().into()
        };
        let first = first_extent(&**lun, &header, &entry);
        Some(Self {
            lun: Arc::clone(lun),
            header,
            entry,
            extents,
            first,
        })
    }

    fn place(&self) -> u64 {
        DEVICE_HEADER_OFFSET + self.header.volume_table()
    }
}

/// Whether nothing of an entry is left.
fn is_gone(entry: &VolTableEntry) -> bool {
    !(1..=3).contains(&entry.state.get()) && entry.pes.get() == 0
}

/// The number in the volume of a device's first extent: as two of the entry's first and last and the
/// first extent have it.
fn first_extent(lun: &dyn Lun, header: &DevMetadata, entry: &VolTableEntry) -> u64 {
    let said = entry.first_pe.get();
    let extent: Option<PeTableEntry> = read(lun, table(header));
    let extent = extent.filter(|extent| {
        extent.used == 1 && extent.id.get() == 0 && extent.logical.get().is_multiple_of(PE_SIZE)
    });
    let Some(mapped) = extent.map(|extent| extent.logical.get() / PE_SIZE) else {
        return said;
    };
    let pes = u64::from(entry.pes.get());
    let by_last = entry.last_pe.get().wrapping_add(1).wrapping_sub(pes);
    if is_gone(entry) || by_last == mapped {
        mapped
    } else {
        said
    }
}

/// Compares the entries of all devices; for each whether it is right, or will be.
pub(super) fn run(check: &mut Check<'_>, devices: &[Arc<dyn Lun>]) -> Vec<bool> {
    let own: Option<Vec<Own>> = devices.iter().map(Own::of).collect();
    let Some(own) = own else {
        return vec![false; devices.len()];
    };
    let total: u64 = own.iter().map(|own| own.extents).sum();
    // Only with all devices at hand their sum is known. An entry that counts more of them may itself
    // be wrong: then its size says that these are all.
    let adjoining = adjoin(&own);
    let complete = own.iter().all(|Own { entry, .. }| {
        entry.devices.get() as usize <= own.len()
            || adjoining && entry.logical_size.get() == total * PE_SIZE
    });
    let uuid = uuid(&own);
    let model = own.iter().find(|own| !is_gone(&own.entry));
    let expected: Vec<VolTableEntry> = own
        .iter()
        .map(|this| {
            let mut expected = this.entry.clone();
            if is_gone(&expected) {
                expected = anew(this, model, total, own.len());
            }
            if let Some(uuid) = uuid {
                expected.uuid = uuid;
            }
            if text(&expected.name).is_empty() {
                let name = expected.uuid.to_string();
                expected.name[..name.len()].copy_from_slice(name.as_bytes());
            }
            expected.first_pe = this.first.into();
            if complete && this.extents > 0 {
                expected.logical_size = (total * PE_SIZE).into();
                expected.pes = (this.extents as u32).into();
                let last = this.first.saturating_add(this.extents - 1);
                expected.last_pe = last.into();
                // LVM 3 may not count them.
                if this.entry.devices.get() != 0 || own.len() > 1 {
                    expected.devices = (own.len() as u32).into();
                }
            }
            if !(1..=3).contains(&expected.state.get()) {
                expected.state = 1.into();
            }
            expected
        })
        .collect();
    let pairs = own.iter().zip(&expected);
    pairs
        .map(|(own, expected)| mend(check, own, expected))
        .collect()
}

fn mend(check: &mut Check<'_>, own: &Own, expected: &VolTableEntry) -> bool {
    let Own { lun, entry, .. } = own;
    if expected.as_bytes() == entry.as_bytes() {
        return true;
    }
    let finding = Finding::new(
        Code::VolumeTableWrong,
        format!("volume table of {}", lun.name()),
        format!(
            "volume {} of {:#x} bytes, {} devices, extents {} to {} here, state {}; expected {}, {:#x}, {}, {} to {}, {}",
            entry.uuid,
            entry.logical_size,
            entry.devices,
            entry.first_pe,
            entry.last_pe,
            entry.state,
            expected.uuid,
            expected.logical_size,
            expected.devices,
            expected.first_pe,
            expected.last_pe,
            expected.state
        ),
    )
    .at(At::Device(own.place()))
    .repair("write what the extents and the other devices say");
    let decided = check.found(finding);
    if decided {
        put(check, lun, own.place(), expected.as_bytes());
    }
    decided
}

/// An entry for a device that has lost its own, after that of another one.
fn anew(own: &Own, model: Option<&Own>, extents: u64, devices: usize) -> VolTableEntry {
    let mut entry = model.map_or_else(VolTableEntry::new_zeroed, |model| model.entry.clone());
    let wide = own.header.major_version.get() >= 6;
    if model.is_none() {
        // The header of a device is made from its volume's UUID in the same way, where that is lost.
        let mut bytes = [0; 16];
        bytes.copy_from_slice(own.header.uuid.as_bytes());
        bytes[15] ^= own.first as u8 | 1;
        if let Ok(uuid) = Uuid::read_from_bytes(&bytes) {
            entry.uuid = uuid;
        }
        let entries = if wide { devices as u64 } else { extents };
        entry.generation = (entries + devices as u64).into();
        entry.snap_id = 1.into();
        entry.devices = (devices as u32).into();
        entry.state = 1.into();
    }
    entry.pes = (own.extents as u32).into();
    entry.consumed_pes = u32::from(wide).into();
    entry
}

/// Whether the devices' parts make a volume from its beginning without a gap.
fn adjoin(own: &[Own]) -> bool {
    let mut parts: Vec<(u64, u64)> = own.iter().map(|own| (own.first, own.extents)).collect();
    parts.sort_unstable();
    let mut next = 0;
    parts.into_iter().all(|(first, extents)| {
        let adjoins = first == next && extents > 0;
        next = first.saturating_add(extents);
        adjoins
    })
}

/// The volume's UUID as more than half of the entries have it, as such or as the volume's name.
fn uuid(own: &[Own]) -> Option<Uuid> {
    let resigning = |own: &Own| own.entry.state() == VolumeState::ResignaturePending;
    if own.iter().any(resigning) {
        return None;
    }
    let zero = Uuid::default();
    let names: Vec<&[u8]> = own.iter().map(|own| text(&own.entry.name)).collect();
    let said: Vec<Uuid> = own.iter().map(|own| own.entry.uuid).collect();
    let named: Vec<Option<Uuid>> = names.into_iter().map(parse).collect();
    let votes = |one: Uuid| {
        let said = said.iter().filter(|&&other| other == one).count();
        said + named.iter().filter(|&&other| other == Some(one)).count()
    };
    let all: Vec<Uuid> = said
        .iter()
        .copied()
        .chain(named.iter().flatten().copied())
        .filter(|&uuid| uuid != zero)
        .collect();
    all.iter().copied().find(|&one| votes(one) * 2 > all.len())
}

/// The UUID that a name is the text of.
fn parse(name: &[u8]) -> Option<Uuid> {
    let name = std::str::from_utf8(name).ok()?;
    let mut parts = name.split('-');
    let mut number = |digits: usize| {
        let part = parts.next().filter(|part| part.len() == digits)?;
        u64::from_str_radix(part, 16).ok()
    };
    let (time_lo, time_hi) = (number(8)?, number(8)?);
    let (random, mac) = (number(4)?, number(12)?);
    let mut uuid = Uuid {
        time_lo: (time_lo as u32).into(),
        time_hi: (time_hi as u32).into(),
        random: (random as u16).into(),
        ..Uuid::default()
    };
    uuid.mac.copy_from_slice(&mac.to_be_bytes()[2..]);
    (uuid.to_string() == name).then_some(uuid)
}
