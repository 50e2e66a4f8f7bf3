//! Damage is found, repaired so that a second run finds nothing, from whatever moment the first was
//! cut off, and files that weren't hit are what they were.

mod common;

use common::Subject;
use vmfs_core::format::{BlockAddr, Family, FdAddr, ResourceKind, SystemFile};
use vmfs_fixtures::Kind;

/// Damage, and the files that it may change.
type Damage = fn(&Subject) -> Vec<FdAddr>;

fn link_count(s: &Subject) -> Vec<FdAddr> {
    s.write(s.field(s.block_files()[0], 0x08), &[77, 0, 0, 0]);
    Vec::new()
}

fn block_count(s: &Subject) -> Vec<FdAddr> {
    s.write(
        s.field(s.block_files()[0], 0x24),
        &[99, 0, 0, 0, 0, 0, 0, 0],
    );
    Vec::new()
}

/// Where the bit of a resource lies: byte and bit.
fn bit(s: &Subject, kind: ResourceKind, cluster: u64, resource: u32) -> (u64, u32) {
    let store = s.fs.store();
    let file = store.resources().file(kind).expect("file");
    let (_, place) = file.cluster(store.reader(), cluster).expect("cluster");
    let bitmap = if s.layout().md_block == 512 { 16 } else { 0x80 };
    (
        place.0 + s.layout().md_block + bitmap + u64::from(resource / 8),
        resource % 8,
    )
}

fn descriptor_marked_free(s: &Subject) -> Vec<FdAddr> {
    let fd = s.block_files()[0];
    let (at, bit) = bit(
        s,
        ResourceKind::FileDescriptor,
        fd.cluster().into(),
        fd.resource(),
    );
    s.write(at, &[s.read(at, 1)[0] | 1 << bit]);
    Vec::new()
}

fn descriptor_marked_used(s: &Subject) -> Vec<FdAddr> {
    let unused = unused_fd(s);
    let (at, bit) = bit(
        s,
        ResourceKind::FileDescriptor,
        unused.cluster().into(),
        unused.resource(),
    );
    s.write(at, &[s.read(at, 1)[0] & !(1 << bit)]);
    Vec::new()
}

fn write_address(s: &Subject, fd: FdAddr, addr: BlockAddr) {
    let layout = s.layout();
    let bytes = addr.encode(layout).to_le_bytes();
    s.write(
        s.place(fd) + layout.fd_addresses,
        &bytes[..layout.address_size as usize],
    );
}

fn shared_block(s: &Subject) -> Vec<FdAddr> {
    let files = s.block_files();
    let raw = s.fs.inode(files[0]).expect("inode").map().addresses()[0];
    write_address(s, files[1], BlockAddr::decode(raw, s.layout()));
    vec![files[1]]
}

fn block_of_a_system_file(s: &Subject) -> Vec<FdAddr> {
    let fdc =
        s.fs.inode(SystemFile::FileDescriptors.fd())
            .expect(".fdc.sf");
    let file = s.block_files()[0];
    write_address(
        s,
        file,
        BlockAddr::decode(fdc.map().addresses()[0], s.layout()),
    );
    vec![file]
}

fn address_to_nowhere(s: &Subject) -> Vec<FdAddr> {
    let file = s.block_files()[0];
    let addr = BlockAddr::FileBlock {
        block: 40_000_000,
        tbz: 0,
        cow: false,
    };
    write_address(s, file, addr);
    vec![file]
}

fn cluster_header_overwritten(s: &Subject) -> Vec<FdAddr> {
    let store = s.fs.store();
    let file = store
        .resources()
        .file(ResourceKind::SubBlock)
        .expect(".sbc.sf");
    let (_, place) = file.cluster(store.reader(), 0).expect("a cluster");
    s.write(
        place.0,
        &vec![0xff; s.layout().cluster_header_size() as usize],
    );
    Vec::new()
}

fn descriptor_cluster_overwritten(s: &Subject) -> Vec<FdAddr> {
    let store = s.fs.store();
    let file = store
        .resources()
        .file(ResourceKind::FileDescriptor)
        .expect(".fdc.sf");
    let (_, place) = file.cluster(store.reader(), 0).expect("a cluster");
    s.write(place.0 + s.layout().md_block, &vec![0xee; 512]);
    Vec::new()
}

fn free_count(s: &Subject) -> Vec<FdAddr> {
    let store = s.fs.store();
    let file = store
        .resources()
        .file(ResourceKind::FileBlock)
        .expect(".fbb.sf");
    let (_, place) = file.cluster(store.reader(), 0).expect("a cluster");
    let field = if s.layout().md_block == 512 { 8 } else { 0x22 };
    s.write(place.0 + s.layout().md_block + field, &[3, 0]);
    Vec::new()
}

