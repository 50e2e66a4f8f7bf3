use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::disk::{Decision, Wish};
use super::host::{HostConfig, LockMethod};
use super::membership::Membership;
use super::sector::Reserved;
use super::watch::Watch;
use super::{Host, disk, sector};
use crate::format::{Damage, Layout};
use crate::lvm::{LvmError, Volume, VolumeOffset};
use crate::scsi::{LunError, jitter};
use crate::sync::{Condvar, Mutex};

/// First wait for a lock that another host has.
const FIRST_WAIT: Duration = Duration::from_micros(100);
/// Longest wait between two looks at it.
const LONGEST_WAIT: Duration = Duration::from_millis(5);
/// After this time a lock is given back before this host's next user gets it, so that others have
/// their turn.
const TURN: Duration = Duration::from_millis(10);
/// Locks whose last state is remembered.
const REMEMBERED: usize = 65_536;

/// How a host that has a file open holds its lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum OpenMode {
    /// With other hosts that read it.
    Read,
    /// With other hosts that write to it, too.
    MultiWriter,
    /// Alone.
    Write,
}

/// A lock could not be had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another host has it.
    #[error("the lock at {place} is held by host {}", by.shown())]
    Held {
        /// Where the lock lies.
        place: VolumeOffset,
        /// The host.
        by: Box<Host>,
        /// It has it for an open file, not for a moment.
        is_open: bool,
    },
    /// Other threads of this host have had it for so long that it is to be given back first.
    #[error("the lock at {place} is to be given back first")]
    Turn {
        /// Where the lock lies.
        place: VolumeOffset,
    },
    /// As many hosts as the format has room for share it.
    #[error("the lock at {place} is shared by eight hosts already, as many as the format allows")]
    Crowded {
        /// Where the lock lies.
        place: VolumeOffset,
    },
    /// A host has it that is dead, and must be taken over from first.
    #[error("the lock at {place} is held by host {}, which is dead", host.shown())]
    Dead {
        /// Where the lock lies.
        place: VolumeOffset,
        /// The host.
        host: Box<Host>,
    },
    /// The volume failed.
    #[error(transparent)]
    Volume(#[from] LvmError),
    /// What lies there is no lock.
    #[error(transparent)]
    Damage(#[from] Damage),
}

/// What this host does with a lock.
#[derive(Debug, Default)]
struct Entry {
    /// Calls that have it for themselves, against other hosts.
    users: u32,
    /// Those of them that keep it for long.
    kept: u32,
    open: Option<OpenMode>,
    /// What this host has written there, while it holds the lock.
    on_disk: Option<Vec<u8>>,
    mode: Option<Wish>,
    /// Taking it or giving it back failed, and nobody knows whether it came to the LUN: others may have
    /// it, or believe that this host has.
    unsure: bool,
    /// What was to be there when taking it failed.
    tried: Option<Vec<u8>>,
    /// A thread is changing it on disk.
    busy: bool,
    /// Uptime when the first of `users` came.
    since: Duration,
}

/// The disk locks that this host holds.
///
/// Calls of this host share a lock: they keep out of each other's way by other means. Whoever
/// needs several takes them in the order of their places, so that no two hosts wait for each other.
#[derive(Debug)]
pub struct LockTable {
    volume: Arc<Volume>,
    layout: Layout,
    membership: Arc<Membership>,
    watch: Arc<Watch>,
    host: HostConfig,
    entries: Mutex<HashMap<VolumeOffset, Entry>>,
    changed: Condvar,
    /// How each lock was when this host last knew what it protects.
    known: Mutex<HashMap<VolumeOffset, Vec<u8>>>,
    /// Those that another host had when this one last wanted them.
    contended: Mutex<HashSet<VolumeOffset>>,
    listener: OnceLock<Listener>,
    random: AtomicU64,
}

/// Waiting for a lock that others have: as long as it goes from one to the next nobody keeps it, and
/// it is a matter of patience.
#[derive(Default)]
struct Queue {
    /// The holder's slot, its generation, and since when it has been seen to have the lock.
    holder: Option<(VolumeOffset, u64, Duration)>,
}

impl Queue {
    /// For how long the lock has been `by`'s without a break, as far as this host has seen.
    fn waits_for(&mut self, by: &Host, now: Duration) -> Duration {
        match self.holder {
            Some((offset, generation, since))
                if (offset, generation) == (by.offset, by.generation) =>
            {
                now.saturating_sub(since)
            }
            _ => {
                self.holder = Some((by.offset, by.generation, now));
                Duration::ZERO
            }
        }
    }
}

/// The block of a lock that was taken, before and after.
struct Taken {
    old: Vec<u8>,
    new: Vec<u8>,
}

/// What a lock that was given back, or parts of it, is like.
enum Left {
    /// As this host has left it.
    As(Vec<u8>),
    /// Shared by hosts that write, as before, though this one only reads by now.
    WithWriters(Vec<u8>),
    /// This host hasn't it any more, and others may have had it since.
    ToOthers,
}

impl Entry {
    /// Whether this host surely holds the lock alone.
    fn is_exclusive(&self) -> bool {
        !self.unsure && matches!(self.mode, Some(Wish::Alone | Wish::Write))
    }

    /// Whether what the lock protects has surely not been changed by others.
    fn is_mine(&self) -> bool {
        !self.unsure && self.on_disk.is_some()
    }

    /// The lock is on disk as `block` says.
    fn has(&mut self, block: Vec<u8>, mode: Wish) {
        self.on_disk = Some(block);
        self.mode = Some(mode);
        self.unsure = false;
        self.tried = None;
    }

    /// Taking the lock failed; if `tried` was on its way then, it may be there.
    fn has_failed(&mut self, tried: Option<Vec<u8>>) {
        if tried.is_some() {
            self.unsure = true;
            self.tried = tried;
        }
    }
}

/// Is told of a place whose lock other hosts have held since this one last did.
struct Listener(Box<dyn Fn(VolumeOffset) + Send + Sync>);

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Listener")
    }
}

