//! What answers mean, and how long to go on asking.

use std::thread;
use std::time::Duration;

use vmfs_iscsi::{Answer, Epoch, Moment, Status};

use super::failure::{Failure, unexpected};
use super::held::Ticket;
use super::{Nexus, SHORT_PAUSE};
use crate::scsi::array::Attention;

/// Unit attentions in a row that are normal: many hosts that were cut off at once reset the LUN one after the other.
const MANY: u32 = 32;
/// The longest pause between attempts.
const LONG_PAUSE: Duration = Duration::from_millis(500);
const RECOVERED_ERROR: u8 = 1;
pub(super) const NOT_READY: u8 = 2;
const ILLEGAL_REQUEST: u8 = 5;
pub(super) const UNIT_ATTENTION: u8 = 6;
const ABORTED_COMMAND: u8 = 11;
const MISCOMPARE: u8 = 14;
/// COMMANDS CLEARED BY ANOTHER INITIATOR.
const COMMANDS_CLEARED: u16 = 0x2f00;

/// What comes of an attempt.
pub(super) enum Verdict {
    Done,
    /// It wasn't carried out, and may be at once.
    Again,
    /// The same, in a while.
    Later,
    /// It was ended, perhaps in the middle.
    Unsure,
}

/// Attempts at one command.
#[derive(Default)]
pub(super) struct Patience {
    again: u32,
    pause: Duration,
}

impl Patience {
    /// Another attempt at once, if there weren't many already: then in a while, as long as there is time.
    pub(super) fn again(&mut self, answer: &Answer, until: Moment) -> Result<(), Failure> {
        self.again += 1;
        if self.again < MANY {
            return Ok(());
        }
        if Moment::now() >= until {
            return Err(unexpected(answer.status));
        }
        self.pause();
        Ok(())
    }

    /// Waits before another attempt, longer every time.
    pub(super) fn pause(&mut self) {
        self.pause = (self.pause * 2).clamp(SHORT_PAUSE, LONG_PAUSE);
        thread::sleep(self.pause);
    }
}

impl Nexus {
    /// What an answer means for its command.
    pub(super) fn judge(
        &self,
        ticket: &Ticket<'_>,
        epoch: Epoch,
        answer: Answer,
    ) -> Result<Verdict, Failure> {
        let sense = match answer.status {
            Status::Good => return Ok(Verdict::Done),
            Status::ReservationConflict => return Err(Failure::Conflict),
            Status::Busy => return Ok(Verdict::Later),
            Status::TaskAborted => return Ok(Verdict::Unsure),
            Status::Other(_) => return Err(unexpected(answer.status)),
            Status::CheckCondition(sense) => sense,
        };
        match sense.key {
            RECOVERED_ERROR => Ok(Verdict::Done),
            // Becoming ready, or at work with something.
            NOT_READY if sense.code >> 8 == 0x04 && sense.code != 0x0403 => Ok(Verdict::Later),
            ILLEGAL_REQUEST => Err(Failure::Illegal(sense)),
            MISCOMPARE => Err(Failure::Miscompare),
            ABORTED_COMMAND => Ok(Verdict::Unsure),
            UNIT_ATTENTION => self.attend(ticket, epoch, sense.code),
            _ => Err(unexpected(answer.status)),
        }
    }

    /// A unit attention came instead of an answer.
    fn attend(&self, ticket: &Ticket<'_>, epoch: Epoch, code: u16) -> Result<Verdict, Failure> {
        if code == COMMANDS_CLEARED && self.is_by_the_book() {
            // Others of this host's commands are among them, and stay without an answer.
            self.connection.renew(epoch);
        }
        let Some(attention) = attention(code) else {
            return Ok(Verdict::Again);
        };
        let lost = {
            let mut held = self.held.lock();
            held.hear(attention);
            if attention == Attention::Reset {
                held.resets += 1;
                held.lose_reservation();
            }
            let fenced = held.losses != ticket.losses;
            held.untold &= !fenced;
            if ticket.reserved.is_some() {
                held.lost_by = None;
            }
            fenced || ticket.reserved.is_some() && held.reserved.is_none()
        };
        if attention == Attention::Reset && self.is_by_the_book() {
            // Others of this host's commands may have been ended without an answer.
            self.connection.renew(epoch);
        }
        if lost {
            Err(Failure::ReservationLost { by_cut: false })
        } else {
            Ok(Verdict::Again)
        }
    }
}

/// What a unit attention is to this house; nothing if it doesn't matter.
pub(super) fn attention(code: u16) -> Option<Attention> {
    match code {
        0x2900..=0x29ff => Some(Attention::Reset),
        0x2a03 => Some(Attention::ReservationsPreempted),
        0x2a04 => Some(Attention::ReservationsReleased),
        0x2a05 => Some(Attention::RegistrationsPreempted),
        _ => None,
    }
}
