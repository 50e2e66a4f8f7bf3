use std::collections::BTreeMap;

use vmfs_core::format::{BlockAddr, ResourceKind};
use vmfs_core::fs::FileSystem;

/// Resources of one kind, one bit each: referred to, and referred to more than once.
#[derive(Debug, Default)]
struct Bits {
    per_cluster: u64,
    count: u64,
    used: Vec<u64>,
}

/// Most resources of a kind that are tracked: the file blocks of two 64 TiB volumes.
const MAX_TRACKED: u64 = 1 << 28;

/// Which resources are referred to.
#[derive(Debug, Default)]
pub struct Usage {
    kinds: BTreeMap<ResourceKind, Bits>,
    large_to_small: u64,
}

/// What marking a resource showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Marked {
    /// The first reference to it.
    First,
    /// It was referred to before.
    Again,
    /// There is no such resource.
    OutOfRange,
}

impl Usage {
    /// An empty account of all resource files of `fs`.
    pub fn new(fs: &FileSystem) -> Self {
        let layout = fs.layout();
        let mut kinds = BTreeMap::new();
        for file in fs.store().resources().iter() {
            let count = file.header().resources().min(MAX_TRACKED);
            let bits = Bits {
                per_cluster: file.header().resources_per_cluster.get().max(1).into(),
                count,
                used: vec![0; count.div_ceil(64) as usize],
            };
            kinds.insert(file.kind(), bits);
        }
        let large_to_small = 1 << (layout.large_block_shift - layout.file_block_shift);
        Self {
            kinds,
            large_to_small,
        }
    }

    /// Notes a reference.
    pub fn mark(&mut self, addr: BlockAddr) -> Marked {
        match addr {
            BlockAddr::Hole => Marked::First,
            BlockAddr::FileBlock { block, .. } => self.mark_index(ResourceKind::FileBlock, block),
            BlockAddr::LargeFileBlock { block, .. } => {
                self.mark_index(ResourceKind::LargeFileBlock, block)
            }
            BlockAddr::Resource {
                kind,
                cluster,
                resource,
                ..
            } => {
                let per_cluster = self.kinds.get(&kind).map_or(0, |bits| bits.per_cluster);
                if u64::from(resource) >= per_cluster {
                    return Marked::OutOfRange;
                }
                self.mark_index(
                    kind,
                    cluster.saturating_mul(per_cluster) + u64::from(resource),
                )
            }
            BlockAddr::Invalid(_) => Marked::OutOfRange,
        }
    }

    /// Whether the resource with this number in its file is referred to; a small file block is
    /// also used by the large one around it.
    pub fn is_used(&self, kind: ResourceKind, index: u64) -> bool {
        let own = self.kinds.get(&kind).is_some_and(|bits| bits.get(index));
        own || kind == ResourceKind::FileBlock
            && self
                .kinds
                .get(&ResourceKind::LargeFileBlock)
                .is_some_and(|bits| bits.get(index / self.large_to_small))
    }

    fn mark_index(&mut self, kind: ResourceKind, index: u64) -> Marked {
        let Some(bits) = self.kinds.get_mut(&kind).filter(|bits| index < bits.count) else {
            return Marked::OutOfRange;
        };
        let (word, bit) = ((index / 64) as usize, 1 << (index % 64));
        let Some(word) = bits.used.get_mut(word) else {
            return Marked::OutOfRange;
        };
        if *word & bit != 0 {
            return Marked::Again;
        }
        *word |= bit;
        Marked::First
    }
}

impl Bits {
    fn get(&self, index: u64) -> bool {
        let word = self.used.get((index / 64) as usize).copied().unwrap_or(0);
        index < self.count && word >> (index % 64) & 1 != 0
    }
}
