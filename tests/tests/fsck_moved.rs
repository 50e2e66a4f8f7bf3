//! An address of `.fdc.sf` that leads to a free block or a file's: the files whose descriptors lie behind it are
//! still there, and aren't taken for such that nobody has.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use vmfs_core::cluster::HostConfig;
use vmfs_core::format::{BlockAddr, FdAddr, Layout, SystemFile, Uuid};
use vmfs_core::fs::{Creator, FileSystem, Place};
use vmfs_core::lvm::{VolumeOffset, open_paths};
use vmfs_core::scsi::Access;
use vmfs_tests::corpus::base::{self, Base};
use vmfs_tests::corpus::trial::{Programs, copy_sparse, programs, same};
use vmfs_tests::crash::volume::TestClock;

/// More than the first file block of `.fdc.sf` has descriptors.
const FILES: u32 = 500;
const CREATOR: Creator = Creator {
    mode: 0o644,
    uid: 0,
    gid: 0,
};

/// Which file block of `.fdc.sf` holds a descriptor.
fn block_of(fs: &FileSystem, fd: FdAddr) -> u64 {
    let layout = fs.layout();
    let header = fs.store().resources().file_descriptors.header();
    let (cluster, size) = (fd.cluster().into(), layout.cluster_header_size());
    let offset = header.resource_offset(cluster, fd.resource(), size);
    offset.expect("descriptor") >> layout.file_block_shift
}

/// Where the address of block `number` of `.fdc.sf` lies on the device, and the address of the volume's block `to`.
fn address(fs: &FileSystem, number: u64, to: u64) -> (u64, Vec<u8>) {
    let layout: &Layout = fs.layout();
    let fd = u64::from(SystemFile::FileDescriptors.fd().resource());
    let array = layout.first_fd + fd * layout.fd_size + layout.fd_addresses;
    let slot = array + number * layout.address_size;
    let to = BlockAddr::FileBlock {
        block: to,
        tbz: 0,
        cow: false,
    };
    let raw = to.encode(layout).to_le_bytes();
    let place = fs.volume().place(VolumeOffset(slot)).expect("place").1.0;
    (place, raw[..layout.address_size as usize].to_vec())
}

/// The volume's last block, which is free.
fn last_block(fs: &FileSystem) -> u64 {
    (fs.volume().size() >> fs.layout().file_block_shift) - 1
}

fn fsck(programs: &Programs, mode: &str, image: &Path) -> Option<i32> {
    let mut command = Command::new(&programs.fsck);
    command.args([mode, "--lease", "20"]).arg(image);
    command.status().expect("fsck.vmfs").code()
}

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

fn create(fs: &FileSystem, directory: FdAddr, number: u32) -> FdAddr {
    let file = fs.create(directory, format!("{number}").as_bytes(), CREATOR);
    let file = file.expect("file").fd();
    fs.write(file, 0, &number.to_le_bytes()).expect("write");
    file
}

/// The files are there, byte for byte.
fn assert_there(image: &Path, files: u32, case: &str) {
    let volume = open_paths(&[image], Access::ReadOnly).expect("volume");
    let fs = FileSystem::open(volume).expect("file system");
    for number in 0..files {
        let file = fs.resolve(format!("/late/{number}").as_bytes(), false);
        let mut content = [0; 4];
        fs.read(&file.expect("file"), 0, &mut content)
            .expect("read");
        assert_eq!(content, number.to_le_bytes(), "{case}");
    }
}

