use std::collections::BTreeMap;

use super::allocator::{AllocError, Allocator, Place};
use super::blocks::Wanted;
use super::error::MetaError;
use super::hold::Hold;
use super::resource_file::ResourceFile;
use super::system::Resources;
use crate::format::{ClusterImage, Family, FdAddr, ResourceKind};
use crate::journal::{JournalError, MetaReader, Publisher, Txn};
use crate::lvm::VolumeOffset;

/// With so many resources that wait for a commit a resource file doesn't grow.
const WORTH_A_COMMIT: usize = 256;

/// What resources are taken or given back for, and by whom.
#[derive(Debug, Clone, Copy)]
pub struct Actor {
    /// MAC address that VMFS6 clusters keep of who changed them last.
    pub mac: [u8; 6],
    /// Seconds since 1970.
    pub now: u32,
}

#[derive(Debug, Clone, Copy)]
struct Step {
    resource: u32,
    owner: FdAddr,
    /// Of a file descriptor.
    generation: u32,
}

/// Resources of one cluster.
#[derive(Debug, Default)]
struct Steps {
    taken: Vec<Step>,
    given: Vec<Step>,
    /// Resources that the cluster has from now on.
    total: Option<u32>,
}

/// A transaction that also takes and gives back resources. Dropped without
/// [`Changes::publish`] it never was.
#[derive(Debug)]
pub struct Changes<'a> {
    /// Changes of metadata other than resource clusters.
    pub txn: Txn<'a>,
    allocator: &'a Allocator,
    resources: &'a Resources,
    actor: Actor,
    hold: Hold,
    clusters: BTreeMap<(ResourceKind, u64), Steps>,
}

impl<'a> Changes<'a> {
    /// Nothing yet.
    pub fn new(
        reader: &'a MetaReader,
        resources: &'a Resources,
        allocator: &'a Allocator,
        actor: Actor,
        hold: Hold,
    ) -> Self {
        let mut txn = Txn::new(reader);
        txn.set_locks(hold.locks().to_vec());
        Self {
            txn,
            allocator,
            resources,
            actor,
            hold,
            clusters: BTreeMap::new(),
        }
    }

    /// Seconds since 1970, the same for the whole transaction.
    pub fn now(&self) -> u32 {
        self.actor.now
    }

