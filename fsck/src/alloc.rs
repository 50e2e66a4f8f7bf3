//! Taking resources that nothing refers to and that are marked free as well.

use vmfs_core::format::{BlockAddr, ClusterImage, Family, FdAddr, ResourceKind};
use vmfs_core::lvm::VolumeOffset;

use crate::plan::Stage;
use crate::round::Round;

/// A free resource of `kind`, taken, with where it lies; `None` when there is none.
///
/// The pass over the bitmaps marks it used.
pub(crate) fn resource(
    round: &mut Round<'_, '_>,
    kind: ResourceKind,
) -> Option<(BlockAddr, VolumeOffset)> {
    let resources = std::sync::Arc::clone(&round.resources);
    let file = resources.file(kind)?;
    let per_cluster = u64::from(file.header().resources_per_cluster.get());
    let start = round.next_free.get(&kind).copied().unwrap_or(0);
    for cluster in start..file.header().clusters() {
        round.next_free.insert(kind, cluster);
        if kind == ResourceKind::FileBlock && !has_header(round, cluster) {
            continue;
        }
        let Ok((header, _)) = file.cluster(&round.reader, cluster) else {
            continue;
        };
        for resource in 0..header.total {
            let number = cluster * per_cluster + u64::from(resource);
            if !header.is_free(resource)
                || number >= round.usage.count(kind)
                || round.usage.is_used(kind, number)
                || round.usage.has_parts_in_use(kind, number)
            {
                continue;
            }
            let addr = match kind {
                ResourceKind::FileBlock => BlockAddr::FileBlock {
                    block: number,
                    tbz: 0,
                    cow: false,
                },
                ResourceKind::LargeFileBlock => BlockAddr::LargeFileBlock {
                    block: number,
                    tbz: 0,
                    cow: false,
                },
                _ => BlockAddr::Resource {
                    kind,
                    cluster,
                    resource,
                    cow: false,
                },
            };
            let Ok(place) = crate::passes::place_of(round, addr) else {
                continue;
            };
            let size = size_of(round, kind);
            if place.0.saturating_add(size) > round.volume.size() {
                continue;
            }
            round.usage.take(kind, number);
            return Some((addr, place));
        }
    }
    None
}

/// Whether small cluster `cluster` has a header: its large block is broken up.
fn has_header(round: &Round<'_, '_>, cluster: u64) -> bool {
    let Some(large) = &round.resources.large_file_blocks else {
        return round.layout.family != Family::Vmfs6;
    };
    let per_cluster = u64::from(large.header().resources_per_cluster.get().max(1));
    let header = large.cluster(&round.reader, cluster / per_cluster);
    header.is_ok_and(|(header, _)| {
        header.state((cluster % per_cluster) as u32) & crate::passes::CONVERTED != 0
    })
}

/// Bytes of a resource of `kind`.
pub(crate) fn size_of(round: &Round<'_, '_>, kind: ResourceKind) -> u64 {
    match kind {
        ResourceKind::FileBlock => round.layout.file_block_size(),
        ResourceKind::LargeFileBlock => round.layout.large_block_size(),
        _ => {
            let file = round.resources.file(kind);
            file.map_or(0, |file| file.header().resource_size.get().into())
        }
    }
}

/// A free file descriptor, taken, with where it lies and the generation that it gets.
pub(crate) fn descriptor(round: &mut Round<'_, '_>) -> Option<(FdAddr, VolumeOffset, u32)> {
    let (addr, place) = resource(round, ResourceKind::FileDescriptor)?;
    let BlockAddr::Resource {
        cluster, resource, ..
    } = addr
    else {
        return None;
    };
    let resources = std::sync::Arc::clone(&round.resources);
    let file = &resources.file_descriptors;
    let at = file.cluster_place(&round.reader, cluster).ok()?;
    let mut bytes = vec![0; round.layout.cluster_header_size() as usize];
    round.volume.read(at, &mut bytes).ok()?;
    let mut image = ClusterImage::from_bytes(&round.layout, file.shape(cluster), bytes);
    let generation = image.last_generation().wrapping_add(1).max(2);
    image.set_last_generation(generation);
    let md = round.layout.md_block;
    let bytes = image.bytes()[md as usize..].to_vec();
    round.put(Stage::Mark, at + md, &bytes);
    Some((FdAddr::new(cluster as u32, resource), place, generation))
}
