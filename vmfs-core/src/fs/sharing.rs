//! Being on a volume with other hosts: what is locked, and what may be kept in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use dashmap::DashMap;

use super::engine::Engine;
use super::error::FsError;
use super::file_system::FileSystem;
use super::recover::Left;
use crate::cluster::{Held, Host, LockError, LockMethod, LockTable, OpenMode, Version, Watch};
use crate::format::FdAddr;
use crate::lvm::VolumeOffset;
use crate::resource::Hold;
use crate::sync::{Mutex, ReentrantMutex, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Tries to read something while no other host changes it, before this one locks it for that.
const QUIET_READS: u32 = 16;

/// Time between two looks whether another host has closed a file.
const CLOSING: Duration = Duration::from_millis(5);

/// What a host does about the others.
#[derive(Debug)]
pub(super) struct Sharing {
    pub(super) locks: LockTable,
    pub(super) watch: Arc<Watch>,
    /// Another host is there, or may be: everything is locked, nothing stays in memory alone.
    shared: AtomicBool,
    /// Every call has it shared; it is taken alone to change `shared`.
    calls: RwLock<()>,
    /// Files that are open, and how often in each way.
    opens: DashMap<FdAddr, Opens>,
    /// Locks that are kept because what they protect could not be brought in place yet.
    unsettled: Mutex<Vec<VolumeOffset>>,
    /// What was taken over before this host had a journal of its own.
    pub(super) left: Mutex<Vec<Left>>,
    /// Held while this host takes over from another.
    pub(super) recovering: ReentrantMutex<()>,
    /// What dead hosts had not finished, with the locks that are kept for it.
    pub(super) inherited: Mutex<Vec<(FdAddr, Vec<VolumeOffset>)>>,
    /// Uptime in milliseconds since when the front end lets nobody keep anything; others are told
    /// [`crate::cluster::HostConfig::kept`] later. 0 when they know.
    pub(super) telling_since: AtomicU64,
    /// Whether the last look found no other host.
    pub(super) was_empty: AtomicBool,
    /// When the others' heartbeats were last looked at, in milliseconds of uptime.
    pub(super) looked: AtomicU64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Opens {
    read: u32,
    multi_writer: u32,
    write: u32,
}

impl Opens {
    fn count(&mut self, mode: OpenMode) -> &mut u32 {
        match mode {
            OpenMode::Read => &mut self.read,
            OpenMode::MultiWriter => &mut self.multi_writer,
            OpenMode::Write => &mut self.write,
        }
    }

    fn strongest(self) -> Option<OpenMode> {
        let counts = [
            (self.write, OpenMode::Write),
            (self.multi_writer, OpenMode::MultiWriter),
            (self.read, OpenMode::Read),
        ];
        counts
            .into_iter()
            .find(|&(count, _)| count > 0)
            .map(|(_, mode)| mode)
    }
}

/// Files locked for changing: in this host, and against others.
#[derive(Debug)]
pub(super) struct Files<'a> {
    _stripes: Vec<RwLockWriteGuard<'a, ()>>,
    held: Option<Held<'a>>,
}

/// Disk locks that stay beyond the call that took them.
#[derive(Debug)]
pub(super) struct Kept<'a> {
    locks: &'a LockTable,
    places: Vec<VolumeOffset>,
}

impl<'a> Kept<'a> {
    /// What was kept by [`Held::keep`].
    pub(super) fn of(engine: &'a Engine, places: Vec<VolumeOffset>) -> Self {
        let locks = &engine.sharing.locks;
        Self { locks, places }
    }

    pub(super) fn add(&mut self, places: Vec<VolumeOffset>) {
        self.places.extend(places);
    }

    /// Keeps the locks as long as this host has its slot.
    pub(super) fn stay(mut self) {
        self.places.clear();
    }
}

impl Drop for Kept<'_> {
    fn drop(&mut self) {
        self.locks.leave_all(self.places.drain(..));
    }
}

impl Files<'_> {
    /// No file.
    pub(super) fn none() -> Self {
        Self {
            _stripes: Vec::new(),
            held: None,
        }
    }
}

