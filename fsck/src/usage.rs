use std::collections::{HashMap, HashSet};

use vmfs_core::format::{BlockAddr, FdAddr, Layout, ResourceKind};
use vmfs_core::resource::Resources;

/// Resources of one kind, one bit each: whether it is referred to.
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
pub(crate) struct Usage {
    /// By the number of the kind.
    kinds: [Bits; 8],
    small_per_large: u64,
    /// Resources that a repair has taken: they will be marked used without being wrong.
    taken: HashSet<(ResourceKind, u64)>,
    /// Resources that a repair gives back: they will be marked free without being wrong.
    given: HashSet<(ResourceKind, u64)>,
    /// What resource files have, and which.
    owners: HashMap<(ResourceKind, u64), FdAddr>,
}

/// What marking a resource showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Marked {
    /// The first reference to it.
    First,
    /// It was referred to before.
    Again,
    /// There is no such resource.
    OutOfRange,
}

impl Usage {
    /// An empty account of all resource files, on a volume of `volume` bytes.
    pub(crate) fn new(resources: &Resources, layout: &Layout, volume: u64) -> Self {
        let mut kinds: [Bits; 8] = Default::default();
        for file in resources.iter() {
            let header = file.header();
            // A damaged header can't make the account larger than the volume has room for.
            let fitting = match file.kind() {
                ResourceKind::FileBlock => volume.div_ceil(layout.file_block_size()),
                ResourceKind::LargeFileBlock => volume.div_ceil(layout.large_block_size()),
                _ => volume / u64::from(header.resource_size.get().max(512)),
            };
            let count = header.resources().min(MAX_TRACKED).min(fitting);
            let bits = Bits {
                per_cluster: header.resources_per_cluster.get().max(1).into(),
                count,
                used: vec![0; count.div_ceil(64) as usize],
            };
            kinds[file.kind() as usize] = bits;
        }
        let small_per_large = 1 << (layout.large_block_shift - layout.file_block_shift);
        Self {
            kinds,
            small_per_large,
            taken: HashSet::new(),
            given: HashSet::new(),
            owners: HashMap::new(),
        }
    }

    /// The kind of resource that an address names, and its number in its file.
    pub(crate) fn number(&self, addr: BlockAddr) -> Option<(ResourceKind, u64)> {
        match addr {
            BlockAddr::Hole | BlockAddr::Invalid(_) => None,
            BlockAddr::FileBlock { block, .. } => Some((ResourceKind::FileBlock, block)),
            BlockAddr::LargeFileBlock { block, .. } => Some((ResourceKind::LargeFileBlock, block)),
            BlockAddr::Resource {
                kind,
                cluster,
                resource,
                ..
            } => {
                let per_cluster = self.kinds[kind as usize].per_cluster;
                if u64::from(resource) >= per_cluster {
                    return None;
                }
                let first = cluster.saturating_mul(per_cluster);
                Some((kind, first + u64::from(resource)))
            }
        }
    }

    /// Notes a reference.
    pub(crate) fn mark(&mut self, addr: BlockAddr) -> Marked {
        if addr == BlockAddr::Hole {
            return Marked::First;
        }
        let Some((kind, index)) = self.number(addr) else {
            return Marked::OutOfRange;
        };
        if index >= self.kinds[kind as usize].count {
            return Marked::OutOfRange;
        }
        if self.is_used(kind, index) || self.has_parts_in_use(kind, index) {
            return Marked::Again;
        }
        self.set(kind, index, true);
        Marked::First
    }

    /// Notes that a resource file has it.
    pub(crate) fn own(&mut self, addr: BlockAddr, file: FdAddr) {
        if let Some(number) = self.number(addr) {
            self.owners.insert(number, file);
        }
    }

    /// The resource file that has it, or the large file block around it.
    pub(crate) fn owner(&self, addr: BlockAddr) -> Option<FdAddr> {
        let (kind, index) = self.number(addr)?;
        let around = (ResourceKind::LargeFileBlock, index / self.small_per_large);
        let around = Some(around).filter(|_| kind == ResourceKind::FileBlock);
        let owner = self.owners.get(&(kind, index));
        owner.or_else(|| self.owners.get(&around?)).copied()
    }

    /// Whether there is such a resource.
    pub(crate) fn exists(&self, addr: BlockAddr) -> bool {
        let number = self.number(addr);
        number.is_some_and(|(kind, index)| index < self.count(kind))
    }

    /// Notes that a repair has taken a resource.
    pub(crate) fn take(&mut self, kind: ResourceKind, index: u64) {
        self.set(kind, index, true);
        self.taken.insert((kind, index));
    }

    /// Whether a repair has taken it.
    pub(crate) fn is_taken(&self, kind: ResourceKind, index: u64) -> bool {
        self.taken.contains(&(kind, index))
    }

    /// Notes that a repair takes a reference back, and with it the resource.
    pub(crate) fn give(&mut self, addr: BlockAddr) {
        if let Some((kind, index)) = self.number(addr) {
            self.set(kind, index, false);
            self.given.insert((kind, index));
        }
    }

    /// Whether a repair gives it back.
    pub(crate) fn is_given(&self, kind: ResourceKind, index: u64) -> bool {
        self.given.contains(&(kind, index))
    }

    /// Whether the resource with this number in its file is referred to; a small file block is
    /// also used by the large one around it.
    pub(crate) fn is_used(&self, kind: ResourceKind, index: u64) -> bool {
        self.kinds[kind as usize].get(index)
            || kind == ResourceKind::FileBlock
                && self.kinds[ResourceKind::LargeFileBlock as usize]
                    .get(index / self.small_per_large)
    }

    /// Whether a large file block has small ones in it that are referred to.
    pub(crate) fn has_parts_in_use(&self, kind: ResourceKind, index: u64) -> bool {
        if kind != ResourceKind::LargeFileBlock {
            return false;
        }
        let small = &self.kinds[ResourceKind::FileBlock as usize];
        let first = index * self.small_per_large;
        let mut blocks = first..(first + self.small_per_large).min(small.count);
        if self.small_per_large.is_multiple_of(64) {
            let words = (first / 64) as usize..blocks.end.div_ceil(64) as usize;
            let words = small.used.get(words);
            return words.is_some_and(|words| words.iter().any(|&word| word != 0));
        }
        blocks.any(|block| small.get(block))
    }

    /// Resources of a kind that are accounted for.
    pub(crate) fn count(&self, kind: ResourceKind) -> u64 {
        self.kinds[kind as usize].count
    }

    fn set(&mut self, kind: ResourceKind, index: u64, used: bool) {
        let bits = &mut self.kinds[kind as usize];
        if index >= bits.count {
            return;
        }
        let (word, bit) = ((index / 64) as usize, 1 << (index % 64));
        if let Some(word) = bits.used.get_mut(word) {
            if used {
                *word |= bit;
            } else {
                *word &= !bit;
            }
        }
    }
}

impl Bits {
    fn get(&self, index: u64) -> bool {
        let word = self.used.get((index / 64) as usize).copied().unwrap_or(0);
        index < self.count && word >> (index % 64) & 1 != 0
    }
}
