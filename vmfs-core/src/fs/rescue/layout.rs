//! The geometry of a volume whose descriptor may be damaged.

use zerocopy::FromBytes;

use crate::format::{
    At, DiskLock, FS_DESCRIPTOR_OFFSET, Family, FdAddr, FileMetadata, FsConfig, FsDescriptor,
    Layout, LockKind, ResourceHeader, SystemFile, VMFS_MAGIC,
};
use crate::lvm::{Volume, VolumeOffset};

/// System files whose descriptors tell whether a geometry is right.
const TELLING: [SystemFile; 4] = [
    SystemFile::FileBlocks,
    SystemFile::FileDescriptors,
    SystemFile::PointerBlocks,
    SystemFile::SubBlocks,
];

/// System files, file descriptors and clusters that are where a geometry has them, the most telling
/// first.
type Fits = (usize, usize, bool);

/// The descriptor and the geometry that fit best what lies where the system files' descriptors should
/// be: the volume's own if nothing fits better.
pub(super) fn find(volume: &Volume, notes: &mut Vec<String>) -> (FsDescriptor, Layout) {
    let own = read_descriptor(volume);
    let mut best: Option<(Fits, FsDescriptor, Layout, bool)> = None;
    let own_fits = own.iter().map(|fsd| (fsd.clone(), true));
    let candidates = own_fits.chain(usual().into_iter().map(|fsd| (fsd, false)));
    for (fsd, is_own) in candidates {
        let Ok(layout) = Layout::new(&fsd) else {
            continue;
        };
        let fits = (
            fitting(volume, &layout),
            descriptors(volume, &layout),
            has_clusters(volume, &fsd, &layout),
        );
        if best.as_ref().is_none_or(|(most, ..)| fits > *most) {
            best = Some((fits, fsd, layout, is_own));
        }
    }
    let Some(((fits, ..), mut fsd, mut layout, is_own)) = best else {
        // The usual geometries are valid, so there is always one.
        let fsd = descriptor(Family::Vmfs6, 1 << 20);
        let layout = Layout::usual(Family::Vmfs6);
        return (
            fsd,
            layout.unwrap_or_else(|_| unreachable!("a valid geometry")),
        );
    };
    if !is_own {
        with_sub_blocks(volume, &mut fsd, &mut layout);
        notes.push(format!(
            "the file system descriptor is damaged; {fits} system files are where {} with file blocks of {} KiB has them",
            layout.family,
            layout.file_block_size() >> 10
        ));
    }
    (fsd, layout)
}

fn read_descriptor(volume: &Volume) -> Option<FsDescriptor> {
    let mut bytes = [0; size_of::<FsDescriptor>()];
    volume
        .read(VolumeOffset(FS_DESCRIPTOR_OFFSET), &mut bytes)
        .ok()?;
    FsDescriptor::parse(&bytes).ok().cloned()
}

/// The descriptors of every geometry that fresh volumes have.
fn usual() -> Vec<FsDescriptor> {
    const MIB: u64 = 1 << 20;
    [
        (Family::Vmfs6, MIB),
        (Family::Vmfs5, MIB),
        (Family::Vmfs5, MIB / 2),
        (Family::Vmfs3, MIB),
        (Family::Vmfs3, 2 * MIB),
        (Family::Vmfs3, 4 * MIB),
        (Family::Vmfs3, 8 * MIB),
    ]
    .into_iter()
    .map(|(family, block)| descriptor(family, block))
    .collect()
}

fn descriptor(family: Family, file_block: u64) -> FsDescriptor {
    let mut fsd: FsDescriptor = zerocopy::FromZeros::new_zeroed();
    let (major, sub_block, clusters) = match family {
        Family::Vmfs3 => (4, 64 << 10, 32),
        Family::Vmfs5 => (14, 8 << 10, 64),
        Family::Vmfs6 => (24, 64 << 10, 8),
    };
    fsd.magic = VMFS_MAGIC.into();
    fsd.major_version = major.into();
    fsd.file_block_size = file_block.into();
    fsd.sub_block_size = sub_block.into();
    fsd.fdc_cluster_group_offset = 65536.into();
    fsd.fdc_clusters_per_group = clusters.into();
    if family == Family::Vmfs6 {
        fsd.md_alignment = 4096.into();
        // A large file block has 512 MiB.
        fsd.sfb_to_lfb_shift = 9.into();
    } else if family == Family::Vmfs5 {
        fsd.config = FsConfig::DENSE_SUB_BLOCKS.0.into();
    }
    if family != Family::Vmfs3 {
        fsd.pb2_fd_addr = SystemFile::PointerBlocks2.fd().raw().into();
    }
    fsd
}

