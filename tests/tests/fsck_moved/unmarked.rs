//! Blocks of `.sbc.sf`, `.pbc.sf` or `.pb2.sf` that hold nothing that says whose they are: the small files, or the
//! maps of large ones, in them.

use std::sync::Arc;

use vmfs_core::format::{BlockAddr, FdAddr, Layout, ResourceKind};
use vmfs_core::fs::FileSystem;
use vmfs_core::lvm::VolumeOffset;
use vmfs_core::resource::ResourceFile;
use vmfs_tests::corpus::base;
use vmfs_tests::corpus::trial::{copy_sparse, programs, same};

use super::{
    CREATOR, assert_there, create, damage, fsck, late_directory, mount, raw, settle, wrong_blocks,
};

/// More small files or pointer blocks than the first file block of a resource file has room for.
const MOST: u32 = 300;
/// Bytes of a small file that is in no descriptor.
const SMALL: usize = 5000;

fn content(number: u32) -> Vec<u8> {
    let bytes = number.to_le_bytes().into_iter().cycle();
    bytes.take(SMALL).collect()
}

fn file_of(fs: &FileSystem, kind: ResourceKind) -> Arc<ResourceFile> {
    let sources = &fs.store().resources().sources;
    let file = match kind {
        ResourceKind::PointerBlock2 => &sources.pointer_blocks2,
        ResourceKind::PointerBlock => &sources.pointer_blocks,
        _ => &sources.sub_blocks,
    };
    Arc::clone(file.as_ref().expect("resource file"))
}

fn block(layout: &Layout, raw: u64) -> u64 {
    match BlockAddr::decode(raw, layout) {
        BlockAddr::FileBlock { block, .. } => block,
        other => panic!("{other:?} isn't a file block"),
    }
}

/// Which block of its resource file a resource lies in, and where in that.
fn inside(fs: &FileSystem, addr: BlockAddr) -> (Arc<ResourceFile>, u64, u64) {
    let BlockAddr::Resource {
        kind,
        cluster,
        resource,
        ..
    } = addr
    else {
        panic!("{addr:?} isn't a resource");
    };
    let (file, layout) = (file_of(fs, kind), fs.layout());
    let header = file.header();
    let offset = header.resource_offset(cluster, resource, layout.cluster_header_size());
    let offset = offset.expect("resource");
    let inside = offset & (layout.file_block_size() - 1);
    (file, offset >> layout.file_block_shift, inside)
}

/// Where the address of block `number` of a resource file lies on the device.
fn slot(fs: &FileSystem, file: &ResourceFile, number: u64) -> u64 {
    let (layout, map) = (fs.layout(), file.map());
    let first = BlockAddr::decode(map.addresses()[0], layout);
    let start = if let BlockAddr::Resource { .. } = first {
        let (pointers, number, inside) = inside(fs, first);
        let place = block(layout, pointers.map().addresses()[number as usize]);
        (place << layout.file_block_shift) + inside
    } else {
        map.fd_offset().0 + layout.fd_addresses
    };
    let slot = VolumeOffset(start + number * layout.address_size);
    fs.volume().place(slot).expect("place").1.0
}

/// Where the header of the first cluster of file blocks lies on the device.
fn bitmap(fs: &FileSystem) -> u64 {
    let file = fs.store().resources().file_blocks.as_ref();
    let file = file.expect("resource file");
    let size = fs.layout().cluster_header_size();
    let offset = file.header().cluster_header_offset(0, size);
    let number = (offset >> fs.layout().file_block_shift) as usize;
    let start = block(fs.layout(), file.map().addresses()[number]);
    let inside = offset & (fs.layout().file_block_size() - 1);
    let place = VolumeOffset((start << fs.layout().file_block_shift) + inside);
    fs.volume().place(place).expect("place").1.0
}

