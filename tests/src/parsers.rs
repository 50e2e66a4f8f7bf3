//! The parsers of on-disk structures as functions of bytes alone, for fuzzing.

use std::sync::Arc;

use vmfs_core::file::Inode;
use vmfs_core::format::{
    At, BlockAddr, ClusterHeader, DevMetadata, DirEntry5, DirHeader, Family, FdAddr, FsDescriptor,
    Layout, ResourceHeader, view,
};
use vmfs_core::fs::FileSystem;
use vmfs_core::lvm::{Device, VolumeOffset, open_luns};
use vmfs_core::scsi::{DeviceOffset, Lun, MemoryLun};

/// A parser: bytes in; whether they were what it wanted out.
#[derive(Debug, Clone, Copy)]
pub struct Parser {
    /// Name of its corpus folder and of its fuzz target.
    pub name: &'static str,
    /// Feeds it `bytes`.
    pub run: fn(&[u8]) -> bool,
}

/// All of them.
pub const PARSERS: &[Parser] = &[
    Parser {
        name: "device",
        run: device,
    },
    Parser {
        name: "fs_descriptor",
        run: fs_descriptor,
    },
    Parser {
        name: "file_descriptor",
        run: file_descriptor,
    },
    Parser {
        name: "resource_file",
        run: resource_file,
    },
    Parser {
        name: "directory",
        run: directory,
    },
    Parser {
        name: "partition_table",
        run: partition_table,
    },
];

/// Feeds `bytes` to the parser called `name`.
///
/// # Panics
/// When there is no such parser.
pub fn run(name: &str, bytes: &[u8]) {
    let parser = PARSERS.iter().find(|parser| parser.name == name);
    (parser.expect("a known parser").run)(bytes);
}

const AT: At = At::Volume(0);

/// A device from its header on: the header, the volume table and the extents.
fn device(bytes: &[u8]) -> bool {
    let parsed = DevMetadata::parse(bytes).is_ok();
    let lun = MemoryLun::new("fuzz", 4 << 30);
    let length = bytes.len().min(2 << 20);
    lun.write(DeviceOffset(0x10_0000), &bytes[..length])
        .expect("memory");
    let lun: Arc<dyn Lun> = Arc::new(lun);
    let opened = Device::open(Arc::clone(&lun)).is_ok();
    if let Ok(volume) = open_luns(vec![lun]) {
        let _ = volume.missing_names();
        let _ = volume.read(VolumeOffset(volume.size() / 2), &mut [0; 512]);
        let _ = FileSystem::open(volume);
    }
    parsed && opened
}

fn fs_descriptor(bytes: &[u8]) -> bool {
    FsDescriptor::parse(bytes).is_ok_and(|fsd| {
        let _ = (
            fsd.label(),
            fsd.config().names(),
            fsd.volume_uuid().to_string(),
        );
        Layout::new(fsd).is_ok()
    })
}

/// The layouts that structures are tried with: those of ESXi's volumes.
fn layouts() -> [Layout; 2] {
    [Family::Vmfs5, Family::Vmfs6].map(|family| Layout::usual(family).expect("a valid layout"))
}

/// A file descriptor of either format, under the address that it says it has.
fn file_descriptor(bytes: &[u8]) -> bool {
    layouts().iter().any(|layout| {
        let at = layout.fd_meta as usize;
        let raw = bytes.get(at..at + 4).map_or(0, |raw| {
            u32::from_le_bytes([raw[0], raw[1], raw[2], raw[3]])
        });
        let Some(fd) = FdAddr::from_raw(raw) else {
            return false;
        };
        let Ok(inode) = Inode::parse(bytes, fd, VolumeOffset(0), layout) else {
            return false;
        };
        let _ = (
            inode.mode(),
            inode.allocated(),
            inode.is_directory(),
            inode.rdm().is_some(),
        );
        for &raw in inode.map().addresses() {
            let _ = BlockAddr::decode(raw, layout).encode(layout);
        }
        true
    })
}

/// A resource file's header, and a cluster's header behind it.
fn resource_file(bytes: &[u8]) -> bool {
    layouts().iter().any(|layout| {
        let Ok(header) = ResourceHeader::parse(bytes, layout, AT) else {
            return false;
        };
        let size = layout.cluster_header_size();
        for cluster in [
            0,
            1,
            header.clusters().saturating_sub(1),
            u64::from(u32::MAX),
        ] {
            let _ = header.resource_offset(cluster, 0, size);
            if cluster < header.clusters() {
                let _ = header.cluster_header_offset(cluster, size);
            }
        }
        let rest = bytes.get(512..).unwrap_or_default();
        if let Ok(cluster) = ClusterHeader::parse(rest, 0, &header, layout, AT) {
            let _ = cluster.count_free();
        }
        true
    })
}

/// A directory's header or entries.
fn directory(bytes: &[u8]) -> bool {
    let six = view::<DirHeader>(bytes, "directory header", AT);
    let five = view::<DirEntry5>(bytes, "directory entry", AT);
    six.is_ok_and(|header| !header.this.name().is_empty())
        || five.is_ok_and(|entry| !entry.name().is_empty())
}

/// The first sectors of a disk.
fn partition_table(bytes: &[u8]) -> bool {
    let lun = MemoryLun::new("fuzz", 1 << 30);
    lun.write(DeviceOffset(0), &bytes[..bytes.len().min(1 << 20)])
        .expect("memory");
    let lun: Arc<dyn Lun> = Arc::new(lun);
    !vmfs_core::scsi::look_through(&lun).is_empty()
}
