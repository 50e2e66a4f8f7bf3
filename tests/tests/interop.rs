//! Every file reads as dissect.vmfs reads it, on ESXi's volumes and on made ones.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use vmfs_core::format::FileKind;
use vmfs_core::fs::{FileSystem, Inode, Place};
use vmfs_core::lvm::open_paths;
use vmfs_core::scsi::Access;
use vmfs_fixtures::Kind;
use vmfs_tests::images::esxi_volume;
use vmfs_tests::oracle::{DissectFile, dissect};
use vmfs_tests::random::Random;
use vmfs_tests::walk::{all_files, open};

/// Files up to this size are compared whole.
const WHOLE: u64 = 256 << 20;
/// Runs of one file whose borders are looked at, by chance if it has more.
const RUNS: usize = 2000;

/// Where to look into large files: the borders of runs, the middle of runs and holes, and some
/// places more.
fn interesting_offsets(fs: &FileSystem, files: &BTreeMap<String, Arc<Inode>>) -> Vec<u64> {
    let mut offsets = vec![0];
    let mut random = Random::new(1);
    for (path, inode) in files {
        if inode.length() <= WHOLE || inode.kind() == FileKind::Rdm {
            continue;
        }
        let (mut at, mut runs) = (0, Vec::new());
        while at < inode.length() {
            let run = fs.run_at(inode, at, u64::MAX).expect("run");
            at = run.end();
            runs.push(run);
        }
        if runs.len() > RUNS {
            println!("{path}: {RUNS} of {} runs are looked at", runs.len());
            runs = (0..RUNS).map(|_| *random.one_of(&runs)).collect();
        }
        for run in runs {
            let borders = [run.offset, run.end()];
            offsets.extend(borders.map(|border| border.saturating_sub(32 << 10)));
            offsets.push(run.offset + run.length / 2);
        }
        offsets.extend((0..50).map(|_| random.below(inode.length())));
        offsets.push(inode.length() - 1);
    }
    offsets.sort_unstable();
    offsets.dedup();
    offsets
}

/// Where `offset` of a file lies, the way dissect.vmfs tells it.
fn place_of(fs: &FileSystem, inode: &Inode, offset: u64) -> (u64, bool) {
    let run = fs.run_at(inode, offset, offset + 1).expect("run");
    match run.place {
        Place::Data(place) => (place.0, false),
        Place::ToBeZeroed(place) => (place.0, true),
        Place::Hole => (0, true),
    }
}

/// Compares one file; returns the bytes that were compared.
fn compare(fs: &FileSystem, inode: &Inode, theirs: &DissectFile) -> u64 {
    let (path, meta) = (&theirs.path, inode.meta());
    assert_eq!(inode.fd().raw(), theirs.fd, "{path}");
    assert_eq!(inode.kind() as u32, theirs.kind, "{path}");
    assert_eq!(inode.length(), theirs.length, "{path}");
    assert_eq!(inode.mode() & 0o7777, theirs.mode, "{path}");
    assert_eq!(meta.links.get(), theirs.links, "{path}");
    assert_eq!(
        (meta.uid.get(), meta.gid.get()),
        (theirs.uid, theirs.gid),
        "{path}"
    );
    let times = [meta.mtime, meta.ctime, meta.atime].map(zerocopy::little_endian::U32::get);
    assert_eq!(times, theirs.times, "{path}");
    let target = (inode.kind() == FileKind::Symlink).then(|| fs.read_link(inode).expect("link"));
    assert_eq!(
        target.as_deref(),
        theirs.target.as_ref().map(String::as_bytes),
        "{path}"
    );
    let mut compared = 0;
    for &(offset, length, crc, place, marked) in &theirs.pieces {
        let ours = place_of(fs, inode, offset);
        assert_eq!(ours, (place, marked), "{path}: place of {offset:#x}");
        let mut ours = vec![0; length as usize];
        assert_eq!(
            fs.read(inode, offset, &mut ours).expect("read") as u64,
            length,
            "{path}"
        );
        assert_eq!(
            crc32fast::hash(&ours),
            crc,
            "{path} from {offset:#x} on, {length} bytes"
        );
        compared += length;
    }
    if theirs.error.is_none() && inode.length() <= WHOLE && inode.kind() != FileKind::Rdm {
        assert_eq!(compared, inode.length(), "{path}: all of it was compared");
    }
    compared
}

