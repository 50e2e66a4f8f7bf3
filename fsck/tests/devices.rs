//! Damage to device headers, volume tables and extents is found and repaired, from whatever moment a
//! repair was cut off, and no file is hit.

mod common;

use std::os::unix::fs::FileExt;

use common::Subject;
use vmfs_core::format::{DevMetadata, Family, PeTableEntry};
use vmfs_core::lvm::Device;
use vmfs_fixtures::mkfs_vmfs::Options;
use vmfs_fixtures::{FixtureBuilder, Kind};

const MIB: u64 = 1 << 20;
/// Where the header lies on a device, and what LVM takes before the first extent.
const HEADER: u64 = MIB;
const LVM: u64 = 17 * MIB;

/// Volumes of one device and of several, of both formats.
#[derive(Debug, Clone, Copy)]
enum On {
    One(Kind),
    Several(Family),
}

const ALL_ON: [On; 4] = [
    On::One(Kind::Small6),
    On::One(Kind::Small5),
    On::Several(Family::Vmfs6),
    On::Several(Family::Vmfs5),
];

impl On {
    fn subject(self) -> Subject {
        let family = match self {
            Self::One(kind) => return Subject::new(kind),
            Self::Several(family) => family,
        };
        let sizes = [LVM + 1280 * MIB, LVM + 512 * MIB, LVM + 768 * MIB];
        let mut options = Options::new(family, &sizes);
        "several".clone_into(&mut options.label);
        let mut builder = FixtureBuilder::in_memory(options).expect("a plan");
        Kind::Small6.fill(&mut builder).expect("files");
        Subject::of(builder.finish().expect("a volume"))
    }
}

/// A device of a volume, to be damaged.
struct Target<'s> {
    subject: &'s Subject,
    device: usize,
}

impl Target<'_> {
    fn write(&self, at: u64, bytes: &[u8]) {
        let file = &self.subject.fixture.files()[self.device];
        file.write_all_at(bytes, at).expect("write");
    }

    fn metadata(&self) -> DevMetadata {
        let devices: &[Device] = self.subject.fs.volume().devices();
        devices[self.device].metadata().clone()
    }

    /// Where the entry of an extent lies.
    fn extent(&self, number: u64) -> u64 {
        let metadata = self.metadata();
        let table = HEADER + metadata.pe_bitmap() + metadata.pe_bitmap_size();
        table + number * PeTableEntry::STRIDE
    }

    fn volume_table(&self) -> u64 {
        HEADER + self.metadata().volume_table()
    }

    /// Where a field of the volume table's entry lies, by its offset in the structure.
    fn table_field(&self, offset: usize) -> u64 {
        self.volume_table() + offset as u64
    }
}

