use std::collections::VecDeque;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

use dashmap::DashMap;

use super::error::MetaError;
use super::hold::Hold;
use super::placement::Placement;
use super::pool::{Cluster, Pool};
use super::resource_file::ResourceFile;
use super::space::Space;
use super::system::Resources;
use crate::format::{FdAddr, ResourceHeader, ResourceKind};
use crate::journal::MetaReader;
use crate::lvm::VolumeOffset;
use crate::sync::Mutex;

/// A resource: its cluster and its number there.
pub type Place = (u64, u32);

/// A resource could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum AllocError {
    /// None is left.
    #[error("the volume has no free {kind} left")]
    NoSpace {
        /// What is used up.
        kind: ResourceKind,
    },
    /// None is left but those that wait for a commit: after one it may work.
    #[error("free {kind}s wait for a commit")]
    NeedsCommit {
        /// What is used up.
        kind: ResourceKind,
    },
    /// A cluster can't be read.
    #[error(transparent)]
    Meta(#[from] MetaError),
}

/// Which resources are free, in memory: what was taken isn't free from the moment it is taken,
/// what was given back only once that is durable.
#[derive(Debug)]
pub struct Allocator {
    pools: Vec<(ResourceKind, Pool)>,
    /// Given back in the compound transaction of that number, not known to be durable.
    waiting: Mutex<VecDeque<(u64, ResourceKind, Place)>>,
    /// Given back, and not to be taken yet however durable that is.
    withheld: Mutex<Vec<(ResourceKind, Place)>>,
    /// How many file blocks and file descriptors were given back more than taken since mounting.
    blocks: AtomicI64,
    descriptors: AtomicI64,
    /// How many file descriptors `.fdc.sf` has more than when mounting.
    descriptors_added: AtomicI64,
    /// System files that have grown, for whoever keeps their descriptors in memory.
    grown: Mutex<Vec<FdAddr>>,
    placement: Placement,
    large_per_cluster: u64,
    /// Where clusters' locks lie.
    places: DashMap<VolumeOffset, (ResourceKind, u64)>,
}

impl Allocator {
    /// Nothing is read yet. Looking for file blocks begins at cluster `start`.
    pub fn new(resources: &Resources, start: u64) -> Self {
        let blocks = resources.file_blocks.as_ref().map(ResourceFile::header);
        let placement = Placement::new(
            blocks.as_ref().map_or(0, ResourceHeader::resources),
            blocks.map_or(1, |header| header.resources_per_cluster.get().into()),
            start,
        );
        Self {
            placement,
            large_per_cluster: resources.large_file_blocks.as_ref().map_or(0, |file| {
                u64::from(file.header().resources_per_cluster.get())
            }),
            pools: resources
                .iter()
                .map(|file| (file.kind(), Pool::new(file)))
                .collect(),
            waiting: Mutex::new(VecDeque::new()),
            withheld: Mutex::new(Vec::new()),
            places: DashMap::new(),
            blocks: AtomicI64::new(0),
            descriptors: AtomicI64::new(0),
            descriptors_added: AtomicI64::new(0),
            grown: Mutex::new(Vec::new()),
        }
    }

    pub(super) fn placement(&self) -> &Placement {
        &self.placement
    }

    /// Nobody writes to `file` any more, or it is gone: what is kept for it can go to others.
    pub fn forget(&self, file: FdAddr) {
        self.placement.forget(file);
    }

    /// `space` with what was given back and taken since the volume was mounted, `times` 1, or
    /// without it, `times` -1.
    pub fn adjust(&self, space: Space, times: i64) -> Space {
        let add = |count: u64, change: &AtomicI64| {
            count.saturating_add_signed(times * change.load(Relaxed))
        };
        Space {
            free_blocks: add(space.free_blocks, &self.blocks),
            file_descriptors: add(space.file_descriptors, &self.descriptors_added),
            free_file_descriptors: add(space.free_file_descriptors, &self.descriptors),
            ..space
        }
    }

    pub(super) fn count(&self, kind: ResourceKind, freed: i64, small_per_large: i64) {
        match kind {
            ResourceKind::FileBlock => self.blocks.fetch_add(freed, Relaxed),
            ResourceKind::LargeFileBlock => self.blocks.fetch_add(freed * small_per_large, Relaxed),
            ResourceKind::FileDescriptor => self.descriptors.fetch_add(freed, Relaxed),
            _ => 0,
        };
    }