/// System files whose descriptors are where `layout` says and have its file blocks.
fn fitting(volume: &Volume, layout: &Layout) -> usize {
    TELLING
        .into_iter()
        .filter(|&file| {
            read_metadata(volume, layout, file)
                .is_some_and(|(meta, _)| meta.block_size.get() == layout.file_block_size())
        })
        .count()
}

/// Descriptors of cluster 0 that are where `layout` says.
fn descriptors(volume: &Volume, layout: &Layout) -> usize {
    // The fewest that a cluster of any version has.
    let resources = 0..32;
    resources
        .filter(|&resource| {
            let at = layout.first_fd + u64::from(resource) * layout.fd_size;
            let mut bytes = vec![0; layout.fd_size as usize];
            let fd = FdAddr::new(0, resource);
            volume.read(VolumeOffset(at), &mut bytes).is_ok()
                && FileMetadata::parse(&bytes, fd, layout, At::Volume(at)).is_ok()
        })
        .count()
}

/// Whether a cluster of file descriptors begins where `layout` says.
fn has_clusters(volume: &Volume, fsd: &FsDescriptor, layout: &Layout) -> bool {
    let headers = u64::from(fsd.fdc_clusters_per_group.get()) * layout.cluster_header_size();
    let at = layout.first_fd.saturating_sub(headers);
    let mut bytes = [0; size_of::<DiskLock>()];
    volume.read(VolumeOffset(at), &mut bytes).is_ok()
        && DiskLock::ref_from_prefix(&bytes).is_ok_and(|(lock, _)| {
            lock.kind.get() == LockKind::FileDescriptors as u32 && lock.address.get() == at
        })
}

fn read_metadata(
    volume: &Volume,
    layout: &Layout,
    file: SystemFile,
) -> Option<(FileMetadata, Vec<u8>)> {
    let fd = file.fd();
    let at = layout.first_fd + u64::from(fd.resource()) * layout.fd_size;
    let mut bytes = vec![0; layout.fd_size as usize];
    volume.read(VolumeOffset(at), &mut bytes).ok()?;
    let meta = FileMetadata::parse(&bytes, fd, layout, At::Volume(at)).ok()?;
    Some((meta.clone(), bytes))
}

/// Takes the size of sub-blocks from the header of `.sbc.sf`.
fn with_sub_blocks(volume: &Volume, fsd: &mut FsDescriptor, layout: &mut Layout) {
    let header = read_metadata(volume, layout, SystemFile::SubBlocks).and_then(|(_, bytes)| {
        let first = bytes.get(layout.fd_addresses as usize..)?;
        let raw = first.get(..layout.address_size as usize)?;
        let raw = raw.iter().rev().fold(0, |v, &b| v << 8 | u64::from(b));
        let crate::format::BlockAddr::FileBlock { block, .. } =
            crate::format::BlockAddr::decode(raw, layout)
        else {
            return None;
        };
        let at = block << layout.file_block_shift;
        let mut bytes = [0; size_of::<ResourceHeader>()];
        volume.read(VolumeOffset(at), &mut bytes).ok()?;
        ResourceHeader::parse(&bytes, layout, At::Volume(at)).ok()
    });
    let Some(header) = header else {
        return;
    };
    let mut changed = fsd.clone();
    changed.sub_block_size = header.resource_size;
    if layout.family == Family::Vmfs5 && header.resources_per_cluster.get() <= 16 {
        changed.config = 0.into();
    }
    if let Ok(better) = Layout::new(&changed) {
        *fsd = changed;
        *layout = better;
    }
}
