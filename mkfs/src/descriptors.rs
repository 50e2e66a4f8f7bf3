use vmfs_core::format::{
    BlockAddr, Family, FdAddr, FdImage, FileKind, FsConfig, FsDescriptor, Layout, ResourceKind,
    SystemFile, Uuid, VMFS_MAGIC, VMFSL_MAGIC, ZeroLevel,
};
use zerocopy::{FromZeros, IntoBytes};

use super::options::Options;
use super::resources::SMALL_PER_LARGE;
use super::system_files::SystemFileLayout;

/// Where ESXi names `.unmap.sf`: address and descriptor, right behind the descriptor's fields.
const UNMAP_FIELDS: usize = 0x17f;

/// The descriptor of a system file or of the root directory.
pub(crate) fn system_fd(
    layout: &Layout,
    file: &SystemFileLayout,
    address: u64,
    time: u32,
) -> FdImage {
    let is_root = file.fd == FdAddr::ROOT;
    let kind = if is_root {
        FileKind::Directory
    } else {
        FileKind::System
    };
    let mut fd = FdImage::new(layout, file.fd, address, kind, time);
    fd.set_blocks(file.blocks());
    if file.fd == SystemFile::FileDescriptors.fd() && layout.family != Family::Vmfs3 {
        // Its own blocks but the first came before there was a descriptor to count them.
        fd.metadata().new_since_epoch_lo = 1.into();
    }
    let links = match (is_root, file.fd == SystemFile::SystemData.fd()) {
        (true, _) if layout.family != Family::Vmfs3 => 3,
        (true, _) | (_, true) => 2,
        _ => 1,
    };
    let meta = fd.metadata();
    meta.length = file.length.into();
    meta.links = links.into();
    meta.mode = match (is_root, file.fd == SystemFile::SystemData.fd()) {
        (true, _) => 0o1755,
        (_, true) => 0o40_700,
        _ => 0o400,
    }
    .into();
    meta.zero_level = file.zero_level.raw().into();
    let kind = match file.zero_level {
        ZeroLevel::PointerBlock2 => ResourceKind::PointerBlock2,
        _ => ResourceKind::PointerBlock,
    };
    if file.pointer_blocks.is_empty() {
        for (index, raw) in file.addresses(layout).enumerate() {
            fd.set_address(index, raw);
        }
    } else {
        if layout.family == Family::Vmfs6 {
            let meta = fd.metadata();
            meta.flags = 8.into();
            meta.pointer_blocks = (file.pointer_blocks.len() as u32).into();
        }
        for (index, &(cluster, resource)) in file.pointer_blocks.iter().enumerate() {
            let address = BlockAddr::Resource {
                kind,
                cluster,
                resource,
                cow: false,
            };
            fd.set_address(index, address.encode(layout));
        }
    }
    if file.fd == SystemFile::SubBlocks.fd() && layout.family == Family::Vmfs6 {
        note_grown_clusters(&mut fd, file);
    }
    fd
}

/// Notes in which small file block clusters a grown `.sbc.sf` continues, as ESXi does.
fn note_grown_clusters(fd: &mut FdImage, file: &SystemFileLayout) {
    let &[_, (start, count)] = &file.runs[..] else {
        return;
    };
    let (first, last) = (
        start / SMALL_PER_LARGE,
        (start + count - 1) / SMALL_PER_LARGE,
    );
    let mut clusters = vec![0_u8; last as usize / 8 + 1];
    for cluster in first..=last {
        clusters[cluster as usize / 8] |= 1 << (cluster % 8);
    }
    let meta = fd.metadata();
    meta.last_sfb_cluster = (last as u32).into();
    meta.unknown5 = 1.into();
    meta.affinity_bitmap = ((last - first + 1) as u32).into();
    if clusters.len() <= 1024 {
        fd.set_data(&clusters);
    }
}

/// Identity of a volume: what its descriptor names besides the options.
#[derive(Debug, Clone, Copy)]
pub(crate) struct VolumeIds {
    pub(crate) file_system: Uuid,
    pub(crate) volume: Uuid,
    pub(crate) host: Uuid,
}

