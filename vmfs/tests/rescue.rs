//! `vmfs cp --rescue` on volumes that were damaged on purpose: what is intact is copied exactly, and nothing
//! that isn't is called exact.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;
use vmfs_core::format::{Family, FdAddr, Layout, SystemFile};
use vmfs_core::fs::FileSystem;
use vmfs_core::lvm::{VolumeOffset, open_paths};
use vmfs_core::scsi::Access;
use vmfs_fixtures::{Content, FixtureBuilder, Kind, Known, What};
use vmfs_tests::random::Random;

/// A volume in files that can be damaged.
struct Victim {
    folder: TempDir,
    devices: Vec<PathBuf>,
    layout: Layout,
    manifest: Vec<Known>,
}

/// Files may be as long as the format allows, which few file systems but tmpfs take.
fn folder() -> TempDir {
    tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .expect("folder")
}

impl Victim {
    fn new(kind: Kind) -> Self {
        let folder = folder();
        let options = kind.options();
        let devices: Vec<_> = (0..options.devices.len())
            .map(|index| folder.path().join(format!("{index}.img")))
            .collect();
        let create = |path: &PathBuf| {
            let mut options = File::options();
            options.read(true).write(true).create_new(true);
            options.open(path).expect("image")
        };
        let files = devices.iter().map(create).collect();
        let mut builder = FixtureBuilder::create(options, files).expect("fixture");
        kind.fill(&mut builder).expect("files");
        let fixture = builder.finish().expect("fixture");
        Self {
            layout: fixture.plan().layout().clone(),
            manifest: fixture.manifest().to_vec(),
            folder,
            devices,
        }
    }

    /// Overwrites `length` bytes of the volume from `at` on; returns how to undo that.
    fn damage(&self, at: u64, bytes: &[u8]) -> Undo {
        let volume = open_paths(&self.devices, Access::ReadOnly).expect("volume");
        let (lun, place) = volume.place(VolumeOffset(at)).expect("on the volume");
        let device = volume
            .luns()
            .iter()
            .position(|other| std::sync::Arc::ptr_eq(other, lun));
        self.damage_device(device.expect("one of them"), place.0, bytes)
    }

    fn damage_device(&self, device: usize, at: u64, bytes: &[u8]) -> Undo {
        let file = File::options()
            .read(true)
            .write(true)
            .open(&self.devices[device])
            .expect("device");
        let mut before = vec![0; bytes.len()];
        file.read_exact_at(&mut before, at).expect("read");
        file.write_all_at(bytes, at).expect("write");
        Undo { file, at, before }
    }

    /// Where the descriptor `fd` of cluster 0 lies.
    fn descriptor(&self, fd: FdAddr) -> u64 {
        self.layout.first_fd + u64::from(fd.resource()) * self.layout.fd_size
    }

    fn without_descriptor(&self, file: SystemFile) -> Undo {
        self.damage(
            self.descriptor(file.fd()),
            &vec![0; self.layout.fd_size as usize],
        )
    }

    /// Rescues the volume; the exit code, and the record of each path.
    fn rescue(&self, name: &str) -> Rescued {
        let to = self.folder.path().join(name);
        rescue(&self.devices, to)
    }
}

/// Bytes that were overwritten; dropped, they are back.
struct Undo {
    file: File,
    at: u64,
    before: Vec<u8>,
}

impl Drop for Undo {
    fn drop(&mut self) {
        self.file
            .write_all_at(&self.before, self.at)
            .expect("write");
    }
}

struct Rescued {
    to: PathBuf,
    code: Option<i32>,
    records: BTreeMap<String, Value>,
    summary: Value,
}

