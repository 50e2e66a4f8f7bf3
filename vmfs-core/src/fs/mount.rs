//! Opening a volume for writing, after what other hosts left is in order, and closing it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use super::engine::Engine;
use super::error::FsError;
use super::file_system::FileSystem;
use super::recover::{Left, check_others, replay_journal};
use super::sharing::{Kept, Sharing};
use crate::cluster::{
    self, Host, HostConfig, HostLun, LockMethod, LockTable, Membership, Watch, take_over,
};
use crate::file::FileError;
use crate::format::{
    BlockAddr, FS_DESCRIPTOR_OFFSET, Family, FdAddr, FsDescriptor, Layout, ResourceKind, Uuid,
};
use crate::journal::{Journal, JournalHeader, Log, MetaReader};
use crate::lvm::{Volume, VolumeOffset};
use crate::resource::{
    AllocError, Allocator, Changes, Hold, MetaError, ResourcePlace, Resources, Wanted,
    give_back_in_place,
};
use crate::scsi::{Lun, PatientLun};

/// Hosts that share a volume at most: each begins to look for blocks in another part of it.
const PARTS: u64 = 64;
/// How long a command waits for a LUN that other hosts reserve.
const RESERVED: Duration = Duration::from_secs(30);
/// The same where hosts don't do that: some tool may, for a moment.
const STRAY: Duration = Duration::from_secs(1);

impl FileSystem {
    /// Opens the file system on `volume` for reading and writing, as `host`.
    ///
    /// If a host is on the volume that may be dead this waits for a lease, and then replays what
    /// it left; other hosts that are there learn of this one first. Call [`FileSystem::keep_up`]
    /// from time to time, and [`FileSystem::close`] at the end.
    ///
    /// # Errors
    /// [`FsError::NotWritable`] with the reason when the volume can only be read.
    #[allow(clippy::needless_pass_by_value, reason = "nobody else may use it")]
    pub fn open_for_writing(volume: Volume, host: HostConfig) -> Result<Self, FsError> {
        let seed = key(host.uuid, 0);
        let patient = |method| {
            volume.with_luns(|lun| {
                let (lun, clock) = (Arc::clone(lun), Arc::clone(&host.clock));
                Arc::new(match method {
                    LockMethod::Scsi2 => {
                        let times = (RESERVED.max(host.lease * 2), host.lease / 8);
                        PatientLun::with_turns(lun, clock, times, seed)
                    }
                    LockMethod::Ats | LockMethod::Alone => PatientLun::new(lun, clock, STRAY, seed),
                }) as Arc<dyn Lun>
            })
        };
        // Until it is known how the hosts that are there lock.
        let first = patient(LockMethod::Scsi2);
        let mut bytes = [0; size_of::<FsDescriptor>()];
        first.read(VolumeOffset(FS_DESCRIPTOR_OFFSET), &mut bytes)?;
        let fsd = FsDescriptor::parse(&bytes)?.clone();
        let layout = Layout::new(&fsd)?;
        refuse_unwritable(&volume, &fsd, &layout)?;
        let others = cluster::hosts(&first, &layout)?;
        let method = agreed_method(lock_method(&volume, host.lock)?, host.lock, &others)?;
        if method == LockMethod::Scsi2 {
            // What waits below for who has the LUN reserved would keep this host from noticing that
            // nobody ends that.
            for lun in volume.luns() {
                lun.end_patience();
            }
        }
        let volume = Arc::new(patient(method));
        check_others(&volume, &layout, &others)?;
        let version = (fsd.major_version.get(), fsd.minor_version);
        let membership = Arc::new(join(&volume, &layout, &host, method, version)?);
        let opened = Self::open_as_member(&membership, &layout, host);
        // With a journal the slot stays: the next host goes on from what is in that.
        if opened.is_err()
            && !membership.has_journal()
            && let Err(error) = membership.release()
        {
            tracing::warn!("the heartbeat slot could not be given back: {error}");
        }
        opened
    }