    /// The volume's resource files.
    pub fn resources(&self) -> &'a Resources {
        self.resources
    }

    /// Fails with [`MetaError::NeedsLocks`] if the transaction may not change the file whose
    /// descriptor lies at `place`.
    pub fn check_file(&self, place: VolumeOffset) -> Result<(), MetaError> {
        self.hold.check(place)
    }

    /// The host has these locks as well: the place and number of each.
    pub fn add_locks(&mut self, locks: &[(u64, u64)]) {
        self.hold.add(locks);
        self.txn.set_locks(self.hold.locks().to_vec());
    }

    /// How much a transaction has changed, in bytes of the journal: compare with
    /// [`crate::journal::Journal::limit`].
    pub fn bytes(&self) -> u64 {
        self.txn.bytes() + self.cluster_bytes(self.clusters.len())
    }

    /// A cluster's counts and bitmap are one sector; VMFS6's affinity table is a few more.
    fn cluster_bytes(&self, clusters: usize) -> u64 {
        let sectors = match self.txn.reader().layout().family {
            Family::Vmfs6 => 5,
            Family::Vmfs3 | Family::Vmfs5 => 1,
        };
        clusters as u64 * sectors * 512
    }

    /// Takes a resource of `kind` for `owner`, in cluster `near` or behind it; its place, and for
    /// a file descriptor its generation.
    pub fn take(
        &mut self,
        kind: ResourceKind,
        near: u64,
        owner: FdAddr,
    ) -> Result<(Place, u32), AllocError> {
        let (place, generation) = loop {
            let reader = self.txn.reader();
            let (allocator, resources) = (self.allocator, self.resources);
            let before = resources
                .file(kind)
                .map_or(0, |file| file.header().resources());
            let none = match allocator.take(reader, resources, kind, near, &self.hold) {
                Err(none @ (AllocError::NoSpace { .. } | AllocError::NeedsCommit { .. })) => none,
                taken => break taken?,
            };
            if allocator.waiting(kind) >= WORTH_A_COMMIT
                || !allocator.grow(reader, resources, (self.actor, &self.hold), kind, before)?
            {
                return Err(none);
            }
        };
        let step = Step {
            resource: place.1,
            owner,
            generation,
        };
        let steps = self.clusters.entry((kind, place.0)).or_default();
        steps.taken.push(step);
        Ok((place, generation))
    }

    /// Makes a taking that the allocator has made already part of the transaction.
    pub fn adopt(&mut self, kind: ResourceKind, (cluster, resource): Place) {
        let step = Step {
            resource,
            owner: FdAddr::ROOT,
            generation: 0,
        };
        let steps = self.clusters.entry((kind, cluster)).or_default();
        steps.taken.push(step);
    }

    /// Whether a resource is marked as used.
    pub fn is_used(&self, kind: ResourceKind, place: Place) -> Result<bool, MetaError> {
        let reader = self.txn.reader();
        let file = self.resources.file(kind).ok_or_else(|| no_file(kind))?;
        let (header, _) = file.cluster(reader, place.0)?;
        Ok(!header.is_free(place.1))
    }

    /// Says for whom the file descriptor at `place`, taken before, is: its directory.
    pub fn set_parent(&mut self, place: Place, parent: FdAddr) {
        let key = (ResourceKind::FileDescriptor, place.0);
        let steps = self.clusters.get_mut(&key).into_iter();
        let mut taken = steps.flat_map(|steps| &mut steps.taken);
        if let Some(step) = taken.find(|step| step.resource == place.1) {
            step.owner = parent;
        }
    }

    /// Takes file blocks in one run: the first and how many.
    pub fn take_blocks(&mut self, wanted: Wanted) -> Result<(u64, u64), AllocError> {
        let reader = self.txn.reader();
        let (first, count) =
            self.allocator
                .take_blocks(reader, self.resources, wanted, &self.hold)?;
        self.allocator
            .placement()
            .note(wanted.owner, wanted.index, first);
        let per_cluster = self.resources.blocks_per_cluster();
        for block in first..first + count {
            let steps = self
                .clusters
                .entry((ResourceKind::FileBlock, block / per_cluster))
                .or_default();
            steps.taken.push(Step {
                resource: (block % per_cluster) as u32,
                owner: wanted.owner,
                generation: 0,
            });
        }
        Ok((first, count))
    }

    /// The number on the volume of the large file block at `place`.
    pub fn large_number(&self, (cluster, resource): Place) -> u64 {
        let large = self.resources.file(ResourceKind::LargeFileBlock);
        let per_cluster = large.map_or(0, |file| file.header().resources_per_cluster.get());
        cluster * u64::from(per_cluster) + u64::from(resource)
    }

    /// The cluster of large file blocks where to look for one that may be taken as a whole.
    pub fn large_start(&self) -> u64 {
        let large = self.resources.file(ResourceKind::LargeFileBlock);
        large.map_or(0, |file| file.header().clusters() / 2)
    }

    /// Gives back a resource that `owner` had. What lies in it must not be written to before the
    /// transaction is durable.
    pub fn give(&mut self, kind: ResourceKind, (cluster, resource): Place, owner: FdAddr) {
        let steps = self.clusters.entry((kind, cluster)).or_default();
        let taken = &mut steps.taken;
        if let Some(index) = taken.iter().position(|step| step.resource == resource) {
            // Taken by this transaction: nobody has heard of it.
            taken.swap_remove(index);
            self.allocator.untake(kind, (cluster, resource));
            return;
        }
        steps.given.push(Step {
            resource,
            owner,
            generation: 0,
        });
    }

    /// Gives back the file block `block`.
    pub fn give_block(&mut self, block: u64, owner: FdAddr) {
        let per_cluster = self.resources.blocks_per_cluster();
        let place = (block / per_cluster, (block % per_cluster) as u32);
        self.give(ResourceKind::FileBlock, place, owner);
    }

    /// Where the data of a resource lies.
    pub fn locate(&self, kind: ResourceKind, place: Place) -> Result<VolumeOffset, MetaError> {
        let reader = self.txn.reader();
        let file = self.resources.file(kind).ok_or_else(|| no_file(kind))?;
        file.locate(reader, place.0, place.1)
    }

    /// Gives a cluster that has fewer resources `total`; the new ones are free.
    pub(super) fn fill_up(&mut self, kind: ResourceKind, cluster: u64, total: u32) {
        self.clusters.entry((kind, cluster)).or_default().total = Some(total);
    }

    /// Makes everything true at once, in memory; durable with the next commit.
    pub fn publish(self) -> Result<(), MetaError> {
        self.publish_and(&mut || {})
    }

    /// [`Changes::publish`], and `then` before anyone can see it.
    pub(super) fn publish_and(mut self, then: &mut dyn FnMut()) -> Result<(), MetaError> {
        let reader = self.txn.reader();
        let size = reader.layout().cluster_header_size();
        let clusters = std::mem::take(&mut self.clusters);
        let published = self.publish_clusters(&clusters, size, then);
        if published.is_err() {
            self.clusters = clusters;
        }
        published
    }

    fn publish_clusters(
        &self,
        clusters: &BTreeMap<(ResourceKind, u64), Steps>,
        size: u64,
        then: &mut dyn FnMut(),
    ) -> Result<(), MetaError> {
        let reader = self.txn.reader();
        self.check_clusters(clusters)?;
        let mut targets = Vec::with_capacity(clusters.len());
        for (&(kind, number), steps) in clusters {
            let file = self.resources.file(kind).ok_or_else(|| no_file(kind))?;
            // A cluster that is given to for the first time has to be known before, so that its
            // bits aren't read later as free when they still wait for a commit.
            self.allocator
                .with(reader, self.resources, kind, number, |_| ())?;
            targets.push((file, number, file.cluster_place(reader, number)?.0, steps));
        }
        let edited: Vec<_> = targets
            .iter()
            .map(|&(_, _, place, _)| place..place + size)
            .collect();
        let bytes = self.cluster_bytes(clusters.len());
        let sequence = reader.publish(&self.txn, &edited, bytes, |publisher| {
            for &(file, number, place, steps) in &targets {
                self.edit_cluster(publisher, (file, number), place, size as usize, steps);
            }
            then();
        })?;
        for (file, number, _, steps) in targets {
            self.count(file, number, steps, sequence);
        }
        Ok(())
    }

    /// Names all clusters at once that aren't locked, so that they can be in one go.
    fn check_clusters(
        &self,
        clusters: &BTreeMap<(ResourceKind, u64), Steps>,
    ) -> Result<(), MetaError> {
        let (allocator, reader) = (self.allocator, self.txn.reader());
        let mut missing = Vec::new();
        for &cluster in clusters.keys() {
            match self
                .hold
                .check_cluster(allocator, reader, self.resources, cluster)
            {
                Err(MetaError::NeedsLocks { places }) => missing.extend(places),
                other => other?,
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        let places = missing;
        Err(MetaError::NeedsLocks { places })
    }

    fn edit_cluster(
        &self,
        publisher: &mut Publisher<'_>,
        (file, number): (&ResourceFile, u64),
        place: u64,
        size: usize,
        steps: &Steps,
    ) {
        let layout = self.txn.reader().layout();
        let kind = file.kind();
        publisher.edit(place, size, |bytes| {
            let mut image = ClusterImage::from_bytes(layout, file.shape(number), bytes.to_vec());
            if let Some(total) = steps.total {
                image.grow_to(total);
            }
            let mut shares: BTreeMap<FdAddr, (u32, u32)> = BTreeMap::new();
            for step in &steps.given {
                image.give_back(step.resource);
                image.set_owner(step.resource, None);
                shares.entry(step.owner).or_default().1 += 1;
            }
            for step in &steps.taken {
                image.take(step.resource);
                image.set_owner(step.resource, Some(step.owner));
                shares.entry(step.owner).or_default().0 += 1;
                if kind == ResourceKind::FileDescriptor && step.generation > image.last_generation()
                {
                    image.set_last_generation(step.generation);
                }
            }
            if kind == ResourceKind::FileBlock && layout.family == Family::Vmfs6 {
                for (owner, (taken, given)) in shares {
                    if given > 0 {
                        image.remove_affinity(owner, given);
                    }
                    if taken > 0 {
                        image.add_affinity(owner, taken);
                    }
                }
            }
            image.note_change(self.actor.mac, self.actor.now);
            bytes.copy_from_slice(image.bytes());
        });
    }

    fn count(&self, file: &ResourceFile, number: u64, steps: &Steps, sequence: u64) {
        let kind = file.kind();
        let freed =
            (steps.given.len() as u64).cast_signed() - (steps.taken.len() as u64).cast_signed();
        let per_large = self.resources.blocks_per_cluster().cast_signed();
        self.allocator.count(kind, freed, per_large);
        for step in &steps.given {
            self.allocator.wait(sequence, kind, (number, step.resource));
        }
        if kind == ResourceKind::FileBlock && !steps.given.is_empty() {
            self.allocator.placement().given_back(number);
        }
    }
}

impl Drop for Changes<'_> {
    fn drop(&mut self) {
        for (&(kind, cluster), steps) in &self.clusters {
            for step in &steps.taken {
                self.allocator.untake(kind, (cluster, step.resource));
            }
        }
    }
}