type Damage = fn(&Target<'_>);

macro_rules! field {
    ($structure:ty, $field:ident) => {
        std::mem::offset_of!($structure, $field)
    };
}

fn magic(t: &Target<'_>) {
    t.write(HEADER, &[0; 4]);
}

fn whole_header(t: &Target<'_>) {
    t.write(HEADER, &[0; 512]);
}

fn header_of_ones(t: &Target<'_>) {
    t.write(HEADER, &[0xff; 512]);
}

fn version(t: &Target<'_>) {
    t.write(HEADER + field!(DevMetadata, major_version) as u64, &[9]);
}

fn counts(t: &Target<'_>) {
    let fields = if t.metadata().major_version.get() >= 6 {
        [field!(DevMetadata, pe_units), field!(DevMetadata, volumes)]
    } else {
        [field!(DevMetadata, pes), field!(DevMetadata, last_pe)]
    };
    for offset in fields {
        t.write(HEADER + offset as u64, &[77, 0, 0, 0]);
    }
}

fn size_of_the_volume(t: &Target<'_>) {
    let at = t.table_field(field!(vmfs_core::format::VolTableEntry, logical_size));
    t.write(at, &(99_u64 << 30).to_le_bytes());
}

fn number_of_devices(t: &Target<'_>) {
    let at = t.table_field(field!(vmfs_core::format::VolTableEntry, devices));
    t.write(at, &[30, 0, 0, 0]);
}

fn state(t: &Target<'_>) {
    let at = t.table_field(field!(vmfs_core::format::VolTableEntry, state));
    t.write(at, &[0x55; 4]);
}

fn table_entry(t: &Target<'_>) {
    t.write(t.volume_table(), &[0; 512]);
}

fn first_in_the_volume(t: &Target<'_>) {
    let at = t.table_field(field!(vmfs_core::format::VolTableEntry, first_pe));
    t.write(at, &[200, 0, 0, 0]);
}

fn begin_of_data(t: &Target<'_>) {
    let at = HEADER + field!(DevMetadata, data_offset) as u64;
    t.write(at, &(3 * MIB).to_le_bytes());
}

fn extent_place(t: &Target<'_>) {
    let at = t.extent(0) + field!(PeTableEntry, physical) as u64;
    t.write(at, &(5_u64 << 32).to_le_bytes());
}

fn first_extent(t: &Target<'_>) {
    t.write(t.extent(0), &[0xee; PeTableEntry::STRIDE as usize]);
}

fn bitmap(t: &Target<'_>) {
    t.write(HEADER + t.metadata().pe_bitmap(), &[0x5a; 32]);
}

fn extents_and_bitmap(t: &Target<'_>) {
    bitmap(t);
    extent_place(t);
}

fn header_and_bitmap(t: &Target<'_>) {
    magic(t);
    bitmap(t);
}

const ALL: &[(&str, Damage, &[&str])] = &[
    ("magic", magic, &["device-header-damaged"]),
    ("whole header", whole_header, &["device-header-damaged"]),
    ("header of ones", header_of_ones, &["device-header-damaged"]),
    ("version", version, &["device-header-damaged"]),
    ("counts", counts, &["device-header-damaged"]),
    (
        "size of the volume",
        size_of_the_volume,
        &["volume-table-wrong"],
    ),
    (
        "number of devices",
        number_of_devices,
        &["volume-table-wrong"],
    ),
    ("state", state, &["volume-table-wrong"]),
    ("table entry", table_entry, &["volume-table-wrong"]),
    (
        "first in the volume",
        first_in_the_volume,
        &["volume-table-wrong"],
    ),
    ("begin of data", begin_of_data, &["device-header-damaged"]),
    ("place of an extent", extent_place, &["extent-wrong"]),
    ("first extent", first_extent, &["extent-wrong"]),
    ("bitmap", bitmap, &["extent-bitmap-wrong"]),
    (
        "extents and bitmap",
        extents_and_bitmap,
        &["extent-bitmap-wrong", "extent-wrong"],
    ),
    (
        "header and bitmap",
        header_and_bitmap,
        &["device-header-damaged", "extent-bitmap-wrong"],
    ),
];

/// Calls `test` with each damage to the first and the last device of each volume.
fn each(test: impl Fn(&str, &Subject, &[&str])) {
    for on in ALL_ON {
        let subject = on.subject();
        let last = subject.fixture.files().len() - 1;
        for device in if last == 0 { vec![0] } else { vec![0, last] } {
            for &(name, damage, expected) in ALL {
                let target = Target {
                    subject: &subject,
                    device,
                };
                let whole = {
                    let mut bytes = vec![0; MIB as usize];
                    let file = &subject.fixture.files()[device];
                    file.read_exact_at(&mut bytes, HEADER).expect("read");
                    bytes
                };
                damage(&target);
                let name = format!("{name}, device {device} of {on:?}");
                test(&name, &subject, expected);
                target.write(HEADER, &whole);
            }
        }
    }
}

#[test]
fn damage_to_devices_is_found_and_repaired() {
    each(|name, subject, expected| common::finds_and_repairs(name, subject, &[], expected));
}

#[test]
fn a_repair_of_devices_that_is_cut_off_is_gone_on_with() {
    each(|name, subject, _| common::goes_on(name, subject, &[]));
}
