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

use std::io;
use std::sync::OnceLock;
use std::thread::{self, ThreadId};
use std::time::Duration;

use parking_lot::Mutex;
use vmfs_iscsi::{Answer, Connection, Data, Epoch, Moment, Sense, Status, Unanswered};

use super::command::{self, Command, Repeat};
use super::persistent;
use super::quirks::Quirks;
use crate::scsi::array::Attention;
use crate::scsi::persistent::Key;

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
/// Unit attentions in a row that are normal: many hosts that were cut off at once reset the LUN one after the other.
const MANY: u32 = 32;
/// Pauses between attempts.
const SHORT_PAUSE: Duration = Duration::from_millis(5);
const LONG_PAUSE: Duration = Duration::from_millis(500);

/// Why a command failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// Another host has reserved the LUN.
    Conflict,
    /// A reservation or registration of this host is gone.
    ReservationLost {
        /// With its connection, and nothing since was done without it.
        by_cut: bool,
    },
    /// The target doesn't take the command.
    Illegal(Sense),
    /// The blocks were not as expected.
    Miscompare,
    /// Nobody knows whether it was carried out.
    Unclear,
    /// Whoever gave it may not change blocks any more.
    Fenced,
    /// Anything else.
    Io(io::Error),
}

impl Failure {
    /// The error for where there is none of its own.
    pub(super) fn into_io(self) -> io::Error {
        match self {
            Self::Io(error) => error,
            Self::Conflict => io::Error::new(
                io::ErrorKind::ResourceBusy,
                "another host has reserved the LUN",
            ),
            Self::ReservationLost { .. } => io::Error::other("this host's reservation is gone"),
            Self::Illegal(sense) => {
                let text = format!("the target doesn't take the command: {sense}");
                io::Error::new(io::ErrorKind::Unsupported, text)
            }
            Self::Fenced => io::Error::other("this host may not write any more"),
            Self::Miscompare => io::Error::other("the blocks are not as expected"),
            Self::Unclear => io::Error::new(
                io::ErrorKind::TimedOut,
                "the connection was lost; whether the command was carried out isn't known",
            ),
        }
    }
}

/// This host's way to a LUN.
#[derive(Debug)]
pub(super) struct Nexus {
    connection: Connection,
    timeouts: IscsiTimeouts,
    /// What is known of the target; asked for before anything is written.
    quirks: OnceLock<Quirks>,
    prepared: Mutex<Prepared>,
    held: Mutex<Held>,
}

/// How far a session is.
#[derive(Debug, Default)]
struct Prepared {
    /// The epoch in which this host has made known again what it held before.
    epoch: Option<Epoch>,
    /// Commands of a session that is over may still be under way.
    has_left: bool,
}

/// What this host holds.
#[derive(Debug, Default)]
struct Held {
    /// The epoch in which it has the LUN by RESERVE(6), and the thread that reserved it.
    reserved: Option<(Epoch, ThreadId)>,
    /// The thread whose reservation was lost, until a command of it has failed.
    lost_by: Option<ThreadId>,
    /// The key that it is registered with.
    key: Option<Key>,
    /// Counts registrations that were lost.
    losses: u64,
    /// One was lost and no command has failed for it yet.
    untold: bool,
    attentions: Vec<Attention>,
}

/// When a command was given, and what was held then.
#[derive(Clone, Copy)]
pub(super) struct Ticket<'a> {
    losses: u64,
    /// The epoch of the reservation that its thread had.
    reserved: Option<Epoch>,
    given: Moment,
    /// Whether blocks may be changed, asked each time before it is done.
    may: Option<&'a dyn Fn() -> bool>,
}

impl<'a> Ticket<'a> {
    /// The same, where `may` says whether blocks may be changed.
    pub(super) fn provided(self, may: &'a dyn Fn() -> bool) -> Self {
        Self {
            may: Some(may),
            ..self
        }
    }

    /// For the next part of a long command, which has its own time.
    pub(super) fn next(self) -> Self {
        Self {
            given: Moment::now(),
            ..self
        }
    }
}

