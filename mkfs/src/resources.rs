//! How many resources of each kind a volume has, and the headers of the files they lie in.

use vmfs_core::format::{
    ClusterShape, Family, RFMD_SIGNATURE, ResourceHeader, ResourceKind, SystemFile,
};
use zerocopy::FromZeros;

use super::options::Options;

/// Large file blocks that are broken up into small ones on a fresh VMFS6 volume, at most;
/// more if the system files lie in more.
pub const MAX_CONVERTED: u64 = 128;

/// Where the clusters of every resource file start.
const CLUSTER_GROUP_OFFSET: u32 = 65536;
/// Small file blocks in a large one.
pub(crate) const SMALL_PER_LARGE: u64 = 512;
/// Sub-blocks of a VMFS5 volume, at most.
const MAX_SUB_BLOCKS_5: u64 = 32000;

/// A resource file of a planned volume: what it holds and where.
#[derive(Debug, Clone)]
pub struct ResourceFileLayout {
    /// What kind of resources.
    pub kind: ResourceKind,
    /// The system file that they lie in.
    pub file: SystemFile,
    /// Where in that file the header lies: 0 but for VMFS6's small file blocks.
    pub header_offset: u64,
    /// The header, as written.
    pub header: ResourceHeader,
}

impl ResourceFileLayout {
    /// What cluster `cluster` holds.
    pub fn shape(&self, cluster: u64) -> ClusterShape {
        ClusterShape {
            kind: self.kind,
            bits: self.header.bits_per_resource(),
            total: self.total_in(cluster),
        }
    }

    /// Resources in cluster `cluster`: all of a full one, the rest in the last.
    pub fn total_in(&self, cluster: u64) -> u32 {
        let per_cluster = u64::from(self.header.resources_per_cluster.get());
        let left = self
            .header
            .resources()
            .saturating_sub(cluster * per_cluster);
        left.min(per_cluster) as u32
    }
}

/// Per cluster, clusters per group, bytes.
#[derive(Clone, Copy)]
struct Shape {
    per_cluster: u32,
    per_group: u32,
    size: u32,
}

/// VMFS6's additions to a resource header: flags, affinity per cluster and resource, bits.
#[derive(Clone, Copy)]
struct Extra(u32, u16, u16, u32);

fn header(
    shape: Shape,
    resources: u64,
    cluster_header: u64,
    extra: Option<Extra>,
) -> ResourceHeader {
    let mut header = ResourceHeader::new_zeroed();
    header.resources_per_cluster = shape.per_cluster.into();
    header.clusters_per_group = shape.per_group.into();
    header.cluster_group_offset = CLUSTER_GROUP_OFFSET.into();
    header.resource_size = shape.size.into();
    let group = group_size(shape, cluster_header);
    header.cluster_group_size = (group as u32).into();
    header.resources_lo = (resources as u32).into();
    header.resources_hi = ((resources >> 32) as u32).into();
    let groups = header.clusters().div_ceil(shape.per_group.into());
    header.cluster_groups = (groups as u32).into();
    if let Some(Extra(flags, per_cluster, per_resource, bits)) = extra {
        header.signature = RFMD_SIGNATURE.into();
        header.version = 1.into();
        header.flags = flags.into();
        header.affinity_per_cluster = per_cluster.into();
        header.affinity_per_resource = per_resource.into();
        header.bits_per_resource = bits.into();
    }
    header
}

fn group_size(shape: Shape, cluster_header: u64) -> u64 {
    let data = u64::from(shape.per_cluster) * u64::from(shape.size);
    u64::from(shape.per_group) * (cluster_header + data)
}

/// The resource files of a volume of `volume` bytes, their headers filled in.
///
/// On VMFS6 `pointer_blocks2` is the least number of second pointer blocks, and `converted` the
/// number of large file blocks that are broken up.
pub(crate) fn resource_files(
    options: &Options,
    volume: u64,
    pointer_blocks2: u64,
    converted: u64,
) -> Vec<ResourceFileLayout> {
    match options.family {
        Family::Vmfs6 => vmfs6(options, volume, pointer_blocks2, converted),
        Family::Vmfs3 | Family::Vmfs5 => vmfs5(options, volume),
    }
}

fn plain(kind: ResourceKind, file: SystemFile, header: ResourceHeader) -> ResourceFileLayout {
    ResourceFileLayout {
        kind,
        file,
        header_offset: 0,
        header,
    }
}

