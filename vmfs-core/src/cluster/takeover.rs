//! Taking over from a host that is dead: so that no two hosts do, and that it never writes again.

use std::sync::Arc;

use zerocopy::FromBytes;

use super::host::LockMethod;
use super::membership::{FENCE, Membership, Renewal, free_image};
use super::{Host, Watch, host_at, sector};
use crate::format::{HostNote, Layout};
use crate::lvm::{LvmError, VolumeOffset};
use crate::scsi::{Key, LunError, PersistentReserve};

/// The right to put in order what a dead host left.
#[derive(Debug)]
pub struct Takeover {
    membership: Arc<Membership>,
    /// The dead host, as its slot was.
    pub host: Host,
    slot: Vec<u8>,
}

/// Claims `dead`, whose heartbeat stands still, for the host with this membership, and keeps it
/// from writing; `None` if it lives after all, or another host is at it.
///
/// # Errors
/// When the LUN fails. What was claimed is claimed again once this host's own lease is over.
pub fn take_over(
    membership: &Arc<Membership>,
    layout: &Layout,
    watch: &Watch,
    dead: &Host,
) -> Result<Option<Takeover>, LvmError> {
    let volume = membership.volume();
    let old = sector::read(volume, dead.offset)?;
    let Some(found) = host_at(volume, layout, dead.offset)? else {
        return Ok(None);
    };
    let of = |host: &Host| (host.host, host.generation, host.stamp_us, host.taken_by);
    if of(&found) != of(dead) || !is_first(membership, layout, watch, dead)? {
        return Ok(None);
    }
    let mut new = old.clone();
    let note = new.get_mut(HostNote::OFFSET..).unwrap_or_default();
    if let Ok((note, _)) = HostNote::mut_from_prefix(note) {
        note.magic = HostNote::MAGIC;
        note.taken_by = membership.offset().0.into();
        note.taken_by_generation = membership.generation().into();
    }
    if !sector::swap_in_time(membership, dead.offset, &old, &new)? {
        return Ok(None);
    }
    tracing::warn!("host {} is dead: taking over what it left", dead.shown());
    fence(membership, dead)?;
    let noted = membership.set_replaying(Some((dead.host, dead.offset, dead.generation)))?;
    if noted == Renewal::Lost {
        let lun = volume.place(dead.offset)?.0.name().to_owned();
        return Err(LunError::Fenced { lun }.into());
    }
    Ok(Some(Takeover {
        membership: Arc::clone(membership),
        host: dead.clone(),
        slot: new,
    }))
}

/// Claims `host` though it may live, and keeps it from writing from then on: its open files fail.
/// `None` if its slot isn't its any more, or another host is at it.
///
/// # Errors
/// When the LUN fails, as for [`take_over`].
pub fn evict(
    membership: &Arc<Membership>,
    layout: &Layout,
    watch: &Watch,
    host: &Host,
) -> Result<Option<Takeover>, LvmError> {
    let volume = membership.volume();
    loop {
        let found = host_at(volume, layout, host.offset)?;
        let of = |host: &Host| (host.host, host.generation);
        let Some(found) = found.filter(|found| of(found) == of(host)) else {
            return Ok(None);
        };
        let Some(takeover) = take_over(membership, layout, watch, &found)? else {
            if !is_first(membership, layout, watch, &found)? {
                return Ok(None);
            }
            // It has renewed its heartbeat meanwhile.
            continue;
        };
        if is_fenced_by_lun(membership, host) {
            return Ok(Some(takeover));
        }
        // It finds the claim at its next heartbeat, or its lease ends, which it can't renew now.
        membership.wait(watch.patience())?;
        // But it may have written over the claim, if it was about to just then.
        if sector::read(volume, host.offset)? == takeover.slot {
            return Ok(Some(takeover));
        }
    }
}

/// Whether a host that is taken over from can't write any more at once.
fn is_fenced_by_lun(membership: &Membership, host: &Host) -> bool {
    membership.method() == LockMethod::Ats && membership.can_fence() && host.key != 0
}

fn is_first(
    membership: &Membership,
    layout: &Layout,
    watch: &Watch,
    dead: &Host,
) -> Result<bool, LvmError> {
    let first = first_of(membership, layout, watch, dead)?;
    Ok(first.is_some_and(|first| first.offset == dead.offset))
}

/// Whom to take over from before `dead`: another host may have claimed it and died on the way, and
/// would go on when it wakes up, so that one comes first. `dead` itself if no one is at it; `None` if
/// that is a host that lives.
pub fn first_of(
    membership: &Membership,
    layout: &Layout,
    watch: &Watch,
    dead: &Host,
) -> Result<Option<Host>, LvmError> {
    let me = (membership.offset().0, membership.generation());
    let mut chain = vec![dead.clone()];
    let mut last = dead.clone();
    while last.taken_by != (0, 0) && last.taken_by != me {
        let (slot, generation) = last.taken_by;
        let other = host_at(membership.volume(), layout, VolumeOffset(slot))?;
        let other = other.filter(|other| other.generation == generation && other.taken_by != me);
        let Some(other) = other else {
            // It came to an end or is kept from writing already.
            break;
        };
        if !watch.is_dead(&other) {
            return Ok(None);
        }
        if let Some(start) = chain.iter().position(|seen| seen.offset == other.offset) {
            // They have claimed each other, so none of them can renew its lease.
            let ring = chain.drain(start..);
            return Ok(ring.min_by_key(|host| host.offset));
        }
        chain.push(other.clone());
        last = other;
    }
    Ok(Some(last))
}

/// Keeps `dead` from writing, should it wake up: its registration goes, or a reset lets its next
/// command fail.
fn fence(membership: &Membership, dead: &Host) -> Result<(), LvmError> {
    let luns = membership.volume().luns();
    match membership.method() {
        LockMethod::Ats if is_fenced_by_lun(membership, dead) => {
            for lun in luns {
                let preempt = PersistentReserve::Preempt {
                    key: membership.key(),
                    victim: Key(dead.key),
                    kind: FENCE,
                };
                match lun.persistent_reserve(preempt) {
                    // It isn't registered any more.
                    Err(LunError::ReservationConflict { .. }) | Ok(()) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        LockMethod::Scsi2 => {
            for lun in luns {
                lun.reset()?;
            }
        }
        _ => {}
    }
    Ok(())
}

impl Takeover {
    /// The dead host's journal is replayed: from now on its locks are this host's.
    pub fn note_replayed(&self) {
        self.membership.note_replayed(&self.host);
    }

    /// Everything is in order: the dead host's slot is free again.
    pub fn finish(self) -> Result<(), LvmError> {
        let membership = &self.membership;
        let volume = membership.volume();
        let (offset, generation) = (self.host.offset, self.host.generation);
        let free = free_image(offset, generation, self.slot.len());
        sector::swap_in_time(membership, offset, &self.slot, &free)?;
        volume.flush()?;
        membership.forget_replayed(&self.host);
        membership.set_replaying(None)?;
        Ok(())
    }
}
