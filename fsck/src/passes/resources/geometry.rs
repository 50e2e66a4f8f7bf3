use vmfs_core::format::{Damage, Family, Layout, RFMD_SIGNATURE, ResourceHeader, ResourceKind};
use vmfs_core::journal::MetaReader;
use zerocopy::{FromBytes, FromZeros};

/// Where the clusters of every resource file start.
const CLUSTER_GROUP_OFFSET: u64 = 65536;

/// No header counts more resources.
const MOST_RESOURCES: u64 = 1 << 31;

/// What the format has for a kind: resources in a cluster, clusters in a group, bytes of one, and
/// on VMFS6 flags, affinity entries per cluster and resource, bits in the bitmap.
struct Shape(u32, u32, u32, [u32; 4]);

fn shape(kind: ResourceKind, layout: &Layout) -> Shape {
    let none = [0; 4];
    if layout.family == Family::Vmfs6 {
        let md = layout.md_block as u32;
        return match kind {
            ResourceKind::LargeFileBlock => Shape(16, 8, 2 * md, [0x35, 840, 52, 3]),
            ResourceKind::FileBlock => Shape(
                layout.file_blocks_per_cluster as u32,
                8,
                0,
                [0x2a, 216, 1, 2],
            ),
            ResourceKind::FileDescriptor => Shape(256, 8, 2 * md, [4, 256, 1, 1]),
            ResourceKind::SubBlock => Shape(256, 8, 65536, [4, 256, 1, 1]),
            ResourceKind::PointerBlock => Shape(0, 8, 65536, [4, 0, 1, 1]),
            ResourceKind::PointerBlock2 => Shape(32, 8, 65536, [4, 32, 1, 1]),
            ResourceKind::JournalBlock => Shape(8, 4, 2 << 20, [0, 8, 1, 1]),
        };
    }
    let old = !layout.dense_sub_blocks;
    let per_group = if old { 32 } else { 64 };
    let sub_block = layout.sub_block_size() as u32;
    match kind {
        ResourceKind::FileDescriptor => Shape(if old { 32 } else { 200 }, per_group, 2048, none),
        ResourceKind::SubBlock => Shape(if old { 16 } else { 64 }, per_group, sub_block, none),
        ResourceKind::PointerBlock | ResourceKind::PointerBlock2 => {
            Shape(16, per_group, 4096, none)
        }
        _ => Shape(200, per_group, 0, none),
    }
}

/// What tells how many resources a file has.
pub(super) struct Size<'a> {
    /// Bytes of the file.
    pub(super) length: u64,
    /// Bytes of the volume.
    pub(super) volume: u64,
    /// Resources by what clusters are in the file, which has this geometry, and which may have this number of
    /// resources by its header; `None` if they don't tell.
    pub(super) clusters: &'a dyn Fn(&ResourceHeader, Option<u64>) -> Option<u64>,
}

/// What is wrong with the header of a file of a `size`, and what it should be; `None` if nothing is.
pub(super) fn differences(
    raw: &[u8],
    parsed: &Result<ResourceHeader, Damage>,
    kind: ResourceKind,
    layout: &Layout,
    size: &Size<'_>,
) -> Option<(Vec<String>, ResourceHeader)> {
    let found = ResourceHeader::read_from_prefix(raw).ok()?.0;
    let expected = expected(&found, kind, layout, size);
    let mut details = Vec::new();
    let mut compare = |field: &str, found: u32, expected: u32| {
        if found != expected {
            details.push(format!("{field} is {found:#x}, expected {expected:#x}"));
        }
    };
    macro_rules! fields {
        ($($field:ident),+) => {
            $(compare(stringify!($field), found.$field.get().into(), expected.$field.get().into());)+
        };
    }
    fields!(
        resources_per_cluster,
        clusters_per_group,
        cluster_group_offset,
        resource_size,
        cluster_group_size,
        resources_lo,
        resources_hi,
        cluster_groups,
        signature,
        version,
        flags,
        bits_per_resource,
        child_meta_offset,
        parent_resources_per_cluster,
        parent_clusters_per_group,
        parent_cluster_group_size
    );
    if details.is_empty() {
        // What parsing objects to without a field of these being wrong, only it knows.
        let error = parsed.as_ref().err()?;
        details.push(error.to_string());
    }
    Some((details, expected))
}

/// Bytes that the file has by its header alone, if that has all that the format has for the kind.
pub(super) fn own_length(
    raw: &[u8],
    parsed: &Result<ResourceHeader, Damage>,
    kind: ResourceKind,
    reader: &MetaReader,
) -> Option<u64> {
    let layout = reader.layout();
    // One of VMFS3, or that was upgraded from it, is as long as its blocks.
    if layout.family == Family::Vmfs3 || layout.family == Family::Vmfs5 && !layout.dense_sub_blocks
    {
        return None;
    }
    let header = parsed.as_ref().ok()?;
    let length = header.file_length(layout.family, layout.cluster_header_size());
    let size = Size {
        length,
        volume: reader.volume().size(),
        clusters: &|_, _| None,
    };
    let wrong = differences(raw, parsed, kind, layout, &size);
    wrong.is_none().then_some(length)
}

