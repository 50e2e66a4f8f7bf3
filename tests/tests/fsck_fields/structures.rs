//! The structures of a volume that a word is damaged of.

use std::collections::BTreeMap;

use vmfs_core::format::{
    DEVICE_HEADER_OFFSET, DIR_BLOCKS_START, DirBlockHeader, DirHeader, Family, FdAddr, FileKind,
};
use vmfs_core::fs::Place;
use vmfs_core::lvm::VolumeOffset;

use super::volume::Volume;

/// A structure on the first device.
pub(crate) struct Structure {
    pub(crate) name: String,
    /// Where it lies, and how many bytes of it have fields.
    pub(crate) at: u64,
    pub(crate) length: u64,
    /// The file that it is of.
    pub(crate) path: Option<String>,
    /// Offsets of its words that say how long a file is, which nothing else tells.
    pub(crate) lengths: &'static [u64],
}

/// Where a descriptor's metadata says how long its file is.
const LENGTHS: [u64; 2] = [0x14, 0x18];
/// Bytes of a descriptor's metadata with fields that say where data is and what it is.
const META: u64 = 0x90;

/// All of them.
pub(crate) fn of(volume: &Volume) -> Vec<Structure> {
    let fs = volume.open();
    let layout = fs.layout();
    let at = |offset: u64| fs.volume().place(VolumeOffset(offset)).expect("place").1.0;
    let mut all = Vec::new();
    let mut add = |name: &str, at: u64, length: u64| {
        all.push(Structure {
            name: name.to_owned(),
            at,
            length,
            path: None,
            lengths: &[],
        });
    };
    let device = fs.volume().devices().first().expect("device");
    let table = device.metadata().volume_table();
    let extents = device.metadata().pe_bitmap() + device.metadata().pe_bitmap_size();
    add("device header", DEVICE_HEADER_OFFSET, 0xd8);
    add("volume table", DEVICE_HEADER_OFFSET + table, 0x120);
    add("extent 0", DEVICE_HEADER_OFFSET + extents, 0x28);
    add("file system descriptor", at(0x20_0000), 0xf0);
    add("heartbeat slot 0", at(layout.heartbeats), 0x80);
    let store = fs.store();
    for file in store.resources().iter() {
        let kind = file.kind();
        let header = file.header_place().0;
        add(&format!("header of {kind}s"), at(header), 0x40);
        for cluster in 0..file.header().clusters().min(2) {
            let (_, place) = file.cluster(store.reader(), cluster).expect("cluster");
            let name = format!("cluster {cluster} of {kind}s");
            add(&format!("lock of {name}"), at(place.0), 0x40);
            add(&name, at(place.0 + layout.md_block), 0x180);
        }
    }
    let numbers = [1, 2, 3, 4, 5, 6, 7, 8, 9].map(|resource| FdAddr::new(0, resource));
    for fd in std::iter::once(FdAddr::ROOT).chain(numbers) {
        // Not all numbers are system files of either format.
        if let Ok(inode) = fs.inode(fd)
            && (fd == FdAddr::ROOT || inode.kind() == FileKind::System)
        {
            let place = at(inode.offset().0);
            add(
                &format!("descriptor of system file {fd}"),
                place + layout.fd_meta,
                META,
            );
        }
    }
    for path in ["/", "/files", "/late", "/chain"] {
        let inode = fs.resolve(path.as_bytes(), false).expect("directory");
        let mut part = |name: &str, offset: u64, length: u64| {
            let run = fs.run_at(&inode, offset, inode.length()).expect("run");
            let Place::Data(place) = run.place else {
                panic!("a directory has holes");
            };
            add(&format!("{name} of {path}"), at(place.0), length);
        };
        if layout.family == Family::Vmfs6 {
            // Behind the numbers are places of map blocks, then `.` and `..`.
            part("header", 0, 0x20);
            part(". and ..", 0x3b8, 0x20);
            part("begin of the hash table", DirHeader::SIZE, 0x40);
            for block in 0..3 {
                let offset = DIR_BLOCKS_START + block * layout.md_block;
                if offset < inode.length() {
                    part(&format!("block {block}"), offset, DirBlockHeader::SIZE);
                }
            }
        } else {
            part(". and ..", 0, 0x10);
        }
    }
    let mut of_kind = BTreeMap::new();
    for known in &volume.base.manifest {
        let inode = fs.inode(known.fd).expect("file");
        let kind = format!("{:?} {:?}", inode.kind(), inode.map().zero_level());
        of_kind.entry(kind).or_insert((known, inode.offset().0));
    }
    for (kind, (known, place)) in of_kind {
        all.push(Structure {
            name: format!("descriptor of {} ({kind})", known.path),
            at: at(place) + layout.fd_meta,
            length: META,
            path: Some(known.path.clone()),
            lengths: &LENGTHS,
        });
    }
    all
}
