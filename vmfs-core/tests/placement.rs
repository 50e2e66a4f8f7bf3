//! Where blocks go: disks in long runs whatever the order of writes, large blocks for what is
//! allocated ahead.

mod common;

use std::sync::Arc;

use common::{Host, MIB, Random, fsck, mount, volume_of};
use mkfs_vmfs::Options;
use vmfs_core::format::{BlockAddr, Family, FdAddr};
use vmfs_core::fs::{Allocate, Creator, FileSystem, Inode, Place};

const GIB: u64 = 1 << 30;
const CREATOR: Creator = Creator {
    mode: 0o600,
    uid: 0,
    gid: 0,
};

/// Runs of data, those counted as one that follow each other on the volume.
fn runs(fs: &FileSystem, inode: &Inode) -> u64 {
    let (mut at, mut count, mut next) = (0, 0, None);
    while at < inode.length() {
        let run = fs.run_at(inode, at, u64::MAX).expect("run");
        if let Place::Data(place) | Place::ToBeZeroed(place) = run.place {
            count += u64::from(next != Some(place.0));
            next = Some(place.0 + run.length);
        }
        at = run.end();
    }
    count
}

fn file(fs: &FileSystem, name: &str) -> FdAddr {
    let made = fs.create(FdAddr::ROOT, name.as_bytes(), CREATOR);
    made.expect("create").fd()
}

#[test]
fn a_disk_written_in_any_order_lies_in_few_runs() {
    for family in [Family::Vmfs5, Family::Vmfs6] {
        let lun = volume_of(Options::new(family, &[40 * GIB]));
        let fs = mount(&lun, &Host::new(1));
        let disks: Vec<_> = (0..3).map(|i| file(&fs, &format!("disk{i}"))).collect();
        for &disk in &disks {
            fs.allocate(disk, 4 * GIB - 1, 1, Allocate::Zero, false)
                .expect("length");
        }
        let mut random = Random::new(1);
        let mut order: Vec<u64> = (0..3 * 4096).collect();
        for index in (1..order.len()).rev() {
            order.swap(index, random.below(index as u64 + 1) as usize);
        }
        for block in order {
            let disk = disks[(block % 3) as usize];
            fs.write(disk, block / 3 * MIB + random.below(MIB - 4), b"data")
                .expect("write");
        }
        for &disk in &disks {
            let inode = fs.inode(disk).expect("inode");
            let runs = runs(&fs, &inode);
            println!("{family}: 4096 blocks of a disk lie in {runs} runs");
            assert!(runs <= 40, "{family}: {runs} runs");
        }
        fs.close().expect("close");
        fsck(&lun);
    }
}

#[test]
fn files_that_grow_side_by_side_lie_in_few_runs() {
    for family in [Family::Vmfs5, Family::Vmfs6] {
        let lun = volume_of(Options::new(family, &[40 * GIB]));
        let fs = mount(&lun, &Host::new(1));
        let files: Vec<_> = (0..4).map(|i| file(&fs, &format!("log{i}"))).collect();
        let part = vec![7; MIB as usize / 2];
        for step in 0..1000 {
            for &file in &files {
                fs.write(file, step * part.len() as u64, &part)
                    .expect("write");
            }
        }
        for &file in &files {
            let inode = fs.inode(file).expect("inode");
            let runs = runs(&fs, &inode);
            assert!(runs <= 8, "{family}: 500 blocks in {runs} runs");
        }
        fs.close().expect("close");
        fsck(&lun);
    }
}

fn large_blocks(fs: &FileSystem, inode: &Arc<Inode>) -> usize {
    let mut found = std::collections::BTreeSet::new();
    let store = fs.store();
    let sources = &store.resources().sources;
    inode
        .map()
        .for_each_address::<vmfs_core::resource::MetaError>(
            store.reader(),
            sources,
            &mut |address, _| {
                if let BlockAddr::LargeFileBlock { block, .. } = address {
                    found.insert(block);
                }
                Ok(())
            },
        )
        .expect("map");
    found.len()
}

#[test]
fn preallocation_takes_large_blocks_which_are_broken_up_when_needed() {
    let lun = volume_of(Options::new(Family::Vmfs6, &[200 * GIB]));
    let fs = mount(&lun, &Host::new(1));
    let before = fs.space().free_blocks;
    let disk = file(&fs, "thick");
    fs.allocate(disk, 0, 3 * GIB + 5 * MIB, Allocate::Reserve, false)
        .expect("reserve");
    let inode = fs.inode(disk).expect("inode");
    assert_eq!(large_blocks(&fs, &inode), 6);
    assert_eq!(fs.space().free_blocks, before - 3 * 1024 - 5);
    fs.write(disk, GIB - 3, b"across the border")
        .expect("write");
    fs.allocate(disk, GIB + 100 * MIB, 10 * MIB, Allocate::PunchHole, true)
        .expect("punch");
    let inode = fs.inode(disk).expect("inode");
    assert_eq!(large_blocks(&fs, &inode), 5);
    let mut back = [9; 24];
    fs.read(&inode, GIB - 5, &mut back).expect("read");
    assert_eq!(&back, b"\0\0across the border\0\0\0\0\0");
    fs.close().expect("close");
    fsck(&lun);
    let fs = mount(&lun, &Host::new(2));
    fs.unlink(FdAddr::ROOT, b"thick").expect("unlink");
    fs.sync().expect("sync");
    assert_eq!(fs.space().free_blocks, before);
    fs.close().expect("close");
    fsck(&lun);
}
