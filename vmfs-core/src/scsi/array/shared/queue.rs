//! Commands that clash run one after the other.

use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use super::lane::{Phase, Ticket};
use super::memory::{LANES, Word};
use super::record::Revoked;
use super::{Seat, SharedLun, record};

/// How long to wait for a command before it is revoked.
const LIMIT: Duration = Duration::from_millis(100);
/// Turns of waiting without letting another thread have the processor.
const SPINS: u32 = 40;
/// Turns after which the processor is given away for longer than a moment.
const YIELDS: u32 = 200;
/// Turns after which others let this command go first.
const HURRY: u32 = 100;

/// A command that stands in another's way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rival {
    pub(super) seat: usize,
    pub(super) lane: usize,
    pub(super) ticket: Ticket,
}

/// How long one has waited, and for whom.
#[derive(Debug, Default)]
pub(super) struct Patience {
    turns: u32,
    rival: Option<(Rival, Instant)>,
}

/// A command that runs.
#[derive(Debug)]
pub(super) struct Permit<'a> {
    lun: &'a SharedLun,
    seat: &'a Seat,
    lane: usize,
    ticket: Ticket,
    over: bool,
}

/// How a command ended.
#[derive(Debug)]
pub(super) enum Ending {
    /// As it should.
    Done,
    /// It was revoked, and did nothing that counts.
    Redo,
    /// It was revoked, and its blocks were moved: what it did counts only if they had it already.
    Moved(Revoked),
}

impl SharedLun {
    /// Waits until no command that clashes with one on `bytes` runs.
    pub(super) fn acquire<'a>(
        &'a self,
        seat: &'a Seat,
        bytes: &Range<u64>,
        writes: bool,
    ) -> io::Result<Permit<'a>> {
        let lane = self.take_lane(seat);
        let word = self.memory.word(Word::Lane(seat.index, lane));
        let ticket = Ticket(word.load(SeqCst)).next(bytes, writes);
        let mut permit = Permit {
            lun: self,
            seat,
            lane,
            ticket,
            over: true,
        };
        let mut patience = Patience::default();
        let me = (seat.index, lane);
        loop {
            word.swap(permit.ticket.0, SeqCst);
            match self.stand_in_line(&mut permit.ticket, me, &mut patience) {
                Ok(true) => {
                    permit.ticket = permit.ticket.with(Phase::Running);
                    permit.over = false;
                    return Ok(permit);
                }
                Ok(false) => self.let_pass(&mut permit.ticket, me, &mut patience)?,
                Err(error) => {
                    change(word, permit.ticket, permit.ticket.with(Phase::Idle));
                    return Err(error);
                }
            }
        }
    }

    /// Waits with an announced ticket until the command runs. `false` if the ticket was taken back,
    /// to let another command go first or because it had stood there too long for one.
    fn stand_in_line(
        &self,
        ticket: &mut Ticket,
        me: (usize, usize),
        patience: &mut Patience,
    ) -> io::Result<bool> {
        let word = self.memory.word(Word::Lane(me.0, me.1));
        loop {
            match self.rival(*ticket, me, true) {
                None => return Ok(change(word, *ticket, ticket.with(Phase::Running))),
                Some((_, true)) => {
                    change(word, *ticket, ticket.with(Phase::Idle));
                    return Ok(false);
                }
                Some((rival, false)) => self.wait(patience, rival)?,
            }
            if patience.turns >= HURRY && !ticket.is_urgent() {
                if !change(word, *ticket, ticket.urgent()) {
                    return Ok(false);
                }
                *ticket = ticket.urgent();
            }
        }
    }

    /// Waits, with no ticket in the lane, for those that go first.
    fn let_pass(
        &self,
        ticket: &mut Ticket,
        me: (usize, usize),
        patience: &mut Patience,
    ) -> io::Result<()> {
        while let Some((rival, true)) = self.rival(*ticket, me, false) {
            self.wait(patience, rival)?;
            if patience.turns >= HURRY {
                *ticket = ticket.urgent();
            }
        }
        Ok(())
    }

    /// A command that `ticket` has to wait for, and whether that one goes first; those that do are
    /// named first. Announced ones that come after it count only if `all` are asked for: it has
    /// to see them step back.
    fn rival(&self, ticket: Ticket, me: (usize, usize), all: bool) -> Option<(Rival, bool)> {
        let rank = |ticket: Ticket, place: (usize, usize)| (!ticket.is_urgent(), place);
        let mut found = None;
        for seat in 0..self.seats() {
            for lane in 0..self.lanes(seat) {
                let word = self.memory.word(Word::Lane(seat, lane));
                let other = Ticket(word.load(SeqCst));
                let phase = other.phase();
                if matches!(phase, Phase::Idle | Phase::Revoked)
                    || (seat, lane) == me
                    || !ticket.clashes(other)
                {
                    continue;
                }
                let rival = Rival {
                    seat,
                    lane,
                    ticket: other,
                };
                if phase != Phase::Announced {
                    found = Some((rival, false));
                } else if rank(other, (seat, lane)) < rank(ticket, me) {
                    return Some((rival, true));
                } else if all {
                    found = Some((rival, false));
                }
            }
        }
        found
    }

    /// Waits a moment for `rival`; revokes it if that has been going on for long.
    pub(super) fn wait(&self, patience: &mut Patience, rival: Rival) -> io::Result<()> {
        patience.turns = patience.turns.saturating_add(1);
        if patience.turns < SPINS {
            std::hint::spin_loop();
            return Ok(());
        }
        if patience.turns < YIELDS {
            std::thread::yield_now();
            return Ok(());
        }
        let now = Instant::now();
        let since = match patience.rival {
            Some((before, since)) if before == rival => since,
            _ => now,
        };
        patience.rival = Some((rival, since));
        if self.clear_if_dead(rival.seat)? {
            return Ok(());
        }
        if now - since > LIMIT {
            patience.rival = None;
            return self.revoke(rival);
        }
        let pause = if patience.turns < 2 * YIELDS { 50 } else { 500 };
        std::thread::sleep(Duration::from_micros(pause));
        Ok(())
    }

    /// Waits until every command has ended that runs now on a seat that `of` picks; those that come
    /// later see what has changed before.
    pub(super) fn drain(&self, of: impl Fn(usize) -> bool) -> io::Result<()> {
        let own = self.seat.as_ref().map(|seat| seat.index);
        for seat in (0..self.seats()).filter(|&seat| Some(seat) != own && of(seat)) {
            for lane in 0..self.lanes(seat) {
                let word = self.memory.word(Word::Lane(seat, lane));
                let ticket = Ticket(word.load(SeqCst));
                if !matches!(ticket.phase(), Phase::Running | Phase::Revoking) {
                    continue;
                }
                let mut patience = Patience::default();
                loop {
                    let now = Ticket(word.load(SeqCst));
                    if now != ticket && now != ticket.with(Phase::Revoking) {
                        break;
                    }
                    let rival = Rival {
                        seat,
                        lane,
                        ticket: now,
                    };
                    self.wait(&mut patience, rival)?;
                }
            }
        }
        Ok(())
    }

    /// Waits for a lane that no other thread uses.
    fn take_lane(&self, seat: &Seat) -> usize {
        let mut busy = seat.busy.load(SeqCst);
        let mut turns = 0;
        loop {
            let lane = busy.trailing_ones();
            if lane < LANES as u32 {
                let taken = busy | 1 << lane;
                match seat.busy.compare_exchange_weak(busy, taken, SeqCst, SeqCst) {
                    Ok(_) => {
                        let lanes = self.memory.word(Word::LanesOf(seat.index));
                        let needed = u64::from(lane) + 1;
                        if lanes.load(SeqCst) < needed {
                            lanes.fetch_max(needed, SeqCst);
                        }
                        return lane as usize;
                    }
                    Err(now) => busy = now,
                }
                continue;
            }
            turns += 1;
            if turns < YIELDS {
                std::thread::yield_now();
            } else {
                std::thread::sleep(Duration::from_micros(50));
            }
            busy = seat.busy.load(SeqCst);
        }
    }
}

