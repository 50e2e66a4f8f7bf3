//! What other hosts left on a volume: whether they live, and putting in order what dead ones left.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::engine::Engine;
use super::error::FsError;
use super::file_system::FileSystem;
use super::sharing::{Files, Kept};
use crate::cluster::{Host, Membership, Takeover, Watch, first_of, host_at, hosts, take_over};
use crate::format::{At, BlockAddr, FdAddr, FileMetadata, HeartbeatState, Layout, ResourceKind};
use crate::journal::{JournalHeader, replay};
use crate::lvm::{Volume, VolumeOffset};
use crate::resource::ResourcePlace;

/// What a dead host left: the right to put it in order, the address of its journal and what it had
/// not finished.
#[derive(Debug)]
pub(super) struct Left {
    pub(super) takeover: Takeover,
    pub(super) journal: Option<BlockAddr>,
    pub(super) pending: Vec<FdAddr>,
    /// Whether the journal's block is marked as used. Once other threads and hosts can have the dead host's
    /// locks they may take one that isn't, so it is looked at before.
    journal_is_used: bool,
    /// Locks that keep others from the journal's block until no slot names it any more.
    pub(super) kept: Vec<VolumeOffset>,
}

/// Refuses slots that make no sense and journals that only ESXi can replay.
pub(super) fn check_others(
    volume: &Volume,
    layout: &Layout,
    others: &[Host],
) -> Result<(), FsError> {
    for other in others {
        if let HeartbeatState::Unknown(state) = other.state {
            let reason = format!(
                "heartbeat slot {} has the unknown state {state:#x}; run fsck.vmfs",
                other.slot
            );
            return Err(FsError::NotWritable(reason));
        }
    }
    for other in others {
        journal_of(volume, layout, other)?;
    }
    Ok(())
}

/// Replays what a dead host had in its journal.
pub(super) fn replay_journal(
    volume: &Volume,
    layout: &Layout,
    takeover: Takeover,
) -> Result<Left, FsError> {
    let dead = takeover.host.clone();
    let mut left = Left {
        takeover,
        journal: None,
        pending: Vec::new(),
        journal_is_used: false,
        kept: Vec::new(),
    };
    if dead.journal_addr != 0 {
        if let Some(header) = another_hosts(volume, &dead)? {
            // That host may have died before its slot said so.
            left.pending = header.pending().collect();
        } else if is_given_back(volume, layout, &dead)? {
            // Somebody came as far as that, and may have died then.
        } else {
            let address = BlockAddr::decode(dead.journal_addr.into(), layout);
            left.journal = Some(address);
        }
    }
    if let Some(header) = journal_of(volume, layout, &dead)? {
        let replayed = replay(volume, dead.journal, &header)?;
        tracing::info!(
            host = %dead.host,
            transactions = replayed.transactions,
            bytes = replayed.bytes,
            "replayed the journal of a host that didn't unmount"
        );
        left.pending = replayed.pending;
        for file in replayed.doubtful {
            // The lock is the dead host's yet, so that nobody else can have the descriptor.
            for &lock in &replayed.unmoved {
                if is_nameless(volume, layout, lock, file)? {
                    left.pending.push(file);
                    break;
                }
            }
        }
        // Whoever has to take over again must not replay it once more: others may change what it
        // changed as soon as this host goes on.
        if let Some(empty) = header.replayed(&left.pending) {
            empty.write(volume, dead.journal)?;
            volume.flush()?;
        }
    }
    Ok(left)
}

/// Whether the descriptor whose lock is at `lock` is `file`'s, and that has no names.
fn is_nameless(
    volume: &Volume,
    layout: &Layout,
    lock: VolumeOffset,
    file: FdAddr,
) -> Result<bool, FsError> {
    let mut bytes = vec![0; layout.fd_size as usize];
    if lock.0.saturating_add(layout.fd_size) > volume.size() {
        return Ok(false);
    }
    volume.read(lock, &mut bytes)?;
    // What is there may be something else's, or free.
    let meta = FileMetadata::parse(&bytes, file, layout, At::Volume(lock.0));
    Ok(meta.is_ok_and(|meta| meta.links.get() == 0))
}

