//! A volume grows with its device or gets further devices, whenever the job is cut off, and its
//! files stay as they are.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use mkfs_vmfs::{GrowError, GrownFileSystem, Identity, Options, grow_file_system, refuse_in_use};
use rustix::fs::SeekFrom;
use vmfs_core::format::{Family, HEARTBEAT_OFFSET, ResourceKind};
use vmfs_core::fs::FileSystem;
use vmfs_core::lvm::{LvmError, NewDevice, VolumeOffset, extend, grow, open_luns};
use vmfs_core::scsi::{DeviceOffset, FaultLun, Faults, Lun, MemoryLun};
use vmfs_fixtures::{Blocks, Content, FixtureBuilder, Known, What, pattern};

const GIB: u64 = 1 << 30;
/// A device of so many GiB of extents, as ESXi's volumes have it.
const fn device(gib: u64) -> u64 {
    gib * GIB + 0x200_0000 + 512
}
const TIME_US: u64 = 1_800_000_000_000_000;

/// A volume with files, and what they hold.
struct Sample {
    family: Family,
    luns: Vec<Arc<MemoryLun>>,
    manifest: Vec<Known>,
}

/// Copies what is not a hole.
fn copy(file: &File, capacity: u64, name: &str) -> MemoryLun {
    let lun = MemoryLun::new(name, capacity);
    let mut at = 0;
    while let Ok(data) = rustix::fs::seek(file, SeekFrom::Data(at)) {
        let end = rustix::fs::seek(file, SeekFrom::Hole(data)).expect("a hole behind the data");
        let mut offset = data;
        while offset < end {
            let mut bytes = vec![0; (end - offset).min(1 << 20) as usize];
            file.read_exact_at(&mut bytes, offset).expect("read");
            lun.write(DeviceOffset(offset), &bytes).expect("write");
            offset += bytes.len() as u64;
        }
        at = end;
    }
    lun
}

/// A volume of 2 GiB devices, of which the last has become `last` GiB large.
fn sample(family: Family, count: usize, last: u64, change: impl Fn(&mut Options)) -> Sample {
    let mut options = Options::new(family, &vec![device(2); count]);
    options.time_us = 1_700_000_000_000_000;
    change(&mut options);
    let mut builder = FixtureBuilder::in_memory(options).expect("fixture");
    let root = builder.root();
    let vm = builder.add_dir(root, "vm").expect("directory");
    let full = Blocks::full(pattern(3, (5 << 20) + 17));
    let sparse = Blocks::sparse(20 * GIB).with_data(19 * GIB, pattern(4, 3 << 20));
    builder.add_file(vm, "full", full).expect("file");
    builder.add_file(vm, "sparse", sparse).expect("file");
    builder
        .add_file(vm, "small", Content::SubBlocks(pattern(5, 5000)))
        .expect("file");
    builder.add_symlink(root, "link", "vm/full").expect("link");
    let fixture = builder.finish().expect("fixture");
    let luns = fixture.files().iter().enumerate().map(|(index, file)| {
        let gib = if index + 1 == count { last } else { 2 };
        Arc::new(copy(file, device(gib), &format!("device-{index}")))
    });
    Sample {
        family,
        luns: luns.collect(),
        manifest: fixture.manifest().to_vec(),
    }
}

fn plain(family: Family, count: usize, last: u64) -> Sample {
    sample(family, count, last, |_| {})
}

fn replicas(luns: &[Arc<MemoryLun>]) -> Vec<Arc<MemoryLun>> {
    luns.iter()
        .map(|lun| Arc::new(lun.replica(lun.name())))
        .collect()
}

fn as_luns(luns: &[Arc<MemoryLun>]) -> Vec<Arc<dyn Lun>> {
    luns.iter()
        .map(|lun| Arc::clone(lun) as Arc<dyn Lun>)
        .collect()
}

/// Faults that come after so many writes, and stay.
fn cut_after(writes: u64) -> Arc<Faults> {
    let faults = Faults::none(false, false);
    faults.set(writes, u64::MAX);
    Arc::new(faults)
}

fn cut_off(luns: &[Arc<MemoryLun>], faults: &Arc<Faults>) -> Vec<Arc<dyn Lun>> {
    luns.iter()
        .map(|lun| Arc::new(FaultLun::new(Arc::clone(lun), Arc::clone(faults))) as _)
        .collect()
}

