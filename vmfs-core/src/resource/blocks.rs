//! Taking file blocks: in runs, where their file has the others, large ones broken up when no
//! small one is left.

use zerocopy::FromBytes;

use super::allocator::{AllocError, Allocator};
use super::bits::Bits;
use super::error::MetaError;
use super::hold::Hold;
use super::system::Resources;
use crate::format::{ClusterImage, FdAddr, ResourceHeader, ResourceKind};
use crate::journal::{JournalError, MetaReader, Txn};

const KIND: ResourceKind = ResourceKind::FileBlock;

/// What blocks are wanted for.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    /// The file.
    pub owner: FdAddr,
    /// Number of the first block in the file.
    pub index: u64,
    /// How many in a row, at most.
    pub count: u64,
    /// Where the first would follow on the block before it.
    pub behind: Option<u64>,
    /// The file is small and will stay so, as far as anyone knows.
    pub small: bool,
}

impl Allocator {
    /// Takes file blocks in one run: the first and how many.
    pub fn take_blocks(
        &self,
        reader: &MetaReader,
        resources: &Resources,
        wanted: Wanted,
        hold: &Hold,
    ) -> Result<(u64, u64), AllocError> {
        self.settle(reader);
        let at = |goal| (goal, wanted.count);
        let placement = self.placement();
        let goal = placement.goal(wanted.owner, wanted.index);
        for goal in wanted.behind.into_iter().chain(goal) {
            if placement.is_anothers(wanted.owner, goal) {
                continue;
            }
            let taken = self.take_run_at(reader, resources, at(goal), hold)?;
            if taken > 0 {
                return Ok((goal, taken));
            }
        }
        if !wanted.small {
            let (owner, index) = (wanted.owner, wanted.index);
            if let Some(goal) = placement.claim(self, reader, resources, owner, index)? {
                let taken = self.take_run_at(reader, resources, at(goal), hold)?;
                if taken > 0 {
                    return Ok((goal, taken));
                }
            }
        }
        self.first_fit(reader, resources, wanted, hold)
    }

    /// Takes the run of free blocks at `block`, at most `count`; how many, 0 when it isn't free.
    fn take_run_at(
        &self,
        reader: &MetaReader,
        resources: &Resources,
        (block, count): (u64, u64),
        hold: &Hold,
    ) -> Result<u64, AllocError> {
        let per_cluster = resources.blocks_per_cluster();
        let (number, resource) = (block / per_cluster, (block % per_cluster) as u32);
        self.break_up(reader, resources, number, hold)?;
        if hold.is_shared() {
            let free = self.with(reader, resources, KIND, number, |cluster| {
                cluster.bits.is_free(resource)
            })?;
            if free != Some(true) {
                return Ok(0);
            }
            hold.check_cluster(self, reader, resources, (KIND, number))?;
        }
        let taken = self.with(reader, resources, KIND, number, |cluster| {
            cluster.bits.take_run(resource, count)
        })?;
        Ok(taken.unwrap_or(0).into())
    }

    /// The first free blocks outside other files' windows; if there are none, inside.
    fn first_fit(
        &self,
        reader: &MetaReader,
        resources: &Resources,
        wanted: Wanted,
        hold: &Hold,
    ) -> Result<(u64, u64), AllocError> {
        let placement = self.placement();
        let clusters = self.clusters(KIND);
        let per_cluster = resources.blocks_per_cluster();
        let cursor = placement.cursor();
        // Small blocks that are there before large ones are broken up for more, and only then
        // what other files were promised.
        for (whole, anywhere) in [(false, false), (true, false), (true, true)] {
            for step in 0..clusters {
                let number = (cursor + step) % clusters;
                if whole {
                    self.break_up(reader, resources, number, hold)?;
                }
                if hold.is_shared() {
                    let free = self.with(reader, resources, KIND, number, |cluster| {
                        cluster.bits.next_free(0).is_some()
                    })?;
                    if free != Some(true) {
                        continue;
                    }
                    hold.check_cluster(self, reader, resources, (KIND, number))?;
                }
                let first = number * per_cluster;
                let found = self.with(reader, resources, KIND, number, |cluster| {
                    let mut from = 0;
                    while let Some(resource) = cluster.bits.next_free(from) {
                        let block = first + u64::from(resource);
                        if anywhere || !placement.is_anothers(wanted.owner, block) {
                            let room = placement.window_end(block) - block;
                            let most = if anywhere {
                                wanted.count
                            } else {
                                wanted.count.min(room)
                            };
                            return Some((block, cluster.bits.take_run(resource, most)));
                        }
                        from = (placement.window_end(block) - first) as u32;
                    }
                    None
                })?;
                if let Some((block, taken)) = found.flatten() {
                    if wanted.small && !anywhere {
                        placement.set_cursor(number);
                    }
                    return Ok((block, taken.into()));
                }
            }
        }
        Err(self.none_left(KIND))
    }

