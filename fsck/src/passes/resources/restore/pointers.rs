//! Pointer blocks of resource files' maps.

use std::collections::BTreeMap;

use vmfs_core::format::{
    At, BlockAddr, ClusterHeader, Family, Layout, ResourceHeader, ResourceKind, SystemFile,
    ZeroLevel,
};
use vmfs_core::lvm::{Volume, VolumeOffset};

use super::map::{Map, header};
use crate::passes::maps::little_endian;

/// Clusters of pointer blocks that are searched: those of resource files are among the first.
const SEARCHED: u64 = 64;

/// A file of pointer blocks whose map has none itself.
struct Pointers {
    kind: ResourceKind,
    map: Map,
    header: ResourceHeader,
}

impl Pointers {
    fn open(volume: &Volume, layout: &Layout, kind: ResourceKind) -> Option<Self> {
        let file = match kind {
            ResourceKind::PointerBlock => SystemFile::PointerBlocks,
            ResourceKind::PointerBlock2 => SystemFile::PointerBlocks2,
            _ => return None,
        };
        let map = Map::read(volume, layout, file.fd(), kind);
        let start = map.known.get(&0)? << layout.file_block_shift;
        let header = header(volume, layout, kind, (start, map.length()))?;
        Some(Self { kind, map, header })
    }

    /// Where an offset of the file lies on the volume.
    fn at(&self, layout: &Layout, offset: u64) -> Option<VolumeOffset> {
        let shift = layout.file_block_shift;
        let block = self.map.known.get(&(offset >> shift))?;
        let inside = offset & (layout.file_block_size() - 1);
        Some(VolumeOffset((block << shift) + inside))
    }

    /// The addresses of the pointer blocks of a cluster that are in use.
    fn used(&self, volume: &Volume, layout: &Layout, cluster: u64) -> Vec<u64> {
        let size = layout.cluster_header_size();
        let offset = self.header.cluster_header_offset(cluster, size);
        let mut bytes = vec![0; size as usize];
        let Some(at) = self.at(layout, offset) else {
            return Vec::new();
        };
        if volume.read(at, &mut bytes).is_err() {
            return Vec::new();
        }
        let found = ClusterHeader::parse(&bytes, cluster, &self.header, layout, At::Volume(at.0));
        let Ok(found) = found else {
            return Vec::new();
        };
        let used = (0..found.total).filter(|&resource| !found.is_free(resource));
        let addr = used.map(|resource| BlockAddr::Resource {
            kind: self.kind,
            cluster,
            resource,
            cow: false,
        });
        addr.map(|addr| addr.encode(layout)).collect()
    }
}

/// The place and the addresses of the pointer block that `raw` names.
pub(super) fn read(volume: &Volume, layout: &Layout, raw: u64) -> Option<(VolumeOffset, Vec<u64>)> {
    let addr = BlockAddr::decode(raw, layout);
    let BlockAddr::Resource {
        kind,
        cluster,
        resource,
        ..
    } = addr
    else {
        return None;
    };
    let file = Pointers::open(volume, layout, kind)?;
    let size = layout.cluster_header_size();
    let offset = file.header.resource_offset(cluster, resource, size)?;
    let place = file.at(layout, offset)?;
    let mut bytes = vec![0; layout.pointer_block_size() as usize];
    volume.read(place, &mut bytes).ok()?;
    let raws = bytes.chunks_exact(layout.address_size as usize);
    Some((place, raws.map(little_endian).collect()))
}

/// The pointer blocks that hold exactly these addresses: those `said`, or the only ones in use that do.
pub(super) fn with(
    volume: &Volume,
    layout: &Layout,
    said: &[u64],
    addresses: &[u64],
) -> Option<Vec<u64>> {
    let parts = addresses.chunks(layout.pointers_per_block as usize);
    if parts.len() as u64 > layout.fd_address_count {
        return None;
    }
    let holds = |raw: u64, part: &[u64]| {
        read(volume, layout, raw).is_some_and(|(_, raws)| raws.starts_with(part))
    };
    if !said.is_empty() {
        let all = said.len() == parts.len()
            && said.iter().zip(parts).all(|(&raw, part)| holds(raw, part));
        return all.then(|| said.to_vec());
    }
    let used = used(volume, layout)?;
    let only = |part: &[u64]| {
        let mut holding = used.iter().copied().filter(|&raw| holds(raw, part));
        holding.next().filter(|_| holding.next().is_none())
    };
    parts.map(only).collect()
}

/// The addresses of the pointer blocks in use among which those of resource files are.
fn used(volume: &Volume, layout: &Layout) -> Option<Vec<u64>> {
    let kind = match layout.family {
        Family::Vmfs6 => ResourceKind::PointerBlock2,
        Family::Vmfs3 | Family::Vmfs5 => ResourceKind::PointerBlock,
    };
    let file = Pointers::open(volume, layout, kind)?;
    let clusters = file.header.clusters().min(SEARCHED);
    let used = (0..clusters).flat_map(|cluster| file.used(volume, layout, cluster));
    Some(used.collect())
}

/// What the only pointer block in use holds that has the `known` blocks of a file of `needed` blocks in
/// their places.
pub(super) fn agreeing(
    volume: &Volume,
    layout: &Layout,
    known: &BTreeMap<u64, u64>,
    needed: u64,
) -> Option<Vec<u64>> {
    let agrees = |raws: &[u64]| {
        known.iter().all(|(&block, &place)| {
            let raw = raws.get(block as usize).copied().unwrap_or(0);
            matches!(BlockAddr::decode(raw, layout), BlockAddr::FileBlock { block, .. } if block == place)
        })
    };
    if needed > layout.pointers_per_block || known.is_empty() {
        return None;
    }
    let all = used(volume, layout)?.into_iter();
    let mut agreeing = all
        .filter_map(|raw| Some(read(volume, layout, raw)?.1))
        .filter(|raws| agrees(raws));
    agreeing.next().filter(|_| agreeing.next().is_none())
}

/// The kind of map that begins with the address of a pointer block.
pub(super) fn level(layout: &Layout, raw: u64) -> ZeroLevel {
    match BlockAddr::decode(raw, layout) {
        BlockAddr::Resource {
            kind: ResourceKind::PointerBlock2,
            ..
        } => ZeroLevel::PointerBlock2,
        _ => ZeroLevel::PointerBlock,
    }
}
