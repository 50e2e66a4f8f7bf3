//! What speaks for and against blocks of a map that is tried out.

use std::collections::BTreeSet;
use std::ops::Range;

use vmfs_core::format::{BlockAddr, Layout, ResourceKind};

/// File blocks remembered at most; more leave the account incomplete.
const MOST: usize = 1 << 20;

/// File blocks on which references and bitmaps differ.
#[derive(Debug, Default)]
pub(crate) struct Account {
    /// Marked used, and nothing refers to them.
    unreferenced: BTreeSet<u64>,
    /// Referred to and marked free, or referred to twice.
    contested: BTreeSet<u64>,
    /// Whether these are marked isn't known.
    lost: Vec<Range<u64>>,
    /// More differ than are kept.
    overflows: bool,
}

impl Account {
    /// Notes that nothing refers to a resource that is marked used.
    pub(crate) fn unreferenced(&mut self, kind: ResourceKind, number: u64, layout: &Layout) {
        self.overflows |= !note(&mut self.unreferenced, kind, number, layout);
    }

    /// Notes that a resource is marked free or somebody else's as well.
    pub(crate) fn contested(&mut self, kind: ResourceKind, number: u64, layout: &Layout) {
        self.overflows |= !note(&mut self.contested, kind, number, layout);
    }

    /// Notes that the marks of these resources are lost.
    pub(crate) fn lost(&mut self, kind: ResourceKind, numbers: Range<u64>, layout: &Layout) {
        let size = match kind {
            ResourceKind::FileBlock => 1,
            ResourceKind::LargeFileBlock => layout.file_blocks_per_cluster,
            _ => return,
        };
        let blocks = numbers.start.saturating_mul(size)..numbers.end.saturating_mul(size);
        if self.lost.len() < MOST {
            self.lost.push(blocks);
        } else {
            self.overflows = true;
        }
    }

    /// Whether every block that is marked used is referred to once, and no other.
    pub(crate) fn is_exact(&self) -> bool {
        !self.is_partial() && self.unreferenced.is_empty() && self.contested.is_empty()
    }

    /// Whether somebody else has this block, or it is marked free.
    pub(crate) fn speaks_against(&self, block: u64) -> bool {
        self.overflows || self.contested.contains(&block)
    }

    /// Whether somebody else is known to have this block, or it to be marked free.
    pub(crate) fn is_contested(&self, block: u64) -> bool {
        self.contested.contains(&block)
    }

    /// Whether this block is known to be marked used, and nothing refers to it.
    pub(crate) fn is_unreferenced(&self, block: u64) -> bool {
        self.unreferenced.contains(&block)
    }

    /// Whether not all that differs is known.
    pub(crate) fn is_partial(&self) -> bool {
        !self.lost.is_empty() || self.overflows
    }

    /// Whether the marks are for a map with the block `is` instead of `was`: the one is marked used and nobody else's,
    /// and the other isn't left over.
    pub(crate) fn is_for(&self, is: u64, was: u64) -> bool {
        let is_known = |block| !self.lost.iter().any(|lost| lost.contains(&block));
        !self.overflows
            && is_known(is)
            && is_known(was)
            && !self.contested.contains(&is)
            && !self.unreferenced.contains(&was)
    }

    /// The blocks that are nobody's but that of a file which has the `filled` ones for want of better:
    /// marked used, and nothing else refers to them; `None` if not all marks are known.
    pub(crate) fn nobodys(&self, filled: &[u64]) -> Option<BTreeSet<u64>> {
        if self.is_partial() {
            return None;
        }
        let filled = filled.iter().copied();
        let own = filled.filter(|block| !self.contested.contains(block));
        Some(own.chain(self.unreferenced.iter().copied()).collect())
    }
}

/// Adds the small blocks of a resource, if it is one of blocks; whether there was room.
fn note(set: &mut BTreeSet<u64>, kind: ResourceKind, number: u64, layout: &Layout) -> bool {
    let blocks = match kind {
        ResourceKind::FileBlock => number..number.saturating_add(1),
        ResourceKind::LargeFileBlock => {
            let first = number.saturating_mul(layout.file_blocks_per_cluster);
            first..first.saturating_add(layout.file_blocks_per_cluster)
        }
        _ => return true,
    };
    if set.len() < MOST {
        set.extend(blocks);
        return true;
    }
    false
}

/// The number of the small or large file block that `addr` names.
pub(crate) fn block_of(addr: BlockAddr) -> Option<(ResourceKind, u64)> {
    match addr {
        BlockAddr::FileBlock { block, .. } => Some((ResourceKind::FileBlock, block)),
        BlockAddr::LargeFileBlock { block, .. } => Some((ResourceKind::LargeFileBlock, block)),
        _ => None,
    }
}