    /// Breaks up the large block that cluster `number` of small ones would be, if it is free as a
    /// whole. That is a change of its own: it gives nothing to anyone.
    fn break_up(
        &self,
        reader: &MetaReader,
        resources: &Resources,
        number: u64,
        hold: &Hold,
    ) -> Result<(), AllocError> {
        let Some(large) = &resources.large_file_blocks else {
            return Ok(());
        };
        let per_cluster = u64::from(large.header().resources_per_cluster.get());
        let (parent, resource) = (number / per_cluster, (number % per_cluster) as u32);
        let kind = ResourceKind::LargeFileBlock;
        if hold.is_shared() {
            let whole = self.with(reader, resources, KIND, number, |cluster| cluster.is_whole)?;
            if whole != Some(true) {
                return Ok(());
            }
            // Besides the cluster of large blocks the header of the file that both kinds lie in.
            hold.check_cluster(self, reader, resources, (kind, parent))?;
            hold.check(large.map().fd_offset())?;
        }
        let broken = self.with(reader, resources, KIND, number, |cluster| {
            if !cluster.is_whole {
                return Ok(());
            }
            let taken = self.with(reader, resources, kind, parent, |parent| {
                parent.bits.take(resource)
            })?;
            // The last one may be cut off by the end of the volume: it can't be taken whole.
            let size = reader.volume().size();
            let is_cut_off = (number + 1) << reader.layout().large_block_shift > size;
            if taken != Some(true) && !is_cut_off {
                // It is being taken as a whole.
                return Ok(());
            }
            if let Err(error) = publish_broken_up(reader, resources, number, hold) {
                self.untake(kind, (parent, resource));
                return Err(AllocError::from(error));
            }
            let total = resources
                .file(KIND)
                .map_or(0, |file| file.shape(number).total);
            cluster.bits = Bits::new(total, |_| true);
            cluster.total = total;
            cluster.is_whole = false;
            cluster.has_header = true;
            Ok(())
        })?;
        broken.unwrap_or(Ok(()))
    }
}

/// Writes down that a large block is broken up: its state, the header of its small blocks, and
/// one more in the count of such blocks.
fn publish_broken_up(
    reader: &MetaReader,
    resources: &Resources,
    number: u64,
    hold: &Hold,
) -> Result<(), JournalError> {
    let (Some(large), Some(small)) = (&resources.large_file_blocks, &resources.file_blocks) else {
        return Ok(());
    };
    let layout = reader.layout();
    let size = layout.cluster_header_size();
    let per_cluster = u64::from(large.header().resources_per_cluster.get());
    let (parent, resource) = (number / per_cluster, (number % per_cluster) as u32);
    let damaged = |error| match error {
        MetaError::Volume(error) => JournalError::Volume(error),
        MetaError::Damage(damage) => JournalError::Damage(damage),
        MetaError::Journal(error) => error,
        // It is only about where things lie.
        MetaError::NeedsLocks { .. } => JournalError::ReadOnly,
    };
    let parent_place = large.cluster_place(reader, parent).map_err(damaged)?.0;
    let place = small.cluster_place(reader, number).map_err(damaged)?.0;
    let header = small.header_place().0;
    let header_size = size_of::<ResourceHeader>();
    let edited = [
        parent_place..parent_place + size,
        place..place + size,
        header..header + header_size as u64,
    ];
    let mut txn = Txn::new(reader);
    txn.set_locks(hold.locks().to_vec());
    reader.publish(&txn, &edited, 2 * size, |publisher| {
        publisher.edit(parent_place, size as usize, |bytes| {
            let mut image = ClusterImage::from_bytes(layout, large.shape(parent), bytes.to_vec());
            image.convert(resource);
            bytes.copy_from_slice(image.bytes());
        });
        publisher.edit(place, size as usize, |bytes| {
            let mut image = ClusterImage::new(layout, small.shape(number), number, place);
            bytes.copy_from_slice(image.bytes());
        });
        publisher.edit(header, header_size, |bytes| {
            if let Ok(header) = ResourceHeader::mut_from_bytes(bytes) {
                let more = header.converted_clusters.get().saturating_add(1);
                header.converted_clusters = more.into();
            }
        });
    })?;
    Ok(())
}

impl Resources {
    /// File blocks in a cluster of them.
    pub fn blocks_per_cluster(&self) -> u64 {
        self.file(KIND).map_or(1, |file| {
            u64::from(file.header().resources_per_cluster.get()).max(1)
        })
    }
}
