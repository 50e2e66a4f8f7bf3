//! Resource files grow when nothing in them is free: more files than mkfs made descriptors for,
//! more small files than sub-blocks.

mod common;

use std::sync::Arc;

use common::{Host, fsck, mount, volume_of};
use mkfs_vmfs::Options;
use vmfs_core::format::{Family, FdAddr, SystemFile, ZeroLevel};
use vmfs_core::fs::{Creator, FileSystem, FsError};
use vmfs_core::lvm::open_luns;
use vmfs_core::scsi::{Lun, MemoryLun};

const CREATOR: Creator = Creator {
    mode: 0o644,
    uid: 0,
    gid: 0,
};

/// A volume with few file descriptors.
fn small(family: Family, descriptors: u64, size: u64) -> Arc<MemoryLun> {
    let mut options = Options::new(family, &[size]);
    options.file_descriptors = Some(descriptors);
    volume_of(options)
}

/// Makes files `from..to`, 1000 in a directory, each with `length` bytes that tell its number.
fn make(fs: &FileSystem, from: usize, to: usize, length: usize) -> Result<(), FsError> {
    for number in from..to {
        let name = format!("d{}", number / 1000);
        let directory = match fs.resolve(format!("/{name}").as_bytes(), true) {
            Ok(found) => found.fd(),
            Err(_) => fs
                .make_directory(FdAddr::ROOT, name.as_bytes(), CREATOR)?
                .fd(),
        };
        let file = fs.create(directory, format!("f{number}").as_bytes(), CREATOR)?;
        if length > 0 {
            fs.write(file.fd(), 0, &content(number, length))?;
        }
    }
    Ok(())
}

fn content(number: usize, length: usize) -> Vec<u8> {
    let word = (number as u32).to_le_bytes();
    word.iter().copied().cycle().take(length).collect()
}

fn compare(fs: &FileSystem, files: usize, length: usize) {
    for number in 0..files {
        let path = format!("/d{}/f{number}", number / 1000);
        let file = fs.resolve(path.as_bytes(), true).expect(&path);
        let mut bytes = vec![0; length + 1];
        let read = fs.read(&file, 0, &mut bytes).expect("read");
        assert_eq!(bytes[..read], content(number, length), "{path}");
    }
}

fn open(lun: &Arc<MemoryLun>) -> FileSystem {
    let volume = open_luns(vec![Arc::clone(lun) as Arc<dyn Lun>]).expect("volume");
    FileSystem::open(volume).expect("open")
}

fn level(fs: &FileSystem, file: SystemFile) -> ZeroLevel {
    fs.inode(file.fd())
        .expect("a descriptor")
        .map()
        .zero_level()
}

#[test]
fn there_are_more_files_than_mkfs_made_descriptors_for() {
    for (family, made) in [(Family::Vmfs5, 300), (Family::Vmfs6, 2048)] {
        let lun = small(family, made, 2 << 30);
        let fs = mount(&lun, &Host::new(1));
        assert_eq!(fs.space().file_descriptors, made, "{family}");
        let reader = open(&lun);
        make(&fs, 0, 5000, 0).expect("make");
        let space = fs.space();
        assert!(space.file_descriptors > 5000, "{family}: {space:?}");
        let used = space.file_descriptors - space.free_file_descriptors;
        fs.sync().expect("sync");
        // One that was there before, and sees it all once it looks again.
        reader.forget();
        compare(&reader, 5000, 0);
        // The host dies here.
        drop(fs);
        let fs = mount(&lun, &Host::new(2));
        let space = fs.space();
        assert_eq!(
            space.file_descriptors - space.free_file_descriptors,
            used,
            "{family}"
        );
        compare(&fs, 5000, 0);
        fs.close().expect("close");
        fsck(&lun);
    }
}

#[test]
fn descriptors_go_on_behind_what_their_files_descriptor_can_map() {
    let lun = small(Family::Vmfs6, 38_912, 2 << 30);
    let fs = mount(&lun, &Host::new(1));
    assert_eq!(
        level(&fs, SystemFile::FileDescriptors),
        ZeroLevel::FileBlock
    );
    make(&fs, 0, 41_500, 0).expect("make");
    assert_eq!(
        level(&fs, SystemFile::FileDescriptors),
        ZeroLevel::PointerBlock2
    );
    fs.close().expect("close");
    fsck(&lun);
    compare(&open(&lun), 41_500, 0);
}