/// [`replay_journal`], for what was claimed and for what that host had claimed in its turn: all at once, so that
/// none of it is anybody's in between.
pub(super) fn replay_all(
    membership: &Arc<Membership>,
    watch: &Watch,
    (volume, layout): (&Volume, &Layout),
    takeover: Takeover,
) -> Result<Vec<Left>, FsError> {
    let mut left = vec![replay_journal(volume, layout, takeover)?];
    for _ in 0..layout.heartbeat_slots {
        let is_of = |host: &Host, slot: (u64, u64)| (host.offset.0, host.generation) == slot;
        let is_claimed = |host: &Host| {
            let mut done = left.iter().map(|left| &left.takeover.host);
            done.any(|dead| is_of(dead, host.taken_by))
        };
        let Some(next) = hosts(volume, layout)?.into_iter().find(is_claimed) else {
            break;
        };
        journal_of(volume, layout, &next)?;
        if let Some(takeover) = take_over(membership, layout, watch, &next)? {
            left.push(replay_journal(volume, layout, takeover)?);
        }
    }
    Ok(left)
}

/// The header of another host's journal, if the block that a host had its journal in is that one
/// by now.
fn another_hosts(volume: &Volume, dead: &Host) -> Result<Option<JournalHeader>, FsError> {
    let header = JournalHeader::read(volume, dead.journal)?;
    Ok(header.filter(|header| !header.is_of(dead.host, dead.generation)))
}

/// Whether the block that a dead host had its journal in was given back by a host that took over
/// from it, and didn't get to say so in its slot: there may be anything in it.
fn is_given_back(volume: &Volume, layout: &Layout, dead: &Host) -> Result<bool, FsError> {
    if dead.taken_by == (0, 0) || dead.method.is_none() {
        return Ok(false);
    }
    let header = JournalHeader::read(volume, dead.journal)?;
    Ok(header.is_none() && !crate::journal::is_unused(volume, layout, dead.journal)?)
}

/// The journal that a host left, if it is one of ours; `None` when it surely has nothing in it.
fn journal_of(
    volume: &Volume,
    layout: &Layout,
    dead: &Host,
) -> Result<Option<JournalHeader>, FsError> {
    if dead.journal_addr == 0 {
        return Ok(None);
    }
    let header = JournalHeader::read(volume, dead.journal)?;
    let header = header.filter(|header| header.is_of(dead.host, dead.generation));
    if header.is_some()
        || another_hosts(volume, dead)?.is_some()
        || is_given_back(volume, layout, dead)?
        || crate::journal::is_unused(volume, layout, dead.journal)?
    {
        return Ok(header);
    }
    Err(FsError::NotWritable(format!(
        "host {} ({}) has it mounted or didn't unmount it, and its journal at {} may have changes that only an ESXi host can replay: mount and unmount it there, or mount it with --force-ro to read it as it is",
        dead.host, dead.ip, dead.journal
    )))
}

impl FileSystem {
    /// Puts in order what `dead` left, whose heartbeat stands still, unless another host does. If one was at
    /// it and died, that one comes first.
    ///
    /// The caller may have files locked, so what `dead` was giving back is left for
    /// [`FileSystem::finish_inherited`].
    pub(super) fn recover_from(&self, engine: &Engine, dead: &Host) -> Result<(), FsError> {
        let _one = engine.sharing.recovering.lock();
        let (volume, layout) = (self.volume(), self.layout());
        let found = host_at(volume, layout, dead.offset)?;
        if found.is_none_or(|found| found.generation != dead.generation) {
            return Ok(());
        }
        let watch = &engine.sharing.watch;
        let membership = &engine.membership;
        let takeover = match first_of(membership, layout, watch, dead)? {
            Some(first) => {
                journal_of(volume, layout, &first)?;
                take_over(membership, layout, watch, &first)?
            }
            None => None,
        };
        let Some(takeover) = takeover else {
            // Another host is at it, or it lives after all.
            let moment = engine.host.heartbeat / 100;
            engine.host.clock.sleep(moment);
            return Ok(());
        };
        self.recover(engine, takeover)
    }

    /// Puts in order what the host left that was claimed.
    pub(super) fn recover(&self, engine: &Engine, takeover: Takeover) -> Result<(), FsError> {
        let watch = &engine.sharing.watch;
        let volume = (self.volume(), self.layout());
        let mut left = replay_all(&engine.membership, watch, volume, takeover)?;
        // What was read of the dead host's structures may be old.
        engine.sharing.locks.forget();
        self.enter_upon(&mut left)?;
        if self.store().reader().journal().is_none() {
            // This host is only mounting: it goes on once it can note what it does.
            engine.sharing.left.lock().append(&mut left);
            return Ok(());
        }
        while let Some(left) = left.pop() {
            self.inherit(engine, left)?;
        }
        Ok(())
    }