#[test]
fn descriptors_that_a_map_hides_are_found_again() {
    let programs = programs();
    for name in ["vmfs5", "vmfs6"] {
        let folder = tempfile::tempdir().expect("folder");
        let base = base::build(name, folder.path()).expect("base");
        let fs = mount(&base);
        let directory = fs.make_directory(FdAddr::ROOT, b"late", CREATOR);
        let directory = directory.expect("directory").fd();
        for number in 0..FILES {
            create(&fs, directory, number);
        }
        fs.sync().expect("sync");
        let (slot, raw) = address(&fs, 1, last_block(&fs));
        drop(fs);
        // This process still counts as the host that has the first one.
        let image = folder.path().join("copy.img");
        copy_sparse(&base.devices[0], &image).expect("copy");
        let settled = fsck(&programs, "-y", &image);
        assert_eq!(settled, Some(1), "{name}: the host's journal");
        let device = File::options().write(true).open(&image).expect("image");
        device.write_all_at(&raw, slot).expect("damage");
        let before = fs::read(&image).expect("image");
        assert_eq!(fsck(&programs, "-p", &image), Some(4), "{name}");
        assert!(fs::read(&image).expect("image") == before, "{name}: -p");
        assert_eq!(fsck(&programs, "-y", &image), Some(1), "{name}");
        assert_eq!(fsck(&programs, "-n", &image), Some(0), "{name}");
        assert_there(&image, FILES, name);
    }
}

/// Makes files until the last ones are as many as `hidden`, alone in a block of `.fdc.sf`; that block, and how many
/// files there are.
fn alone(fs: &FileSystem, directory: FdAddr, base: &Base, hidden: usize) -> (u64, u32) {
    let system = std::iter::once(SystemFile::FileDescriptors.fd());
    let others = system.chain(base.manifest.iter().map(|known| known.fd));
    let others: BTreeSet<u64> = others.map(|fd| block_of(fs, fd)).collect();
    let mut late: BTreeMap<u64, usize> = BTreeMap::from([(block_of(fs, directory), 1)]);
    for number in 0..FILES {
        let block = block_of(fs, create(fs, directory, number));
        let count = late.entry(block).or_default();
        *count += 1;
        if *count == hidden && block != block_of(fs, directory) && !others.contains(&block) {
            return (block, number + 1);
        }
    }
    panic!("{FILES} files lie in one block");
}

#[test]
fn one_or_two_descriptors_that_a_map_hides_are_found_again() {
    let programs = programs();
    for (name, hidden) in [("vmfs5", 1), ("vmfs5", 2), ("vmfs6", 1), ("vmfs6", 2)] {
        let folder = tempfile::tempdir().expect("folder");
        let base = base::build(name, folder.path()).expect("base");
        let fs = mount(&base);
        let directory = fs.make_directory(FdAddr::ROOT, b"late", CREATOR);
        let directory = directory.expect("directory").fd();
        let (block, files) = alone(&fs, directory, &base, hidden);
        // A file with a block of its own.
        let other = fs.create(directory, b"other", CREATOR).expect("file");
        let content = vec![7; fs.layout().file_block_size() as usize];
        fs.write(other.fd(), 0, &content).expect("write");
        fs.sync().expect("sync");
        let other = fs.inode(other.fd()).expect("file");
        let run = fs.run_at(&other, 0, other.length()).expect("run");
        let Place::Data(data) = run.place else {
            panic!("{name}: the file has no block");
        };
        let to = [last_block(&fs), data.0 >> fs.layout().file_block_shift];
        let damages = to.map(|to| address(&fs, block, to));
        drop(fs);
        let settled = folder.path().join("settled.img");
        copy_sparse(&base.devices[0], &settled).expect("copy");
        assert_eq!(fsck(&programs, "-y", &settled), Some(1), "{name}");
        for (number, (slot, raw)) in damages.into_iter().enumerate() {
            let case = format!("{name}: {hidden} in block {block}, damage {number}");
            let image = folder.path().join("copy.img");
            copy_sparse(&settled, &image).expect("copy");
            let device = File::options().write(true).open(&image).expect("image");
            device.write_all_at(&raw, slot).expect("damage");
            assert_eq!(fsck(&programs, "-y", &image), Some(1), "{case}");
            let same = same(&image, &settled).expect("compare");
            assert!(same, "{case}: isn't as it was");
            assert_there(&image, files, &case);
        }
    }
}
