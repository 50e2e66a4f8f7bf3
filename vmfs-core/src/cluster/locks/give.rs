//! Giving locks back.

use std::collections::HashMap;

use super::entry::Entry;
use super::{LockError, LockTable};
use crate::cluster::disk::{Decision, Wish};
use crate::cluster::host::LockMethod;
use crate::cluster::sector::Reserved;
use crate::cluster::{disk, sector};
use crate::lvm::{LvmError, VolumeOffset};
use crate::scsi::LunError;

/// What a lock that was given back, or parts of it, is like.
enum Left {
    /// As this host has left it.
    As(Vec<u8>),
    /// Shared by hosts that write, as before, though this one only reads by now.
    WithWriters(Vec<u8>),
    /// This host hasn't it any more, and others may have had it since.
    ToOthers,
}

impl LockTable {
    /// One user less.
    pub(super) fn leave(&self, place: VolumeOffset) {
        let mut entries = self.entries.lock();
        if let Some(entry) = entries.get_mut(&place) {
            entry.users = entry.users.saturating_sub(1);
        }
        drop(entries);
        self.settle(place);
    }

    /// Brings a lock without users to the state that open files need.
    pub(super) fn settle(&self, place: VolumeOffset) {
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
                match disk::decide(volume, layout, place, &old, Wish::Read, me) {
                    Err(LockError::Volume(LvmError::Lun(LunError::ReservationLost { .. }))) => {
                        continue;
                    }
                    Err(error) => return Err(error),
                    Ok(Decision::Take(new)) => new,
                    Ok(Decision::Held(_) | Decision::Crowded) => return Ok(Left::WithWriters(old)),
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

    pub(super) fn tidy(entries: &mut HashMap<VolumeOffset, Entry>, place: VolumeOffset) {
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
