//! Blocks of `.fdc.sf`: the files whose descriptors lie in them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use vmfs_core::format::{FdAddr, Layout, SystemFile};
use vmfs_core::fs::FileSystem;
use vmfs_core::lvm::VolumeOffset;
use vmfs_tests::corpus::base::{self, Base};
use vmfs_tests::corpus::trial::{copy_sparse, programs, same};

use super::{
    assert_there, create, damage, fsck, last_block, late_directory, mount, raw, settle,
    wrong_blocks,
};

/// More than the first file block of `.fdc.sf` has descriptors.
const FILES: u32 = 500;

fn content(number: u32) -> Vec<u8> {
    number.to_le_bytes().to_vec()
}

/// Which file block of `.fdc.sf` holds a descriptor.
fn block_of(fs: &FileSystem, fd: FdAddr) -> u64 {
    let layout = fs.layout();
    let header = fs.store().resources().file_descriptors.header();
    let (cluster, size) = (fd.cluster().into(), layout.cluster_header_size());
    let offset = header.resource_offset(cluster, fd.resource(), size);
    offset.expect("descriptor") >> layout.file_block_shift
}

/// Where the address of block `number` of `.fdc.sf` lies on the device.
fn slot(fs: &FileSystem, number: u64) -> u64 {
    let layout: &Layout = fs.layout();
    let fd = u64::from(SystemFile::FileDescriptors.fd().resource());
    let array = layout.first_fd + fd * layout.fd_size + layout.fd_addresses;
    let slot = VolumeOffset(array + number * layout.address_size);
    fs.volume().place(slot).expect("place").1.0
}

#[test]
fn descriptors_that_a_map_hides_are_found_again() {
    let programs = programs();
    for name in ["vmfs5", "vmfs6"] {
        let folder = tempfile::tempdir().expect("folder");
        let base = base::build(name, folder.path()).expect("base");
        let fs = mount(&base);
        let directory = late_directory(&fs);
        for number in 0..FILES {
            create(&fs, directory, number, &content(number));
        }
        fs.sync().expect("sync");
        let (slot, raw) = (slot(&fs, 1), raw(fs.layout(), last_block(&fs)));
        drop(fs);
        let image = folder.path().join("copy.img");
        settle(&programs, &base, &image);
        damage(&image, slot, &raw);
        let before = fs::read(&image).expect("image");
        assert_eq!(fsck(&programs, "-p", &image), Some(4), "{name}");
        assert!(fs::read(&image).expect("image") == before, "{name}: -p");
        assert_eq!(fsck(&programs, "-y", &image), Some(1), "{name}");
        assert_eq!(fsck(&programs, "-n", &image), Some(0), "{name}");
        assert_there(&image, FILES, content, name);
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
        let block = block_of(fs, create(fs, directory, number, &content(number)));
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
        let directory = late_directory(&fs);
        let (block, files) = alone(&fs, directory, &base, hidden);
        let to = wrong_blocks(&fs, directory);
        let (slot, layout) = (slot(&fs, block), fs.layout().clone());
        drop(fs);
        let settled = folder.path().join("settled.img");
        settle(&programs, &base, &settled);
        for (number, to) in to.into_iter().enumerate() {
            let case = format!("{name}: {hidden} in block {block}, damage {number}");
            let image = folder.path().join("copy.img");
            copy_sparse(&settled, &image).expect("copy");
            damage(&image, slot, &raw(&layout, to));
            assert_eq!(fsck(&programs, "-y", &image), Some(1), "{case}");
            let same = same(&image, &settled).expect("compare");
            assert!(same, "{case}: isn't as it was");
            assert_there(&image, files, content, &case);
        }
    }
}