impl Sharing {
    pub(super) fn new(locks: LockTable, watch: Arc<Watch>) -> Self {
        Self {
            locks,
            watch,
            shared: AtomicBool::new(true),
            calls: RwLock::new(()),
            opens: DashMap::new(),
            unsettled: Mutex::default(),
            left: Mutex::default(),
            recovering: ReentrantMutex::new(()),
            inherited: Mutex::default(),
            telling_since: AtomicU64::new(0),
            was_empty: AtomicBool::new(false),
            looked: AtomicU64::new(0),
        }
    }

    /// Whether another host may be there.
    pub(super) fn is_shared(&self) -> bool {
        self.shared.load(SeqCst)
    }

    /// Keeps the volume from changing between shared and not shared, for a call from outside.
    pub(super) fn enter(&self) -> RwLockReadGuard<'_, ()> {
        // A change that waits goes first, so that it doesn't wait for ever.
        self.calls.read()
    }

    /// The same for what may be a part of such a call.
    pub(super) fn enter_again(&self) -> RwLockReadGuard<'_, ()> {
        self.calls.read_recursive()
    }
}

impl Engine {
    /// The locks that a transaction has which holds `files` and `clusters`.
    fn hold(&self, files: &Files<'_>, clusters: Option<&Held<'_>>) -> Hold {
        if !self.sharing.is_shared() {
            return Hold::alone();
        }
        let held = [files.held.as_ref(), clusters];
        Hold::of(held.into_iter().flatten().flat_map(Held::tokens).collect())
    }

    /// Until when to wait for another host to close a file: a program there may have done so already,
    /// and its host not have heard of it yet.
    fn closes_until(&self) -> Duration {
        self.host.clock.uptime() + self.host.heartbeat / 3
    }

    /// How long to wait for a lock that another host has for a call: it may have to be taken for
    /// dead first.
    fn patience(&self) -> Duration {
        self.host.lease * 2
    }
}

impl FileSystem {
    /// Whether other hosts have the volume mounted, so that nothing that was read may be believed
    /// later, but for open files.
    pub fn is_shared(&self) -> bool {
        let engine = self.engine.as_ref();
        engine.is_some_and(|engine| engine.sharing.is_shared())
    }