impl Permit<'_> {
    /// Ends the command. Revoked ones keep their lane until the permit is dropped.
    pub(super) fn end(&mut self) -> io::Result<Ending> {
        if change(self.word(), self.ticket, self.ticket.with(Phase::Idle)) {
            self.over = true;
            return Ok(Ending::Done);
        }
        if !self.ticket.writes() {
            return Ok(Ending::Redo);
        }
        self.finish_revoking()?;
        Ok(self.revoked()?.map_or(Ending::Redo, Ending::Moved))
    }

    /// What the record has of this command, if its blocks were moved.
    fn revoked(&self) -> io::Result<Option<Revoked>> {
        let ticket = self.ticket.with(Phase::Revoked);
        let (_, record) = record::load(&self.lun.memory)?;
        Ok(record.revoked(self.lun.nexus.port, self.lane, ticket.0))
    }

    /// Moves the blocks of this command if others have begun to revoke it: they may have got
    /// anywhere with it, and can't be told that it is too late.
    fn finish_revoking(&self) -> io::Result<()> {
        self.lun.revoke(Rival {
            seat: self.seat.index,
            lane: self.lane,
            ticket: self.ticket.with(Phase::Revoking),
        })
    }

    fn word(&self) -> &AtomicU64 {
        let lane = Word::Lane(self.seat.index, self.lane);
        self.lun.memory.word(lane)
    }

    /// Clears the lane of a command that didn't end as it should.
    fn clear(&self) -> io::Result<()> {
        let idle = self.ticket.with(Phase::Idle);
        if !change(self.word(), self.ticket, idle) {
            if self.ticket.writes() {
                self.finish_revoking()?;
                if let Some(own) = self.revoked()? {
                    self.lun.change(|record| {
                        record.forget(&own);
                        Ok::<_, io::Error>(())
                    })?;
                }
            }
            self.word().store(idle.0, SeqCst);
        }
        Ok(())
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        // A lane that others still move blocks for can't be used again.
        if self.over || self.clear().is_ok() {
            self.seat.busy.fetch_and(!(1 << self.lane), SeqCst);
        }
    }
}

/// Changes a lane if nobody else did.
pub(super) fn change(word: &AtomicU64, from: Ticket, to: Ticket) -> bool {
    word.compare_exchange(from.0, to.0, SeqCst, SeqCst).is_ok()
}
