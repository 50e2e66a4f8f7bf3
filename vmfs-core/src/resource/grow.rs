//! Resource files grow when nothing in them is free (docs/decisions/0004).
//!
//! That is a transaction of its own, which gives nothing to anyone: new blocks, the headers of the
//! new clusters in them, the file's descriptor and its header.

use zerocopy::IntoBytes;

use super::allocator::{AllocError, Allocator};
use super::block_map::BlockMap;
use super::blocks::Wanted;
use super::changes::{Actor, Changes};
use super::error::MetaError;
use super::hold::Hold;
use super::resource_file::{ResourceFile, State};
use super::system::Resources;
use crate::format::{
    At, BlockAddr, ClusterImage, ClusterShape, Damage, Family, FdImage, FileMetadata, Layout,
    ResourceHeader, ResourceKind, ZeroLevel,
};
use crate::journal::{Journal, MetaReader};
use crate::lvm::VolumeOffset;

/// Clusters added at once before VMFS6, at most.
const CLUSTERS: u64 = 16;
/// Bytes that the header of a new cluster takes in the journal.
const HEADER_IN_JOURNAL: u64 = 1024;
/// ESXi's flag of a system file that has grown (VMFS6).
const GROWN: u32 = 8;

impl Allocator {
    /// Makes the file of `kind` larger, unless it has other than `before` resources by now; false
    /// when it can't get larger.
    pub(super) fn grow(
        &self,
        reader: &MetaReader,
        resources: &Resources,
        (actor, hold): (Actor, &Hold),
        kind: ResourceKind,
        before: u64,
    ) -> Result<bool, AllocError> {
        let (Some(file), Some(pool)) = (resources.file(kind), self.pool(kind)) else {
            return Ok(false);
        };
        let _guard = pool.growing.lock();
        let header = file.header();
        if header.resources() != before {
            return Ok(true);
        }
        hold.check(file.map().fd_offset())?;
        for target in targets(&header, kind, reader) {
            let changes = Changes::new(reader, resources, self, actor, hold.clone());
            let growth = match Growth::plan(changes, file, &header, &target) {
                Ok(Some(growth)) => growth,
                Ok(None) | Err(AllocError::NoSpace { .. }) => continue,
                Err(error) => return Err(error),
            };
            growth.publish()?;
            pool.grow_to(target.clusters());
            let per_cluster = u64::from(header.resources_per_cluster.get()).max(1);
            if !before.is_multiple_of(per_cluster) {
                let total = file.shape(before / per_cluster).total;
                pool.with_known(before / per_cluster, |cluster| {
                    (cluster.total..total).for_each(|resource| cluster.bits.give(resource));
                    cluster.total = total;
                });
            }
            self.count_grown(kind, file.fd(), target.resources() - before);
            tracing::info!(%kind, from = before, to = target.resources(), "resource file grown");
            return Ok(true);
        }
        Ok(false)
    }
}

/// What the file could become, the largest first.
fn targets(
    header: &ResourceHeader,
    kind: ResourceKind,
    reader: &MetaReader,
) -> Vec<ResourceHeader> {
    let layout = reader.layout();
    let per_cluster = u64::from(header.resources_per_cluster.get());
    let Some(most) = most_clusters(kind, layout).filter(|_| per_cluster > 0) else {
        return Vec::new();
    };
    let clusters = header.clusters();
    let counts = if layout.family == Family::Vmfs6 {
        // Whole groups, as ESXi has them.
        let group = u64::from(header.clusters_per_group.get());
        let whole = (header.resources() / per_cluster + 1).next_multiple_of(group);
        vec![whole]
    } else {
        let room = reader.journal().map_or(0, Journal::limit) / HEADER_IN_JOURNAL;
        let first = header.resources() / per_cluster + 1;
        let last = clusters + CLUSTERS.min(room).max(1);
        (first..=last).rev().collect()
    };
    counts
        .into_iter()
        .filter(|&count| count <= most)
        .map(|count| header.with_resources(count * per_cluster))
        .collect()
}