fn rescue(devices: &[PathBuf], to: PathBuf) -> Rescued {
    let names: Vec<_> = devices
        .iter()
        .map(|device| device.display().to_string())
        .collect();
    let output = Command::new(env!("CARGO_BIN_EXE_vmfs"))
        .args(["cp", "--rescue", "--json"])
        .arg(names.join(","))
        .arg(&to)
        .output()
        .expect("the tool starts");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let mut records = BTreeMap::new();
    let mut summary = Value::Null;
    for line in text.lines() {
        let record: Value = serde_json::from_str(line).expect("a record");
        match record["path"].as_str() {
            Some(path) => {
                records.insert(path.to_owned(), record.clone());
            }
            None => summary = record["summary"].clone(),
        }
    }
    assert!(
        !summary.is_null(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Rescued {
        to,
        code: output.status.code(),
        records,
        summary,
    }
}

impl Rescued {
    fn status(&self, path: &str) -> &str {
        self.records
            .get(path)
            .map_or("none", |record| record["status"].as_str().expect("text"))
    }

    /// Compares each file of the manifest that is called exact, also as an orphan, with what was put into
    /// it; returns how many there are of each status.
    fn check(&self, victim: &Victim) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for known in &victim.manifest {
            let What::File(content) = &known.what else {
                continue;
            };
            let raw = format!("{:#010x}", known.fd.raw());
            let record = self.records.values().find(|record| record["fd"] == raw);
            let status = record.map_or("none", |record| record["status"].as_str().expect("text"));
            *counts.entry(status.to_owned()).or_default() += 1;
            if let Some(record) = record.filter(|_| status == "exact") {
                let path = record["path"].as_str().expect("a path");
                let copy = self.to.join(path.trim_start_matches('/'));
                same(&copy, content, victim.layout.file_block_size());
            }
        }
        let _ = fs::remove_dir_all(&self.to);
        counts
    }
}

fn same(copy: &Path, content: &Content, block: u64) {
    let file = File::open(copy).unwrap_or_else(|error| panic!("{}: {error}", copy.display()));
    let length = file.metadata().expect("metadata").len();
    assert_eq!(length, content.length(), "{}", copy.display());
    let mut starts = vec![0, length / 2, length.saturating_sub(4096)];
    if let Content::Blocks(blocks) = content {
        starts.extend(blocks.data.iter().map(|(at, _)| at.saturating_sub(block)));
    }
    for start in starts {
        let end = (start + (24 << 20)).min(length);
        let mut found = vec![0; (end - start) as usize];
        file.read_exact_at(&mut found, start).expect("read");
        let expected = content.expected(start..end, block);
        assert!(found == expected, "{} from {start:#x}", copy.display());
    }
}

/// Asserts that every file is exact, wherever its name led.
fn all_exact(victim: &Victim, name: &str, code: i32) {
    let rescued = victim.rescue(name);
    let bad: Vec<_> = rescued
        .records
        .values()
        .filter(|record| !matches!(record["status"].as_str(), Some("exact" | "left-out")))
        .collect();
    assert!(bad.is_empty(), "{name}: {bad:?} {}", rescued.summary);
    assert_eq!(rescued.code, Some(code), "{name}: {}", rescued.summary);
    let counts = rescued.check(victim);
    assert_eq!(
        counts.keys().collect::<Vec<_>>(),
        ["exact"],
        "{name}: {counts:?}"
    );
}

fn every_loss(kind: Kind) {
    let victim = Victim::new(kind);
    let zeros = |length: u64| vec![0; length as usize];
    all_exact(&victim, "intact", 0);
    {
        let _undo = victim.damage(0x20_0000, &zeros(4096));
        all_exact(&victim, "no-descriptor", 0);
    }
    {
        let _undo = victim.damage_device(0, 0x10_0000, &zeros(512));
        all_exact(&victim, "no-device-header", 0);
    }
    {
        let volume = victim.damage(0x20_0000, &zeros(4096));
        let device = victim.damage_device(0, 0x10_0000, &zeros(1 << 20));
        all_exact(&victim, "neither", 0);
        drop((device, volume));
    }
    {
        let _undo = victim.damage(
            victim.descriptor(FdAddr::ROOT),
            &zeros(victim.layout.fd_size),
        );
        all_exact(&victim, "no-root", 1);
    }
    for file in [
        SystemFile::FileDescriptors,
        SystemFile::SubBlocks,
        SystemFile::PointerBlocks,
        SystemFile::PointerBlocks2,
    ] {
        let _undo = victim.without_descriptor(file);
        let rescued = victim.rescue("one");
        let counts = rescued.check(&victim);
        // What lies behind the last cluster that names itself can only be guessed.
        assert!(!counts.contains_key("none"), "{} {counts:?}", file.name());
        assert!(
            !counts.contains_key("incomplete"),
            "{} {counts:?}",
            file.name()
        );
    }
    {
        let last = match victim.layout.family {
            Family::Vmfs3 => SystemFile::VolumeHeader,
            Family::Vmfs5 => SystemFile::SystemData,
            Family::Vmfs6 => SystemFile::Unmap,
        };
        let system = last.fd().resource() + 1;
        let length = u64::from(system) * victim.layout.fd_size;
        let _volume = victim.damage(0x20_0000, &zeros(4096));
        let _files = victim.damage(victim.layout.first_fd, &zeros(length));
        let rescued = victim.rescue("no-system-files");
        let counts = rescued.check(&victim);
        assert!(
            !counts.contains_key("none"),
            "{counts:?} {}",
            rescued.summary
        );
        assert!(counts["exact"] > 4, "{counts:?} {}", rescued.summary);
    }
}

#[test]
fn vmfs6_without_one_or_more_of_its_structures() {
    every_loss(Kind::Small6);
}

#[test]
fn vmfs5_without_one_or_more_of_its_structures() {
    every_loss(Kind::Small5);
}

#[test]
fn vmfs3_without_one_or_more_of_its_structures() {
    every_loss(Kind::Vmfs3);
}

#[test]
fn zeros_over_random_structures_are_never_called_exact() {
    for kind in [Kind::Small6, Kind::Small5] {
        let victim = Victim::new(kind);
        let places = structures(&victim);
        for seed in 0..3 {
            let mut random = Random::new(seed);
            let undo: Vec<_> = (0..8)
                .map(|_| {
                    let (at, length) = *random.one_of(&places);
                    let sector = at + random.below(length / 512) * 512;
                    victim.damage(sector, &[0; 512])
                })
                .collect();
            let rescued = victim.rescue("random");
            let counts = rescued.check(&victim);
            assert!(counts["exact"] > 100, "{kind:?} {seed}: {counts:?}");
            drop(undo);
        }
    }
}

/// Places of metadata, and their lengths.
fn structures(victim: &Victim) -> Vec<(u64, u64)> {
    let volume = open_paths(&victim.devices, Access::ReadOnly).expect("volume");
    let fs = FileSystem::open(volume).expect("file system");
    let store = fs.store();
    let mut places = vec![(0x20_0000, 512)];
    for file in store.resources().iter() {
        for cluster in 0..file.header().clusters().min(4) {
            let (_, place) = file.cluster(store.reader(), cluster).expect("cluster");
            places.push((place.0, fs.layout().cluster_header_size()));
        }
    }
    for known in &victim.manifest {
        let place = store.place_of(known.fd).expect("place");
        places.push((place.0, fs.layout().fd_size));
    }
    places
}

#[test]
fn a_missing_device_costs_what_was_on_it() {
    let victim = Victim::new(Kind::Span);
    let only_first = rescue(&victim.devices[..1], victim.folder.path().join("first"));
    assert_eq!(only_first.code, Some(1), "{}", only_first.summary);
    let counts = only_first.check(&victim);
    assert!(
        counts["exact"] > 100 && counts["incomplete"] > 0,
        "{counts:?}"
    );
    // All are there, but nothing says in which order.
    let _undo: Vec<_> = (0..3)
        .map(|device| victim.damage_device(device, 0x10_0000, &[0; 512]))
        .collect();
    let devices = [&victim.devices[2], &victim.devices[0], &victim.devices[1]].map(Clone::clone);
    let shuffled = rescue(&devices, victim.folder.path().join("shuffled"));
    assert_eq!(shuffled.code, Some(0), "{}", shuffled.summary);
    shuffled.check(&victim);
}

#[test]
fn what_is_there_is_never_replaced() {
    let victim = Victim::new(Kind::Small6);
    let to = victim.folder.path().join("to");
    fs::create_dir_all(to.join("files")).expect("folder");
    fs::write(to.join("files/block"), b"mine").expect("write");
    let first = victim.rescue("to");
    assert_eq!(first.code, Some(1));
    assert_eq!(first.status("/files/block"), "failed");
    assert_eq!(first.status("/files/blocks"), "exact");
    assert_eq!(fs::read(to.join("files/block")).expect("read"), b"mine");
    fs::remove_file(to.join("files/block")).expect("remove");
    let output = Command::new(env!("CARGO_BIN_EXE_vmfs"))
        .args(["cp", "--rescue", "--resume"])
        .arg(&victim.devices[0])
        .arg(&to)
        .output()
        .expect("the tool starts");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(
        fs::metadata(to.join("files/block"))
            .expect("there now")
            .len(),
        1 << 20
    );
}

#[test]
fn esxi_volumes_that_can_t_be_mounted() {
    for name in ["vmfs5", "vmfs6"] {
        let Some(devices) = vmfs_tests::images::esxi_volume(name) else {
            return;
        };
        let folder = folder();
        let image = folder.path().join("copy.img");
        let status = Command::new("cp")
            .arg("--sparse=always")
            .arg(&devices[0])
            .arg(&image)
            .status();
        assert!(status.expect("cp runs").success());
        let fs = vmfs_tests::walk::open(&devices);
        let originals = vmfs_tests::walk::all_files(&fs);
        let file = File::options().write(true).open(&image).expect("image");
        // The device header, the file system descriptor, the root directory's and .fdc.sf's descriptors.
        let volume_starts = 0x110_0000;
        let (first, size) = (fs.layout().first_fd, fs.layout().fd_size);
        file.write_all_at(&[0; 512], 0x10_0000).expect("write");
        file.write_all_at(&[0; 512], volume_starts + 0x20_0000)
            .expect("write");
        for number in [0, 2] {
            let at = volume_starts + first + number * size;
            file.write_all_at(&vec![0; size as usize], at)
                .expect("write");
        }
        let to = folder.path().join("out");
        let rescued = rescue(&[image], to.clone());
        let mut compared = 0;
        for (path, inode) in originals {
            if inode.kind() != vmfs_core::format::FileKind::Regular {
                continue;
            }
            let raw = format!("{:#010x}", inode.fd().raw());
            let record = rescued.records.values().find(|record| record["fd"] == raw);
            let record = record.unwrap_or_else(|| panic!("{name}{path} isn't there"));
            assert_eq!(record["status"], "exact", "{name}{path}: {record}");
            let copy = to.join(
                record["path"]
                    .as_str()
                    .expect("path")
                    .trim_start_matches('/'),
            );
            let copy = File::open(copy).expect("a copy");
            let length = inode.length();
            assert_eq!(copy.metadata().expect("metadata").len(), length, "{path}");
            for at in [0, length / 2, length.saturating_sub(1 << 20)] {
                let mut theirs = vec![0; (length - at).min(1 << 20) as usize];
                let mut ours = theirs.clone();
                fs.read(&inode, at, &mut theirs).expect("read");
                copy.read_exact_at(&mut ours, at).expect("read");
                assert!(ours == theirs, "{name}{path} from {at:#x}");
            }
            compared += 1;
        }
        assert!(compared > 100, "{name}: {compared}");
    }
}