/// What is in the block whose address is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Holding {
    /// Small files.
    Small,
    /// Pointer blocks of large files: of VMFS6 they are sub-blocks as well.
    Pointers,
    /// Nothing that is in use.
    Nothing,
}

/// Makes files in `directory` until something of one lies behind the first block of its resource file; that
/// file and block, and how many small files there are.
fn reach(fs: &FileSystem, directory: FdAddr, holding: Holding) -> (Arc<ResourceFile>, u64, u32) {
    let layout = fs.layout();
    for number in 0..MOST {
        let fd = create(fs, directory, number, &content(number));
        let fd = if holding == Holding::Small {
            fd
        } else {
            // As far behind as only a pointer block reaches.
            let large = fs.create(directory, format!("large{number}").as_bytes(), CREATOR);
            let large = large.expect("file").fd();
            let far = (layout.fd_address_count + 1) << layout.file_block_shift;
            fs.write(large, far, b"far").expect("write");
            large
        };
        let file = fs.inode(fd).expect("file");
        let first = file.map().addresses().iter().find(|&&raw| raw != 0);
        let first = BlockAddr::decode(*first.expect("address"), layout);
        let (file, block, _) = inside(fs, first);
        if block > 0 {
            return (file, block, number + 1);
        }
    }
    panic!("{MOST} lie in one block");
}

/// What lies in the block whose address is wrong is there after a repair, as is all else.
fn found_again(name: &str, holding: Holding) {
    let programs = programs();
    let folder = tempfile::tempdir().expect("folder");
    let base = base::build(name, folder.path()).expect("base");
    let fs = mount(&base);
    let layout = fs.layout().clone();
    let directory = late_directory(&fs);
    let (file, number, files) = match holding {
        Holding::Nothing => (file_of(&fs, ResourceKind::PointerBlock2), 1, 0),
        _ => reach(&fs, directory, holding),
    };
    let kind = file.kind();
    let to = wrong_blocks(&fs, directory);
    let slot = slot(&fs, &file, number);
    let bitmap = bitmap(&fs);
    drop((file, fs));
    let settled = folder.path().join("settled.img");
    settle(&programs, &base, &settled);
    assert_there(&settled, files, content, name);
    for to in to {
        let case = format!("{name}: block {number} of {kind} leads to {to:#x}");
        let image = folder.path().join("copy.img");
        copy_sparse(&settled, &image).expect("copy");
        damage(&image, slot, &raw(&layout, to));
        assert!(!same(&image, &settled).expect("compare"), "{case}");
        assert_eq!(fsck(&programs, "-y", &image), Some(1), "{case}");
        assert_there(&image, files, content, &case);
        let same = same(&image, &settled).expect("compare");
        assert!(same, "{case}: isn't as it was");
    }
    // Where marks are lost too nothing tells which block it is.
    let image = folder.path().join("copy.img");
    copy_sparse(&settled, &image).expect("copy");
    damage(&image, slot, &raw(&layout, to[1]));
    let gone = vec![0; layout.cluster_header_size() as usize];
    damage(&image, bitmap, &gone);
    let damaged = folder.path().join("damaged.img");
    copy_sparse(&image, &damaged).expect("copy");
    assert_eq!(fsck(&programs, "-y", &image), Some(8), "{name}: {kind}");
    let same = same(&image, &damaged).expect("compare");
    assert!(same, "{name}: {kind}: something was written");
}

#[test]
fn small_files_that_a_map_hides_are_found_again() {
    found_again("vmfs5", Holding::Small);
    found_again("vmfs6", Holding::Small);
}

#[test]
fn pointer_blocks_that_a_map_hides_are_found_again() {
    found_again("vmfs5", Holding::Pointers);
    found_again("vmfs6", Holding::Pointers);
}

#[test]
fn blocks_of_which_nothing_is_in_use_are_found_again() {
    found_again("vmfs5", Holding::Nothing);
    found_again("vmfs6", Holding::Nothing);
}
