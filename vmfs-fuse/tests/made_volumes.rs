//! What a mount shows of volumes that have what ESXi's own don't: every kind of content, huge
//! directories, damage, another host.

mod common;

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::{DirEntryExt, FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use common::{Mount, errno, open, wait_for};
use rustix::io::Errno;
use vmfs_core::format::{Family, Layout};
use vmfs_core::fs::{FileSystem, Place};
use vmfs_core::{lvm, scsi};
use vmfs_fixtures::mkfs_vmfs::Options;
use vmfs_fixtures::{Content, Fixture, FixtureBuilder, Kind, What};

/// Bytes compared at each interesting place of a file.
const WINDOW: u64 = 192 << 10;

/// The fixture's devices, as another process can open them.
fn devices(fixture: &Fixture) -> Vec<PathBuf> {
    let own = format!("/proc/{}", std::process::id());
    let paths = fixture.paths().into_iter();
    paths
        .map(|path| {
            path.strip_prefix("/proc/self")
                .map_or(path.clone(), |rest| Path::new(&own).join(rest))
        })
        .collect()
}

fn mount(fixture: &Fixture, options: &[&str]) -> Mount {
    let devices = devices(fixture);
    let devices: Vec<_> = devices.iter().map(PathBuf::as_path).collect();
    Mount::new(&devices, options)
}

fn engine(fixture: &Fixture) -> FileSystem {
    let volume = lvm::open_paths(&fixture.paths(), scsi::Access::ReadOnly).expect("volume");
    FileSystem::open(volume).expect("file system")
}

/// Compares a file around all places where its content changes.
fn compare(path: &Path, content: &Content, block_size: u64) {
    let file = open(path);
    let length = content.length();
    assert_eq!(
        file.metadata().expect("metadata").len(),
        length,
        "{}",
        path.display()
    );
    let mut places = vec![0, length];
    if let Content::Blocks(blocks) = content {
        let ends = blocks
            .data
            .iter()
            .flat_map(|(at, data)| [*at, at + data.len() as u64]);
        places.extend(ends);
        places.extend(
            blocks
                .to_be_zeroed
                .iter()
                .flat_map(|range| [range.start, range.end]),
        );
    }
    for place in places {
        let start = place.saturating_sub(WINDOW / 2);
        let expected = content.expected(start..start + WINDOW, block_size);
        let mut found = vec![0; expected.len()];
        file.read_exact_at(&mut found, start).expect("read");
        assert!(found == expected, "{} at {start:#x}", path.display());
        assert_eq!(file.read_at(&mut [0; 1], length).expect("end"), 0);
    }
}

#[test]
fn every_kind_of_content_reads_as_it_was_made() {
    for (name, kind) in Kind::ALL {
        // Huge directories have a test of their own; 40 TiB of VMFS5 take a minute to make in a
        // debug build and show nothing here that 62 TiB of VMFS6 don't.
        if matches!(
            kind,
            Kind::HugeDir5 | Kind::HugeDir6 | Kind::WideMap | Kind::Big5
        ) {
            continue;
        }
        let fixture = kind.build().expect(name);
        let block_size = fixture.plan().layout().file_block_size();
        let mount = mount(&fixture, &[]);
        assert!(!fixture.manifest().is_empty(), "{name}");
        for known in fixture.manifest() {
            let path = mount.file(known.path.trim_start_matches('/'));
            let metadata = fs::symlink_metadata(&path)
                .unwrap_or_else(|error| panic!("{name} {}: {error}", known.path));
            assert_eq!(
                metadata.ino(),
                u64::from(known.fd.raw()),
                "{name} {}",
                known.path
            );
            match &known.what {
                What::Directory => assert!(metadata.is_dir()),
                What::File(content) => compare(&path, content, block_size),
                What::Symlink(target) => {
                    assert_eq!(fs::read_link(&path).expect("link"), Path::new(target));
                }
                What::Rdm(size) => {
                    assert_eq!(metadata.len(), *size);
                    assert_eq!(errno(open(&path).read_at(&mut [0; 512], 0)), Errno::NXIO);
                }
                What::Link => assert!(metadata.nlink() > 1, "{name} {}", known.path),
            }
        }
    }
}

#[test]
fn a_huge_directory_is_listed_whole_and_its_names_found() {
    for (name, kind, count) in [
        ("6", Kind::HugeDir6, 100_000),
        ("5", Kind::HugeDir5, 100_000),
        ("wide", Kind::WideMap, 130_000),
    ] {
        let fixture = kind.build().expect(name);
        let mount = mount(&fixture, &[]);
        for _ in 0..2 {
            let mut names = HashSet::new();
            for entry in fs::read_dir(mount.file("huge")).expect("list") {
                let entry = entry.expect("entry");
                assert_ne!(entry.ino(), 0);
                assert!(
                    names.insert(entry.file_name()),
                    "{name} {:?} twice",
                    entry.file_name()
                );
            }
            let missing = (0..count)
                .find(|number| !names.contains(std::ffi::OsStr::new(&format!("file-{number}"))));
            assert_eq!(missing, None, "{name}");
        }
        for number in (0..count).step_by(997) {
            let found = fs::read_to_string(mount.file(&format!("huge/file-{number}")));
            assert_eq!(found.expect("read"), format!("file {}\n", number % 100));
        }
    }
}

#[test]
fn a_damaged_descriptor_spoils_its_file_only() {
    let fixture = Kind::Demo.build().expect("fixture");
    let victim = fixture
        .manifest()
        .iter()
        .find(|known| matches!(known.what, What::File(_)))
        .expect("a file");
    let place = engine(&fixture).inode(victim.fd).expect("inode").offset().0;
    let metadata = fixture.plan().layout().fd_meta;
    fixture
        .write(place + metadata, &[0xff; 64])
        .expect("damage");

    let folder = tempfile::tempdir().expect("folder");
    let log = folder.path().join("log");
    let mount = mount(&fixture, &["--log", log.to_str().expect("text")]);
    let path = mount.file(victim.path.trim_start_matches('/'));
    for _ in 0..3 {
        let siblings = fs::read_dir(path.parent().expect("a folder")).expect("list");
        let names: Vec<_> = siblings.map(|entry| entry.expect("entry").path()).collect();
        assert!(names.contains(&path));
        assert_eq!(errno(fs::metadata(&path)), Errno::IO);
    }
    for known in fixture.manifest() {
        let path = mount.file(known.path.trim_start_matches('/'));
        assert_eq!(fs::symlink_metadata(path).is_ok(), known.fd != victim.fd);
    }
    drop(mount);
    let said = fs::read_to_string(&log).expect("log");
    assert_eq!(said.matches("file descriptor at").count(), 1, "{said}");
}

/// A heartbeat slot that a host has, renewed at `stamp`.
fn heartbeat(layout: &Layout, stamp: u64) -> Vec<u8> {
    let mut slot = Vec::new();
    slot.extend(0xabcd_ef02_u32.to_le_bytes());
    slot.extend(layout.heartbeats.to_le_bytes());
    slot.extend(1_u64.to_le_bytes());
    slot.extend(stamp.to_le_bytes());
    slot.extend([0x5a; 16]);
    slot
}

#[test]
fn what_a_live_host_writes_is_seen() {
    let mut builder =
        FixtureBuilder::in_memory(Options::new(Family::Vmfs6, &[4 << 30])).expect("builder");
    let root = builder.root();
    let old = Content::from(vec![b'a'; 1 << 20]);
    let fd = builder.add_file(root, "file", old).expect("file");
    let fixture = builder.finish().expect("fixture");
    let layout = fixture.plan().layout().clone();
    let fs = engine(&fixture);
    let inode = fs.inode(fd).expect("inode");
    let Place::Data(place) = fs.run_at(&inode, 0, 1).expect("run").place else {
        panic!("not stored");
    };
    let mut stamp = 0;
    let mut renew = || {
        stamp += 3_000_000;
        let slot = heartbeat(&layout, stamp);
        fixture.write(layout.heartbeats, &slot).expect("heartbeat");
    };
    renew();

    let folder = tempfile::tempdir().expect("folder");
    let log = folder.path().join("log");
    let mount = mount(&fixture, &["--log", log.to_str().expect("text")]);
    let path = mount.file("file");
    assert_eq!(fs::read(&path).expect("read"), vec![b'a'; 1 << 20]);
    wait_for("the warning", || {
        renew();
        fs::read_to_string(&log)
            .expect("log")
            .contains("has the volume mounted")
    });
    fixture.write(place.0, &[b'b'; 4096]).expect("write");
    // What is cached of the descriptor has to go as well: the file gets shorter.
    let length_at = inode.offset().0 + layout.fd_meta + 20;
    fixture
        .write(length_at, &4096_u64.to_le_bytes())
        .expect("length");
    wait_for("the change", || {
        renew();
        fs::read(&path).expect("read") == vec![b'b'; 4096]
    });
}
