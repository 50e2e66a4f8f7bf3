//! Making this host known in a session that has just begun.

use std::thread;

use vmfs_iscsi::{Answer, Data, Epoch, Moment, Status};

use super::answer::{NOT_READY, Patience, UNIT_ATTENTION, attention};
use super::failure::{Failure, unexpected};
use super::held::Ticket;
use super::{Nexus, SHORT_PAUSE};
use crate::scsi::array::Attention;
use crate::scsi::iscsi::command::{self, Command};
use crate::scsi::iscsi::persistent;
use crate::scsi::persistent::Key;

/// How far a session is.
#[derive(Debug, Default)]
pub(super) struct Prepared {
    /// The epoch in which this host has made known again what it held before.
    pub(super) epoch: Option<Epoch>,
    /// Commands of a session that is over may still be under way.
    pub(super) has_left: bool,
}

/// Why a session could not be prepared.
enum Stopped {
    /// The connection is lost again.
    Cut,
    Failed(Failure),
}

impl Nexus {
    /// The present session, in which this host has made itself known, and in which nothing of an
    /// earlier one is under way any more. `sent`: the command may be.
    pub(super) fn session(
        &self,
        ticket: &Ticket<'_>,
        command: &Command,
        sent: bool,
    ) -> Result<Epoch, Failure> {
        let until = self.until(ticket, command);
        loop {
            let epoch = self.epoch(until)?;
            let mut prepared = self.prepared.lock();
            let is_known = prepared.epoch == Some(epoch);
            // A thread that has reserved the LUN since then did so after all that concerns it.
            let in_between = self.held.lock().is_reserved_in(epoch);
            if is_known && (!prepared.has_left || in_between && !sent) {
                return Ok(epoch);
            }
            if is_known && in_between {
                drop(prepared);
                thread::sleep(SHORT_PAUSE);
                self.still_in_time(ticket, command, sent)?;
                continue;
            }
            match self.prepare(&mut prepared, epoch, until) {
                Ok(()) => {}
                Err(Stopped::Cut) => self.still_in_time(ticket, command, false)?,
                Err(Stopped::Failed(failure)) => return Err(failure),
            }
        }
    }

    /// Makes this host known in a new session, before anything else is sent in it.
    fn prepare(&self, prepared: &mut Prepared, epoch: Epoch, until: Moment) -> Result<(), Stopped> {
        let had_reserved = self.held.lock().notice(epoch);
        if prepared.has_left {
            self.end_last_session(epoch, until)?;
            prepared.has_left = false;
        }
        if prepared.epoch == Some(epoch) {
            return Ok(());
        }
        self.make_known(epoch, until, had_reserved)?;
        prepared.epoch = Some(epoch);
        Ok(())
    }

