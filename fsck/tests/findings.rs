//! Damage that was done on purpose is found, and nothing else is.

use std::collections::BTreeSet;
use std::process::Command;

use fsck_vmfs::{Code, check};
use vmfs_core::format::{FdAddr, ResourceKind};
use vmfs_core::fs::FileSystem;
use vmfs_core::lvm::open_paths;
use vmfs_core::scsi::Access;
use vmfs_fixtures::{Fixture, Kind};

const KINDS: [Kind; 3] = [Kind::Small6, Kind::Small5, Kind::Vmfs3];

fn open(fixture: &Fixture) -> FileSystem {
    let volume = open_paths(&fixture.paths(), Access::ReadOnly).expect("volume");
    FileSystem::open(volume).expect("file system")
}

/// The kinds of finding on the volume.
fn codes(fixture: &Fixture) -> BTreeSet<Code> {
    let report = check(&open(fixture), &mut |_| {});
    assert_eq!(report.totals.is_empty(), report.is_clean());
    report.totals.into_keys().collect()
}

/// Builds a volume of each kind, damages it, and compares what is found.
fn finds(damage: impl Fn(&Fixture, &FileSystem), expected: &[Code]) {
    for kind in KINDS {
        let fixture = kind.build().expect("fixture");
        assert_eq!(codes(&fixture), BTreeSet::new(), "{kind:?} as it was made");
        damage(&fixture, &open(&fixture));
        let expected: BTreeSet<_> = expected.iter().copied().collect();
        assert_eq!(codes(&fixture), expected, "{kind:?}");
    }
}

/// A regular file that has a file block in its address array.
fn file_with_blocks(fs: &FileSystem, fixture: &Fixture) -> FdAddr {
    let mut found = None;
    for known in fixture.manifest() {
        let inode = fs.resolve(known.path.as_bytes(), false).expect("a file");
        let level = inode.map().zero_level();
        let blocks = level == vmfs_core::format::ZeroLevel::FileBlock;
        if blocks && !inode.is_directory() && inode.map().addresses().first() != Some(&0) {
            found = Some(inode.fd());
        }
    }
    found.expect("a file of file blocks")
}

/// Volume offset of a field of a file descriptor's metadata.
fn field(fs: &FileSystem, fd: FdAddr, offset: u64) -> u64 {
    fs.inode(fd).expect("inode").offset().0 + fs.layout().fd_meta + offset
}

#[test]
fn a_wrong_link_count_is_found() {
    finds(
        |fixture, fs| {
            let fd = file_with_blocks(fs, fixture);
            fixture
                .write(field(fs, fd, 0x08), &[77, 0, 0, 0])
                .expect("write");
        },
        &[Code::LinkCountWrong],
    );
}

#[test]
fn a_wrong_block_count_is_found() {
    finds(
        |fixture, fs| {
            let fd = file_with_blocks(fs, fixture);
            fixture
                .write(field(fs, fd, 0x24), &[99, 0, 0, 0, 0, 0, 0, 0])
                .expect("write");
        },
        &[Code::BlockCountWrong],
    );
}

#[test]
fn a_file_descriptor_that_the_bitmap_calls_free_is_found() {
    finds(
        |fixture, fs| {
            let fd = file_with_blocks(fs, fixture);
            let store = fs.store();
            let file = &store.resources().file_descriptors;
            let (_, place) = file
                .cluster(store.reader(), fd.cluster().into())
                .expect("its cluster");
            let bitmap = if fs.layout().md_block == 512 {
                16
            } else {
                0x80
            };
            let at = place.0 + fs.layout().md_block + bitmap + u64::from(fd.resource() / 8);
            let byte = fixture.read(at, 1).expect("read")[0];
            fixture
                .write(at, &[byte | 1 << (fd.resource() % 8)])
                .expect("write");
        },
        // What a free descriptor refers to is referred to by nothing.
        &[
            Code::FreeCountWrong,
            Code::ReferencedButFree,
            Code::EntryDangling,
            Code::Unreferenced,
        ],
    );
}

#[test]
fn a_block_that_two_files_have_is_found() {
    finds(
        |fixture, fs| {
            let fd = file_with_blocks(fs, fixture);
            let inode = fs.inode(fd).expect("inode");
            let layout = fs.layout();
            // The first block of the first descriptor cluster's file is also a block of ours.
            let fdc = fs.resolve(b"/.fdc.sf", false).expect(".fdc.sf");
            let theirs = fdc.map().addresses()[0];
            let at = inode.offset().0 + layout.fd_addresses;
            let bytes = theirs.to_le_bytes();
            fixture
                .write(at, &bytes[..layout.address_size as usize])
                .expect("write");
        },
        &[Code::Duplicate, Code::Unreferenced],
    );
}

#[test]
fn a_reference_to_nowhere_is_found() {
    finds(
        |fixture, fs| {
            let fd = file_with_blocks(fs, fixture);
            let layout = fs.layout();
            let beyond = vmfs_core::format::BlockAddr::FileBlock {
                block: 40_000_000,
                tbz: 0,
                cow: false,
            };
            let at = fs.inode(fd).expect("inode").offset().0 + layout.fd_addresses;
            let bytes = beyond.encode(layout).to_le_bytes();
            fixture
                .write(at, &bytes[..layout.address_size as usize])
                .expect("write");
        },
        &[Code::OutOfRange, Code::Unreferenced],
    );
}

#[test]
fn a_cluster_header_that_is_none_is_found() {
    finds(
        |fixture, fs| {
            let store = fs.store();
            let sub_blocks = store
                .resources()
                .sources
                .sub_blocks
                .as_ref()
                .expect(".sbc.sf");
            assert_eq!(sub_blocks.kind(), ResourceKind::SubBlock);
            let last = sub_blocks.header().clusters() - 1;
            let (_, place) = sub_blocks.cluster(store.reader(), last).expect("a cluster");
            let size = fs.layout().cluster_header_size() as usize;
            fixture.write(place.0, &vec![0xff; size]).expect("write");
        },
        &[Code::ClusterUnreadable],
    );
}

#[test]
fn the_program_tells_by_its_exit_code() {
    let folder = std::env::temp_dir();
    let run = |args: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_fsck-vmfs"))
            .args(args)
            .output();
        output.expect("the program starts").status.code()
    };
    assert_eq!(run(&["-n", "/nonexistent.img"]), Some(8));
    assert_eq!(run(&["-n"]), Some(16));
    assert_eq!(
        run(&[&folder.display().to_string()]),
        Some(16),
        "without -n"
    );
    assert_eq!(run(&["--help"]), Some(0));
}