/// Clusters that addresses of a kind reach; `None` of a kind that doesn't grow by itself.
fn most_clusters(kind: ResourceKind, layout: &Layout) -> Option<u64> {
    match kind {
        ResourceKind::FileDescriptor => Some(1 << 16),
        ResourceKind::SubBlock | ResourceKind::PointerBlock | ResourceKind::PointerBlock2 => {
            // More than 64 TiB need, and no more than a header may count.
            let is_wide = layout.family == Family::Vmfs6;
            Some(1 << if is_wide { 23 } else { 22 })
        }
        ResourceKind::FileBlock | ResourceKind::LargeFileBlock | ResourceKind::JournalBlock => None,
    }
}

/// A resource file on its way to be larger.
struct Growth<'a> {
    changes: Changes<'a>,
    file: &'a ResourceFile,
    old: &'a ResourceHeader,
    new: &'a ResourceHeader,
    layout: &'a Layout,
    image: FdImage,
    fd_offset: VolumeOffset,
}

impl<'a> Growth<'a> {
    /// Everything that makes the file what `new` says, to be published; `None` when its map has no
    /// room for that.
    fn plan(
        changes: Changes<'a>,
        file: &'a ResourceFile,
        old: &'a ResourceHeader,
        new: &'a ResourceHeader,
    ) -> Result<Option<Self>, AllocError> {
        let reader = changes.txn.reader();
        let layout = reader.layout();
        let fd_offset = file.map().fd_offset();
        let bytes = super::read_fd(reader, fd_offset)?;
        FileMetadata::parse(&bytes, file.fd(), layout, At::Volume(fd_offset.0))
            .map_err(MetaError::from)?;
        let mut growth = Self {
            changes,
            file,
            old,
            new,
            layout,
            image: FdImage::from_bytes(layout, bytes),
            fd_offset,
        };
        let length = new.file_length(layout.family, layout.cluster_header_size());
        if !growth.fit(length)? {
            return Ok(None);
        }
        let before = growth.image.meta().length.get();
        growth.add_blocks(length)?;
        growth.clear(before, length)?;
        growth.write_clusters()?;
        growth.write_headers(length)?;
        Ok(Some(growth))
    }

    fn blocks(&self, length: u64) -> u64 {
        length.div_ceil(self.layout.file_block_size())
    }

    /// Gives the file a map with room for `length` bytes; whether there is one.
    fn fit(&mut self, length: u64) -> Result<bool, AllocError> {
        let (direct, needed) = (self.layout.fd_address_count, self.blocks(length));
        match self.image.meta().zero_level() {
            ZeroLevel::FileBlock if needed <= direct => Ok(true),
            // Of VMFS5's files vmfs-tools reads no other map, and VMware's limit on the number of
            // files is that of this one. Second pointer blocks are what the others go through.
            ZeroLevel::FileBlock
                if self.layout.family == Family::Vmfs6
                    && self.file.kind() != ResourceKind::PointerBlock2 =>
            {
                let entries: Vec<u64> = (0..direct as usize)
                    .map(|index| self.image.address(index))
                    .collect();
                let (block, place) = self.new_pointer_block(ResourceKind::PointerBlock2)?;
                for (index, &raw) in (0..).zip(&entries) {
                    self.image.set_address(index as usize, 0);
                    self.set_pointer(place, index, raw)?;
                }
                self.image.set_address(0, block);
                self.image.metadata().zero_level = ZeroLevel::PointerBlock2.raw().into();
                Ok(true)
            }
            ZeroLevel::PointerBlock | ZeroLevel::PointerBlock2 => {
                Ok(needed <= direct * self.layout.pointers_per_block)
            }
            _ => Ok(false),
        }
    }