    /// Locks `files` for changing them.
    pub(super) fn lock_files<'a>(
        &'a self,
        engine: &'a Engine,
        files: &[FdAddr],
    ) -> Result<Files<'a>, FsError> {
        let stripes = engine.locks.write(files);
        if !engine.sharing.is_shared() {
            return Ok(Files {
                _stripes: stripes,
                held: None,
            });
        }
        let places = files
            .iter()
            .map(|&file| Ok(self.store().place_of(file)?))
            .collect::<Result<BTreeSet<_>, FsError>>()?;
        let held = Some(self.lock_places(engine, &places)?);
        Ok(Files {
            _stripes: stripes,
            held,
        })
    }

    /// Takes the disk locks at `places`; takes over from dead hosts that have some.
    pub(super) fn lock_places<'a>(
        &self,
        engine: &'a Engine,
        places: &BTreeSet<VolumeOffset>,
    ) -> Result<Held<'a>, FsError> {
        let deadline = engine.closes_until();
        loop {
            match engine.sharing.locks.lock(places, engine.patience()) {
                Ok(held) => return Ok(held),
                Err(LockError::Held { is_open: true, .. })
                    if engine.host.clock.uptime() < deadline =>
                {
                    engine.host.clock.sleep(CLOSING);
                }
                Err(error) => self.give_way(engine, error)?,
            }
        }
    }

    /// Takes the disk lock of a descriptor that becomes a new file, if it has one already: a host that
    /// still knows the file that was there may have it, and look whether that is gone. The caller
    /// has other locks, so it doesn't wait.
    ///
    /// # Errors
    /// [`FsError::Again`] when another host has it: the caller gives up its locks and begins anew.
    pub(super) fn lock_new<'a>(
        &self,
        engine: &'a Engine,
        file: FdAddr,
    ) -> Result<Option<Held<'a>>, FsError> {
        if !engine.sharing.is_shared() {
            return Ok(None);
        }
        let place = BTreeSet::from([self.store().place_of(file)?]);
        match engine.sharing.locks.lock(&place, Duration::ZERO) {
            Ok(held) => Ok(Some(held)),
            // It was never used, so nobody has the lock that the transaction makes.
            Err(LockError::Damage(_)) => Ok(None),
            Err(LockError::Held { .. } | LockError::Turn { .. }) => Err(FsError::Again),
            Err(error) => {
                self.give_way(engine, error)?;
                Err(FsError::Again)
            }
        }
    }

    /// Keeps the disk lock of `file` while other calls of this thread may take it as well.
    pub(super) fn keep_locked<'a>(
        &self,
        engine: &'a Engine,
        file: FdAddr,
    ) -> Result<Option<Kept<'a>>, FsError> {
        if !engine.sharing.is_shared() {
            return Ok(None);
        }
        let place = self.store().place_of(file)?;
        let held = self.lock_places(engine, &BTreeSet::from([place]))?;
        Ok(Some(Kept::of(engine, held.keep())))
    }

    /// What to do when a lock can't be had: `Ok` to try again.
    fn give_way(&self, engine: &Engine, error: LockError) -> Result<(), FsError> {
        match error {
            LockError::Dead { host, .. } => self.recover_from(engine, &host),
            LockError::Held { by, place, .. } => {
                tracing::info!("the lock at {place} is held by host {}", by.shown());
                Err(FsError::Busy { by: by.shown() })
            }
            LockError::Turn { .. } => Ok(()),
            LockError::Crowded { .. } => Err(FsError::Busy {
                by: "eight others, as many as the format allows".to_owned(),
            }),
            LockError::Volume(error) => Err(error.into()),
            LockError::Damage(damage) => Err(damage.into()),
        }
    }

    /// Runs `work` in a transaction under the locks of `files` and those of clusters that it turns
    /// out to need, and publishes it; if the volume is shared, it is in place when this returns.
    /// On an error nothing has changed.
    pub(super) fn change<T>(
        &self,
        engine: &Engine,
        files: &Files<'_>,
        mut work: impl FnMut(&mut crate::resource::Changes<'_>) -> Result<T, FsError>,
    ) -> Result<T, FsError> {
        let (reader, resources) = (self.store().reader(), self.store().resources());
        let shared = engine.sharing.is_shared();
        let mut clusters = BTreeSet::new();
        let mut held = None;
        let mut committed = false;
        loop {
            let hold = engine.hold(files, held.as_ref());
            let allocator = &engine.allocator;
            let mut changes =
                crate::resource::Changes::new(reader, resources, allocator, engine.actor(), hold);
            let result = work(&mut changes).and_then(|done| {
                changes.publish()?;
                Ok(done)
            });
            match result {
                Err(error) if let Some(places) = missing_locks(&error) => {
                    // What was changed on the way must be in place before its locks go.
                    self.bring_in_place(engine, files, held.as_ref())?;
                    clusters.extend(places);
                    drop(held.take());
                    held = Some(self.lock_places(engine, &clusters)?);
                }
                Err(error) if !committed && super::engine::needs_commit(&error) => {
                    committed = true;
                    self.sync()?;
                }
                Ok(done) => {
                    for file in engine.allocator.take_grown() {
                        self.store().drop_inode(file);
                    }
                    if shared {
                        self.bring_in_place(engine, files, held.as_ref())?;
                    }
                    return Ok(done);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Brings everything published in place. If that fails the locks stay until it can be done.
    fn bring_in_place(
        &self,
        engine: &Engine,
        files: &Files<'_>,
        clusters: Option<&Held<'_>>,
    ) -> Result<(), FsError> {
        let reader = self.store().reader();
        let Some(journal) = reader.journal() else {
            return Ok(());
        };
        let settled = journal.settle(reader);
        if settled.is_err() {
            let mut unsettled = engine.sharing.unsettled.lock();
            for held in [files.held.as_ref(), clusters].into_iter().flatten() {
                unsettled.extend(held.keep());
            }
        }
        Ok(settled?)
    }

    /// Tries again to bring in place what could not be.
    pub(super) fn settle_rest(&self, engine: &Engine) -> Result<(), FsError> {
        let mut unsettled = engine.sharing.unsettled.lock();
        if unsettled.is_empty() {
            return Ok(());
        }
        let reader = self.store().reader();
        if let Some(journal) = reader.journal() {
            journal.settle(reader)?;
        }
        engine.sharing.locks.leave_all(unsettled.drain(..));
        Ok(())
    }

    /// Calls `read`, which reads what belongs to `file`, so that it sees it as it was at one moment
    /// after the call began.
    pub(super) fn consistently<T>(
        &self,
        file: FdAddr,
        mut read: impl FnMut() -> Result<T, FsError>,
    ) -> Result<T, FsError> {
        let Some(engine) = &self.engine else {
            return read();
        };
        let _call = engine.sharing.enter_again();
        engine.has_lease()?;
        // What no other host changes is so as long as this one has its lease, which may have ended meanwhile.
        let still = |result: Result<T, FsError>| engine.has_lease().and(result);
        if !engine.sharing.is_shared() {
            return still(read());
        }
        let place = self.store().place_of(file)?;
        let locks = &engine.sharing.locks;
        if locks.protects(place) {
            return still(read());
        }
        let version = || -> Result<Version, FsError> {
            loop {
                match locks.version(place, engine.patience()) {
                    Ok(version) => return Ok(version),
                    Err(error) => self.give_way(engine, error)?,
                }
            }
        };
        let mut before = version()?;
        for _ in 0..QUIET_READS {
            let result = read();
            let after = version()?;
            if before == after {
                return result;
            }
            before = after;
        }
        // In this order, as calls that change the file: `read` wants both.
        let _stripe = engine.locks.read(file);
        let _held = self.lock_places(engine, &BTreeSet::from([place]))?;
        still(read())
    }

    /// Opens a file, for as long as it isn't closed as often; other hosts can't write to it
    /// meanwhile, or not open it at all, as `mode` says.
    ///
    /// # Errors
    /// [`FsError::Busy`] when another host has it open in a way that doesn't go with `mode`.
    pub fn open_file(&self, file: FdAddr, mode: OpenMode) -> Result<(), FsError> {
        let (engine, _call) = self.enter()?;
        let place = self.store().place_of(file)?;
        // One at a time, so that counts and locks agree.
        let _stripes = engine.locks.write(&[file]);
        let before = engine.sharing.opens.get(&file).and_then(|o| o.strongest());
        if engine.sharing.is_shared() && before < Some(mode) {
            let deadline = engine.closes_until();
            loop {
                match engine
                    .sharing
                    .locks
                    .open(place, before.max(Some(mode)).unwrap_or(mode))
                {
                    Ok(()) => break,
                    // Another host may be about to close it, or have it for a call only.
                    Err(LockError::Held { .. }) if engine.host.clock.uptime() < deadline => {
                        engine.host.clock.sleep(CLOSING);
                    }
                    Err(error) => self.give_way(engine, error)?,
                }
            }
            let inode = self.store().refresh(file);
            if !inode.is_ok_and(|inode| inode.meta().links.get() > 0) && before.is_none() {
                engine.sharing.locks.close(place, None);
                return Err(FsError::Stale { fd: file });
            }
        }
        *engine.sharing.opens.entry(file).or_default().count(mode) += 1;
        Ok(())
    }

    /// Closes a file that was opened in this mode.
    pub fn close_file(&self, file: FdAddr, mode: OpenMode) {
        let Some(engine) = &self.engine else {
            return;
        };
        let _call = engine.sharing.enter();
        let _stripes = engine.locks.write(&[file]);
        let left = {
            let mut opens = engine.sharing.opens.entry(file).or_default();
            let count = opens.count(mode);
            *count = count.saturating_sub(1);
            opens.strongest()
        };
        if left.is_none() {
            engine.sharing.opens.remove(&file);
        }
        if let Ok(place) = self.store().place_of(file) {
            engine.sharing.locks.close(place, left);
        }
    }

    /// Gives up the locks of all open files.
    pub(super) fn close_all_files(&self, engine: &Engine) {
        let sharing = &engine.sharing;
        let files: BTreeSet<FdAddr> = sharing.opens.iter().map(|open| *open.key()).collect();
        sharing.opens.clear();
        for file in files {
            if let Ok(place) = self.store().place_of(file) {
                sharing.locks.close(place, None);
            }
        }
    }

    /// Whether this host may write to blocks that the file has without locking it for the call, as no other
    /// one changes which those are: alone, or beside other hosts.
    pub(super) fn writes_as(
        &self,
        engine: &Engine,
        file: FdAddr,
    ) -> Result<Option<OpenMode>, FsError> {
        if !engine.sharing.is_shared() {
            return Ok(Some(OpenMode::Write));
        }
        let place = self.store().place_of(file)?;
        Ok(engine.sharing.locks.writes_as(place))
    }

    /// From now on everything is locked and in place before a call returns.
    ///
    /// If calls are under way that don't end soon nothing happens yet.
    pub(super) fn begin_sharing(&self, engine: &Engine) -> Result<(), FsError> {
        let sharing = &engine.sharing;
        if sharing.is_shared() {
            return Ok(());
        }
        let Some(_alone) = sharing.calls.try_write_for(engine.host.heartbeat / 2) else {
            return Ok(());
        };
        let reader = self.store().reader();
        if let Some(journal) = reader.journal() {
            journal.start_over(reader)?;
        }
        self.forget_everything(engine);
        let opens: BTreeMap<FdAddr, Opens> = sharing
            .opens
            .iter()
            .map(|open| (*open.key(), *open))
            .collect();
        for (file, opens) in opens {
            let place = self.store().place_of(file)?;
            if let Some(mode) = opens.strongest()
                && let Err(error) = sharing.locks.open(place, mode)
            {
                tracing::error!("open file {file} can't be locked: {error}");
            }
        }
        sharing.shared.store(true, SeqCst);
        let now = engine.host.clock.uptime().as_millis() as u64;
        sharing.telling_since.store(now.max(1), SeqCst);
        tracing::info!("another host is there: the volume is shared from now on");
        Ok(())
    }

    /// Locks nothing any more and keeps what was read, if no other host is there.
    pub(super) fn stop_sharing(&self, engine: &Engine) -> Result<(), FsError> {
        let sharing = &engine.sharing;
        let Some(_alone) = sharing.calls.try_write_for(engine.host.heartbeat / 2) else {
            return Ok(());
        };
        if !sharing.is_shared() || sharing.telling_since.load(SeqCst) != 0 {
            return Ok(());
        }
        self.settle_rest(engine)?;
        engine.membership.set_shares(false)?;
        // Who comes now sees that. Who came before is seen here.
        if !self
            .other_hosts(engine, engine.membership.method() == LockMethod::Alone)?
            .is_empty()
        {
            engine.membership.set_shares(true)?;
            return Ok(());
        }
        self.forget_everything(engine);
        sharing.shared.store(false, SeqCst);
        tracing::debug!("no other host is there");
        Ok(())
    }

    fn forget_everything(&self, engine: &Engine) {
        engine.sharing.locks.forget();
        engine.allocator.forget_clusters();
        engine.forget_all_hints();
        self.store().forget();
    }

    /// The other hosts that have a slot; with `all`, in those behind the first as well.
    pub(super) fn other_hosts(&self, engine: &Engine, all: bool) -> Result<Vec<Host>, FsError> {
        let mut hosts = self.hosts_there(all)?;
        hosts.retain(|host| host.offset != engine.membership.offset());
        Ok(hosts)
    }

    /// The same with this host, if its slot is among them.
    pub(super) fn hosts_there(&self, all: bool) -> Result<Vec<Host>, FsError> {
        /// As many hosts can share a volume.
        const WATCHED: u64 = 128;
        let count = if all { u64::MAX } else { WATCHED };
        Ok(crate::cluster::first_hosts(
            self.volume(),
            self.layout(),
            count,
        )?)
    }
}

/// The disk locks for want of which something failed.
fn missing_locks(error: &FsError) -> Option<Vec<VolumeOffset>> {
    use crate::file::FileError;
    use crate::resource::{AllocError, MetaError};
    match error {
        FsError::File(
            FileError::Meta(MetaError::NeedsLocks { places })
            | FileError::Alloc(AllocError::Meta(MetaError::NeedsLocks { places })),
        ) => Some(places.clone()),
        _ => None,
    }
}
