//! Opening a volume for writing, after what other hosts left is in order, and closing it.
//!
//! - `meeting`: whether the volume can be written to, how hosts lock, and who is there already.
//! - `starting`: this host's journal.

mod meeting;
mod starting;

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use super::engine::Engine;
use super::error::FsError;
use super::file_system::FileSystem;
use super::recover::check_others;
use super::sharing::{Kept, Sharing};
use crate::cluster::{self, HostConfig, HostLun, LockMethod, LockTable, Membership, Watch};
use crate::format::{FS_DESCRIPTOR_OFFSET, FdAddr, FsDescriptor, Layout, ResourceKind, Uuid};
use crate::lvm::{Volume, VolumeOffset};
use crate::resource::Allocator;
use crate::scsi::{Lun, PatientLun};
use meeting::{agreed_method, join, lock_method, refuse_unwritable, take_over_all};

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

    /// Finishes what dead hosts had not and what calls of this one left that failed, and locks the cluster of this host's journal, which comes after that: on
    /// the way there this host may have to take over from another one.
    fn finish_all_inherited(&self, engine: &Engine) -> Result<(), FsError> {
        loop {
            self.finish_inherited(engine)?;
            self.finish_own(engine)?;
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

/// A number that no earlier use of the journal block had: hosts' UUIDs are random.
fn key(host: Uuid, generation: u64) -> u64 {
    let random = u64::from(host.time_hi.get()) << 32 | u64::from(host.time_lo.get());
    let mac = host
        .mac
        .iter()
        .fold(0, |mac, &byte| mac << 8 | u64::from(byte));
    random ^ mac.rotate_left(16) ^ u64::from(host.random.get()).rotate_left(48) ^ generation
}