impl Nexus {
    pub(super) fn new(connection: Connection, timeouts: IscsiTimeouts) -> Self {
        Self {
            connection,
            timeouts,
            quirks: OnceLock::new(),
            prepared: Mutex::default(),
            held: Mutex::default(),
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

    /// LOGICAL UNIT RESET.
    pub(super) fn reset(&self, ticket: &Ticket<'_>) -> Result<(), Failure> {
        // It changes nothing that another host could have by now.
        let command = Command::test_unit_ready();
        loop {
            self.still_in_time(ticket, &command, true)?;
            // Not prepared: whoever is to be reset may have reserved the LUN.
            let until = self.until(ticket, &command);
            let epoch = self.epoch(until)?;
            match self.connection.reset_lun(epoch, self.timeouts.command) {
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
                Err(_) => {}
            }
        }
    }

    /// RESERVE(6).
    pub(super) fn reserve(&self, ticket: &Ticket<'_>) -> Result<(), Failure> {
        let (_, epoch) = self.run_for(ticket, &Command::reserve(), Data::None)?;
        self.held.lock().reserved = Some((epoch, thread::current().id()));
        Ok(())
    }

    /// RELEASE(6).
    pub(super) fn release(&self, ticket: &Ticket<'_>) -> Result<(), Failure> {
        match self.run_for(ticket, &Command::release(), Data::None) {
            // The connection's loss has released it, after all that was done under it.
            Ok(_) | Err(Failure::ReservationLost { by_cut: true }) => {}
            Err(failure) => return Err(failure),
        }
        self.held.lock().reserved = None;
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

    /// The present session, in which this host has made itself known, and in which nothing of an
    /// earlier one is under way any more. `sent`: the command may be.
    fn session(
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
        let time = self.timeouts.command;
        let answer = self.connection.reset_lun(epoch, time);
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

    /// What an answer means for its command.
    fn judge(&self, ticket: &Ticket<'_>, epoch: Epoch, answer: Answer) -> Result<Verdict, Failure> {
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

impl Held {
    /// The session is that of `epoch`: gives whether a reservation went with an earlier one.
    fn notice(&mut self, epoch: Epoch) -> bool {
        let lost = self.reserved.is_some() && !self.is_reserved_in(epoch);
        if lost {
            self.lose_reservation();
        }
        lost
    }

    fn is_reserved_in(&self, epoch: Epoch) -> bool {
        self.reserved.is_some_and(|(reserved, _)| reserved == epoch)
    }

    fn lose_reservation(&mut self) {
        if let Some((_, thread)) = self.reserved.take() {
            self.lost_by = Some(thread);
        }
    }

    /// Takes in what the target says of this host's registration.
    fn hear(&mut self, attention: Attention) {
        let gone = matches!(
            attention,
            Attention::ReservationsPreempted | Attention::RegistrationsPreempted
        );
        if gone {
            self.key = None;
        }
        self.remember(attention);
    }

    fn remember(&mut self, attention: Attention) {
        if !self.attentions.contains(&attention) {
            self.attentions.push(attention);
        }
    }
}

/// What comes of an attempt.
enum Verdict {
    Done,
    /// It wasn't carried out, and may be at once.
    Again,
    /// The same, in a while.
    Later,
    /// It was ended, perhaps in the middle.
    Unsure,
}

/// Why a session could not be prepared.
enum Stopped {
    /// The connection is lost again.
    Cut,
    Failed(Failure),
}

/// Attempts at one command.
#[derive(Default)]
struct Patience {
    again: u32,
    pause: Duration,
}

impl Patience {
    /// Another attempt at once, if there weren't many already: then in a while, as long as there is time.
    fn again(&mut self, answer: &Answer, until: Moment) -> Result<(), Failure> {
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
    fn pause(&mut self) {
        self.pause = (self.pause * 2).clamp(SHORT_PAUSE, LONG_PAUSE);
        thread::sleep(self.pause);
    }
}

const RECOVERED_ERROR: u8 = 1;
const NOT_READY: u8 = 2;
const ILLEGAL_REQUEST: u8 = 5;
const UNIT_ATTENTION: u8 = 6;
const ABORTED_COMMAND: u8 = 11;
const MISCOMPARE: u8 = 14;
/// COMMANDS CLEARED BY ANOTHER INITIATOR.
const COMMANDS_CLEARED: u16 = 0x2f00;

/// What a unit attention is to this house; nothing if it doesn't matter.
fn attention(code: u16) -> Option<Attention> {
    match code {
        0x2900..=0x29ff => Some(Attention::Reset),
        0x2a03 => Some(Attention::ReservationsPreempted),
        0x2a04 => Some(Attention::ReservationsReleased),
        0x2a05 => Some(Attention::RegistrationsPreempted),
        _ => None,
    }
}

fn unexpected(status: Status) -> Failure {
    let kind = match status {
        Status::CheckCondition(Sense { key: 7, .. }) => io::ErrorKind::ReadOnlyFilesystem,
        _ => io::ErrorKind::Other,
    };
    Failure::Io(io::Error::new(
        kind,
        format!("the target answered {status}"),
    ))
}

/// The part of `room` that was filled.
fn filled<'a>(room: &'a [u8], answer: &Answer) -> &'a [u8] {
    room.get(..room.len().saturating_sub(answer.missing))
        .unwrap_or_default()
}