fn vmfs6(
    options: &Options,
    volume: u64,
    pointer_blocks2: u64,
    converted: u64,
) -> Vec<ResourceFileLayout> {
    const HEADER: u64 = 8192;
    let shape = |per_cluster, per_group, size| Shape {
        per_cluster,
        per_group,
        size,
    };
    let small_blocks = volume >> 20;
    let large_blocks = small_blocks.div_ceil(SMALL_PER_LARGE);
    let whole_groups = |count: u64| count.clamp(2048, 1 << 24) / 2048 * 2048;
    let file_descriptors = options.file_descriptors.map_or(16384, whole_groups);
    let usual = if volume < 1792 << 20 { 8192 } else { 16384 };
    let sub_blocks = options.sub_blocks.map_or(usual, whole_groups);
    let journals = if options.local { 2 } else { 128 };

    let large_shape = shape(16, 8, 8192);
    let mut large = header(
        large_shape,
        large_blocks,
        HEADER,
        Some(Extra(0x35, 840, 52, 3)),
    );
    large.child_meta_offset = 4096.into();
    let mut small = header(
        shape(512, 8, 0),
        small_blocks,
        HEADER,
        Some(Extra(0x2a, 216, 1, 2)),
    );
    small.parent_resources_per_cluster = large_shape.per_cluster.into();
    small.parent_clusters_per_group = large_shape.per_group.into();
    small.parent_cluster_group_size = large.cluster_group_size;
    small.converted_clusters = (converted as u32).into();
    vec![
        plain(ResourceKind::LargeFileBlock, SystemFile::FileBlocks, large),
        ResourceFileLayout {
            kind: ResourceKind::FileBlock,
            file: SystemFile::FileBlocks,
            header_offset: 4096,
            header: small,
        },
        plain(
            ResourceKind::FileDescriptor,
            SystemFile::FileDescriptors,
            header(
                shape(256, 8, 8192),
                file_descriptors,
                HEADER,
                Some(Extra(4, 256, 1, 1)),
            ),
        ),
        plain(
            ResourceKind::PointerBlock,
            SystemFile::PointerBlocks,
            header(shape(0, 8, 65536), 0, HEADER, Some(Extra(4, 0, 1, 1))),
        ),
        plain(
            ResourceKind::SubBlock,
            SystemFile::SubBlocks,
            header(
                shape(256, 8, 65536),
                sub_blocks,
                HEADER,
                Some(Extra(4, 256, 1, 1)),
            ),
        ),
        plain(
            ResourceKind::PointerBlock2,
            SystemFile::PointerBlocks2,
            header(
                shape(32, 8, 65536),
                pointer_blocks2.next_multiple_of(256).max(256),
                HEADER,
                Some(Extra(4, 32, 1, 1)),
            ),
        ),
        plain(
            ResourceKind::JournalBlock,
            SystemFile::Journals,
            header(
                shape(8, 4, 2 << 20),
                journals,
                HEADER,
                Some(Extra(0, 8, 1, 1)),
            ),
        ),
    ]
}