    /// Blocks for the file up to `length`.
    fn add_blocks(&mut self, length: u64) -> Result<(), AllocError> {
        let end = self.blocks(length);
        let mut index = self.blocks(self.image.meta().length.get());
        let grown = self.layout.family == Family::Vmfs6 && index < end;
        if grown {
            let meta = self.image.metadata();
            meta.flags = (meta.flags.get() | GROWN).into();
            meta.unknown5 = 1.into();
        }
        let mut added = 0;
        while index < end {
            let behind = match index.checked_sub(1) {
                Some(before) => self.block_at(before)?.map(|block| block + 1),
                None => None,
            };
            let (first, count) = self.changes.take_blocks(Wanted {
                owner: self.file.fd(),
                index,
                count: end - index,
                behind,
                small: true,
            })?;
            for block in first..first + count {
                let address = BlockAddr::FileBlock {
                    block,
                    tbz: 0,
                    cow: false,
                };
                self.set_entry(index, address.encode(self.layout))?;
                self.image.note_cluster(self.layout, block);
                index += 1;
            }
            added += count;
        }
        let meta = self.image.metadata();
        let blocks = meta.blocks.get() + added;
        let since = u64::from(meta.new_since_epoch_hi.get()) << 32
            | u64::from(meta.new_since_epoch_lo.get());
        let since = since + added;
        meta.blocks = blocks.into();
        meta.new_since_epoch_lo = (since as u32).into();
        meta.new_since_epoch_hi = ((since >> 32) as u32).into();
        Ok(())
    }

    /// Zeros what must be when nothing is there yet, straight on the volume: nobody can see it.
    fn clear(&mut self, from: u64, to: u64) -> Result<(), AllocError> {
        // Free descriptors are zeros; of other resources nobody reads what he hasn't written.
        if self.file.kind() == ResourceKind::FileDescriptor {
            return self.zero(from, to);
        }
        let header_size = self.layout.cluster_header_size();
        let per_group = u64::from(self.new.clusters_per_group.get());
        let groups = self.old.clusters().div_ceil(per_group)..self.new.cluster_groups.get().into();
        for group in groups {
            let start = self
                .new
                .cluster_header_offset(group * per_group, header_size);
            self.zero(start.max(from), start + per_group * header_size)?;
        }
        Ok(())
    }

    fn zero(&mut self, from: u64, to: u64) -> Result<(), AllocError> {
        let size = self.layout.file_block_size();
        let mut at = from;
        while at < to {
            let end = to.min((at / size + 1) * size);
            let place = self.place(at)?;
            let zeroed = self.changes.txn.zero_fresh(place, end - at);
            zeroed.map_err(MetaError::from)?;
            at = end;
        }
        Ok(())
    }

    /// The headers of the new clusters; a last one that wasn't full gets the rest.
    fn write_clusters(&mut self) -> Result<(), AllocError> {
        let kind = self.file.kind();
        let header_size = self.layout.cluster_header_size();
        let first = self.old.clusters();
        if let Some(last) = first.checked_sub(1) {
            let (before, now) = (
                ClusterShape::of(self.old, kind, last),
                ClusterShape::of(self.new, kind, last),
            );
            if before != now {
                self.changes.fill_up(kind, last, now.total);
            }
        }
        for cluster in first..self.new.clusters() {
            let offset = self.new.cluster_header_offset(cluster, header_size);
            let place = self.place(offset)?;
            let shape = ClusterShape::of(self.new, kind, cluster);
            let mut image = ClusterImage::new(self.layout, shape, cluster, place.0);
            self.write(place, image.bytes())?;
        }
        Ok(())
    }

    /// The file's own header and its descriptor.
    fn write_headers(&mut self, length: u64) -> Result<(), AllocError> {
        self.write(self.file.header_place(), self.new.as_bytes())?;
        let meta = self.image.metadata();
        meta.length = meta.length.get().max(length).into();
        // Not the lock before it, which is no transaction's to change.
        let behind_lock = self.layout.fd_meta;
        let bytes = self.image.bytes()[behind_lock as usize..].to_vec();
        self.write(self.fd_offset + behind_lock, &bytes)
    }

    fn publish(self) -> Result<(), MetaError> {
        let map = BlockMap::new(
            self.image.meta(),
            self.image.bytes(),
            self.fd_offset,
            self.layout,
        );
        let (file, header) = (self.file, self.new);
        let map = std::sync::Arc::new(map);
        self.changes.publish_and(&mut || {
            file.replace(State {
                header: header.clone(),
                map: map.clone(),
            });
        })
    }

    fn write(&mut self, place: VolumeOffset, bytes: &[u8]) -> Result<(), AllocError> {
        let written = self.changes.txn.write(place, bytes);
        Ok(written.map_err(MetaError::from)?)
    }

