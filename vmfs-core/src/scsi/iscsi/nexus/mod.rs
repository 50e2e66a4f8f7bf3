//! Commands to a LUN over connections that come and go.
//!
//! A command that has no answer when the connection is lost is sent again on the next one, if
//! that does no harm:
//! - The new session has the number of the old one, so that the target ends whatever the old one
//!   had begun before it lets the new one in (RFC 7143, 6.3.5): nothing of it lands later. A target
//!   that doesn't wait for that ([`Quirks`]) is made to before anything else is sent.
//! - Commands that change nothing are sent again as long as patience lasts. Writes do the same
//!   when they are carried out twice, but another host may take this one for dead meanwhile and
//!   have the blocks: a host that knows asks itself before each sending ([`Ticket::provided`]), one
//!   that is registered with the LUN is fenced off by its key, and any other sends them only
//!   [`IscsiTimeouts::change`] long, which is shorter than a lease.
//! - RESERVE(6) ends with the connection. What the thread that had reserved does until it releases
//!   fails then with [`Failure::ReservationLost`], reads included, and is not sent again. Other
//!   threads' commands needed no reservation.
//! - A registration is by initiator, session number and, with some targets, login. After a login
//!   this host asks whether its key is still known. If not it was fenced, and what was under way
//!   fails as above; if only the login is new to the target, it registers once more.
//! - COMPARE AND WRITE and PERSISTENT RESERVE OUT give [`Failure::Unclear`]: whoever sent them
//!   looks what is there.
//!
//! - `session`: what is done before anything else is sent in a new session; `held`: what this host holds of the LUN.
//! - `answer`: what answers mean, and how long to go on; `failure`: why commands fail.

mod answer;
mod failure;
mod held;
mod session;

use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;
use vmfs_iscsi::{Answer, Connection, Data, Epoch, Moment, Status, Unanswered};

use super::command::{Command, Repeat};
use super::quirks::Quirks;
use crate::scsi::array::Attention;
use crate::scsi::persistent::Key;
use answer::{Patience, Verdict};
pub(super) use failure::Failure;
use held::Held;
pub(super) use held::Ticket;
use session::Prepared;

/// How long an [`IscsiLun`](super::IscsiLun) waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IscsiTimeouts {
    /// For the answer to a command. A target that is silent for so long is taken for
    /// unreachable, and connected to anew. Ten times as long for commands that have to do more
    /// than move their data.
    pub command: Duration,
    /// For a connection to come back, a LUN to be ready or less busy, since a command was given.
    pub total: Duration,
    /// Until a command that changes blocks isn't sent any more, since it was given.
    pub change: Duration,
}

impl Default for IscsiTimeouts {
    fn default() -> Self {
        Self {
            command: Duration::from_secs(10),
            total: Duration::from_secs(30),
            change: Duration::from_secs(10),
        }
    }
}

/// How much longer slow commands may take.
const SLOW: u32 = 10;
/// Pause between attempts, at first.
const SHORT_PAUSE: Duration = Duration::from_millis(5);

/// This host's way to a LUN.
#[derive(Debug)]
pub(super) struct Nexus {
    connection: Connection,
    timeouts: IscsiTimeouts,
    /// What is known of the target; asked for before anything is written.
    quirks: OnceLock<Quirks>,
    prepared: Mutex<Prepared>,
    held: Mutex<Held>,
    resets: Mutex<Resets>,
    /// How often this host has begun to reset the LUN.
    resets_begun: AtomicU64,
}

/// Resets of the LUN by this host: there is one at a time, since a target may forget one while another is under way
/// (tgt does).
#[derive(Debug, Default)]
struct Resets {
    /// The number of the last that was carried out.
    done: u64,
}

impl Nexus {
    pub(super) fn new(connection: Connection, timeouts: IscsiTimeouts) -> Self {
        Self {
            connection,
            timeouts,
            quirks: OnceLock::new(),
            prepared: Mutex::default(),
            held: Mutex::default(),
            resets: Mutex::default(),
            resets_begun: AtomicU64::new(0),
        }
    }

    /// What the target is known for.
    pub(super) fn know(&self, quirks: Quirks) {
        // A LUN is asked once.
        let _ = self.quirks.set(quirks);
    }

    fn is_by_the_book(&self) -> bool {
        self.quirks.get().is_none_or(|quirks| quirks.is_by_the_book)
    }