    fn open_as_member(
        membership: &Arc<Membership>,
        layout: &Layout,
        host: HostConfig,
    ) -> Result<Self, FsError> {
        let guarded = membership.volume().with_luns(|lun| {
            Arc::new(HostLun::new(Arc::clone(lun), Arc::clone(membership))) as Arc<dyn Lun>
        });
        let watch = Arc::new(Watch::new(Arc::clone(&host.clock), host.lease));
        let mut left = take_over_all(membership, layout, &watch, &host, &guarded)?;
        let pending: Vec<FdAddr> = left.iter().flat_map(|left| left.pending.clone()).collect();

        let locks = LockTable::new(
            Arc::new(guarded.clone()),
            layout.clone(),
            Arc::clone(membership),
            Arc::clone(&watch),
            host.clone(),
        );
        let mut fs = Self::open_layered(guarded, false)?;
        if let Some((file, error)) = fs.store().resources().problems.first() {
            let reason = format!("{} is damaged: {error}; run fsck.vmfs", file.name());
            return Err(FsError::NotWritable(reason));
        }
        let blocks = fs.store().resources().file(ResourceKind::FileBlock);
        let clusters = blocks.map_or(0, |file| file.header().clusters());
        let start = membership.number() % PARTS * clusters / PARTS;
        let allocator = Arc::new(Allocator::new(fs.store().resources(), start));
        let engine = Engine::new(
            host,
            Arc::clone(membership),
            Sharing::new(locks, watch),
            allocator,
        );
        fs.engine = Some(engine);
        fs.listen_to_locks();
        fs.enter_upon(&mut left)?;
        fs.start_journal(&mut left, &pending)?;
        let engine = fs.engine()?;
        while let Some(left) = left.pop() {
            fs.inherit(engine, left)?;
        }
        fs.inherit_rest(engine)?;
        fs.finish_inherited(engine)?;
        fs.stop_sharing(engine)?;
        Ok(fs)
    }

    /// Has what is known of a structure forgotten when another host may have changed it.
    fn listen_to_locks(&self) {
        let Some(engine) = &self.engine else {
            return;
        };
        let (store, hints) = (Arc::clone(&self.store), Arc::clone(engine.hints()));
        let allocator = Arc::clone(&engine.allocator);
        engine.sharing.locks.on_change(move |place| {
            allocator.forget_cluster(place);
            store.forget();
            hints.clear();
            let (reader, resources) = (store.reader(), store.resources());
            if let Err(error) = allocator.look_for_growth(reader, resources, place) {
                tracing::warn!(%error, "a resource file stays as it was");
            }
        });
    }