fn new_devices(luns: Vec<Arc<dyn Lun>>, seed: u64) -> Vec<NewDevice> {
    let mut identity = Identity::new(TIME_US, seed);
    let new = luns.into_iter().map(|lun| NewDevice {
        lun,
        uuid: identity.uuid(),
        overwrite: false,
    });
    new.collect()
}

/// The volume layer, then the file system, as the command does it.
fn grow_all(
    luns: Vec<Arc<dyn Lun>>,
    added: Vec<Arc<dyn Lun>>,
    seed: u64,
) -> Result<GrownFileSystem, GrowError> {
    let mut all = luns.clone();
    all.extend(added.iter().cloned());
    if added.is_empty() {
        grow(luns, TIME_US)?;
    } else {
        extend(luns, new_devices(added, seed), TIME_US)?;
    }
    grow_file_system(FileSystem::open(open_luns(all)?)?)
}

impl Sample {
    /// Opens the volume on `luns`, reads every file, and returns what a check finds.
    fn check(&self, luns: &[Arc<MemoryLun>]) -> (u64, Vec<String>) {
        let fs = FileSystem::open(open_luns(as_luns(luns)).expect("volume")).expect("file system");
        assert_eq!(fs.volume().missing_devices(), 0);
        let block = fs.layout().file_block_size();
        for known in &self.manifest {
            let inode = fs.resolve(known.path.as_bytes(), false).expect("file");
            let What::File(content) = &known.what else {
                continue;
            };
            assert_eq!(inode.length(), content.length());
            let tail = content.length().saturating_sub(8 << 20);
            for start in [0, tail, 19 * GIB] {
                let end = (start + (8 << 20)).min(content.length());
                if start < end {
                    let mut found = vec![0; (end - start) as usize];
                    fs.read(&inode, start, &mut found).expect("read");
                    let wanted = content.expected(start..end, block);
                    assert!(found == wanted, "{} at {start}", known.path);
                }
            }
        }
        let findings = fsck_vmfs::check(&fs, &mut |_| {}).findings;
        let findings = findings.iter().map(|f| format!("{} {}", f.code, f.detail));
        (fs.space().blocks * block, findings.collect())
    }

    /// Checks that the volume is in order and has all of `size` bytes.
    fn check_grown(&self, luns: &[Arc<MemoryLun>], size: u64) {
        let (blocks, findings) = self.check(luns);
        assert_eq!(findings, [""; 0], "{}", self.family);
        assert_eq!(blocks, size, "{}", self.family);
        let volume = open_luns(as_luns(luns)).expect("volume");
        assert_eq!(volume.size(), size);
        let mut generations = BTreeMap::new();
        for (index, device) in volume.devices().iter().enumerate() {
            let entry = &device.volumes()[0];
            assert_eq!(entry.logical_size.get(), size, "device {index}");
            assert_eq!(entry.devices.get() as usize, luns.len(), "device {index}");
            generations.insert(entry.generation.get(), index);
            let extents = entry.last_pe.get() - entry.first_pe.get() + 1;
            assert_eq!(u64::from(entry.pes.get()), extents, "device {index}");
            let metadata = device.metadata();
            let counted = metadata.pes.get().max(metadata.pe_units.get());
            assert_eq!(counted, entry.pes.get(), "device {index}");
        }
        assert_eq!(generations.len(), 1, "{generations:?}");
        let names = volume.devices()[0].device_names().len();
        let expected = if self.family == Family::Vmfs3 {
            0
        } else {
            luns.len()
        };
        assert_eq!(names, expected);
    }