    fn make_known(&self, epoch: Epoch, until: Moment, had_reserved: bool) -> Result<(), Stopped> {
        self.wait_until_ready(epoch, until)?;
        if had_reserved {
            // To the target this may be the nexus that the reservation belongs to.
            self.ask(epoch, &Command::release(), Data::None, until)?;
        }
        let key = self.held.lock().key;
        match key {
            Some(key) if !self.restore(epoch, key, until)? => {
                tracing::warn!(%key, "this host's registration is gone: it was fenced off");
                let mut held = self.held.lock();
                held.key = None;
                held.losses += 1;
                held.untold = true;
                held.remember(Attention::RegistrationsPreempted);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Waits until nothing is under way any more that this host's last session had begun, by a LUN
    /// reset, whose answer waits for it. The LUN is reserved before, so that no other host loses
    /// a reservation by it.
    fn end_last_session(&self, epoch: Epoch, until: Moment) -> Result<(), Stopped> {
        let mut patience = Patience::default();
        loop {
            self.wait_until_ready(epoch, until)?;
            let answer = self.ask(epoch, &Command::reserve(), Data::None, until)?;
            match answer.status {
                Status::Good => break,
                Status::ReservationConflict if Moment::now() < until => patience.pause(),
                Status::ReservationConflict => return Err(Stopped::Failed(Failure::Conflict)),
                status => return Err(Stopped::Failed(unexpected(status))),
            }
        }
        let time = self.timeouts.command / 2;
        let answer = self.send_reset(&mut self.resets.lock(), epoch, time);
        match answer.map_err(|_| Stopped::Cut)?.status {
            Status::Good => self.wait_until_ready(epoch, until),
            status => Err(Stopped::Failed(unexpected(status))),
        }
    }

    /// Hears the unit attentions that a login brings, and those that waited for it.
    fn wait_until_ready(&self, epoch: Epoch, until: Moment) -> Result<(), Stopped> {
        let mut patience = Patience::default();
        loop {
            let answer = self.ask(epoch, &Command::test_unit_ready(), Data::None, until)?;
            match answer.status {
                Status::CheckCondition(sense) if sense.key == NOT_READY => {
                    if Moment::now() >= until {
                        return Err(Stopped::Failed(unexpected(answer.status)));
                    }
                    patience.pause();
                }
                Status::Busy if Moment::now() < until => patience.pause(),
                // Reserved by another host, or a target that can't say: the next command will.
                _ => return Ok(()),
            }
        }
    }

    /// Whether this host is registered with `key` still, or again.
    fn restore(&self, epoch: Epoch, key: Key, until: Moment) -> Result<bool, Stopped> {
        // Known by its name and the session's number: nothing to do.
        let (confirm, list) = persistent::confirm(key);
        if self.ask(epoch, &confirm, Data::Out(&list), until)?.status == Status::Good {
            return Ok(true);
        }
        // To this target a login is a stranger, who may register if the key wasn't taken away.
        // Whether that happened before is seen by the registration of the login before, which
        // would have gone with it.
        let before = self.count_keys(epoch, key, until)?;
        if before == 0 {
            return Ok(false);
        }
        let register = crate::scsi::PersistentReserve::Register { key: Some(key) };
        let (register, list) = persistent::out(register);
        let answer = self.ask(epoch, &register, Data::Out(&list), until)?;
        if answer.status != Status::Good {
            return Err(Stopped::Failed(unexpected(answer.status)));
        }
        if self.count_keys(epoch, key, until)? > before {
            return Ok(true);
        }
        let forget = crate::scsi::PersistentReserve::Register { key: None };
        let (forget, list) = persistent::out(forget);
        self.ask(epoch, &forget, Data::Out(&list), until)?;
        Ok(false)
    }

    fn count_keys(&self, epoch: Epoch, key: Key, until: Moment) -> Result<usize, Stopped> {
        let mut room = vec![0; persistent::ROOM.into()];
        let command = Command::persistent_in(command::READ_KEYS, persistent::ROOM);
        let answer = self.ask(epoch, &command, Data::In(&mut room), until)?;
        let keys = match answer.status {
            Status::Good => persistent::keys(filled(&room, &answer)),
            _ => None,
        };
        let (_, keys) = keys.ok_or_else(|| Stopped::Failed(unexpected(answer.status)))?;
        Ok(keys.into_iter().filter(|other| *other == key).count())
    }

    /// A command of [`Nexus::prepare`]. Hears the unit attentions that come instead of its answer: other hosts may
    /// have reset the LUN in this moment.
    fn ask(
        &self,
        epoch: Epoch,
        command: &Command,
        mut data: Data<'_>,
        until: Moment,
    ) -> Result<Answer, Stopped> {
        let mut patience = Patience::default();
        let time = self.timeouts.command;
        loop {
            let bytes = command.bytes();
            let answer = self.connection.execute(epoch, bytes, data.again(), time);
            let answer = answer.map_err(|_| Stopped::Cut)?;
            let Status::CheckCondition(sense) = answer.status else {
                return Ok(answer);
            };
            if sense.key != UNIT_ATTENTION {
                return Ok(answer);
            }
            if let Some(attention) = attention(sense.code)
                && attention != Attention::Reset
            {
                self.held.lock().hear(attention);
            }
            patience.again(&answer, until).map_err(Stopped::Failed)?;
        }
    }
}

/// The part of `room` that was filled.
fn filled<'a>(room: &'a [u8], answer: &Answer) -> &'a [u8] {
    room.get(..room.len().saturating_sub(answer.missing))
        .unwrap_or_default()
}