fn descriptor_overwritten(s: &Subject) -> Vec<FdAddr> {
    let file = s.block_files()[0];
    let size = s.layout().fd_size - s.layout().fd_meta;
    s.write(s.field(file, 0), &vec![0xa7; size as usize]);
    vec![file]
}

fn descriptor_fields(s: &Subject) -> Vec<FdAddr> {
    let file = s.block_files()[0];
    // Own address, zero level address type.
    for offset in [0x00, 0x44] {
        s.write(s.field(file, offset), &[0x5a; 4]);
    }
    Vec::new()
}

fn unused_fd(s: &Subject) -> FdAddr {
    let clusters =
        s.fs.store()
            .resources()
            .file_descriptors
            .header()
            .clusters();
    FdAddr::new(clusters as u32 - 1, 5)
}

fn entry_names_another(s: &Subject) -> Vec<FdAddr> {
    let file = in_folder(s);
    let unused = unused_fd(s);
    s.write(s.entry_of(file) + 4, &unused.raw().to_le_bytes());
    vec![file]
}

/// A file whose entry is in /files.
fn in_folder(s: &Subject) -> FdAddr {
    let manifest = s.fixture.manifest().iter();
    let mut files = manifest.filter(|known| {
        known.path.starts_with("/files/") && matches!(known.what, vmfs_fixtures::What::File(_))
    });
    files.next().expect("a file").fd
}

fn entry_of_another_generation(s: &Subject) -> Vec<FdAddr> {
    s.write(s.entry_of(in_folder(s)) + 8, &[0xee, 0xee, 0, 0]);
    Vec::new()
}

fn name_overwritten(s: &Subject) -> Vec<FdAddr> {
    let file = in_folder(s);
    let name = if s.layout().family == Family::Vmfs6 {
        0x18
    } else {
        0x0c
    };
    s.write(s.entry_of(file) + name, b"a/b\0");
    vec![file]
}

fn structure_of_the_root(s: &Subject) -> Vec<FdAddr> {
    if s.layout().family == Family::Vmfs6 {
        // Hash table, counts, allocation map.
        s.write(s.in_root(0x5f8), &vec![0; 40_000]);
        s.write(s.in_root(4), &[200, 1]);
        s.write(s.in_root(0x1_0000 + 64), &[0x33, 0x21]);
    } else {
        s.write(s.in_root(140), &[9; 60]);
    }
    Vec::new()
}

fn root_descriptor(s: &Subject) -> Vec<FdAddr> {
    let size = s.layout().fd_size - s.layout().fd_meta;
    s.write(s.field(FdAddr::ROOT, 0), &vec![0x11; size as usize]);
    s.fixture.manifest().iter().map(|known| known.fd).collect()
}

fn resource_header(s: &Subject) -> Vec<FdAddr> {
    let file =
        s.fs.store()
            .resources()
            .file(ResourceKind::SubBlock)
            .expect(".sbc.sf");
    s.write(file.header_place().0, &[0x77; 24]);
    Vec::new()
}

fn block_bitmap_header(s: &Subject) -> Vec<FdAddr> {
    let file =
        s.fs.store()
            .resources()
            .file(ResourceKind::FileBlock)
            .expect(".fbb.sf");
    s.write(file.header_place().0 + 4, &[0x77; 24]);
    Vec::new()
}

/// The metadata of a resource file's descriptor, and with it what tells that it is one.
fn lose(s: &Subject, file: SystemFile, length: usize) -> Vec<FdAddr> {
    s.write(s.field(file.fd(), 0), &vec![0; length]);
    Vec::new()
}

fn descriptor_of_descriptors(s: &Subject) -> Vec<FdAddr> {
    lose(s, SystemFile::FileDescriptors, 256)
}

fn descriptor_of_file_blocks(s: &Subject) -> Vec<FdAddr> {
    let size = s.layout().fd_size - s.layout().fd_meta;
    lose(s, SystemFile::FileBlocks, size as usize)
}

fn descriptor_of_sub_blocks(s: &Subject) -> Vec<FdAddr> {
    lose(s, SystemFile::SubBlocks, 256)
}

fn hole_in_descriptors(s: &Subject) -> Vec<FdAddr> {
    let layout = s.layout();
    let first = s.place(SystemFile::FileDescriptors.fd()) + layout.fd_addresses;
    s.write(first, &vec![0; layout.address_size as usize]);
    Vec::new()
}