    /// Runs the job cut off after each of its writes, and again; returns how many there are.
    fn cut_everywhere(&self, added: &[Arc<MemoryLun>], size: u64) -> u64 {
        let mut cuts = 0;
        loop {
            let luns = replicas(&self.luns);
            let new = replicas(added);
            let faults = cut_after(cuts);
            let first = grow_all(cut_off(&luns, &faults), cut_off(&new, &faults), 1);
            let all = [&luns[..], &new[..]].concat();
            if first.is_ok() {
                assert_eq!(faults.seen(), cuts, "every write was cut once");
                self.check_grown(&all, size);
                return cuts;
            }
            // Before the second run: everything opens with the devices that are the volume's.
            let of_volume: Vec<_> = luns
                .iter()
                .chain(
                    new.iter()
                        .filter(|lun| vmfs_core::lvm::Device::is_lvm(&***lun)),
                )
                .cloned()
                .collect();
            let (_, findings) = self.check(&of_volume);
            // Clusters and blocks that `.fbb.sf` has and its header doesn't count yet are all there may be, with
            // what a repair would do about them: it counts the clusters, one of which may mark a block that
            // `.fbb.sf` was about to have.
            let may_be = [
                "out-of-range",
                "block-count-wrong",
                "cluster-unreadable",
                "resource-header-damaged",
                "lost-data",
                "unreferenced",
            ];
            for finding in findings {
                let known = may_be.iter().any(|code| finding.starts_with(code));
                assert!(known, "after {cuts} writes: {finding}");
            }
            grow_all(as_luns(&luns), as_luns(&new), 2)
                .unwrap_or_else(|error| panic!("second run after {cuts} writes: {error}"));
            self.check_grown(&all, size);
            let again = grow_all(as_luns(&luns), as_luns(&new), 3).expect("third run");
            assert!(!again.changed, "after {cuts} writes");
            cuts += 1;
        }
    }
}

const FAMILIES: [Family; 3] = [Family::Vmfs3, Family::Vmfs5, Family::Vmfs6];

#[test]
fn a_volume_grows_with_its_device() {
    for family in FAMILIES {
        for gib in [3, 40, 300] {
            let sample = plain(family, 1, gib);
            sample.check_grown_from(2, gib);
        }
    }
}

impl Sample {
    fn check_grown_from(&self, before: u64, gib: u64) {
        let (blocks, findings) = self.check(&self.luns);
        assert_eq!((blocks, findings), (before * GIB, Vec::new()));
        let done = grow_all(as_luns(&self.luns), Vec::new(), 1).expect("grow");
        assert!(done.changed);
        assert_eq!(done.blocks * done.block_size, gib * GIB);
        self.check_grown(&self.luns, gib * GIB);
    }
}

#[test]
fn it_grows_beyond_what_one_table_describes() {
    // A map of LVM 5 has room for 2 TiB.
    for (family, gib) in [(Family::Vmfs5, 5 << 10), (Family::Vmfs6, 11 << 10)] {
        plain(family, 1, gib).check_grown_from(2, gib);
    }
    let sample = plain(Family::Vmfs3, 1, 3 << 10);
    let refused = grow(as_luns(&sample.luns), TIME_US);
    assert!(
        matches!(refused, Err(LvmError::TooManyExtents { .. })),
        "{refused:?}"
    );
}

#[test]
fn it_grows_in_steps_that_end_inside_clusters() {
    for family in FAMILIES {
        // 256 MiB are half of a large file block, and 1.28 clusters of VMFS5.
        let first = plain(family, 1, 2);
        let mut last = first.luns;
        for quarter in [9, 10, 11, 13, 34, 35, 400, 401, 2000, 2403] {
            let size = quarter * (GIB / 4);
            let longer = Arc::new(last[0].resized(size + 0x200_0200));
            let done = grow_all(as_luns(&[Arc::clone(&longer)]), Vec::new(), 1).expect("grow");
            assert_eq!(done.blocks * done.block_size, size);
            last = vec![longer];
            let sample = Sample {
                family,
                luns: last.clone(),
                manifest: first.manifest.clone(),
            };
            sample.check_grown(&last, size);
        }
    }
}

#[test]
fn new_blocks_can_be_counted_as_free() {
    for family in [Family::Vmfs5, Family::Vmfs6] {
        let sample = plain(family, 1, 40);
        let free = |luns: &[Arc<MemoryLun>]| {
            let fs = FileSystem::open(open_luns(as_luns(luns)).expect("volume")).expect("fs");
            fs.space().free_blocks
        };
        let before = free(&sample.luns);
        let done = grow_all(as_luns(&sample.luns), Vec::new(), 1).expect("grow");
        let gained = done.blocks - done.blocks_before - done.metadata_blocks;
        assert_eq!(free(&sample.luns), before + gained, "{family}");
    }
}