    /// Where byte `offset` of the file lies, behind its old end too.
    fn place(&self, offset: u64) -> Result<VolumeOffset, AllocError> {
        let size = self.layout.file_block_size();
        match self.block_at(offset / size)? {
            Some(block) => Ok(VolumeOffset(block * size + offset % size)),
            None => Err(self.damage(0, "a file block").into()),
        }
    }

    /// The file block that entry `index` names.
    fn block_at(&self, index: u64) -> Result<Option<u64>, AllocError> {
        let per_block = self.layout.pointers_per_block;
        let raw = if self.image.meta().zero_level().depth() == 0 {
            self.image.address(index as usize)
        } else {
            match self.image.address((index / per_block) as usize) {
                0 => 0,
                pointer => self.pointer(self.pointer_block(pointer)?, index % per_block)?,
            }
        };
        Ok(match BlockAddr::decode(raw, self.layout) {
            BlockAddr::FileBlock { block, .. } => Some(block),
            _ => None,
        })
    }

    fn set_entry(&mut self, index: u64, raw: u64) -> Result<(), AllocError> {
        let level = self.image.meta().zero_level();
        if level.depth() == 0 {
            self.image.set_address(index as usize, raw);
            return Ok(());
        }
        let per_block = self.layout.pointers_per_block;
        let top = (index / per_block) as usize;
        let place = match self.image.address(top) {
            0 => {
                let kind = match (level, self.layout.family) {
                    (ZeroLevel::PointerBlock2, _) => ResourceKind::PointerBlock2,
                    (_, Family::Vmfs6) => ResourceKind::SubBlock,
                    _ => ResourceKind::PointerBlock,
                };
                let (block, place) = self.new_pointer_block(kind)?;
                self.image.set_address(top, block);
                place
            }
            pointer => self.pointer_block(pointer)?,
        };
        self.set_pointer(place, index % per_block, raw)
    }

    fn pointer(&self, block: VolumeOffset, index: u64) -> Result<u64, AllocError> {
        let size = self.layout.address_size;
        let mut bytes = [0; 8];
        let read = &mut bytes[..size as usize];
        let done = self.changes.txn.read(block + index * size, read);
        done.map_err(MetaError::from)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn set_pointer(&mut self, block: VolumeOffset, index: u64, raw: u64) -> Result<(), AllocError> {
        let size = self.layout.address_size;
        self.write(block + index * size, &raw.to_le_bytes()[..size as usize])
    }

    /// Where the pointer block with this address lies.
    fn pointer_block(&self, raw: u64) -> Result<VolumeOffset, AllocError> {
        match BlockAddr::decode(raw, self.layout) {
            // A file's map never goes through the file itself.
            BlockAddr::Resource {
                kind,
                cluster,
                resource,
                ..
            } if kind != self.file.kind() => Ok(self.changes.locate(kind, (cluster, resource))?),
            _ => Err(self.damage(raw, "a pointer block").into()),
        }
    }

    /// Takes an empty pointer block: its address and where it lies.
    fn new_pointer_block(&mut self, kind: ResourceKind) -> Result<(u64, VolumeOffset), AllocError> {
        if kind == self.file.kind() {
            return Err(AllocError::NoSpace { kind });
        }
        let (taken, _) = self.changes.take(kind, 0, self.file.fd())?;
        let place = self.changes.locate(kind, taken)?;
        let size = self.layout.pointer_block_size();
        let zeroed = self.changes.txn.zero_fresh(place, size);
        zeroed.map_err(MetaError::from)?;
        if self.layout.family == Family::Vmfs6 {
            let meta = self.image.metadata();
            meta.pointer_blocks = (meta.pointer_blocks.get() + 1).into();
        }
        let address = BlockAddr::Resource {
            kind,
            cluster: taken.0,
            resource: taken.1,
            cow: false,
        };
        Ok((address.encode(self.layout), place))
    }

    fn damage(&self, raw: u64, expected: &str) -> MetaError {
        let at = At::Volume(self.fd_offset.0);
        Damage::hex("block map", at, "block address", raw, expected).into()
    }
}