    /// From now on what dead hosts locked, whose journals are replayed, is this host's.
    pub(super) fn enter_upon(&self, left: &mut [Left]) -> Result<(), FsError> {
        self.store().forget();
        let (reader, resources) = (self.store().reader(), self.store().resources());
        for dead in &mut *left {
            let journal = dead.journal.and_then(|address| self.resource_at(address));
            if let Some((kind, place)) = journal
                && let Some(file) = resources.file(kind)
            {
                let (header, _) = file.cluster(reader, place.0)?;
                dead.journal_is_used = !header.is_free(place.1);
            }
        }
        for dead in left {
            dead.takeover.note_replayed();
        }
        Ok(())
    }

    /// Goes on with what was taken over before this host had a journal. What a host was taking over
    /// when it died comes before what it left itself.
    pub(super) fn inherit_rest(&self, engine: &Engine) -> Result<(), FsError> {
        loop {
            let Some(left) = engine.sharing.left.lock().pop() else {
                return Ok(());
            };
            self.inherit(engine, left)?;
        }
    }

    /// Takes over what a dead host left whose journal is replayed: notes what it had not finished,
    /// gives back its journal, frees its slot.
    pub(super) fn inherit(&self, engine: &Engine, left: Left) -> Result<(), FsError> {
        self.take_pending(engine, &left.pending)?;
        for &file in &left.pending {
            let place = self.store().place_of(file)?;
            // Nobody but the dead host can have it, unless it was given back already.
            let held = engine
                .sharing
                .locks
                .lock(&BTreeSet::from([place]), Duration::ZERO);
            let places = held.map(|held| held.keep()).unwrap_or_default();
            engine.sharing.inherited.lock().push((file, places));
        }
        let mut kept = Kept::of(engine, left.kept);
        let journal = left.journal.filter(|_| left.journal_is_used);
        let journal = journal.and_then(|address| self.resource_at(address));
        let Some((kind, place)) = journal else {
            left.takeover.finish()?;
            return Ok(());
        };
        // Nobody may get the block, neither another host nor a thread of this one, as long as a slot names it:
        // if this host dies as well the next one would take it for a journal yet.
        kept.add(self.keep_cluster(engine, kind, place)?);
        let (reader, resources) = (self.store().reader(), self.store().resources());
        engine.allocator.withhold(reader, resources, kind, place)?;
        let give_back = || -> Result<(), FsError> {
            self.change(engine, &Files::none(), |changes| {
                changes.give(kind, place, FdAddr::ROOT);
                Ok(())
            })?;
            self.sync()?;
            Ok(left.takeover.finish()?)
        };
        let done = give_back();
        if done.is_ok() {
            engine.allocator.allow(reader, kind, place);
        } else {
            kept.stay();
        }
        done
    }

    /// Locks the cluster of a resource beyond the call, if the volume is shared.
    pub(super) fn keep_cluster(
        &self,
        engine: &Engine,
        kind: ResourceKind,
        place: ResourcePlace,
    ) -> Result<Vec<VolumeOffset>, FsError> {
        let file = self.store().resources().file(kind);
        let file = file.filter(|_| engine.sharing.is_shared());
        let Some(file) = file else {
            return Ok(Vec::new());
        };
        let cluster = file.cluster_place(self.store().reader(), place.0)?;
        let held = self.lock_places(engine, &BTreeSet::from([cluster]))?;
        Ok(held.keep())
    }

    /// Finishes what dead hosts had not.
    pub(super) fn finish_inherited(&self, engine: &Engine) -> Result<(), FsError> {
        loop {
            let Some((file, places)) = engine.sharing.inherited.lock().pop() else {
                return Ok(());
            };
            let finished = self.finish_pending(engine, file);
            if finished.is_err() {
                engine.sharing.inherited.lock().push((file, places));
                return finished;
            }
            engine.sharing.locks.leave_all(places);
        }
    }

    /// Notes in this host's journal what a dead one had not finished.
    pub(super) fn take_pending(&self, engine: &Engine, pending: &[FdAddr]) -> Result<(), FsError> {
        if pending.is_empty() {
            return Ok(());
        }
        self.change(engine, &Files::none(), |changes| {
            for &file in pending {
                changes.txn.begin(file);
            }
            Ok(())
        })?;
        self.sync()
    }

    /// The resource that a journal's address names.
    pub(super) fn resource_at(&self, address: BlockAddr) -> Option<(ResourceKind, ResourcePlace)> {
        match address {
            BlockAddr::Resource {
                kind: kind @ ResourceKind::JournalBlock,
                cluster,
                resource,
                ..
            } => Some((kind, (cluster, resource))),
            BlockAddr::FileBlock { block, .. } => {
                let per_cluster = self.store().resources().blocks_per_cluster();
                let place = (block / per_cluster, (block % per_cluster) as u32);
                Some((ResourceKind::FileBlock, place))
            }
            _ => None,
        }
    }
}
