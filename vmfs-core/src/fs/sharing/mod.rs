//! Being on a volume with other hosts: what is locked, and what may be kept in memory.
//!
//! - here: taking disk locks for calls.
//! - `changing`: transactions under them, and reading what others may change.
//! - `opens`: files that are open.
//! - `joining`: whether others are there, and what changes with that.

mod changing;
mod joining;
mod opens;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use dashmap::DashMap;

use super::engine::Engine;
use super::error::FsError;
use super::file_system::FileSystem;
use super::recover::Left;
use crate::cluster::{Held, LockError, LockTable, Watch};
use crate::format::FdAddr;
use crate::lvm::VolumeOffset;
use crate::resource::Hold;
use crate::sync::{Mutex, ReentrantMutex, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Time between two looks whether another host has closed a file.
const CLOSING: Duration = Duration::from_millis(5);

/// What a host does about the others.
#[derive(Debug)]
pub(super) struct Sharing {
    pub(super) locks: LockTable,
    pub(super) watch: Arc<Watch>,
    /// Another host is there, or may be: everything is locked, nothing stays in memory alone.
    shared: AtomicBool,
    /// How often this host came to be alone.
    alone: AtomicU64,
    /// Every call has it shared; it is taken alone to change `shared`.
    calls: RwLock<()>,
    /// Files that are open, and how often in each way.
    opens: DashMap<FdAddr, opens::Opens>,
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
            alone: AtomicU64::new(0),
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

    /// A number of the time since when nobody else has been there; `None` if somebody may be. What was known at the
    /// same number is still so, but for what this host has changed.
    pub fn alone(&self) -> Option<u64> {
        let sharing = &self.engine.as_ref()?.sharing;
        let number = sharing.alone.load(SeqCst);
        // In this order: a new time begins before it is seen that nobody is there.
        let still = !sharing.is_shared() && sharing.alone.load(SeqCst) == number;
        still.then_some(number)
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
}
