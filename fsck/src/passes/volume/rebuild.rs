use vmfs_core::format::{
    FDMD_SIGNATURE, Family, FdAddr, FileMetadata, FsConfig, FsDescriptor, RFMD_SIGNATURE,
    ResourceHeader, SystemFile, VMFS_MAGIC, VMFSL_MAGIC,
};
use vmfs_core::lvm::Volume;
use zerocopy::FromZeros;

use super::read;

/// Where `.fdc.sf` can begin: behind the heartbeats, by the size of file blocks.
const STARTS_5: [u64; 2] = [0x40_0000, 0x80_0000];
const START_6: u64 = 0x70_0000;
/// Those that every volume has.
const RESOURCE_FILES: [SystemFile; 4] = [
    SystemFile::FileBlocks,
    SystemFile::FileDescriptors,
    SystemFile::PointerBlocks,
    SystemFile::SubBlocks,
];
/// The metadata block of VMFS6.
const MD_6: u64 = 4096;

/// What a header of `.fdc.sf` and the descriptors behind it tell.
struct Found {
    family: Family,
    header: ResourceHeader,
    first_fd: u64,
    fd_size: u64,
    file_block_size: u64,
    sub_block_size: u64,
}

/// The descriptor as the other structures have it; `None` when they don't tell.
pub(super) fn expected(volume: &Volume, found: &FsDescriptor) -> Option<FsDescriptor> {
    let evidence = evidence(volume)?;
    let mut fsd = found.clone();
    if !matches!(fsd.magic.get(), VMFS_MAGIC | VMFSL_MAGIC) {
        fsd.magic = VMFS_MAGIC.into();
    }
    let major = fsd.major_version.get();
    let (fits, usual) = match evidence.family {
        // One that was upgraded looks like this as well.
        Family::Vmfs3 => ((1..=23).contains(&major), (4, 31)),
        Family::Vmfs5 => ((14..=23).contains(&major), (14, 81)),
        Family::Vmfs6 => (major == 24, (24, 82)),
    };
    if !fits {
        fsd.major_version = usual.0.into();
        fsd.minor_version = usual.1;
    }
    fsd.file_block_size = evidence.file_block_size.into();
    fsd.sub_block_size = (evidence.sub_block_size as u32).into();
    fsd.fdc_cluster_group_offset = evidence.header.cluster_group_offset;
    fsd.fdc_clusters_per_group = evidence.header.clusters_per_group;
    // 512-byte and 4096-byte sectors are both possible; anything else is damage.
    if !matches!(fsd.disk_block_size.get(), 512 | 4096) {
        fsd.disk_block_size = 512.into();
    }
    let dense = FsConfig::DENSE_SUB_BLOCKS.0;
    let mut config = fsd.config.get();
    if evidence.family == Family::Vmfs6 {
        // Checksums, copy-on-write and the like would be bits that nobody has seen.
        if config & !0x7fff != 0 {
            config &= 0x7fff;
        }
        config |= 0x4000 | dense;
        fsd.md_alignment = (MD_6 as u32).into();
        if fsd.sfb_to_lfb_shift.get() > 16 || fsd.sfb_to_lfb_shift.get() == 0 {
            fsd.sfb_to_lfb_shift = 9.into();
        }
        fsd.sfb_to_lfb_shift = (small_per_large(evidence.file_block_size) as u16).into();
    } else if evidence.family == Family::Vmfs5 {
        if evidence.sub_block_size == 8192 {
            config |= dense;
        } else {
            config &= !dense;
        }
    }
    fsd.config = config.into();
    if evidence.family != Family::Vmfs3 && config & dense != 0 {
        let place = |file: SystemFile| {
            evidence.first_fd + u64::from(file.fd().resource()) * evidence.fd_size
        };
        fsd.pb2_vol_addr = place(SystemFile::PointerBlocks2).into();
        fsd.pb2_fd_addr = SystemFile::PointerBlocks2.fd().raw().into();
        fsd.sdd_vol_addr = place(SystemFile::SystemData).into();
        fsd.sdd_fd_addr = SystemFile::SystemData.fd().raw().into();
    }
    Some(fsd)
}

/// log2 of the small blocks in a large one: 512 MiB.
fn small_per_large(file_block: u64) -> u32 {
    (0x2000_0000 / file_block.max(1)).trailing_zeros()
}

fn evidence(volume: &Volume) -> Option<Found> {
    let mut places = vec![(START_6, Family::Vmfs6)];
    places.extend(STARTS_5.map(|start| (start, Family::Vmfs5)));
    // A header that is lost is taken to be as every volume's: the descriptors must then be where that says.
    [false, true].into_iter().find_map(|usual| {
        let mut places = places.iter();
        places.find_map(|&(start, family)| at(volume, (start, family), usual))
    })
}

/// The header of `.fdc.sf` that every volume of a family has, but for the number of descriptors; not of one that
/// was upgraded from VMFS3.
fn usual_header(family: Family) -> ResourceHeader {
    let (per_cluster, per_group, size) = match family {
        Family::Vmfs6 => (256, 8, 2 * MD_6),
        Family::Vmfs3 | Family::Vmfs5 => (200, 64, 2048),
    };
    let mut header = ResourceHeader::new_zeroed();
    header.resources_per_cluster = per_cluster.into();
    header.clusters_per_group = per_group.into();
    header.cluster_group_offset = 65536.into();
    header.resource_size = (size as u32).into();
    header.signature = RFMD_SIGNATURE.into();
    header
}

/// What is found if `.fdc.sf` begins at `start`, with the header there or the `usual` one.
fn at(volume: &Volume, (start, family): (u64, Family), usual: bool) -> Option<Found> {
    let header: ResourceHeader = if usual {
        usual_header(family)
    } else {
        read(volume, start)?
    };
    let vmfs6 = family == Family::Vmfs6;
    let (header_size, fd_size, meta) = if vmfs6 {
        (2 * MD_6, 2 * MD_6, MD_6)
    } else {
        (1024, 2048, 512)
    };
    let signed = !vmfs6 || header.signature.get() == RFMD_SIGNATURE;
    let per_group = u64::from(header.clusters_per_group.get());
    let offset = u64::from(header.cluster_group_offset.get());
    if !signed
        || u64::from(header.resource_size.get()) != fd_size
        || !(1..=4096).contains(&per_group)
        || offset != 65536
    {
        return None;
    }
    let first_fd = start + offset + per_group * header_size;
    let metadata = |fd: FdAddr| -> Option<FileMetadata> {
        let place = first_fd + u64::from(fd.resource()) * fd_size + meta;
        let found: FileMetadata = read(volume, place)?;
        let own = found.address.get() == fd.raw();
        (own && (!vmfs6 || found.signature.get() == FDMD_SIGNATURE)).then_some(found)
    };
    let sizes: Vec<u64> = RESOURCE_FILES
        .into_iter()
        .filter_map(|file| Some(metadata(file.fd())?.block_size.get()))
        .collect();
    // Two that agree.
    let file_block_size = *sizes.iter().enumerate().find_map(|(index, size)| {
        let again = sizes[index + 1..].contains(size);
        (again && size.is_power_of_two()).then_some(size)
    })?;
    let family = if vmfs6 {
        family
    } else if header.resources_per_cluster.get() == 200 {
        Family::Vmfs5
    } else {
        Family::Vmfs3
    };
    let sub_block_size = match family {
        Family::Vmfs6 | Family::Vmfs3 => 65536,
        Family::Vmfs5 => 8192,
    };
    Some(Found {
        family,
        header,
        first_fd,
        fd_size,
        file_block_size,
        sub_block_size,
    })
}
