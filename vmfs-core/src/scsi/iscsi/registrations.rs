//! Persistent reservations of an [`IscsiLun`].

use std::io;
use std::sync::atomic::Ordering::Relaxed;

use vmfs_iscsi::Data;

use super::command::{self, Command};
use super::lun::IscsiLun;
use super::nexus::{Failure, Ticket};
use super::persistent;
use crate::scsi::persistent::{PersistentReserve, Reservations};

impl IscsiLun {
    pub(super) fn change_registrations(
        &self,
        ticket: &Ticket<'_>,
        action: PersistentReserve,
    ) -> Result<(), Failure> {
        let (mut request, mut list) = persistent::out(action);
        let preempting = match action {
            PersistentReserve::Preempt { key, victim, kind } => Some((key, victim, kind)),
            _ => None,
        };
        let mut unclear = false;
        loop {
            if let Some((key, victim, kind)) = preempting
                && self.no_abort.load(Relaxed)
            {
                (request, list) = persistent::preempt(key, victim, kind);
            }
            match self.nexus.run_for(ticket, &request, Data::Out(&list)) {
                Ok((_, epoch)) => {
                    match action {
                        PersistentReserve::Register { key } => self.nexus.registered(key, epoch),
                        PersistentReserve::Clear { .. } => self.nexus.registered(None, epoch),
                        _ => {}
                    }
                    break;
                }
                Err(Failure::Illegal(sense))
                    if preempting.is_some() && !self.no_abort.load(Relaxed) =>
                {
                    tracing::debug!(%sense, "no PREEMPT AND ABORT");
                    self.no_abort.store(true, Relaxed);
                }
                Err(Failure::Unclear) => {
                    unclear = true;
                    if self.has_come_true(ticket, action)? {
                        break;
                    }
                }
                Err(Failure::Conflict | Failure::ReservationLost { by_cut: true })
                    if unclear && self.has_come_true(ticket, action)? =>
                {
                    break;
                }
                Err(failure) => return Err(failure),
            }
        }
        // Without PREEMPT AND ABORT, or when its end was not seen, the victim's commands may
        // still be under way: a reset ends all.
        if preempting.is_some() && (unclear || self.no_abort.load(Relaxed)) {
            self.nexus.reset(&ticket.next())?;
        }
        Ok(())
    }

    /// Whether the LUN is as `action` makes it, for a host that doesn't know whether it was
    /// carried out.
    fn has_come_true(
        &self,
        ticket: &Ticket<'_>,
        action: PersistentReserve,
    ) -> Result<bool, Failure> {
        let now = self.read_reservations(&self.nexus.settle(ticket)?)?;
        let known = |key| now.registrations.iter().any(|one| one.key == key);
        Ok(match action {
            // Carried out once more they do the same.
            PersistentReserve::Register { .. } | PersistentReserve::Release { .. } => false,
            PersistentReserve::Reserve { key, kind } => {
                let mut all = now.registrations.iter();
                now.kind == Some(kind) && all.any(|one| one.key == key && one.holder)
            }
            PersistentReserve::Clear { key } => !known(key),
            PersistentReserve::Preempt { key, victim, .. } => known(key) && !known(victim),
        })
    }

    pub(super) fn read_reservations(&self, ticket: &Ticket<'_>) -> Result<Reservations, Failure> {
        let garbled = || {
            let text = "what the target tells of reservations makes no sense";
            Failure::Io(io::Error::new(io::ErrorKind::InvalidData, text))
        };
        if !self.no_full_status.load(Relaxed) {
            match self.persistent_in(ticket, command::READ_FULL_STATUS) {
                Ok(bytes) => return persistent::full_status(&bytes).ok_or_else(garbled),
                Err(Failure::Illegal(_)) => self.no_full_status.store(true, Relaxed),
                Err(failure) => return Err(failure),
            }
        }
        let keys = self.persistent_in(ticket, command::READ_KEYS)?;
        let reservation = self.persistent_in(ticket, command::READ_RESERVATION)?;
        persistent::nameless(&keys, &reservation).ok_or_else(garbled)
    }

    fn persistent_in(&self, ticket: &Ticket<'_>, action: u8) -> Result<Vec<u8>, Failure> {
        let mut room = vec![0; persistent::ROOM.into()];
        let command = Command::persistent_in(action, persistent::ROOM);
        let (missing, _) = self.nexus.run_for(ticket, &command, Data::In(&mut room))?;
        room.truncate(room.len().saturating_sub(missing));
        Ok(room)
    }
}
