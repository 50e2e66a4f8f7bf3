//! Large file blocks: in one piece, broken up into small ones, or free.

use std::sync::Arc;

use vmfs_core::format::{ClusterHeader, ClusterImage, ClusterShape, ResourceKind};
use vmfs_core::lvm::VolumeOffset;

use super::CONVERTED;
use crate::code::Code;
use crate::finding::Finding;
use crate::plan::Stage;
use crate::round::Round;

/// The large file blocks that small ones lie in, the cluster looked at last at hand.
pub(super) struct Parent {
    cached: Option<(u64, Option<ClusterHeader>)>,
}

impl Parent {
    pub(super) fn new() -> Self {
        Self { cached: None }
    }

    /// Whether the large block that holds the header of small cluster `cluster` is broken up.
    pub(super) fn is_converted(&mut self, round: &Round<'_, '_>, cluster: u64) -> bool {
        let Some(parent) = &round.resources.large_file_blocks else {
            return true;
        };
        let per_cluster = u64::from(parent.header().resources_per_cluster.get().max(1));
        let number = cluster / per_cluster;
        if self.cached.as_ref().is_none_or(|(have, _)| *have != number) {
            let header = parent.cluster(&round.reader, number);
            self.cached = Some((number, header.ok().map(|(header, _)| header)));
        }
        let header = self.cached.as_ref().and_then(|(_, header)| header.as_ref());
        header.is_some_and(|header| header.state((cluster % per_cluster) as u32) & CONVERTED != 0)
    }
}

/// What is known of a large file block.
pub(super) struct State {
    pub(super) number: u64,
    pub(super) resource: u32,
    pub(super) referenced: bool,
    pub(super) free: bool,
    pub(super) converted: bool,
}

/// Compares a large block's state with the references to it and to the small ones in it; whether
/// it differs.
pub(super) fn compare(
    round: &mut Round<'_, '_>,
    state: &State,
    (cluster, place): (u64, VolumeOffset),
    image: &mut ClusterImage,
) -> bool {
    let kind = ResourceKind::LargeFileBlock;
    let parts = round.usage.has_parts_in_use(kind, state.number);
    let said = if state.converted {
        "broken up"
    } else if state.free {
        "free"
    } else {
        "in one piece"
    };
    let structure = format!("{kind} {} of cluster {cluster}", state.resource);
    if parts && (!state.converted || state.free) {
        let finding = Finding::new(
            Code::LargeBlockState,
            structure,
            format!("it is marked as {said}, and small blocks in it are referred to"),
        )
        .at_volume(place.0)
        .repair("mark it as broken up, with a bitmap of its small blocks");
        if round.found(finding) {
            image.set_converted(state.resource);
            give_header(round, state.number);
        }
        return true;
    }
    if state.referenced && state.converted {
        let finding = Finding::new(
            Code::LargeBlockState,
            structure,
            format!("it is marked as {said}, and a file has it in one piece"),
        )
        .at_volume(place.0)
        .repair("mark it as in one piece");
        if round.found(finding) {
            image.take_whole(state.resource);
        }
        return true;
    }
    if state.converted && state.free {
        let finding = Finding::new(
            Code::LargeBlockState,
            structure,
            "it is marked as broken up and as free",
        )
        .at_volume(place.0)
        .repair("mark it as broken up");
        if round.found(finding) {
            image.set_converted(state.resource);
        }
        return true;
    }
    false
}

/// Whether the resource of large block `number` holds the header of its small blocks.
pub(super) fn holds_a_header(round: &Round<'_, '_>, number: u64) -> bool {
    let Some(small) = &round.resources.file_blocks else {
        return false;
    };
    small.cluster(&round.reader, number).is_ok()
}

/// Makes sure that the small blocks of large block `number` have a header.
fn give_header(round: &mut Round<'_, '_>, number: u64) {
    if holds_a_header(round, number) {
        return;
    }
    let resources = Arc::clone(&round.resources);
    let Some(small) = &resources.file_blocks else {
        return;
    };
    let Ok(place) = small.cluster_place(&round.reader, number) else {
        return;
    };
    let shape = ClusterShape::of(&small.header(), ResourceKind::FileBlock, number);
    let layout = Arc::clone(&round.layout);
    let mut image = ClusterImage::new(&layout, shape, number, place.0);
    let first = number * layout.file_blocks_per_cluster;
    for resource in 0..image.total() {
        if round
            .usage
            .is_used(ResourceKind::FileBlock, first + u64::from(resource))
        {
            image.take(resource);
        }
    }
    let bytes = image.bytes().to_vec();
    round.put(Stage::Mark, place, &bytes);
}