    /// The file of `kind`, whose descriptor is `fd`, has `more` resources, all of them free.
    pub(super) fn count_grown(&self, kind: ResourceKind, fd: FdAddr, more: u64) {
        if kind == ResourceKind::FileDescriptor {
            self.descriptors.fetch_add(more.cast_signed(), Relaxed);
            self.descriptors_added
                .fetch_add(more.cast_signed(), Relaxed);
        }
        self.placement.forget(fd);
        self.grown.lock().push(fd);
    }

    /// The system files that have grown since the last call.
    pub fn take_grown(&self) -> Vec<FdAddr> {
        let mut grown = self.grown.lock();
        if grown.is_empty() {
            return Vec::new();
        }
        std::mem::take(&mut *grown)
    }

    pub(super) fn pool(&self, kind: ResourceKind) -> Option<&Pool> {
        let found = self.pools.iter().find(|(of, _)| *of == kind);
        found.map(|(_, pool)| pool)
    }

    /// Calls `work` with a cluster; `None` when there is none of that number or kind.
    pub(super) fn with<T>(
        &self,
        reader: &MetaReader,
        resources: &Resources,
        kind: ResourceKind,
        number: u64,
        work: impl FnOnce(&mut Cluster) -> T,
    ) -> Result<Option<T>, MetaError> {
        match (self.pool(kind), resources.file(kind)) {
            (Some(pool), Some(file)) => {
                if number >= pool.len() {
                    self.follow_growth(file);
                }
                pool.with(reader, resources, file, number, work)
            }
            _ => Ok(None),
        }
    }

    /// Clusters of a kind.
    pub(super) fn clusters(&self, kind: ResourceKind) -> u64 {
        self.pool(kind).map_or(0, Pool::len)
    }

    /// Takes a free resource of `kind`, in cluster `near` or behind it if there is one; returns
    /// its place, and for a file descriptor its generation.
    pub fn take(
        &self,
        reader: &MetaReader,
        resources: &Resources,
        kind: ResourceKind,
        near: u64,
        hold: &Hold,
    ) -> Result<(Place, u32), AllocError> {
        self.settle(reader);
        let clusters = self.clusters(kind);
        for &(place, _) in hold.locks() {
            // What is locked already needs no other lock.
            let known = self.places.get(&VolumeOffset(place)).map(|known| *known);
            if let Some((_, number)) = known.filter(|(of, _)| *of == kind)
                && let Some(taken) = self.take_in(reader, resources, kind, number)?
            {
                return Ok(taken);
            }
        }
        for step in 0..clusters {
            let number = (near + step) % clusters;
            if hold.is_shared() {
                let free = self.with(reader, resources, kind, number, |cluster| {
                    cluster.bits.next_free(0).is_some()
                })?;
                if free != Some(true) {
                    continue;
                }
                hold.check_cluster(self, reader, resources, (kind, number))?;
            }
            if let Some(taken) = self.take_in(reader, resources, kind, number)? {
                return Ok(taken);
            }
        }
        Err(self.none_left(kind))
    }

    /// Takes a free resource of a cluster, if it has one.
    fn take_in(
        &self,
        reader: &MetaReader,
        resources: &Resources,
        kind: ResourceKind,
        number: u64,
    ) -> Result<Option<(Place, u32)>, MetaError> {
        let found = self.with(reader, resources, kind, number, |cluster| {
            let resource = cluster.bits.next_free(0)?;
            cluster.bits.take(resource);
            cluster.last_generation = cluster.last_generation.wrapping_add(1).max(1);
            Some((resource, cluster.last_generation))
        })?;
        let taken = found.flatten();
        Ok(taken.map(|(resource, generation)| ((number, resource), generation)))
    }

    /// Notes where a cluster's lock lies.
    pub(super) fn note_place(&self, place: VolumeOffset, cluster: (ResourceKind, u64)) {
        self.places.insert(place, cluster);
    }

    /// Forgets what is known of the cluster whose lock lies at `place`: another host may have
    /// changed it. Nothing of it may be taken by a transaction under way.
    pub fn forget_cluster(&self, place: VolumeOffset) {
        let Some((kind, number)) = self.places.get(&place).map(|known| *known) else {
            return;
        };
        let mut waiting = self.waiting.lock();
        waiting.retain(|&(_, of, (cluster, _))| (of, cluster) != (kind, number));
        drop(waiting);
        if let Some(pool) = self.pool(kind) {
            pool.forget(number);
        }
        if kind == ResourceKind::LargeFileBlock
            && let Some(small) = self.pool(ResourceKind::FileBlock)
        {
            // Whether there are small clusters below is what it says.
            let first = number * self.large_per_cluster;
            for number in first..first + self.large_per_cluster {
                small.forget_whole(number);
            }
        }
    }