/// Marks a resource as free straight on the volume, past the journal, durably: for the journal's
/// own block, once everything else is in place.
pub fn give_back_in_place(
    reader: &MetaReader,
    resources: &Resources,
    kind: ResourceKind,
    (cluster, resource): Place,
) -> Result<(), MetaError> {
    let file = resources.file(kind).ok_or_else(|| no_file(kind))?;
    let layout = reader.layout();
    let place = file.cluster_place(reader, cluster)?;
    let mut bytes = vec![0; layout.cluster_header_size() as usize];
    reader.volume().read(place, &mut bytes)?;
    let mut image = ClusterImage::from_bytes(layout, file.shape(cluster), bytes);
    if image.give_back(resource) {
        // Counts and bitmap are one sector, which a disk writes whole or not at all.
        let start = layout.md_block as usize;
        let sector = &image.bytes()[start..start + 512];
        reader.volume().write(place + layout.md_block, sector)?;
        reader.volume().flush()?;
    }
    reader.drop_cached(place.0..place.0 + layout.cluster_header_size());
    Ok(())
}

fn no_file(kind: ResourceKind) -> MetaError {
    let at = crate::format::At::Volume(crate::format::FS_DESCRIPTOR_OFFSET);
    crate::format::Damage::new(
        "resource file",
        at,
        "kind",
        kind,
        "one that could be opened",
    )
    .into()
}

impl From<JournalError> for AllocError {
    fn from(error: JournalError) -> Self {
        Self::Meta(error.into())
    }
}