fn fs_descriptor(s: &Subject) -> Vec<FdAddr> {
    // Magic, versions, block sizes.
    s.write(0x20_0000, &[0; 9]);
    s.write(0x20_00a1, &[0x33; 8]);
    s.write(0x20_00d1, &[0x44; 12]);
    Vec::new()
}

fn locks(s: &Subject) -> Vec<FdAddr> {
    let file = s.block_files()[0];
    s.write(s.place(file), &[0x99; 64]);
    Vec::new()
}

fn heartbeat(s: &Subject) -> Vec<FdAddr> {
    s.write(
        s.layout().heartbeats + 3 * s.layout().heartbeat_size,
        &[0x42; 24],
    );
    Vec::new()
}

const ALL: &[(&str, Damage, &[&str])] = &[
    ("link count", link_count, &["link-count-wrong"]),
    ("block count", block_count, &["block-count-wrong"]),
    (
        "descriptor marked free",
        descriptor_marked_free,
        &["free-count-wrong", "referenced-but-free"],
    ),
    (
        "descriptor marked used",
        descriptor_marked_used,
        &["free-count-wrong", "unreferenced"],
    ),
    ("shared block", shared_block, &["duplicate", "unreferenced"]),
    (
        "block of a system file",
        block_of_a_system_file,
        &["duplicate", "unreferenced"],
    ),
    (
        "address to nowhere",
        address_to_nowhere,
        &["block-count-wrong", "lost-data", "out-of-range"],
    ),
    (
        "cluster header",
        cluster_header_overwritten,
        &["cluster-unreadable", "lock-damaged"],
    ),
    (
        "cluster of descriptors",
        descriptor_cluster_overwritten,
        &["cluster-unreadable"],
    ),
    ("free count", free_count, &["free-count-wrong"]),
    (
        "descriptor overwritten",
        descriptor_overwritten,
        &["descriptor-unreadable", "entry-dangling", "lost-data"],
    ),
    (
        "descriptor fields",
        descriptor_fields,
        &["descriptor-damaged"],
    ),
    (
        "entry names another",
        entry_names_another,
        &["entry-dangling", "unreachable"],
    ),
    (
        "entry of another generation",
        entry_of_another_generation,
        &["entry-mismatch"],
    ),
    (
        "name overwritten",
        name_overwritten,
        &["entry-damaged", "unreachable"],
    ),
    ("structure of the root", structure_of_the_root, &[]),
    ("root descriptor", root_descriptor, &[]),
    (
        "resource header",
        resource_header,
        &["resource-header-damaged"],
    ),
    (
        "block bitmap header",
        block_bitmap_header,
        &["resource-header-damaged"],
    ),
    (
        "file system descriptor",
        fs_descriptor,
        &["fs-descriptor-damaged"],
    ),
    (
        "descriptor of descriptors",
        descriptor_of_descriptors,
        &["resource-file-unreadable"],
    ),
    (
        "descriptor of file blocks",
        descriptor_of_file_blocks,
        &["resource-file-unreadable"],
    ),
    (
        "descriptor of sub-blocks",
        descriptor_of_sub_blocks,
        &["resource-file-unreadable"],
    ),
    (
        "hole in descriptors",
        hole_in_descriptors,
        &["address-wrong-type"],
    ),
    ("lock", locks, &["lock-damaged"]),
    ("heartbeat", heartbeat, &["heartbeat-damaged"]),
];

fn each(kind: Kind, mut test: impl FnMut(&str, Subject, &[FdAddr], &[&str])) {
    let only = std::env::var("VMFS_FSCK_ONLY").ok();
    for (name, damage, expected) in ALL {
        if only.as_ref().is_some_and(|only| only != name) {
            continue;
        }
        let subject = Subject::new(kind);
        let hit = damage(&subject);
        test(name, subject, &hit, expected);
    }
}

fn finds_and_repairs(kind: Kind) {
    each(kind, |name, subject, hit, expected| {
        common::finds_and_repairs(name, &subject, hit, expected);
    });
}

#[test]
fn damage_to_vmfs6_is_found_and_repaired() {
    finds_and_repairs(Kind::Small6);
}

#[test]
fn damage_to_vmfs5_is_found_and_repaired() {
    finds_and_repairs(Kind::Small5);
}

fn goes_on(kind: Kind) {
    each(kind, |name, subject, hit, _| {
        common::goes_on(name, &subject, hit);
    });
}

#[test]
fn a_repair_of_vmfs6_that_is_cut_off_is_gone_on_with() {
    goes_on(Kind::Small6);
}

#[test]
fn a_repair_of_vmfs5_that_is_cut_off_is_gone_on_with() {
    goes_on(Kind::Small5);
}
