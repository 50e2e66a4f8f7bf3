//! This host's journal: where it is, and how it begins.

use std::collections::BTreeSet;

use super::key;
use crate::file::FileError;
use crate::format::{BlockAddr, Family, FdAddr, ResourceKind};
use crate::fs::engine::Engine;
use crate::fs::error::FsError;
use crate::fs::file_system::FileSystem;
use crate::fs::recover::Left;
use crate::journal::{Journal, JournalHeader, Log, MetaReader};
use crate::lvm::VolumeOffset;
use crate::resource::{
    AllocError, Allocator, Changes, Hold, MetaError, ResourcePlace, Resources, Wanted,
    give_back_in_place,
};

impl FileSystem {
    /// Takes a block for the journal, starts it, and has the heartbeat slot name it. In this order,
    /// so that a cut leaves nothing: a header in a free block means nothing, and a slot with a
    /// header is one that the next host takes back.
    ///
    /// The first thing in the journal is that its block is used, and what dead hosts had `pending`.
    /// Their journals are left alone, marked as used or not: their slots name them yet. On a full
    /// volume one of them is written over, so the header notes what they had pending.
    pub(super) fn start_journal(
        &mut self,
        left: &mut [Left],
        pending: &[FdAddr],
    ) -> Result<(), FsError> {
        let journals: Vec<_> = left
            .iter()
            .filter_map(|left| self.resource_at(left.journal?))
            .collect();
        let started = match self.try_start_journal(&journals, pending) {
            Err(FsError::File(FileError::Alloc(_))) if self.reuse_journals(left)? => {
                self.try_start_journal(&[], pending)
            }
            started => started,
        };
        let block = started.map_err(|error| match error {
            FsError::File(FileError::Alloc(error)) => FsError::NotWritable(format!(
                "{error}, which the journal needs; mount it with -o ro, or grow it"
            )),
            error => error,
        })?;
        if let Some(engine) = &mut self.engine {
            engine.journal_block = Some(block);
        }
        Ok(())
    }

    fn try_start_journal(
        &self,
        journals: &[(ResourceKind, ResourcePlace)],
        pending: &[FdAddr],
    ) -> Result<(ResourceKind, ResourcePlace), FsError> {
        let engine = self.engine()?;
        let (reader, resources) = (self.store().reader(), self.store().resources());
        let mut clusters = BTreeSet::new();
        loop {
            let held = self.lock_places(engine, &clusters)?;
            let hold = Hold::of(held.tokens());
            let found = journal_place(reader, resources, &engine.allocator, &hold);
            let (kind, place, block, length) = match found {
                Err(AllocError::Meta(MetaError::NeedsLocks { places })) => {
                    clusters.extend(places);
                    continue;
                }
                found => found?,
            };
            // One that was taken over from meanwhile counts as well.
            let is_journal = |left: &Left| {
                let journal = left.journal.and_then(|address| self.resource_at(address));
                journal == Some((kind, place))
            };
            if journals.contains(&(kind, place))
                || engine.sharing.left.lock().iter().any(is_journal)
            {
                continue;
            }
            self.begin_journal(engine, (kind, place), (block, length), pending)?;
            let allocator = &engine.allocator;
            let mut changes = Changes::new(reader, resources, allocator, engine.actor(), hold);
            changes.adopt(kind, place);
            for &file in pending {
                changes.txn.begin(file);
            }
            changes.publish()?;
            self.sync()?;
            return Ok((kind, place));
        }
    }

    fn begin_journal(
        &self,
        engine: &Engine,
        (kind, place): (ResourceKind, ResourcePlace),
        (block, length): (VolumeOffset, u64),
        pending: &[FdAddr],
    ) -> Result<(), FsError> {
        let reader = self.store().reader();
        let layout = reader.layout();
        let address = match kind {
            ResourceKind::JournalBlock => BlockAddr::Resource {
                kind,
                cluster: place.0,
                resource: place.1,
                cow: false,
            },
            _ => BlockAddr::FileBlock {
                block: block.0 >> layout.file_block_shift,
                tbz: 0,
                cow: false,
            },
        };
        let membership = &engine.membership;
        let header = JournalHeader::new(
            membership.host(),
            membership.offset().0,
            membership.generation(),
            length.min(engine.host.journal),
            key(membership.host(), membership.generation()),
        )
        .with_pending(pending);
        let log = Log::create(reader.volume(), block, &header)?;
        membership.set_journal(address.encode(layout) as u32, block)?;
        reader.start_journal(Journal::new(log));
        Ok(())
    }

    /// On a full volume a dead host's journal, whose content is in place by now, makes room for
    /// this host's; whether there is one.
    fn reuse_journals(&self, left: &mut [Left]) -> Result<bool, FsError> {
        let mut found = false;
        for dead in left {
            let journal = dead.journal.and_then(|address| self.resource_at(address));
            if let Some((kind, place)) = journal {
                let engine = self.engine()?;
                dead.kept = self.keep_cluster(engine, kind, place)?;
                self.give_back_journal(engine, kind, place)?;
                dead.journal = None;
                found = true;
            }
        }
        Ok(found)
    }

    /// Marks a journal's block as free past the journal, which has nothing to say any more. The caller
    /// has its cluster locked, until no slot names the block.
    pub(super) fn give_back_journal(
        &self,
        engine: &Engine,
        kind: ResourceKind,
        place: ResourcePlace,
    ) -> Result<(), FsError> {
        let (reader, resources) = (self.store().reader(), self.store().resources());
        give_back_in_place(reader, resources, kind, place)?;
        engine.allocator.forget_clusters();
        Ok(())
    }
}

/// A free journal block: on VMFS6 of the journal file, before that a file block. It isn't marked
/// as used yet.
fn journal_place(
    reader: &MetaReader,
    resources: &Resources,
    allocator: &Allocator,
    hold: &Hold,
) -> Result<(ResourceKind, ResourcePlace, VolumeOffset, u64), AllocError> {
    let layout = reader.layout();
    if layout.family == Family::Vmfs6 {
        let kind = ResourceKind::JournalBlock;
        let (place, _) = allocator.take(reader, resources, kind, 0, hold)?;
        let file = resources.file(kind).ok_or(AllocError::NoSpace { kind })?;
        let length = u64::from(file.header().resource_size.get());
        let block = file.locate(reader, place.0, place.1)?;
        return Ok((kind, place, block, length));
    }
    let kind = ResourceKind::FileBlock;
    let wanted = Wanted {
        owner: FdAddr::ROOT,
        index: 0,
        count: 1,
        behind: None,
        small: true,
    };
    let (block, _) = allocator.take_blocks(reader, resources, wanted, hold)?;
    let per_cluster = resources.blocks_per_cluster();
    let place = (block / per_cluster, (block % per_cluster) as u32);
    let length = layout.file_block_size();
    let start = VolumeOffset(block << layout.file_block_shift);
    Ok((kind, place, start, length))
}