#[test]
fn a_volume_whose_bitmap_outgrows_its_blocks_gets_more_for_it() {
    let sample = plain(Family::Vmfs6, 1, 300);
    let done = grow_all(as_luns(&sample.luns), Vec::new(), 1).expect("grow");
    // 600 large blocks take 8 KiB each, and their clusters' headers 5 groups of 64 KiB.
    assert_eq!(done.metadata_blocks, 5);
    let fs = FileSystem::open(open_luns(as_luns(&sample.luns)).expect("volume")).expect("fs");
    let large = fs.store().resources().large_file_blocks.as_ref();
    let large = large.expect("large file blocks");
    assert_eq!(large.kind(), ResourceKind::LargeFileBlock);
    assert_eq!(large.header().resources(), 600);
}

#[test]
fn a_volume_gets_further_devices() {
    for family in FAMILIES {
        for count in [1, 2] {
            let sample = plain(family, 1, 2);
            let new: Vec<_> = (0..count)
                .map(|i| Arc::new(MemoryLun::new(&format!("new-{i}"), device(3 + i))))
                .collect();
            grow_all(as_luns(&sample.luns), as_luns(&new), 1).expect("extend");
            let all = [&sample.luns[..], &new[..]].concat();
            let size = [5 * GIB, 9 * GIB][count as usize - 1];
            sample.check_grown(&all, size);
        }
    }
}

#[test]
fn grown_when_cut_off_at_any_write() {
    for (family, count, gib) in [
        (Family::Vmfs6, 1, 3),
        (Family::Vmfs6, 2, 40),
        (Family::Vmfs6, 1, 300),
        (Family::Vmfs5, 1, 3),
        (Family::Vmfs5, 2, 40),
        (Family::Vmfs5, 1, 300),
        (Family::Vmfs3, 1, 5),
    ] {
        let sample = plain(family, count, gib);
        let size = (count as u64 - 1) * 2 * GIB + gib * GIB;
        let cuts = sample.cut_everywhere(&[], size);
        assert!(cuts > 5, "{family}: {cuts} writes");
        println!("{family}, {count} device(s), to {gib} GiB: cut at {cuts} writes");
    }
}

#[test]
fn extended_when_cut_off_at_any_write() {
    for (family, count) in [(Family::Vmfs6, 1), (Family::Vmfs6, 2), (Family::Vmfs5, 2)] {
        let sample = plain(family, 1, 2);
        let new: Vec<_> = (0..count)
            .map(|i| Arc::new(MemoryLun::new(&format!("new-{i}"), device(2))))
            .collect();
        let cuts = sample.cut_everywhere(&new, 2 * GIB * (count + 1));
        println!("{family}, {count} more device(s): cut at {cuts} writes");
    }
}

#[test]
fn an_extended_volume_is_like_one_that_was_made_so() {
    for family in FAMILIES {
        let sample = plain(family, 1, 2);
        let new = vec![Arc::new(MemoryLun::new("new", device(2)))];
        extend(
            as_luns(&sample.luns),
            new_devices(as_luns(&new), 1),
            TIME_US,
        )
        .expect("extend");
        let made = plain(family, 2, 2);
        let pairs = sample.luns.iter().chain(&new).zip(&made.luns);
        for (index, (lun, expected)) in pairs.enumerate() {
            let open = |lun: &Arc<MemoryLun>| {
                vmfs_core::lvm::Device::open(Arc::clone(lun) as _).expect("device")
            };
            let (lun, expected) = (open(lun), open(expected));
            assert_eq!(lun.extents(), expected.extents(), "device {index}");
            let (header, wanted) = (lun.metadata(), expected.metadata());
            assert_eq!(header.generation, wanted.generation, "device {index}");
            assert_eq!(header.pes, wanted.pes);
            assert_eq!(header.pe_units, wanted.pe_units);
            assert_eq!(header.pe_maps, wanted.pe_maps);
            assert_eq!(header.last_pe, wanted.last_pe);
            let (entry, wanted) = (&lun.volumes()[0], &expected.volumes()[0]);
            assert_eq!(entry.generation, wanted.generation, "device {index}");
            assert_eq!(entry.first_pe, wanted.first_pe);
            assert_eq!(entry.last_pe, wanted.last_pe);
            assert_eq!(entry.consumed_pes, wanted.consumed_pes);
        }
    }
}