    /// Reads what is at `place` again if it is the descriptor of a resource file: another host may
    /// have made it longer.
    pub fn look_for_growth(
        &self,
        reader: &MetaReader,
        resources: &Resources,
        place: VolumeOffset,
    ) -> Result<(), MetaError> {
        for file in resources.iter() {
            if file.map().fd_offset() == place {
                file.reload(reader)?;
                self.follow_growth(file);
            }
        }
        Ok(())
    }

    /// Has room for all clusters that `file` has.
    fn follow_growth(&self, file: &ResourceFile) {
        let clusters = file.header().clusters();
        if let Some(pool) = self.pool(file.kind())
            && pool.len() < clusters
        {
            let _growing = pool.growing.lock();
            pool.grow_to(clusters.max(pool.len()));
        }
    }

    /// Forgets everything that is known of clusters.
    pub fn forget_clusters(&self) {
        self.waiting.lock().clear();
        for (_, pool) in &self.pools {
            for number in 0..pool.len() {
                pool.forget(number);
            }
        }
    }

    /// How many resources of `kind` were given back and wait for a commit.
    pub(super) fn waiting(&self, kind: ResourceKind) -> usize {
        let waiting = self.waiting.lock();
        waiting.iter().filter(|(_, of, _)| *of == kind).count()
    }

    /// What to say when nothing of `kind` can be taken.
    pub(super) fn none_left(&self, kind: ResourceKind) -> AllocError {
        if self.waiting(kind) > 0 {
            AllocError::NeedsCommit { kind }
        } else {
            AllocError::NoSpace { kind }
        }
    }

    /// Undoes a taking that came to nothing.
    pub(super) fn untake(&self, kind: ResourceKind, (cluster, resource): Place) {
        if let Some(pool) = self.pool(kind) {
            pool.with_known(cluster, |cluster| cluster.bits.give(resource));
        }
        if kind == ResourceKind::LargeFileBlock
            && let Some(small) = self.pool(ResourceKind::FileBlock)
        {
            // It can be broken up again.
            let number = cluster * self.large_per_cluster + u64::from(resource);
            small.with_known(number, |cluster| cluster.is_whole = true);
        }
    }

    /// Notes that a resource was given back in the compound transaction `sequence`.
    pub(super) fn wait(&self, sequence: u64, kind: ResourceKind, place: Place) {
        self.waiting.lock().push_back((sequence, kind, place));
    }

    /// Frees what was given back and is durable by now.
    pub(super) fn settle(&self, reader: &MetaReader) {
        let mut waiting = self.waiting.lock();
        if waiting.is_empty() {
            return;
        }
        let durable = reader
            .journal()
            .map_or(0, |journal| journal.durable(reader));
        while let Some(&(sequence, kind, place)) = waiting.front() {
            if sequence > durable {
                break;
            }
            waiting.pop_front();
            if !self.withheld.lock().contains(&(kind, place)) {
                self.untake(kind, place);
            }
        }
    }

    /// Keeps a resource that is about to be given back from being taken before [`Allocator::allow`]: its
    /// cluster must stay locked meanwhile.
    pub fn withhold(
        &self,
        reader: &MetaReader,
        resources: &Resources,
        kind: ResourceKind,
        place: Place,
    ) -> Result<(), MetaError> {
        // In memory it is used from now on, whatever is on the volume.
        self.with(reader, resources, kind, place.0, |_| ())?;
        self.withheld.lock().push((kind, place));
        Ok(())
    }

    /// Lets what was withheld, and was given back, be taken.
    pub fn allow(&self, reader: &MetaReader, kind: ResourceKind, place: Place) {
        self.settle(reader);
        self.withheld.lock().retain(|held| *held != (kind, place));
        self.untake(kind, place);
    }
}

impl Resources {
    /// The resource file of a kind, if it could be opened.
    pub fn file(&self, kind: ResourceKind) -> Option<&ResourceFile> {
        self.iter().find(|file| file.kind() == kind)
    }
}
