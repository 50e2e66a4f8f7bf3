//! Directories made by adding the names of ESXi's, in the order in which they stand there, come
//! out as ESXi's byte for byte, but for what tells which files they name.

use std::ops::Range;
use std::sync::Arc;

use vmfs_core::cluster::HostConfig;
use vmfs_core::format::{Family, FdAddr, FileKind, Uuid};
use vmfs_core::fs::{Creator, FileSystem, Inode};
use vmfs_core::lvm::open_luns;
use vmfs_core::scsi::{DeviceOffset, Lun, MemoryLun};
use vmfs_fixtures::mkfs_vmfs::{Options, Plan, Step};
use vmfs_tests::images::esxi_volume;
use vmfs_tests::walk::{open, walk};

/// A fresh volume in memory, mounted.
fn fresh(family: Family) -> FileSystem {
    let mut options = Options::new(family, &[2 << 30]);
    options.time_us = 1_700_000_000_000_000;
    let plan = Plan::new(options).expect("plan");
    let lun = MemoryLun::new("fresh", 2 << 30);
    for step in plan.steps() {
        if let Step::Write { offset, bytes, .. } = step {
            lun.write(DeviceOffset(offset), &bytes).expect("write");
        }
    }
    let volume = open_luns(vec![Arc::new(lun) as Arc<dyn Lun>]).expect("volume");
    let host = HostConfig::new(Uuid::default(), "host");
    FileSystem::open_for_writing(volume, host).expect("mount")
}

fn content(fs: &FileSystem, directory: &Inode) -> Vec<u8> {
    let mut bytes = vec![0; directory.length() as usize];
    let read = fs.read(directory, 0, &mut bytes).expect("read");
    assert_eq!(read, bytes.len());
    bytes
}

/// Where the entries stand in a directory's bytes, `.` and `..` first.
fn entries(family: Family, bytes: &[u8]) -> Vec<Range<usize>> {
    if family == Family::Vmfs5 {
        return (0..bytes.len() / 140)
            .map(|n| n * 140..(n + 1) * 140)
            .collect();
    }
    let mut found = vec![0x3b8..0x4d8, 0x4d8..0x5f8];
    for start in (0x1_0000..bytes.len()).step_by(4096) {
        let block = &bytes[start..start + 4096];
        if block[2] == 1 {
            let used = (0..14).filter(|slot| block[8 + slot / 8] >> (slot % 8) & 1 == 0);
            found.extend(
                used.map(|slot| start + 64 + slot * 288)
                    .map(|at| at..at + 288),
            );
        }
    }
    found
}

fn name_of(family: Family, entry: &[u8]) -> Vec<u8> {
    let name = &entry[if family == Family::Vmfs5 { 12 } else { 24 }..];
    name.iter().copied().take_while(|&byte| byte != 0).collect()
}

/// Kind, file descriptor address and generation are the file's, not the directory's.
fn without_files(family: Family, bytes: &[u8]) -> Vec<u8> {
    let mut masked = bytes.to_vec();
    for entry in entries(family, bytes) {
        masked[entry][..12].fill(0);
    }
    masked
}

/// Rebuilds a directory with `names`, which come in the order of their slots.
fn rebuild(family: Family, in_root: bool, names: &[Vec<u8>]) -> Vec<u8> {
    let fs = fresh(family);
    let creator = Creator {
        mode: 0o644,
        uid: 0,
        gid: 0,
    };
    let directory = if in_root {
        FdAddr::ROOT
    } else {
        let made = fs.make_directory(FdAddr::ROOT, b"directory", creator);
        made.expect("directory").fd()
    };
    for name in names {
        fs.create(directory, name, creator).expect("create");
    }
    let bytes = content(&fs, &fs.inode(directory).expect("directory"));
    fs.close().expect("close");
    bytes
}

#[test]
fn directories_are_filled_as_esxi_fills_them() {
    let mut most = 0;
    for image in ["vmfs5", "vmfs6", "vmfs5-span", "vmfs6-span"] {
        let Some(devices) = esxi_volume(image) else {
            continue;
        };
        let fs = open(&devices);
        let family = fs.layout().family;
        let mut directories = vec![("/".to_owned(), fs.root().expect("root"))];
        let errors = walk(&fs, usize::MAX, &mut |path, inode| {
            // The system's own came with the volume.
            if inode.kind() == FileKind::Directory {
                directories.push((path.to_owned(), Arc::clone(inode)));
            }
        });
        assert!(errors.is_empty(), "{errors:?}");
        for (path, directory) in directories {
            let in_root = directory.fd() == FdAddr::ROOT;
            let esxi = content(&fs, &directory);
            let places = entries(family, &esxi);
            // A fresh root has the names of system files.
            let is_new = |place: &&Range<usize>| !(in_root && esxi[place.start] == 5);
            let names: Vec<_> = places[2..]
                .iter()
                .filter(is_new)
                .map(|place| name_of(family, &esxi[place.clone()]))
                .collect();
            let ours = rebuild(family, in_root, &names);
            assert_eq!(ours.len(), esxi.len(), "{image} {path}");
            let (ours, esxi) = (without_files(family, &ours), without_files(family, &esxi));
            let differing = ours.iter().zip(&esxi).position(|(a, b)| a != b);
            assert_eq!(differing, None, "{image} {path}");
            most = most.max(names.len());
            println!(
                "{image} {path}: {} names, {} bytes",
                names.len(),
                esxi.len()
            );
        }
    }
    assert!(most == 0 || most >= 100, "{most}");
}