/// The descriptor without what follows from the layout that is derived from it.
pub(crate) fn fs_descriptor(options: &Options, ids: VolumeIds) -> FsDescriptor {
    let time = (options.time_us / 1_000_000) as u32;
    let mut fsd = FsDescriptor::new_zeroed();
    fsd.magic = if options.local {
        VMFSL_MAGIC
    } else {
        VMFS_MAGIC
    }
    .into();
    let old = options.family == Family::Vmfs3 || !options.dense_sub_blocks;
    let (major, minor, config, sub_block, per_group) = match options.family {
        Family::Vmfs6 => (24, 82, 0x4000 | FsConfig::DENSE_SUB_BLOCKS.0, 64 << 10, 8),
        Family::Vmfs5 if old => (14, 81, 0, 64 << 10, 32),
        Family::Vmfs5 => (14, 81, FsConfig::DENSE_SUB_BLOCKS.0, 8 << 10, 64),
        Family::Vmfs3 => (4, 31, 0, 64 << 10, 32),
    };
    let local = if options.local { 0x2000 } else { 0 };
    fsd.major_version = major.into();
    fsd.minor_version = minor;
    fsd.uuid = ids.file_system;
    fsd.config = (config | local | 0x2).into();
    fsd.label[..options.label.len()].copy_from_slice(options.label.as_bytes());
    fsd.disk_block_size = options.sector_size.into();
    fsd.file_block_size = options.file_block_size.into();
    fsd.creation_time = time.into();
    fsd.snap_id = 1.into();
    fsd.volume_info[..16].copy_from_slice(ids.volume.as_bytes());
    fsd.volume_info[16] = 1;
    fsd.fdc_cluster_group_offset = 65536.into();
    fsd.fdc_clusters_per_group = per_group.into();
    fsd.sub_block_size = sub_block.into();
    if options.family != Family::Vmfs3 {
        fsd.max_journal_slots_per_txn = 8.into();
        fsd.host_uuid = ids.host;
        fsd.gbl_generation = 1.into();
    }
    if options.family == Family::Vmfs6 {
        fsd.max_journal_slots_per_txn = 64.into();
        fsd.unmap_priority = 1.into();
        fsd.phys_disk_block_size = options.sector_size.into();
        fsd.md_alignment = 4096.into();
        fsd.sfb_to_lfb_shift = 9.into();
        fsd.ptr_block_shift = 16.into();
        fsd.sfb_addr_bits = 44.into();
        fsd.tbz_granularity = (1 << 20).into();
        fsd.journal_block_size = (2 << 20).into();
        fsd.lease_interval_ms = 16000.into();
        fsd.reclaim_window_ms = 4000.into();
    }
    fsd
}

/// The descriptor's block, with the addresses that follow from `layout`.
pub(crate) fn fs_descriptor_block(fsd: &FsDescriptor, layout: &Layout) -> Vec<u8> {
    let mut fsd = fsd.clone();
    let at = |file: SystemFile| layout.first_fd + u64::from(file.fd().resource()) * layout.fd_size;
    if layout.family != Family::Vmfs3 {
        fsd.pb2_vol_addr = at(SystemFile::PointerBlocks2).into();
        fsd.pb2_fd_addr = SystemFile::PointerBlocks2.fd().raw().into();
        fsd.sdd_vol_addr = at(SystemFile::SystemData).into();
        fsd.sdd_fd_addr = SystemFile::SystemData.fd().raw().into();
    }
    let mut block = fsd.as_bytes().to_vec();
    block.resize(layout.md_block as usize, 0);
    if layout.family == Family::Vmfs6 {
        let mut put = |offset: usize, bytes: &[u8]| {
            block[UNMAP_FIELDS + offset..UNMAP_FIELDS + offset + bytes.len()]
                .copy_from_slice(bytes);
        };
        put(0, &at(SystemFile::Unmap).to_le_bytes());
        put(8, &SystemFile::Unmap.fd().raw().to_le_bytes());
        put(12, &[0x80]);
    }
    block
}
