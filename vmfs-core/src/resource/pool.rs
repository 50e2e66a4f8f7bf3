use std::sync::Arc;

use super::bits::Bits;
use super::error::MetaError;
use super::resource_file::ResourceFile;
use super::system::Resources;
use crate::format::{ClusterHeader, ResourceKind};
use crate::journal::MetaReader;
use crate::sync::{Mutex, RwLock};

/// State bits of a large file block: free, and broken up into small ones.
pub(super) const LARGE_FREE: u32 = 0x1;
pub(super) const LARGE_CONVERTED: u32 = 0x4;

/// What is known of a cluster that was looked at.
#[derive(Debug)]
pub(super) struct Cluster {
    pub(super) bits: Bits,
    /// Resources that it had when it was looked at.
    pub(super) total: u32,
    /// The last generation given out, for clusters of file descriptors.
    pub(super) last_generation: u32,
    /// A cluster of small file blocks whose large one is free as a whole: it has no header yet.
    pub(super) is_whole: bool,
    /// False for small file blocks whose large block is free or used as a whole.
    pub(super) has_header: bool,
}

type Slot = Mutex<Option<Box<Cluster>>>;

/// The clusters of one kind of resource, read when they are first wanted.
#[derive(Debug)]
pub(super) struct Pool {
    clusters: Vec<Slot>,
    /// Those that came when the resource file grew.
    added: RwLock<Vec<Arc<Slot>>>,
    /// Held while the resource file grows.
    pub(super) growing: Mutex<()>,
}

impl Pool {
    pub(super) fn new(file: &ResourceFile) -> Self {
        let count = file.header().clusters() as usize;
        Self {
            clusters: (0..count).map(|_| Mutex::new(None)).collect(),
            added: RwLock::new(Vec::new()),
            growing: Mutex::new(()),
        }
    }

    pub(super) fn len(&self) -> u64 {
        self.clusters.len() as u64 + self.added.read().len() as u64
    }

    /// There are `clusters` now.
    pub(super) fn grow_to(&self, clusters: u64) {
        let count = (clusters as usize).saturating_sub(self.clusters.len());
        self.added.write().resize_with(count, Arc::default);
    }

    fn with_slot<T>(&self, number: u64, work: impl FnOnce(&Slot) -> T) -> Option<T> {
        let number = number as usize;
        if let Some(slot) = self.clusters.get(number) {
            return Some(work(slot));
        }
        let added = self.added.read().get(number - self.clusters.len()).cloned();
        added.map(|slot| work(&slot))
    }

    /// Calls `work` with what is known of a cluster; `None` when there is no such cluster.
    pub(super) fn with<T>(
        &self,
        reader: &MetaReader,
        resources: &Resources,
        file: &ResourceFile,
        number: u64,
        work: impl FnOnce(&mut Cluster) -> T,
    ) -> Result<Option<T>, MetaError> {
        let done = self.with_slot(number, |slot| {
            let mut slot = slot.lock();
            if slot.is_none() {
                *slot = Some(Box::new(load(reader, resources, file, number)?));
            }
            Ok(slot.as_mut().map(|cluster| work(cluster)))
        });
        done.unwrap_or(Ok(None))
    }

    /// Forgets what is known of a cluster.
    pub(super) fn forget(&self, number: u64) {
        self.with_slot(number, |slot| *slot.lock() = None);
    }

    /// Forgets that a cluster has no header because its large block is whole.
    pub(super) fn forget_whole(&self, number: u64) {
        self.with_slot(number, |slot| {
            let mut slot = slot.lock();
            if slot.as_ref().is_some_and(|cluster| !cluster.has_header) {
                *slot = None;
            }
        });
    }

    /// Calls `work` with a cluster that was looked at before.
    pub(super) fn with_known(&self, number: u64, work: impl FnOnce(&mut Cluster)) {
        self.with_slot(number, |slot| {
            if let Some(cluster) = slot.lock().as_mut() {
                work(cluster);
            }
        });
    }
}

fn load(
    reader: &MetaReader,
    resources: &Resources,
    file: &ResourceFile,
    number: u64,
) -> Result<Cluster, MetaError> {
    let nested = resources
        .large_file_blocks
        .as_ref()
        .filter(|_| file.header().is_nested());
    if let Some(large) = nested {
        let per_cluster = u64::from(large.header().resources_per_cluster.get());
        let (header, _) = large.cluster(reader, number / per_cluster)?;
        let resource = (number % per_cluster) as u32;
        let state = header.state(resource);
        if resource >= header.total || state & LARGE_CONVERTED == 0 {
            let is_whole = resource < header.total && state & LARGE_FREE != 0;
            return Ok(Cluster {
                bits: Bits::new(0, |_| false),
                total: 0,
                last_generation: 0,
                is_whole,
                has_header: false,
            });
        }
    }
    let (header, _) = file.cluster(reader, number)?;
    let per_cluster = u64::from(file.header().resources_per_cluster.get());
    let whole_blocks = reader.volume().size() >> reader.layout().large_block_shift;
    let is_free = |resource| {
        let block = number * per_cluster + u64::from(resource);
        let is_large = file.kind() == ResourceKind::LargeFileBlock;
        is_free(file.kind(), &header, resource) && (!is_large || block < whole_blocks)
    };
    Ok(Cluster {
        bits: Bits::new(header.total, is_free),
        total: header.total,
        last_generation: header.last_generation,
        is_whole: false,
        has_header: true,
    })
}

/// Whether a resource may be taken.
fn is_free(kind: ResourceKind, header: &ClusterHeader, resource: u32) -> bool {
    let state = header.state(resource);
    state & 1 != 0 && (kind != ResourceKind::LargeFileBlock || state & LARGE_CONVERTED == 0)
}
