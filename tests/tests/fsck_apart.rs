//! An address of `.sbc.sf`, `.pbc.sf` or `.pb2.sf` that leads past a block which holds nothing that says whose it
//! is: the small files, or maps of large ones, in it are still there, and their block isn't given away.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use vmfs_core::cluster::HostConfig;
use vmfs_core::format::{BlockAddr, FdAddr, Layout, ResourceKind, Uuid};
use vmfs_core::fs::{Creator, FileSystem, Place};
use vmfs_core::lvm::{VolumeOffset, open_paths};
use vmfs_core::resource::ResourceFile;
use vmfs_core::scsi::Access;
use vmfs_tests::corpus::base::{self, Base};
use vmfs_tests::corpus::trial::{Programs, copy_sparse, programs, same};
use vmfs_tests::crash::volume::TestClock;

/// More small files or pointer blocks than the first file block of a resource file has room for.
const MOST: u32 = 300;
/// Bytes of a small file that is in no descriptor.
const SMALL: usize = 5000;
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

fn fsck(programs: &Programs, image: &Path) -> Option<i32> {
    let mut command = Command::new(&programs.fsck);
    command.args(["-y", "--lease", "20"]).arg(image);
    command.status().expect("fsck.vmfs").code()
}

fn content(number: u32) -> Vec<u8> {
    let bytes = number.to_le_bytes().into_iter().cycle();
    bytes.take(SMALL).collect()
}

fn small_file(fs: &FileSystem, directory: FdAddr, number: u32) -> FdAddr {
    let file = fs.create(directory, format!("{number}").as_bytes(), CREATOR);
    let file = file.expect("file").fd();
    fs.write(file, 0, &content(number)).expect("write");
    file
}

/// The block of the volume with the first byte of a file.
fn first_block(fs: &FileSystem, fd: FdAddr) -> u64 {
    let file = fs.inode(fd).expect("file");
    let run = fs.run_at(&file, 0, file.length()).expect("run");
    let Place::Data(place) = run.place else {
        panic!("the file has no data");
    };
    place.0 >> fs.layout().file_block_shift
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

fn raw(layout: &Layout, block: u64) -> Vec<u8> {
    let addr = BlockAddr::FileBlock {
        block,
        tbz: 0,
        cow: false,
    };
    addr.encode(layout).to_le_bytes()[..layout.address_size as usize].to_vec()
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
        let fd = small_file(fs, directory, number);
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

fn assert_there(image: &Path, files: u32, case: &str) {
    let volume = open_paths(&[image], Access::ReadOnly).expect("volume");
    let fs = FileSystem::open(volume).expect("file system");
    for number in 0..files {
        let file = fs.resolve(format!("/late/{number}").as_bytes(), false);
        let mut found = vec![0; SMALL];
        fs.read(&file.expect("file"), 0, &mut found).expect("read");
        assert!(found == content(number), "{case}: {number}");
    }
}

/// What lies in the block whose address is wrong is there after a repair, as is all else.
fn found_again(name: &str, holding: Holding) {
    let programs = programs();
    let folder = tempfile::tempdir().expect("folder");
    let base = base::build(name, folder.path()).expect("base");
    let fs = mount(&base);
    let layout = fs.layout().clone();
    let directory = fs.make_directory(FdAddr::ROOT, b"late", CREATOR);
    let directory = directory.expect("directory").fd();
    let (file, number, files) = match holding {
        Holding::Nothing => (file_of(&fs, ResourceKind::PointerBlock2), 1, 0),
        _ => reach(&fs, directory, holding),
    };
    let kind = file.kind();
    let other = fs.create(directory, b"other", CREATOR).expect("file").fd();
    let data = vec![7; layout.file_block_size() as usize];
    fs.write(other, 0, &data).expect("write");
    fs.sync().expect("sync");
    let last = (fs.volume().size() >> layout.file_block_shift) - 1;
    let to = [last, first_block(&fs, other)];
    let slot = slot(&fs, &file, number);
    let bitmap = bitmap(&fs);
    drop((file, fs));
    let settled = folder.path().join("settled.img");
    copy_sparse(&base.devices[0], &settled).expect("copy");
    assert_eq!(fsck(&programs, &settled), Some(1), "{name}: the journal");
    assert_there(&settled, files, name);
    for to in to {
        let case = format!("{name}: block {number} of {kind} leads to {to:#x}");
        let image = folder.path().join("copy.img");
        copy_sparse(&settled, &image).expect("copy");
        let device = File::options().write(true).open(&image).expect("image");
        device
            .write_all_at(&raw(&layout, to), slot)
            .expect("damage");
        assert!(!same(&image, &settled).expect("compare"), "{case}");
        assert_eq!(fsck(&programs, &image), Some(1), "{case}");
        assert_there(&image, files, &case);
        let same = same(&image, &settled).expect("compare");
        assert!(same, "{case}: isn't as it was");
    }
    // Where marks are lost too nothing tells which block it is.
    let image = folder.path().join("copy.img");
    copy_sparse(&settled, &image).expect("copy");
    let device = File::options().write(true).open(&image).expect("image");
    let wrong = raw(&layout, to[1]);
    device.write_all_at(&wrong, slot).expect("damage");
    let gone = vec![0; layout.cluster_header_size() as usize];
    device.write_all_at(&gone, bitmap).expect("damage");
    let damaged = folder.path().join("damaged.img");
    copy_sparse(&image, &damaged).expect("copy");
    assert_eq!(fsck(&programs, &image), Some(8), "{name}: {kind}");
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