#[test]
fn on_vmfs5_descriptors_end_where_their_files_descriptor_does() {
    // 256 blocks of 512 KiB.
    let mut options = Options::new(Family::Vmfs5, &[2 << 30]);
    options.file_block_size = 512 << 10;
    options.file_descriptors = Some(64_000);
    let lun = volume_of(options);
    let fs = mount(&lun, &Host::new(1));
    let error = make(&fs, 0, 70_000, 0).expect_err("more than VMware's limit");
    assert_eq!(error.errno(), rustix::io::Errno::NOSPC, "{error}");
    let space = fs.space();
    assert_eq!(space.free_file_descriptors, 0, "{space:?}");
    assert_eq!(space.file_descriptors, 65_200);
    fs.unlink(fs.resolve(b"/d3", true).expect("d3").fd(), b"f3000")
        .expect("unlink");
    fs.create(FdAddr::ROOT, b"last", CREATOR).expect("the one");
    fs.close().expect("close");
    fsck(&lun);
}

#[test]
fn small_files_get_more_sub_blocks_and_file_blocks_when_there_can_be_none() {
    // 8192 sub-blocks, room for one group more, and file blocks for the rest.
    const FILES: usize = 10_230;
    let lun = volume_of(Options::new(Family::Vmfs6, &[1700 << 20]));
    let fs = mount(&lun, &Host::new(1));
    let fill = fs.create(FdAddr::ROOT, b"fill", CREATOR).expect("fill");
    let free = fs.space().free_blocks - 229;
    let how = vmfs_core::fs::Allocate::Reserve;
    fs.allocate(fill.fd(), 0, free << 20, how, true)
        .expect("fill");
    make(&fs, 0, FILES, 4000).expect("make");
    let file = |number: usize| {
        let path = format!("/d{}/f{number}", number / 1000);
        fs.resolve(path.as_bytes(), true).expect("file")
    };
    let level = |number| file(number).map().zero_level();
    assert_eq!(level(10_000), ZeroLevel::SubBlock);
    assert_eq!(level(FILES - 1), ZeroLevel::FileBlock);
    // A directory, and one that grows, need them too.
    let directory = fs.make_directory(FdAddr::ROOT, b"late", CREATOR);
    let directory = directory.expect("a directory").fd();
    for number in 0..1000 {
        let name = format!("{number:-<120}");
        fs.create(directory, name.as_bytes(), CREATOR)
            .expect("name");
    }
    compare(&fs, FILES, 4000);
    fs.close().expect("close");
    fsck(&lun);
    compare(&open(&lun), FILES, 4000);
}

#[test]
fn on_a_full_volume_there_are_no_more_files() {
    for (family, made) in [(Family::Vmfs5, 300), (Family::Vmfs6, 2048)] {
        let lun = small(family, made, 2 << 30);
        let fs = mount(&lun, &Host::new(1));
        let fill = fs.create(FdAddr::ROOT, b"fill", CREATOR).expect("fill");
        let free = fs.space().free_blocks - 3;
        let how = vmfs_core::fs::Allocate::Reserve;
        fs.allocate(fill.fd(), 0, free << 20, how, true)
            .expect("fill");
        let error = make(&fs, 0, 9000, 0).expect_err("no block is left");
        assert_eq!(error.errno(), rustix::io::Errno::NOSPC, "{family}: {error}");
        fs.unlink(FdAddr::ROOT, b"fill").expect("unlink");
        make(&fs, 9000, 18_000, 0).expect("there is room again");
        fs.close().expect("close");
        fsck(&lun);
    }
}

#[test]
fn threads_make_files_while_descriptors_grow() {
    for (family, made) in [(Family::Vmfs5, 300), (Family::Vmfs6, 2048)] {
        let lun = small(family, made, 2 << 30);
        let fs = mount(&lun, &Host::new(1));
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let fs = &fs;
                scope.spawn(move || make(fs, thread * 2000, thread * 2000 + 2000, 5000));
            }
        });
        compare(&fs, 8000, 5000);
        fs.close().expect("close");
        fsck(&lun);
    }
}
