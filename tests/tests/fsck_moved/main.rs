//! An address in the map of a resource file that leads to a free block or a file's, instead of its own: what files
//! have in that block is still there, and isn't taken for what nobody has.

mod descriptors;
mod unmarked;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use vmfs_core::cluster::HostConfig;
use vmfs_core::format::{BlockAddr, FdAddr, Layout, Uuid};
use vmfs_core::fs::{Creator, FileSystem, Place};
use vmfs_core::lvm::open_paths;
use vmfs_core::scsi::Access;
use vmfs_tests::corpus::base::Base;
use vmfs_tests::corpus::trial::{Programs, copy_sparse};
use vmfs_tests::crash::volume::TestClock;

const CREATOR: Creator = Creator {
    mode: 0o644,
    uid: 0,
    gid: 0,
};

fn mount(base: &Base) -> FileSystem {
    let uuid = Uuid {
        time_lo: 77.into(),
        ..Uuid::default()
    };
    let mut host = HostConfig::new(uuid, "host77");
    host.clock = Arc::new(TestClock::default());
    let volume = open_paths(&base.devices, Access::ReadWrite).expect("volume");
    FileSystem::open_for_writing(volume, host).expect("file system")
}

fn fsck(programs: &Programs, mode: &str, image: &Path) -> Option<i32> {
    let mut command = Command::new(&programs.fsck);
    command.args([mode, "--lease", "20"]).arg(image);
    command.status().expect("fsck.vmfs").code()
}

/// The directory of the files whose block gets lost.
fn late_directory(fs: &FileSystem) -> FdAddr {
    let directory = fs.make_directory(FdAddr::ROOT, b"late", CREATOR);
    directory.expect("directory").fd()
}

/// Makes the file `number` of `directory`.
fn create(fs: &FileSystem, directory: FdAddr, number: u32, content: &[u8]) -> FdAddr {
    let file = fs.create(directory, format!("{number}").as_bytes(), CREATOR);
    let file = file.expect("file").fd();
    fs.write(file, 0, content).expect("write");
    file
}

/// Blocks of the volume that a wrong address leads to: the last, which is free, and that of a file made for it.
fn wrong_blocks(fs: &FileSystem, directory: FdAddr) -> [u64; 2] {
    let layout = fs.layout();
    let other = fs.create(directory, b"other", CREATOR).expect("file").fd();
    let data = vec![7; layout.file_block_size() as usize];
    fs.write(other, 0, &data).expect("write");
    fs.sync().expect("sync");
    let other = fs.inode(other).expect("file");
    let run = fs.run_at(&other, 0, other.length()).expect("run");
    let Place::Data(place) = run.place else {
        panic!("the file has no block");
    };
    [last_block(fs), place.0 >> layout.file_block_shift]
}

fn last_block(fs: &FileSystem) -> u64 {
    (fs.volume().size() >> fs.layout().file_block_shift) - 1
}

/// The address of a block, as it stands in a map.
fn raw(layout: &Layout, block: u64) -> Vec<u8> {
    let addr = BlockAddr::FileBlock {
        block,
        tbz: 0,
        cow: false,
    };
    addr.encode(layout).to_le_bytes()[..layout.address_size as usize].to_vec()
}

/// A copy of the volume that no host has any more: this process still counts as one that has the first.
fn settle(programs: &Programs, base: &Base, image: &Path) {
    copy_sparse(&base.devices[0], image).expect("copy");
    let settled = fsck(programs, "-y", image);
    assert_eq!(settled, Some(1), "{}: the host's journal", base.name);
}

fn damage(image: &Path, slot: u64, bytes: &[u8]) {
    let device = File::options().write(true).open(image).expect("image");
    device.write_all_at(bytes, slot).expect("damage");
}

/// The files are there, byte for byte.
fn assert_there(image: &Path, files: u32, content: impl Fn(u32) -> Vec<u8>, case: &str) {
    let volume = open_paths(&[image], Access::ReadOnly).expect("volume");
    let fs = FileSystem::open(volume).expect("file system");
    for number in 0..files {
        let file = fs.resolve(format!("/late/{number}").as_bytes(), false);
        let wanted = content(number);
        let mut found = vec![0; wanted.len()];
        fs.read(&file.expect("file"), 0, &mut found).expect("read");
        assert!(found == wanted, "{case}: {number}");
    }
}
