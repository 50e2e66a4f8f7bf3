//! Sectors that hosts change under each other's eyes.

use std::cell::Cell;

use super::host::LockMethod;
use super::membership::Membership;
use crate::lvm::{LvmError, Volume, VolumeOffset};
use crate::scsi::{Comparison, LunError};

/// The block of the LUN that begins at `offset`, which a lock or a heartbeat slot has to itself:
/// what one COMPARE AND WRITE covers.
pub(super) fn read(volume: &Volume, offset: VolumeOffset) -> Result<Vec<u8>, LvmError> {
    let (lun, place) = volume.place(offset)?;
    let mut block = vec![0; lun.block_size().max(512) as usize];
    lun.read(place, &mut block)?;
    Ok(block)
}

/// Changes a block from `old` to `new`, as one step; false if it isn't `old` any more.
///
/// If the answer to a command is lost the block is looked at: `new` is no other host's, so what is
/// there tells whether it was written.
pub(super) fn swap(
    volume: &Volume,
    method: LockMethod,
    offset: VolumeOffset,
    old: &[u8],
    new: &[u8],
) -> Result<bool, LvmError> {
    let (lun, place) = volume.place(offset)?;
    match method {
        LockMethod::Ats => {
            let written = lun.compare_and_write(place, old, new)?;
            Ok(written == Comparison::Written)
        }
        LockMethod::Scsi2 => loop {
            let _reserved = Reserved::take(volume, offset)?;
            let done = compare_then_write(volume, offset, old, new);
            if !is_lost(&done) {
                return done;
            }
        },
        LockMethod::Alone => compare_then_write(volume, offset, old, new),
    }
}

/// Writes a block that no other host writes to before it is written; false if nobody knows whether
/// it was. A LUN that got no answer would send it again, when another host may have changed it by
/// then.
pub(super) fn write_once(
    volume: &Volume,
    offset: VolumeOffset,
    new: &[u8],
) -> Result<bool, LvmError> {
    let asked = Cell::new(0);
    let first = || {
        asked.set(asked.get() + 1);
        asked.get() == 1
    };
    let (lun, place) = volume.place(offset)?;
    match lun.write_if(place, new, &first) {
        Err(LunError::Fenced { .. }) if asked.get() > 1 => Ok(false),
        done => {
            done?;
            Ok(true)
        }
    }
}

/// [`swap`] by a host with this membership, which must have its lease yet: a host that was stopped on
/// the way changes nothing.
pub(super) fn swap_in_time(
    membership: &Membership,
    offset: VolumeOffset,
    old: &[u8],
    new: &[u8],
) -> Result<bool, LvmError> {
    let volume = membership.volume();
    let (lun, place) = volume.place(offset)?;
    if membership.method() != LockMethod::Scsi2 {
        // There it is kept out if it was taken for dead.
        membership.check(lun.name())?;
        return swap(volume, membership.method(), offset, old, new);
    }
    let mut was_sent = false;
    loop {
        let _reserved = Reserved::take(volume, offset)?;
        membership.check(lun.name())?;
        let found = read(volume, offset);
        if is_lost(&found) {
            continue;
        }
        let found = found?;
        if found != old {
            // It may have arrived before the reservation was lost.
            return Ok(was_sent && found == new);
        }
        was_sent = true;
        let done = lun.write_if(place, new, &|| membership.may_write());
        let done = done.map_err(LvmError::from);
        if !is_lost(&done) {
            return done.map(|()| true);
        }
    }
}

/// The part of [`swap`] that is done while the LUN is reserved.
pub(super) fn compare_then_write(
    volume: &Volume,
    offset: VolumeOffset,
    old: &[u8],
    new: &[u8],
) -> Result<bool, LvmError> {
    let found = read(volume, offset)?;
    if found != old {
        // It may have arrived before the reservation was lost.
        return Ok(found == new);
    }
    volume.write(offset, new)?;
    Ok(true)
}

/// Whether a command wasn't carried out because a reset took the reservation away: all that was done
/// under it begins anew.
pub(super) fn is_lost<T>(result: &Result<T, LvmError>) -> bool {
    matches!(result, Err(LvmError::Lun(LunError::ReservationLost { .. })))
}

/// A reservation of the LUN that a sector lies on.
#[derive(Debug)]
pub(super) struct Reserved<'a> {
    volume: &'a Volume,
    offset: VolumeOffset,
}

impl<'a> Reserved<'a> {
    pub(super) fn take(volume: &'a Volume, offset: VolumeOffset) -> Result<Self, LvmError> {
        volume.place(offset)?.0.reserve()?;
        Ok(Self { volume, offset })
    }
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        let released = self.volume.place(self.offset).map(|(lun, _)| lun.release());
        if let Ok(Err(error)) = released
            && !matches!(error, LunError::ReservationLost { .. })
        {
            // The array gives it up with the next command that it can answer, or with the session.
            tracing::warn!("a reservation could not be released: {error}");
        }
    }
}