    /// Takes a block for the journal, starts it, and has the heartbeat slot name it. In this order,
    /// so that a cut leaves nothing: a header in a free block means nothing, and a slot with a
    /// header is one that the next host takes back.
    ///
    /// The first thing in the journal is that its block is used, and what dead hosts had `pending`.
    /// Their journals are left alone, marked as used or not: their slots name them yet. On a full
    /// volume one of them is written over, so the header notes what they had pending.
    fn start_journal(&mut self, left: &mut [Left], pending: &[FdAddr]) -> Result<(), FsError> {
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
    fn give_back_journal(
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

    /// Finishes what dead hosts had not, and locks the cluster of this host's journal, which comes after that: on
    /// the way there this host may have to take over from another one.
    fn finish_all_inherited(&self, engine: &Engine) -> Result<(), FsError> {
        loop {
            self.finish_inherited(engine)?;
            let Some((kind, place)) = engine.journal_block else {
                return Ok(());
            };
            // It goes with the slot.
            let kept = Kept::of(engine, self.keep_cluster(engine, kind, place)?);
            if engine.sharing.inherited.lock().is_empty() {
                kept.stay();
                return Ok(());
            }
        }
    }

    /// Writes everything in place, gives back the journal, the locks and the heartbeat slot. Calls
    /// that change the volume fail from now on.
    ///
    /// # Errors
    /// When the volume fails, or another host keeps a file locked that is to be deleted: then everything that was
    /// durable is, and the next host finishes it.
    pub fn close(&self) -> Result<(), FsError> {
        let Some(engine) = &self.engine else {
            return Ok(());
        };
        if engine.closed.load(SeqCst) {
            return Ok(());
        }
        let _call = engine.sharing.enter();
        engine.holds.clear();
        let finished = self
            .reap_all(engine)
            .and_then(|()| self.finish_all_inherited(engine));
        engine.closed.store(true, SeqCst);
        if engine.membership.is_lost() {
            return Err(FsError::Fenced);
        }
        let reader = self.store().reader();
        self.sync()?;
        finished?;
        self.settle_rest(engine)?;
        if let Some(journal) = reader.journal() {
            journal.checkpoint(reader)?;
        }
        // With everything in place the journal has nothing to say any more, so the block can go
        // past it. A cut before the slot is free makes the next host do both again.
        self.close_all_files(engine);
        if let Some((kind, place)) = engine.journal_block {
            self.give_back_journal(engine, kind, place)?;
        }
        engine.membership.release()?;
        Ok(())
    }
}

/// How the host locks: as it is told, if all LUNs can do that, or in the best way that they can.
fn lock_method(volume: &Volume, wanted: Option<LockMethod>) -> Result<LockMethod, FsError> {
    let can = |capability: fn(&crate::scsi::Capabilities) -> bool| {
        let luns = volume.luns().iter();
        luns.map(Lun::capabilities).all(|c| capability(&c))
    };
    let (ats, scsi2) = (can(|c| c.compare_and_write), can(|c| c.reserve));
    let unable = |command| {
        FsError::NotWritable(format!(
            "its LUN doesn't know {command}, which the lock method asked for needs; mount it with --lock auto"
        ))
    };
    match wanted {
        Some(LockMethod::Ats) if !ats => Err(unable("COMPARE AND WRITE")),
        Some(LockMethod::Scsi2) if !scsi2 => Err(unable("RESERVE(6)")),
        Some(method) => Ok(method),
        None if ats => Ok(LockMethod::Ats),
        None if scsi2 => Ok(LockMethod::Scsi2),
        None => Ok(LockMethod::Alone),
    }
}

/// The way to lock that hosts are at already, or died at.
fn agreed_method(
    method: LockMethod,
    wanted: Option<LockMethod>,
    others: &[Host],
) -> Result<LockMethod, FsError> {
    let locks = |other: &Host| other.method.filter(|&method| method != LockMethod::Alone);
    let other = others
        .iter()
        .find_map(|other| Some((other, locks(other)?)))
        .filter(|&(_, its)| its != method);
    match other {
        None => Ok(method),
        Some((_, its)) if wanted.is_none() => Ok(its),
        Some((other, its)) => Err(FsError::NotWritable(format!(
            "host {} has it mounted or didn't unmount it, and locks by {its}, not by {method}; mount it with --lock auto",
            other.shown()
        ))),
    }
}

/// Takes a heartbeat slot.
fn join(
    volume: &Arc<Volume>,
    layout: &Layout,
    host: &HostConfig,
    method: LockMethod,
    version: (u32, u8),
) -> Result<Membership, FsError> {
    loop {
        let free = cluster::free_slot(volume, layout)?.ok_or_else(|| {
            FsError::NotWritable("all heartbeat slots are taken by other hosts".to_owned())
        })?;
        let claimed = Membership::claim(Arc::clone(volume), free, host, method, version)?;
        if let Some(membership) = claimed {
            return Ok(membership);
        }
    }
}

/// Meets the other hosts, takes over from the dead and replays what they left. Returns once nobody is at
/// that any more: what a host that was alone had not in place yet is not protected by locks, so nothing may
/// be read or changed before.
fn take_over_all(
    membership: &Arc<Membership>,
    layout: &Layout,
    watch: &Watch,
    host: &HostConfig,
    guarded: &Volume,
) -> Result<Vec<Left>, FsError> {
    let start = host.clock.uptime();
    let mut left = Vec::new();
    loop {
        let mut others_at_it = None;
        for dead in meet_others(membership, layout, watch, host)? {
            match take_over(membership, layout, watch, &dead)? {
                Some(takeover) => left.push(replay_journal(guarded, layout, takeover)?),
                None => others_at_it = Some(dead),
            }
        }
        let Some(dead) = others_at_it else {
            return Ok(left);
        };
        if host.clock.uptime().saturating_sub(start) > host.lease * 4 {
            return Err(FsError::NotWritable(format!(
                "host {} is dead, and another one that takes over from it doesn't come to an end; try again",
                dead.shown()
            )));
        }
        if membership.age() >= host.heartbeat {
            membership.renew()?;
        }
        host.clock.sleep(host.heartbeat / 8);
    }
}

/// Waits until each other host shares the volume with this one or is known to be dead; the dead, but for those
/// that this one has taken over from.
fn meet_others(
    membership: &Membership,
    layout: &Layout,
    watch: &Watch,
    host: &HostConfig,
) -> Result<Vec<Host>, FsError> {
    let start = host.clock.uptime();
    let mut told = false;
    loop {
        let mut others = cluster::hosts(membership.volume(), layout)?;
        let me = (membership.offset().0, membership.generation());
        others.retain(|other| other.offset != membership.offset() && other.taken_by != me);
        let (mut dead, mut waiting) = (Vec::new(), Vec::new());
        for other in others {
            let look = watch.look(&other);
            if look.still >= watch.patience() {
                dead.push(other);
                continue;
            }
            if look.moved {
                refuse_stranger(membership, &other)?;
            }
            let same = other.method == Some(membership.method());
            // A dead one among those that share is found by and by.
            if !same || !other.shares || membership.method() == LockMethod::Alone {
                waiting.push(other);
            }
        }
        let Some(first) = waiting.first() else {
            return Ok(dead);
        };
        if host.clock.uptime().saturating_sub(start) > host.lease * 2 {
            return Err(FsError::NotWritable(format!(
                "host {} has it mounted and doesn't make room for another; unmount it there",
                first.shown()
            )));
        }
        if !told {
            told = true;
            tracing::info!(
                "{} host(s) have the volume mounted or didn't unmount it, {} among them; waiting up to {} s to see whether they live",
                waiting.len(),
                first.shown(),
                host.lease.as_secs_f32()
            );
        }
        if membership.age() >= host.heartbeat {
            membership.renew()?;
        }
        host.clock.sleep(host.heartbeat / 8);
    }
}

/// Refuses a host that lives and that this one can't share the volume with.
fn refuse_stranger(membership: &Membership, other: &Host) -> Result<(), FsError> {
    let reason = match other.method {
        None => "it isn't an OpenVMFS host, and sharing a volume with others isn't built yet",
        Some(method) if method != membership.method() => "it locks in another way",
        Some(LockMethod::Alone) => "the LUN has no command for locks",
        Some(_) => return Ok(()),
    };
    Err(FsError::NotWritable(format!(
        "host {} has it mounted, and {reason}; unmount it there, or mount it with -o ro",
        other.shown()
    )))
}

/// Refuses what this version can read and must not write to.
fn refuse_unwritable(volume: &Volume, fsd: &FsDescriptor, layout: &Layout) -> Result<(), FsError> {
    /// Set while an administrator works on the volume.
    const MAINTENANCE: u32 = 0x8;
    let reason = if !volume.is_writable() {
        "the device is open for reading only".to_owned()
    } else if volume.missing().next().is_some() {
        format!(
            "{} of its devices are missing ({}); give them, or mount it with -o ro",
            volume.missing_devices(),
            volume.missing_names().join(", ")
        )
    } else if layout.family == Family::Vmfs3 {
        "it is VMFS3, which can only be read; mount it with -o ro".to_owned()
    } else if fsd.checksum_type != 0 {
        format!(
            "its metadata has checksums of type {}, which are not known; mount it with -o ro",
            fsd.checksum_type
        )
    } else if fsd.config.get() & MAINTENANCE != 0 {
        "it is in maintenance mode; mount it with -o ro".to_owned()
    } else {
        return Ok(());
    };
    Err(FsError::NotWritable(reason))
}

/// A number that no earlier use of the journal block had: hosts' UUIDs are random.
fn key(host: Uuid, generation: u64) -> u64 {
    let random = u64::from(host.time_hi.get()) << 32 | u64::from(host.time_lo.get());
    let mac = host
        .mac
        .iter()
        .fold(0, |mac, &byte| mac << 8 | u64::from(byte));
    random ^ mac.rotate_left(16) ^ u64::from(host.random.get()).rotate_left(48) ^ generation
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
