//! Blocks of `.fdc.sf` that its map leads past: each descriptor in them would be taken for one that isn't in use.

use std::collections::BTreeMap;

use vmfs_core::format::{
    At, ClusterHeader, FdAddr, FileMetadata, Layout, ResourceHeader, ResourceKind,
};
use vmfs_core::lvm::{Volume, VolumeOffset};
use vmfs_core::resource::rescue::Evidence;
use zerocopy::FromBytes;

use super::map::{BARE, Map};

/// File descriptors of a block that are looked at where marks tell, and how many must be marked used for it to
/// be certain that some of them were there.
const LOOKED_AT: usize = 8;
const ENOUGH: usize = 3;

/// What was seen of a block.
#[derive(Default)]
struct Seen {
    /// Descriptors that are marked used and were looked at.
    marked: usize,
    /// Nothing tells which of its descriptors are marked used.
    unmarked: bool,
    /// A descriptor says that it is itself.
    sound: bool,
}

/// Blocks of `.fdc.sf` in which descriptors are or may be marked used and none is there; of each whether it is
/// certain that some of them were. `known` are its blocks on the volume.
pub(super) fn bare(
    known: &BTreeMap<u64, u64>,
    volume: &Volume,
    layout: &Layout,
    header: &ResourceHeader,
) -> BTreeMap<u64, bool> {
    let (size, shift) = (layout.cluster_header_size(), layout.file_block_shift);
    let inside = layout.file_block_size() - 1;
    let at = |offset: u64| {
        let place = known.get(&(offset >> shift))?;
        Some((place << shift) + (offset & inside))
    };
    let marks = |number: u64| {
        let place = at(header.cluster_header_offset(number, size))?;
        let mut bytes = vec![0; size as usize];
        volume.read(VolumeOffset(place), &mut bytes).ok()?;
        let found = ClusterHeader::parse(&bytes, number, header, layout, At::Volume(place)).ok()?;
        // Marks that don't count up to what the header says may themselves be what is damaged.
        (found.count_free() == found.free).then_some(found)
    };
    let mut seen: BTreeMap<u64, Seen> = BTreeMap::new();
    for number in 0..header.clusters() {
        let marks = marks(number);
        let total = marks.as_ref().map(|marks| marks.total);
        let total = total.unwrap_or_else(|| header.resources_per_cluster.get());
        for resource in 0..total {
            if marks.as_ref().is_some_and(|marks| marks.is_free(resource)) {
                continue;
            }
            let Some(offset) = header.resource_offset(number, resource, size) else {
                continue;
            };
            let Some(place) = at(offset) else {
                continue;
            };
            let seen = seen.entry(offset >> shift).or_default();
            seen.unmarked |= marks.is_none();
            if seen.sound || marks.is_some() && seen.marked >= LOOKED_AT {
                continue;
            }
            let mut meta = [0; size_of::<FileMetadata>()];
            let read = volume.read(VolumeOffset(place + layout.fd_meta), &mut meta);
            seen.marked += usize::from(marks.is_some() && read.is_ok());
            seen.sound |= FileMetadata::read_from_bytes(&meta)
                .is_ok_and(|meta| meta.address.get() == FdAddr::new(number as u32, resource).raw());
        }
    }
    let bare = seen.into_iter().filter(|(_, seen)| !seen.sound);
    bare.map(|(block, seen)| (block, seen.marked >= ENOUGH))
        .collect()
}

impl Map {
    /// Takes out the blocks whose descriptors or clusters a look at the whole volume has found elsewhere.
    pub(super) fn take_out_hidden(
        &mut self,
        volume: &Volume,
        layout: &Layout,
        evidence: &Evidence,
    ) {
        let (shift, kind) = (layout.file_block_shift, ResourceKind::FileDescriptor);
        let Some(header) = self.header(volume, layout, kind) else {
            return;
        };
        let size = layout.cluster_header_size();
        let descriptors = evidence.descriptors().filter_map(|(fd, at)| {
            let offset = header.resource_offset(fd.cluster().into(), fd.resource(), size)?;
            Some((offset, at))
        });
        let clusters = evidence.clusters(kind).filter_map(|(number, at)| {
            let offset = header.cluster_header_offset(number, size);
            (number < header.clusters()).then_some((offset, at))
        });
        let inside = layout.file_block_size() - 1;
        let hidden: Vec<u64> = descriptors
            .chain(clusters)
            .filter(|(offset, at)| {
                let place = self.bare.get(&(offset >> shift));
                place.is_some_and(|&place| place != at >> shift && offset & inside == at & inside)
            })
            .map(|(offset, _)| offset >> shift)
            .collect();
        self.hides_files |= !hidden.is_empty();
        for block in hidden {
            self.lose(block, BARE);
        }
    }
}
