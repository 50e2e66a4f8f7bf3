//! Taking locks.

use std::sync::Arc;
use std::time::Duration;

use super::queue::Queue;
use super::{LockError, LockTable, REMEMBERED};
use crate::cluster::disk::{Decision, Wish};
use crate::cluster::host::LockMethod;
use crate::cluster::sector::Reserved;
use crate::cluster::{disk, sector};
use crate::lvm::{LvmError, VolumeOffset};
use crate::scsi::LunError;

/// After this time a lock is given back before this host's next user gets it, so that others have
/// their turn.
const TURN: Duration = Duration::from_millis(10);

/// The block of a lock that was taken, before and after.
struct Taken {
    old: Vec<u8>,
    new: Vec<u8>,
}

impl LockTable {
    pub(super) fn take<'a>(
        &'a self,
        place: VolumeOffset,
        patience: Duration,
        reserved: &mut Option<(VolumeOffset, Reserved<'a>)>,
    ) -> Result<(), LockError> {
        let mut wait = None;
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
            let start = self.host.clock.uptime();
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
                    self.pause(&mut wait, now.saturating_sub(start));
                }
            }
        }
    }

    /// Takes a lock on disk; the block as it is then. `is_mine`: this host has it in another way already.
    /// `tried` is what may be on disk if this fails.
    pub(super) fn take_on_disk<'a>(
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
}