fn vmfs5(options: &Options, volume: u64) -> Vec<ResourceFileLayout> {
    const HEADER: u64 = 1024;
    let block = options.file_block_size;
    // What was made as VMFS3 keeps its clusters.
    let old = options.family == Family::Vmfs3 || !options.dense_sub_blocks;
    let per_group = if old { 32 } else { 64 };
    let shape = |per_cluster, size| Shape {
        per_cluster,
        per_group,
        size,
    };
    let most = 256 * block;

    let fd_shape = shape(if old { 32 } else { 200 }, 2048);
    let fd_bytes = (volume / 50 / block).clamp(1, 256) * block;
    let fd_groups = fd_bytes.div_ceil(group_size(fd_shape, HEADER));
    let overhead = u64::from(CLUSTER_GROUP_OFFSET) * (fd_groups + 2);
    // Addresses have 16 bits for the cluster.
    let most_fds = u64::from(fd_shape.per_cluster) << 16;
    let usual_fds = fd_bytes.saturating_sub(overhead) / 2048;
    let fds = options
        .file_descriptors
        .unwrap_or(usual_fds)
        .clamp(64, most_fds);

    let (sub_shape, sub_blocks) = if old {
        let shape = shape(16, 64 << 10);
        (shape, (volume / 16 / (64 << 10)).min(4096))
    } else {
        (shape(64, 8192), (volume / 32 / 8192).min(MAX_SUB_BLOCKS_5))
    };
    let sub_blocks = options.sub_blocks.unwrap_or(sub_blocks);
    let sub_blocks = sub_blocks.min(fitting(sub_shape, most, HEADER));

    let pointer_shape = shape(16, 4096);
    let pointer_bytes = (256 * block).min(volume / 8);
    let pointer_blocks = fitting(pointer_shape, pointer_bytes, HEADER).min(64512);

    let blocks = volume / block;
    let mut files = vec![
        plain(
            ResourceKind::FileBlock,
            SystemFile::FileBlocks,
            header(shape(200, 0), blocks, HEADER, None),
        ),
        plain(
            ResourceKind::FileDescriptor,
            SystemFile::FileDescriptors,
            header(fd_shape, fds, HEADER, None),
        ),
        plain(
            ResourceKind::PointerBlock,
            SystemFile::PointerBlocks,
            header(pointer_shape, pointer_blocks, HEADER, None),
        ),
        plain(
            ResourceKind::SubBlock,
            SystemFile::SubBlocks,
            header(sub_shape, sub_blocks, HEADER, None),
        ),
    ];
    if options.family == Family::Vmfs5 {
        let header = header(pointer_shape, 256, HEADER, None);
        files.push(plain(
            ResourceKind::PointerBlock2,
            SystemFile::PointerBlocks2,
            header,
        ));
    }
    files
}

/// Resources of a shape that a file of `bytes` bytes has room for, whole clusters only.
fn fitting(shape: Shape, bytes: u64, cluster_header: u64) -> u64 {
    let room = bytes.saturating_sub(CLUSTER_GROUP_OFFSET.into());
    let group = group_size(shape, cluster_header);
    let headers = u64::from(shape.per_group) * cluster_header;
    let per_group = u64::from(shape.per_group) * u64::from(shape.per_cluster);
    let rest = (room % group).saturating_sub(headers) / u64::from(shape.size);
    let rest = rest - rest % u64::from(shape.per_cluster);
    room / group * per_group + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(family: Family, volume: u64, block: u64) -> Vec<(ResourceKind, u64, u64)> {
        let mut options = Options::new(family, &[volume]);
        options.file_block_size = block;
        let header_size = if family == Family::Vmfs6 { 8192 } else { 1024 };
        resource_files(&options, volume, 0, 0)
            .iter()
            .map(|file| {
                let length = file.header.file_length(family, header_size);
                (file.kind, file.header.resources(), length)
            })
            .collect()
    }

    #[test]
    fn a_2_gib_vmfs5_volume_has_the_numbers_of_esxi() {
        let expected = [
            (ResourceKind::FileBlock, 2048, 131_072),
            (ResourceKind::FileDescriptor, 20352, 41_877_504),
            (ResourceKind::PointerBlock, 64512, 268_435_456),
            (ResourceKind::SubBlock, 8192, 67_305_472),
            (ResourceKind::PointerBlock2, 256, 1_179_648),
        ];
        assert_eq!(counts(Family::Vmfs5, 2 << 30, 1 << 20), expected);
    }

    #[test]
    fn a_2_gib_vmfs6_volume_has_the_numbers_of_esxi() {
        let found = counts(Family::Vmfs6, 2 << 30, 1 << 20);
        let expected = [
            (ResourceKind::LargeFileBlock, 4, 163_840),
            (ResourceKind::FileDescriptor, 16384, 134_807_552),
            (ResourceKind::SubBlock, 16384, 1_074_331_648),
            (ResourceKind::PointerBlock2, 256, 16_908_288),
            (ResourceKind::JournalBlock, 128, 268_632_064),
        ];
        for row in expected {
            assert!(found.contains(&row), "{row:?} in {found:?}");
        }
    }

    #[test]
    fn a_vmfs5_volume_of_512_kib_blocks_has_the_pointer_blocks_of_esxi() {
        let found = counts(Family::Vmfs5, 4 << 30, 512 << 10);
        assert!(
            found.contains(&(ResourceKind::PointerBlock, 32240, 0x0800_0000)),
            "{found:?}"
        );
    }
}