    /// A command is given: fails if the one before would have had to.
    pub(super) fn begin<'a>(&self) -> Result<Ticket<'a>, Failure> {
        let me = thread::current().id();
        let mut held = self.held.lock();
        if held.lost_by == Some(me) {
            held.lost_by = None;
            return Err(Failure::ReservationLost { by_cut: false });
        }
        if std::mem::take(&mut held.untold) {
            return Err(Failure::ReservationLost { by_cut: false });
        }
        Ok(Ticket {
            losses: held.losses,
            reserved: held
                .reserved
                .and_then(|(epoch, thread)| (thread == me).then_some(epoch)),
            given: Moment::now(),
            may: None,
        })
    }

    /// What `ticket` is once it is known what was lost with the connection, for who finds out
    /// what that means.
    pub(super) fn settle<'a>(&self, ticket: &Ticket<'a>) -> Result<Ticket<'a>, Failure> {
        self.session(ticket, &Command::test_unit_ready(), false)?;
        let mut held = self.held.lock();
        held.untold = false;
        Ok(Ticket {
            losses: held.losses,
            reserved: None,
            ..*ticket
        })
    }

    /// Carries out a command that is given now. Gives how many bytes did not move, and the epoch.
    pub(super) fn run(&self, command: &Command, data: Data<'_>) -> Result<(usize, Epoch), Failure> {
        self.run_for(&self.begin()?, command, data)
    }

    /// The same, for a command that is a part of what `ticket` was given for.
    pub(super) fn run_for(
        &self,
        ticket: &Ticket<'_>,
        command: &Command,
        mut data: Data<'_>,
    ) -> Result<(usize, Epoch), Failure> {
        let mut patience = Patience::default();
        let mut sent = false;
        loop {
            self.still_in_time(ticket, command, sent)?;
            let epoch = self.session(ticket, command, sent)?;
            self.check(ticket, epoch)?;
            if command.repeat != Repeat::Always && ticket.may.is_some_and(|may| !may()) {
                return Err(Failure::Fenced);
            }
            let time = self.timeouts.command * if command.slow { SLOW } else { 1 };
            let bytes = command.bytes();
            match self.connection.execute(epoch, bytes, data.again(), time) {
                Ok(answer) => match self.judge(ticket, epoch, answer)? {
                    Verdict::Done => return Ok((answer.missing, epoch)),
                    Verdict::Unsure if command.repeat == Repeat::Never => {
                        return Err(Failure::Unclear);
                    }
                    Verdict::Again | Verdict::Unsure => {
                        patience.again(&answer, self.until(ticket, command))?;
                    }
                    Verdict::Later => patience.pause(),
                },
                Err(Unanswered::NotSent) => {}
                Err(Unanswered::Lost) => {
                    if command.repeat != Repeat::Always {
                        self.prepared.lock().has_left |= !self.is_by_the_book();
                    }
                    if command.repeat == Repeat::Never {
                        return Err(Failure::Unclear);
                    }
                    tracing::debug!(command = command.name, "no answer, sent again");
                    sent = true;
                }
            }
        }
    }

    /// LOGICAL UNIT RESET; if another thread's is under way, the next one counts for all that wait meanwhile.
    pub(super) fn reset(&self, ticket: &Ticket<'_>) -> Result<(), Failure> {
        // It changes nothing that another host could have by now.
        let command = Command::test_unit_ready();
        let begun = self.resets_begun.load(SeqCst);
        // One that has no answer in a while is sent anew on the next connection, while this host has its lease yet.
        let mut time = self.timeouts.command / 4;
        loop {
            self.still_in_time(ticket, &command, true)?;
            // Not prepared: whoever is to be reset may have reserved the LUN.
            let until = self.until(ticket, &command);
            let epoch = self.epoch(until)?;
            let mut resets = self.resets.lock();
            if resets.done > begun {
                return Ok(());
            }
            let answer = self.send_reset(&mut resets, epoch, time);
            drop(resets);
            match answer {
                Ok(Answer {
                    status: Status::Good,
                    ..
                }) => {
                    if self.is_by_the_book() {
                        // The target ends this host's commands as well, and doesn't answer them.
                        self.connection.renew(epoch);
                    }
                    // What was under way has ended, whichever session it was of.
                    self.prepared.lock().has_left = false;
                    return Ok(());
                }
                Ok(answer) => {
                    let text = format!("the target refused: {}", answer.status);
                    return Err(Failure::Io(io::Error::other(text)));
                }
                Err(_) => time = (time * 2).min(self.timeouts.command),
            }
        }
    }

    /// Sends one LOGICAL UNIT RESET, which no other of this host's is under way with.
    fn send_reset(
        &self,
        resets: &mut Resets,
        epoch: Epoch,
        time: Duration,
    ) -> Result<Answer, Unanswered> {
        let number = self.resets_begun.fetch_add(1, SeqCst) + 1;
        let answer = self.connection.reset_lun(epoch, time)?;
        if answer.status == Status::Good {
            resets.done = number;
        }
        Ok(answer)
    }

    /// RESERVE(6).
    pub(super) fn reserve(&self, ticket: &Ticket<'_>) -> Result<(), Failure> {
        loop {
            let resets = self.held.lock().resets;
            let (_, epoch) = self.run_for(ticket, &Command::reserve(), Data::None)?;
            let mut held = self.held.lock();
            if held.resets == resets {
                held.reserved = Some((epoch, thread::current().id()));
                return Ok(());
            }
            // Another thread has heard of a reset meanwhile, and nobody knows which of the two was first.
        }
    }

    /// RELEASE(6).
    pub(super) fn release(&self, ticket: &Ticket<'_>) -> Result<(), Failure> {
        match self.run_for(ticket, &Command::release(), Data::None) {
            // The connection's loss has released it, after all that was done under it.
            Ok(_) | Err(Failure::ReservationLost { by_cut: true }) => {}
            Err(failure) => return Err(failure),
        }
        let mut held = self.held.lock();
        held.reserved = None;
        // Another thread may have heard of a reset just before: there was nothing to lose any more.
        held.forget_loss(thread::current().id());
        Ok(())
    }

    /// This host has registered with `key`, or is not registered any more, since `epoch`.
    pub(super) fn registered(&self, key: Option<Key>, epoch: Epoch) {
        self.held.lock().key = key;
        let mut prepared = self.prepared.lock();
        if prepared.epoch != Some(epoch) {
            // Another login was prepared before the key was known here.
            prepared.epoch = None;
        }
    }

    /// What this host was told since the last call.
    pub(super) fn attentions(&self) -> Vec<Attention> {
        std::mem::take(&mut self.held.lock().attentions)
    }

    /// Whether a command that was given when `ticket` was may be sent in `epoch`.
    fn check(&self, ticket: &Ticket<'_>, epoch: Epoch) -> Result<(), Failure> {
        let mut held = self.held.lock();
        held.notice(epoch);
        let now = held.reserved.map(|(epoch, _)| epoch);
        if ticket.reserved.is_some() && ticket.reserved != now {
            held.lost_by = None;
            return Err(Failure::ReservationLost { by_cut: true });
        }
        if ticket.losses == held.losses {
            return Ok(());
        }
        held.untold = false;
        Err(Failure::ReservationLost { by_cut: true })
    }

    /// How long a command may still be sent.
    fn until(&self, ticket: &Ticket<'_>, command: &Command) -> Moment {
        let sure = command.repeat == Repeat::Always
            || ticket.may.is_some()
            || self.held.lock().key.is_some();
        let time = if sure {
            self.timeouts.total
        } else {
            self.timeouts.change.min(self.timeouts.total)
        };
        ticket.given + time
    }

    fn still_in_time(
        &self,
        ticket: &Ticket<'_>,
        command: &Command,
        sent: bool,
    ) -> Result<(), Failure> {
        if Moment::now() < self.until(ticket, command) {
            return Ok(());
        }
        let known = if sent && command.repeat != Repeat::Always {
            "; whether it was carried out isn't known"
        } else {
            ""
        };
        let time = ticket.given.elapsed().as_secs_f32();
        let text = format!("no answer in {time:.1} s{known}");
        Err(Failure::Io(io::Error::new(io::ErrorKind::TimedOut, text)))
    }

    /// The present session.
    fn epoch(&self, until: Moment) -> Result<Epoch, Failure> {
        self.connection.epoch(until).map_err(|error| {
            Failure::Io(io::Error::new(io::ErrorKind::TimedOut, error.to_string()))
        })
    }
}
