//! What this host holds of a LUN, and held when a command was given.

use std::thread::ThreadId;

use vmfs_iscsi::{Epoch, Moment};

use crate::scsi::array::Attention;
use crate::scsi::persistent::Key;

/// What this host holds.
#[derive(Debug, Default)]
pub(super) struct Held {
    /// The epoch in which it has the LUN by RESERVE(6), and the thread that reserved it.
    pub(super) reserved: Option<(Epoch, ThreadId)>,
    /// The thread whose reservation was lost, until a command of it has failed.
    pub(super) lost_by: Option<ThreadId>,
    /// Counts resets of the LUN by other hosts.
    pub(super) resets: u64,
    /// The key that it is registered with.
    pub(super) key: Option<Key>,
    /// Counts registrations that were lost.
    pub(super) losses: u64,
    /// One was lost and no command has failed for it yet.
    pub(super) untold: bool,
    pub(super) attentions: Vec<Attention>,
}

/// When a command was given, and what was held then.
#[derive(Clone, Copy)]
pub(in crate::scsi::iscsi) struct Ticket<'a> {
    pub(super) losses: u64,
    /// The epoch of the reservation that its thread had.
    pub(super) reserved: Option<Epoch>,
    pub(super) given: Moment,
    /// Whether blocks may be changed, asked each time before it is done.
    pub(super) may: Option<&'a dyn Fn() -> bool>,
}

impl<'a> Ticket<'a> {
    /// The same, where `may` says whether blocks may be changed.
    pub(in crate::scsi::iscsi) fn provided(self, may: &'a dyn Fn() -> bool) -> Self {
        Self {
            may: Some(may),
            ..self
        }
    }

    /// For the next part of a long command, which has its own time.
    pub(in crate::scsi::iscsi) fn next(self) -> Self {
        Self {
            given: Moment::now(),
            ..self
        }
    }
}

impl Held {
    /// The session is that of `epoch`: gives whether a reservation went with an earlier one.
    pub(super) fn notice(&mut self, epoch: Epoch) -> bool {
        let lost = self.reserved.is_some() && !self.is_reserved_in(epoch);
        if lost {
            self.lose_reservation();
        }
        lost
    }

    pub(super) fn is_reserved_in(&self, epoch: Epoch) -> bool {
        self.reserved.is_some_and(|(reserved, _)| reserved == epoch)
    }

    pub(super) fn lose_reservation(&mut self) {
        if let Some((_, thread)) = self.reserved.take() {
            self.lost_by = Some(thread);
        }
    }

    /// This thread has given back what it had: nothing is lost any more.
    pub(super) fn forget_loss(&mut self, thread: ThreadId) {
        if self.lost_by == Some(thread) {
            self.lost_by = None;
        }
    }

    /// Takes in what the target says of this host's registration.
    pub(super) fn hear(&mut self, attention: Attention) {
        let gone = matches!(
            attention,
            Attention::ReservationsPreempted | Attention::RegistrationsPreempted
        );
        if gone {
            self.key = None;
        }
        self.remember(attention);
    }

    pub(super) fn remember(&mut self, attention: Attention) {
        if !self.attentions.contains(&attention) {
            self.attentions.push(attention);
        }
    }
}