/// Compares a volume; returns how many files dissect.vmfs can't read.
fn compare_volume(name: &str, devices: &[PathBuf]) -> usize {
    let fs = open(devices);
    let ours = all_files(&fs);
    let theirs = dissect(devices, WHOLE, &interesting_offsets(&fs, &ours));
    assert_eq!(theirs.len(), ours.len(), "{name}: as many files");
    let (mut bytes, mut unread) = (0, 0);
    for file in &theirs {
        let inode = ours
            .get(&file.path)
            .unwrap_or_else(|| panic!("{name}: {}", file.path));
        bytes += compare(&fs, inode, file);
        if let Some(error) = &file.error {
            println!("{name}: dissect.vmfs can't read {}: {error}", file.path);
            unread += 1;
        }
    }
    println!("{name}: {} files, {bytes} bytes compared", theirs.len());
    assert!(theirs.len() > 6, "{name}: at least the system files");
    unread
}

#[test]
fn esxi_volumes_read_as_dissect_reads_them() {
    for name in ["vmfs5", "vmfs6", "vmfs5-span", "vmfs6-span"] {
        if let Some(devices) = esxi_volume(name) {
            assert_eq!(compare_volume(name, &devices), 0);
        }
    }
}

fn compare_kinds(kinds: &[Kind]) {
    for kind in kinds {
        let fixture = kind.build().expect("fixture");
        let unread = compare_volume(&format!("{kind:?}"), &fixture.paths());
        assert_eq!(unread, 0, "{kind:?}");
    }
}

#[test]
fn made_volumes_of_vmfs6_read_as_dissect_reads_them() {
    compare_kinds(&[
        Kind::Demo,
        Kind::Vmfs6,
        Kind::Small6,
        Kind::VmfsL,
        Kind::Raw,
        Kind::Span,
    ]);
}

#[test]
fn made_volumes_of_vmfs5_read_as_dissect_reads_them() {
    compare_kinds(&[Kind::Vmfs5, Kind::Small5, Kind::Upgraded, Kind::Lvm4]);
}

/// Of VMFS3 dissect.vmfs reads what fits into one block (docs/READERS.md).
#[test]
fn a_made_volume_of_vmfs3_reads_as_dissect_reads_it() {
    let fixture = Kind::Vmfs3.build().expect("fixture");
    let unread = compare_volume("VMFS3", &fixture.paths());
    assert!(unread < 20, "{unread} files not compared");
}

#[test]
fn directories_of_100000_names_read_as_dissect_reads_them() {
    compare_kinds(&[Kind::HugeDir5, Kind::HugeDir6, Kind::WideMap]);
}

#[test]
fn volumes_of_64_tib_read_as_dissect_reads_them() {
    compare_kinds(&[Kind::Big5, Kind::Big6]);
}

#[test]
fn a_check_of_esxi_volumes_finds_nothing_wrong() {
    for name in ["vmfs5", "vmfs6", "vmfs5-span", "vmfs6-span"] {
        let Some(devices) = esxi_volume(name) else {
            continue;
        };
        let report = fsck_vmfs::check(&open(&devices), &mut |_| {});
        assert!(report.is_clean(), "{name}: {:?}", report.findings);
        assert!(
            report.descriptors >= 8 && report.addresses > 100,
            "{name}: {report:?}"
        );
        for count in &report.resources {
            println!(
                "{name}: {} {} compared, {} used",
                count.kind, count.compared, count.used
            );
        }
    }
}

#[test]
fn a_volume_of_64_tib_with_262143_extents_opens_and_reads() {
    let fixture = Kind::Big5.build().expect("fixture");
    let start = std::time::Instant::now();
    let volume = open_paths(&fixture.paths(), Access::ReadOnly).expect("volume");
    let device = &volume.devices()[0];
    assert_eq!(
        (device.metadata().pes.get(), device.regions()),
        (262_143, 3)
    );
    let fs = FileSystem::open(volume).expect("file system");
    println!("opened in {:?}", start.elapsed());
    let root = fs.root().expect("root");
    let mut largest = None;
    fs.read_dir(&root, 0, |entry| {
        let inode = fs.inode(entry.fd).expect("inode");
        if inode.length() > 30 << 40 {
            largest = Some(inode);
        }
        true
    })
    .expect("list");
    let file = largest.expect("the 40 TiB file");
    let mut random = Random::new(3);
    let mut buf = [0; 4096];
    for _ in 0..20_000 {
        let offset = random.below(file.length() - 4096);
        fs.read(&file, offset, &mut buf).expect("read");
    }
    let last = fs
        .run_at(&file, file.length() - 1, u64::MAX)
        .expect("last run");
    assert!(matches!(last.place, Place::Data(_)), "{last:?}");
    let status = std::fs::read_to_string("/proc/self/status").expect("status");
    println!(
        "{}",
        status
            .lines()
            .find(|line| line.starts_with("VmRSS"))
            .unwrap_or_default()
    );
}