/// How a lock is at a moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version(Vec<u8>);

/// Locks that a call holds.
#[derive(Debug)]
pub struct Held<'a> {
    table: &'a LockTable,
    places: Vec<VolumeOffset>,
}

impl LockTable {
    /// No lock is held yet. `volume` is the one that checks whether the host may write.
    pub fn new(
        volume: Arc<Volume>,
        layout: Layout,
        membership: Arc<Membership>,
        watch: Arc<Watch>,
        host: HostConfig,
    ) -> Self {
        let seed = membership.key().0;
        Self {
            volume,
            layout,
            membership,
            watch,
            host,
            entries: Mutex::default(),
            changed: Condvar::new(),
            known: Mutex::default(),
            contended: Mutex::default(),
            listener: OnceLock::new(),
            random: AtomicU64::new(seed | 1),
        }
    }

    /// Has `listener` called with each place that another host may have changed, after its lock is
    /// taken and before anyone uses it.
    pub fn on_change(&self, listener: impl Fn(VolumeOffset) + Send + Sync + 'static) {
        let _ = self.listener.set(Listener(Box::new(listener)));
    }

    /// Takes all locks at `places`, waiting for each as long as no host keeps it for `patience`. Only with
    /// none may the caller have other locks.
    pub fn lock(
        &self,
        places: &BTreeSet<VolumeOffset>,
        patience: Duration,
    ) -> Result<Held<'_>, LockError> {
        let mut held = Held {
            table: self,
            places: Vec::with_capacity(places.len()),
        };
        let mut reserved = None;
        for &place in places {
            self.take(place, patience, &mut reserved)?;
            held.places.push(place);
        }
        Ok(held)
    }

    fn take<'a>(
        &'a self,
        place: VolumeOffset,
        patience: Duration,
        reserved: &mut Option<(VolumeOffset, Reserved<'a>)>,
    ) -> Result<(), LockError> {
        let mut wait = FIRST_WAIT;
        let mut queue = Queue::default();
        loop {
            let is_mine = {
                let mut entries = self.entries.lock();
                let entry = entries.entry(place).or_default();
                let overdue = entry.users > 0
                    && entry.kept == 0
                    && self.host.clock.uptime().saturating_sub(entry.since) > TURN;
                if overdue && patience.is_zero() {
                    // Whoever has it may wait for a lock that the caller has.
                    return Err(LockError::Turn { place });
                }
                if entry.busy || overdue {
                    // Not with the LUN reserved, which would keep out everybody.
                    *reserved = None;
                    self.changed.wait(&mut entries);
                    continue;
                }
                if entry.is_exclusive() {
                    if entry.users == 0 {
                        entry.since = self.host.clock.uptime();
                    }
                    entry.users += 1;
                    return Ok(());
                }
                entry.busy = true;
                entry.is_mine()
            };
            let mut tried = None;
            let taken = self.take_on_disk(place, Wish::Alone, is_mine, (reserved, &mut tried));
            let mut entries = self.entries.lock();
            let entry = entries.entry(place).or_default();
            entry.busy = false;
            self.changed.notify_all();
            match taken {
                Ok(block) => {
                    entry.has(block, Wish::Alone);
                    entry.users = 1;
                    entry.since = self.host.clock.uptime();
                    return Ok(());
                }
                Err(error) => {
                    entry.has_failed(tried);
                    Self::tidy(&mut entries, place);
                    drop(entries);
                    *reserved = None;
                    let LockError::Held { is_open, by, .. } = &error else {
                        return Err(error);
                    };
                    let now = self.host.clock.uptime();
                    if *is_open || queue.waits_for(by, now) >= patience {
                        return Err(error);
                    }
                    self.host.clock.sleep(jitter(wait, &self.random));
                    wait = (wait * 3 / 2).min(LONGEST_WAIT);
                }
            }
        }
    }

    /// Has a file opened that this host doesn't have open in this mode or a stronger one.
    pub fn open(&self, place: VolumeOffset, mode: OpenMode) -> Result<(), LockError> {
        loop {
            let mut entries = self.entries.lock();
            let entry = entries.entry(place).or_default();
            if entry.busy {
                self.changed.wait(&mut entries);
                continue;
            }
            if entry.open >= Some(mode) {
                return Ok(());
            }
            let wish = Wish::from(mode);
            if entry.users > 0 {
                // The last of them leaves it as it is to be.
                entry.open = Some(mode);
                return Ok(());
            }
            entry.busy = true;
            let is_mine = entry.is_mine();
            drop(entries);
            let mut tried = None;
            let taken = self.take_on_disk(place, wish, is_mine, (&mut None, &mut tried));
            let mut entries = self.entries.lock();
            let entry = entries.entry(place).or_default();
            entry.busy = false;
            self.changed.notify_all();
            match taken {
                Ok(block) => {
                    entry.has(block, wish);
                    entry.open = Some(mode);
                    return Ok(());
                }
                Err(error) => {
                    entry.has_failed(tried);
                    Self::tidy(&mut entries, place);
                    return Err(error);
                }
            }
        }
    }

    /// The file is open in this mode only by now, or `None`, not at all.
    pub fn close(&self, place: VolumeOffset, left: Option<OpenMode>) {
        let mut entries = self.entries.lock();
        if let Some(entry) = entries.get_mut(&place) {
            entry.open = left;
            drop(entries);
            self.settle(place);
        }
    }

    /// Whether this host holds the lock so that no other one writes to what it protects.
    pub fn protects(&self, place: VolumeOffset) -> bool {
        let entries = self.entries.lock();
        entries.get(&place).is_some_and(|entry| {
            let protects = entry.mode.is_some_and(|mode| mode != Wish::MultiWriter);
            protects && !entry.busy && !entry.unsure
        })
    }

    /// How this host may write to what is in a file's blocks, if at all: alone, or beside other hosts.
    pub fn writes_as(&self, place: VolumeOffset) -> Option<OpenMode> {
        let entries = self.entries.lock();
        let entry = entries
            .get(&place)
            .filter(|entry| !entry.busy && !entry.unsure)?;
        match entry.mode? {
            Wish::Alone | Wish::Write => Some(OpenMode::Write),
            Wish::MultiWriter => Some(OpenMode::MultiWriter),
            Wish::Read => None,
        }
    }

    /// Gives up what [`Held::keep`] kept.
    pub fn leave_all(&self, places: impl IntoIterator<Item = VolumeOffset>) {
        for place in places {
            if let Some(entry) = self.entries.lock().get_mut(&place) {
                entry.kept = entry.kept.saturating_sub(1);
            }
            self.leave(place);
        }
    }

    /// Tries again to give back what could not be.
    pub fn settle_rest(&self) {
        let entries = self.entries.lock();
        let left = entries.iter().filter(|(_, entry)| {
            let settled = !entry.unsure && entry.mode == entry.open.map(Wish::from);
            entry.users == 0 && !entry.busy && !settled
        });
        let left: BTreeSet<VolumeOffset> = left.map(|(&place, _)| place).collect();
        drop(entries);
        for place in left {
            self.settle(place);
        }
    }

    /// How the lock is now, to be compared with how it is later: what it protects didn't change in
    /// between if it is the same. Waits while another host is changing it.
    pub fn version(&self, place: VolumeOffset, patience: Duration) -> Result<Version, LockError> {
        let mut queue = Queue::default();
        let mut wait = FIRST_WAIT;
        loop {
            let block = sector::read(&self.volume, place)?;
            let state = disk::look(&self.volume, &self.layout, place, &block, &self.membership)?;
            match state.changing {
                None => {
                    self.compare(place, &block, state.is_settled);
                    return Ok(Version(block));
                }
                Some(by) => {
                    if self.watch.is_dead(&by) {
                        let host = Box::new(by);
                        return Err(LockError::Dead { place, host });
                    }
                    if queue.waits_for(&by, self.host.clock.uptime()) >= patience {
                        let (by, is_open) = (Box::new(by), false);
                        return Err(LockError::Held { place, by, is_open });
                    }
                }
            }
            self.host.clock.sleep(jitter(wait, &self.random));
            wait = (wait * 3 / 2).min(LONGEST_WAIT);
        }
    }

    /// Forgets what was known of a lock: its next user looks again.
    pub fn forget(&self) {
        self.known.lock().clear();
    }

    /// Compares a lock with what is known of it and tells the listener if it changed. If
    /// `is_settled`, what is read from now on belongs to this state.
    fn compare(&self, place: VolumeOffset, block: &[u8], is_settled: bool) {
        let same = self.known.lock().get(&place).map(Vec::as_slice) == Some(block);
        if same {
            return;
        }
        if let Some(listener) = self.listener.get() {
            (listener.0)(place);
        }
        if is_settled {
            self.remember(place, block);
        } else {
            self.known.lock().remove(&place);
        }
    }

    fn remember(&self, place: VolumeOffset, block: &[u8]) {
        let mut known = self.known.lock();
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known.insert(place, block.to_vec());
    }

    /// Takes a lock on disk; the block as it is then. `is_mine`: this host has it in another way already.
    /// `tried` is what may be on disk if this fails.
    fn take_on_disk<'a>(
        &'a self,
        place: VolumeOffset,
        wish: Wish,
        is_mine: bool,
        (reserved, tried): (
            &mut Option<(VolumeOffset, Reserved<'a>)>,
            &mut Option<Vec<u8>>,
        ),
    ) -> Result<Vec<u8>, LockError> {
        loop {
            let taken = self.try_on_disk(place, wish, reserved, tried);
            match taken {
                Err(LockError::Volume(LvmError::Lun(LunError::ReservationLost { .. }))) => {
                    *reserved = None;
                }
                Ok(None) => {}
                Ok(Some(Taken { old, new })) => {
                    if !is_mine {
                        self.compare(place, &old, false);
                    }
                    return Ok(new);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// One attempt at that: the block before and after; `None` when another host was faster.
    fn try_on_disk<'a>(
        &'a self,
        place: VolumeOffset,
        wish: Wish,
        reserved: &mut Option<(VolumeOffset, Reserved<'a>)>,
        tried: &mut Option<Vec<u8>>,
    ) -> Result<Option<Taken>, LockError> {
        let method = self.membership.method();
        if method == LockMethod::Scsi2 && !self.is_reserved(place, reserved)? {
            if self.contended.lock().contains(&place) {
                // Whoever finds that it has to wait keeps out nobody by a reservation for that.
                self.decide(place, &sector::read(&self.volume, place)?, wish)?;
            }
            *reserved = Some((place, Reserved::take(&self.volume, place)?));
        }
        let old = sector::read(&self.volume, place)?;
        let new = self.decide(place, &old, wish)?;
        // Until there is an answer it may have been carried out, also if the host's reservation was lost.
        *tried = Some(new.clone());
        let written = match method {
            LockMethod::Ats => sector::swap(&self.volume, method, place, &old, &new)?,
            // The reservation keeps others away from reading to writing.
            LockMethod::Scsi2 | LockMethod::Alone => {
                self.volume.write(place, &new)?;
                true
            }
        };
        *tried = None;
        Ok(written.then_some(Taken { old, new }))
    }

    /// The block of a lock that was found as `old` and is taken; fails if it can't be.
    fn decide(&self, place: VolumeOffset, old: &[u8], wish: Wish) -> Result<Vec<u8>, LockError> {
        let me = &self.membership;
        match disk::decide(&self.volume, &self.layout, place, old, wish, me)? {
            Decision::Take(new) => {
                self.contended.lock().remove(&place);
                Ok(new)
            }
            Decision::Crowded => Err(LockError::Crowded { place }),
            Decision::Held(holder) => {
                let (by, is_open) = (Box::new(holder.host), holder.is_open);
                if self.watch.is_dead(&by) {
                    return Err(LockError::Dead { place, host: by });
                }
                let mut contended = self.contended.lock();
                if contended.len() < REMEMBERED {
                    contended.insert(place);
                }
                Err(LockError::Held { place, by, is_open })
            }
        }
    }

    /// Whether the reservation at hand is one of the LUN that `place` lies on.
    fn is_reserved(
        &self,
        place: VolumeOffset,
        reserved: &mut Option<(VolumeOffset, Reserved<'_>)>,
    ) -> Result<bool, LvmError> {
        let Some((other, _)) = reserved else {
            return Ok(false);
        };
        let same = Arc::ptr_eq(self.volume.place(*other)?.0, self.volume.place(place)?.0);
        if !same {
            *reserved = None;
        }
        Ok(same)
    }

    /// One user less.
    fn leave(&self, place: VolumeOffset) {
        let mut entries = self.entries.lock();
        if let Some(entry) = entries.get_mut(&place) {
            entry.users = entry.users.saturating_sub(1);
        }
        drop(entries);
        self.settle(place);
    }

    /// Brings a lock without users to the state that open files need.
    fn settle(&self, place: VolumeOffset) {
        let mut entries = self.entries.lock();
        let (wish, old, tried, is_sure) = loop {
            let Some(entry) = entries.get_mut(&place) else {
                return;
            };
            if entry.busy {
                self.changed.wait(&mut entries);
                continue;
            }
            let wish = entry.open.map(Wish::from);
            if entry.users > 0 || entry.mode == wish && !entry.unsure {
                Self::tidy(&mut entries, place);
                // Whoever waits for it to be given back waits in vain: it isn't, or needn't be.
                self.changed.notify_all();
                return;
            }
            let old = entry.on_disk.clone();
            if old.is_none() && entry.tried.is_none() {
                return;
            }
            entry.busy = true;
            break (wish, old, entry.tried.clone(), !entry.unsure);
        };
        drop(entries);
        let result = self
            .found_after(place, old, tried)
            .and_then(|old| match old {
                Some(old) => self.change_own(place, wish, &old, is_sure),
                None => Ok(Left::ToOthers),
            });
        let mut entries = self.entries.lock();
        let entry = entries.entry(place).or_default();
        entry.busy = false;
        if result.is_ok() {
            entry.tried = None;
        }
        match result {
            Ok(Left::As(new)) => {
                entry.mode = wish;
                entry.on_disk = wish.is_some().then(|| new.clone());
                entry.unsure = false;
                if wish.is_none() {
                    self.remember(place, &new);
                }
            }
            Ok(Left::WithWriters(block)) => entry.has(block, Wish::MultiWriter),
            Ok(Left::ToOthers) => {
                entry.mode = None;
                entry.on_disk = None;
                entry.unsure = false;
                self.known.lock().remove(&place);
            }
            Err(error) => {
                // Whoever wants it looks whether it is this host's yet.
                entry.unsure = true;
                tracing::warn!(%place, "a lock could not be given back: {error}");
            }
        }
        Self::tidy(&mut entries, place);
        self.changed.notify_all();
    }

    /// What this host has of a lock that it had as `old`, and that `tried` may have come of since; `None` if it
    /// hasn't it.
    fn found_after(
        &self,
        place: VolumeOffset,
        old: Option<Vec<u8>>,
        tried: Option<Vec<u8>>,
    ) -> Result<Option<Vec<u8>>, LockError> {
        let Some(tried) = tried else {
            return Ok(old);
        };
        let found = sector::read(&self.volume, place)?;
        // Nobody changes a lock that this host has alone; others come and go in one that it shares.
        if found == tried || disk::is_listed(&found, &self.membership) {
            return Ok(Some(found));
        }
        Ok(old)
    }

    /// Changes a lock that this host holds to what is left of it. If it isn't sure whether that was
    /// done before, others may have the lock.
    fn change_own(
        &self,
        place: VolumeOffset,
        left: Option<Wish>,
        old: &[u8],
        is_sure: bool,
    ) -> Result<Left, LockError> {
        let method = self.membership.method();
        if disk::is_alone(old) {
            let new = disk::leave(old, left, &self.membership);
            let done = match method {
                LockMethod::Scsi2 => {
                    // Nobody else writes to it, so a plain write does, but only once.
                    is_sure && sector::write_once(&self.volume, place, &new)?
                        || sector::swap(&self.volume, method, place, old, &new)?
                }
                method => sector::swap(&self.volume, method, place, old, &new)?,
            };
            if done {
                return Ok(Left::As(new));
            }
            return self.found_changed(place, left, old);
        }
        loop {
            let _reserved = if method == LockMethod::Scsi2 {
                Some(Reserved::take(&self.volume, place)?)
            } else {
                None
            };
            // Others come and go in the list of those that share it.
            let old = match sector::read(&self.volume, place) {
                lost if sector::is_lost(&lost) => continue,
                found => found?,
            };
            if !disk::is_listed(&old, &self.membership) {
                // It was given back, and the answer was lost.
                return Ok(Left::ToOthers);
            }
            let new = if left == Some(Wish::Read) && disk::has_writers(&old) {
                // As long as others write, who believed that the file is only read would be wrong.
                let (volume, layout, me) = (&self.volume, &self.layout, &self.membership);
                match disk::decide(volume, layout, place, &old, Wish::Read, me)? {
                    Decision::Take(new) => new,
                    Decision::Held(_) | Decision::Crowded => return Ok(Left::WithWriters(old)),
                }
            } else {
                disk::leave(&old, left, &self.membership)
            };
            let done = match method {
                LockMethod::Ats => sector::swap(&self.volume, method, place, &old, &new),
                LockMethod::Scsi2 | LockMethod::Alone => {
                    self.volume.write(place, &new).map(|()| true)
                }
            };
            if !sector::is_lost(&done) && done? {
                return Ok(Left::As(new));
            }
        }
    }

    /// What to think of a lock that this host held alone, as `old`, and that is another one now: the
    /// change of it that has no answer was carried out, and others have changed it since, or it was
    /// broken.
    fn found_changed(
        &self,
        place: VolumeOffset,
        left: Option<Wish>,
        old: &[u8],
    ) -> Result<Left, LockError> {
        let found = sector::read(&self.volume, place)?;
        if left.is_some() && disk::is_listed(&found, &self.membership) {
            return Ok(Left::As(found));
        }
        if left.is_none() && disk::follows(&found, disk::token(old)) {
            return Ok(Left::ToOthers);
        }
        let lun = self.volume.place(place)?.0.name().to_owned();
        Err(LvmError::Lun(LunError::Fenced { lun }).into())
    }

    fn tidy(entries: &mut HashMap<VolumeOffset, Entry>, place: VolumeOffset) {
        let idle = entries.get(&place).is_some_and(|entry| {
            !entry.busy
                && entry.users == 0
                && entry.open.is_none()
                && entry.on_disk.is_none()
                && entry.tried.is_none()
        });
        if idle {
            entries.remove(&place);
        }
    }
}

impl Held<'_> {
    /// Whether the lock at `place` is among them.
    pub fn has(&self, place: VolumeOffset) -> bool {
        self.places.contains(&place)
    }

    /// Keeps the locks beyond the call, until [`LockTable::leave_all`].
    pub fn keep(&self) -> Vec<VolumeOffset> {
        let mut entries = self.table.entries.lock();
        for place in &self.places {
            let entry = entries.entry(*place).or_default();
            entry.users += 1;
            entry.kept += 1;
        }
        // Nobody waits for locks that are kept for long.
        self.table.changed.notify_all();
        self.places.clone()
    }

    /// Each lock's place and the number that it has since it was taken.
    pub fn tokens(&self) -> Vec<(u64, u64)> {
        let entries = self.table.entries.lock();
        self.places
            .iter()
            .map(|place| {
                let block = entries.get(place).and_then(|e| e.on_disk.as_deref());
                (place.0, block.map_or(0, disk::token))
            })
            .collect()
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        for &place in self.places.iter().rev() {
            self.table.leave(place);
        }
    }
}