/// A volume that isn't the one that the other samples are.
fn sample_with_seed() -> Sample {
    sample(Family::Vmfs5, 1, 2, |options| options.seed = 77)
}

#[test]
fn what_is_not_safe_is_refused() {
    // A device in the middle.
    let sample = plain(Family::Vmfs6, 2, 2);
    let longer = Arc::new(sample.luns[0].resized(device(5)));
    let refused = grow(as_luns(&[longer, Arc::clone(&sample.luns[1])]), TIME_US);
    assert!(
        matches!(refused, Err(LvmError::NotLast { .. })),
        "{refused:?}"
    );
    // A part of the devices.
    for half in [&sample.luns[..1], &sample.luns[1..]] {
        let refused = grow(as_luns(half), TIME_US);
        let Err(LvmError::Incomplete {
            given: 1,
            expected: 2,
        }) = refused
        else {
            panic!("{refused:?}")
        };
    }
    // A device of another volume.
    let other = sample.luns[1..].to_vec();
    let own = sample_with_seed();
    let before = replicas(&other);
    let refused = extend(as_luns(&own.luns), new_devices(as_luns(&other), 1), TIME_US);
    assert!(
        matches!(refused, Err(LvmError::Taken { .. })),
        "{refused:?}"
    );
    let first = |lun: &MemoryLun| {
        let mut bytes = vec![0; 4 << 20];
        lun.read(DeviceOffset(0), &mut bytes).expect("read");
        bytes
    };
    assert!(first(&other[0]) == first(&before[0]), "nothing was written");
    // A device without room.
    let small = vec![Arc::new(MemoryLun::new("small", 100 << 20))];
    let refused = extend(as_luns(&own.luns), new_devices(as_luns(&small), 1), TIME_US);
    assert!(
        matches!(refused, Err(LvmError::TooSmall { .. })),
        "{refused:?}"
    );
    // More extents than eight maps describe.
    let huge = Arc::new(own.luns[0].resized(17 << 40));
    let refused = grow(as_luns(&[huge]), TIME_US);
    assert!(
        matches!(refused, Err(LvmError::TooManyExtents { .. })),
        "{refused:?}"
    );
    // The same device twice: it is added once.
    let twice = Arc::new(MemoryLun::new("twice", device(2)));
    let luns = as_luns(&[Arc::clone(&twice), twice]);
    let own_luns = as_luns(&own.luns);
    let refused = extend(own_luns, new_devices(luns.clone(), 1), TIME_US);
    assert!(
        matches!(refused, Err(LvmError::Duplicate { .. })),
        "{refused:?}"
    );
    let all = [as_luns(&own.luns), luns[..1].to_vec()].concat();
    let volume = open_luns(all).expect("volume");
    assert_eq!((volume.size(), volume.missing_devices()), (4 * GIB, 0));
}

#[test]
fn a_mounted_volume_is_refused() {
    for family in FAMILIES {
        let sample = plain(family, 1, 3);
        let open = || FileSystem::open(open_luns(as_luns(&sample.luns)).expect("volume"));
        let fs = open().expect("file system");
        refuse_in_use(&fs).expect("not in use");
        let slot = VolumeOffset(HEARTBEAT_OFFSET + 5 * fs.layout().heartbeat_size);
        let state = 0xabcd_ef02_u32.to_le_bytes();
        fs.volume().write(slot, &state).expect("write");
        fs.volume().write(slot + 0x36, b"192.0.2.7").expect("write");
        let refused = refuse_in_use(&fs).expect_err("in use").to_string();
        assert!(refused.contains("192.0.2.7"), "{refused}");
    }
}

#[test]
fn a_bitmap_file_without_room_in_its_map_is_refused_before_anything_is_written() {
    // 320 blocks of 1 MiB describe about 20 TiB.
    let sample = plain(Family::Vmfs6, 1, 30 << 10);
    grow(as_luns(&sample.luns), TIME_US).expect("grow");
    let before = sample.check(&sample.luns);
    let fs = FileSystem::open(open_luns(as_luns(&sample.luns)).expect("volume")).expect("fs");
    let refused = grow_file_system(fs);
    assert!(
        matches!(refused, Err(GrowError::MapFull { .. })),
        "{refused:?}"
    );
    assert_eq!(sample.check(&sample.luns), before);
}