fn expected(
    found: &ResourceHeader,
    kind: ResourceKind,
    layout: &Layout,
    size: &Size<'_>,
) -> ResourceHeader {
    let Shape(per_cluster, per_group, resource_size, extra) = shape(kind, layout);
    let header_size = layout.cluster_header_size();
    let cluster = header_size + u64::from(per_cluster) * u64::from(resource_size);
    let group = u64::from(per_group) * cluster;
    let mut header = found.clone();
    header.resources_per_cluster = per_cluster.into();
    header.clusters_per_group = per_group.into();
    header.cluster_group_offset = (CLUSTER_GROUP_OFFSET as u32).into();
    header.resource_size = resource_size.into();
    header.cluster_group_size = (group as u32).into();
    if layout.family == Family::Vmfs6 {
        let [flags, _, _, bits] = extra;
        header.signature = RFMD_SIGNATURE.into();
        header.version = 1.into();
        header.flags = flags.into();
        header.bits_per_resource = bits.into();
        let large = kind == ResourceKind::LargeFileBlock;
        header.child_meta_offset = if large { 4096 } else { 0 }.into();
        let nested = kind == ResourceKind::FileBlock;
        let parent = shape(ResourceKind::LargeFileBlock, layout);
        let parent_group =
            u64::from(parent.1) * (header_size + u64::from(parent.0) * u64::from(parent.2));
        header.parent_resources_per_cluster = if nested { parent.0 } else { 0 }.into();
        header.parent_clusters_per_group = if nested { parent.1 } else { 0 }.into();
        header.parent_cluster_group_size = if nested { parent_group as u32 } else { 0 }.into();
    } else {
        let zeroed = ResourceHeader::new_zeroed();
        header.signature = zeroed.signature;
        header.version = zeroed.version;
        header.flags = zeroed.flags;
        header.bits_per_resource = zeroed.bits_per_resource;
        header.child_meta_offset = zeroed.child_meta_offset;
        header.parent_resources_per_cluster = zeroed.parent_resources_per_cluster;
        header.parent_clusters_per_group = zeroed.parent_clusters_per_group;
        header.parent_cluster_group_size = zeroed.parent_cluster_group_size;
    }
    // It is another file's then, with its numbers.
    let foreign = found.resources_per_cluster.get() != per_cluster
        && found.resource_size.get() != resource_size;
    let resources = resources(&header, kind, layout, size, foreign);
    header.with_resources(resources)
}

/// How many resources the file has: what the header says if the file's length agrees, else what
/// that tells. A `foreign` header says nothing.
fn resources(
    header: &ResourceHeader,
    kind: ResourceKind,
    layout: &Layout,
    size: &Size<'_>,
    foreign: bool,
) -> u64 {
    let (length, volume) = (size.length, size.volume);
    // More than any file has: the upper half of the number is damaged.
    let said = match header.resources() {
        said if said > MOST_RESOURCES => said & u64::from(u32::MAX),
        said => said,
    };
    let header_size = layout.cluster_header_size();
    let block = layout.file_block_size();
    let fits = |resources: u64| {
        let header = header.with_resources(resources);
        resources <= MOST_RESOURCES && header.file_length(layout.family, header_size) == length
    };
    let per_cluster = u64::from(header.resources_per_cluster.get());
    let per_group = per_cluster * u64::from(header.clusters_per_group.get());
    match kind {
        // Nothing of the file's own length tells the number of small blocks exactly.
        ResourceKind::FileBlock => {
            let all = volume / block;
            if foreign {
                return all;
            }
            let large = layout.file_blocks_per_cluster;
            let within = layout.family == Family::Vmfs6 || fits(said);
            let near = said <= all && said + per_group > all;
            // A volume that was made longer has file blocks for a part of it.
            if said > 0 && said <= all && within && (near || said.is_multiple_of(large)) {
                let by_clusters = (size.clusters)(header, Some(said));
                return by_clusters.map_or(said, |more| more.clamp(said, all));
            }
            all
        }
        ResourceKind::LargeFileBlock => {
            if said > 0 && fits(said) {
                return said;
            }
            (volume / block).div_ceil(layout.file_blocks_per_cluster)
        }
        ResourceKind::PointerBlock if per_cluster == 0 => 0,
        // VMFS3's `.fdc.sf` is as long as its blocks.
        _ if layout.family == Family::Vmfs3 => said,
        _ => {
            let by_length = by_length(header, layout, length).filter(|&resources| fits(resources));
            let said = Some(said).filter(|&said| fits(said) && !foreign);
            // On VMFS6 the length says no more than how many groups there are.
            let whole_groups = layout.family == Family::Vmfs6;
            let clusters = whole_groups.then(|| (size.clusters)(header, said));
            let more = clusters
                .flatten()
                .filter(|&more| said.is_none_or(|said| more > said));
            more.or(said)
                .or(by_length)
                .unwrap_or_else(|| header.resources())
        }
    }
}

/// Resources of a file of `length` bytes.
fn by_length(header: &ResourceHeader, layout: &Layout, length: u64) -> Option<u64> {
    let per_cluster = u64::from(header.resources_per_cluster.get());
    let per_group = u64::from(header.clusters_per_group.get());
    let group = u64::from(header.cluster_group_size.get());
    let inside = length.checked_sub(u64::from(header.cluster_group_offset.get()))?;
    let whole = inside.checked_div(group)? * per_group * per_cluster;
    let headers = per_group * layout.cluster_header_size();
    let rest = (inside % group).saturating_sub(headers);
    Some(whole + rest.checked_div(u64::from(header.resource_size.get()))?)
}
