//! What is done about commands that don't end: those of stopped processes, mostly.

use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering::SeqCst;

use super::blocks::{Blocks, zero_file};
use super::lane::{Phase, Ticket};
use super::locks::{self, Mode};
use super::memory::{AREA_SIZE, LANES, Memory, Word};
use super::queue::{Rival, change};
use super::record::{Moved, Record, Revoked};
use super::{SharedLun, port, port_seat};
use crate::scsi::lun::Access;

/// Bytes copied at a time.
const CHUNK: u64 = 1 << 20;

impl SharedLun {
    /// Frees the lanes of a seat whose process has died. The kernel has ended its commands first.
    pub(super) fn clear_if_dead(&self, seat: usize) -> io::Result<bool> {
        if self.seat.as_ref().is_none_or(|own| own.index == seat) {
            return Ok(false);
        }
        let file = self.memory.file();
        let lock = Memory::seat_lock(seat);
        let _alone = self.clearing.lock();
        // Shared, so that nobody takes this for the lock of who sits there.
        if !locks::try_lock(file, lock.clone(), Mode::Shared)? {
            return Ok(false);
        }
        let cleared = self.clear_lanes(seat);
        locks::unlock(file, lock)?;
        cleared.map(|()| true)
    }

    /// Clears the lanes of a seat that this process keeps others from taking: nobody sits there, so
    /// whatever runs in them according to its ticket has ended with its process.
    pub(super) fn clear_lanes(&self, seat: usize) -> io::Result<()> {
        for lane in 0..LANES {
            let word = self.memory.word(Word::Lane(seat, lane));
            let mut left = Ticket(word.load(SeqCst));
            while left.phase() != Phase::Idle {
                if left.phase() == Phase::Revoking {
                    // Others may be about to move its blocks; they have to come out as moved.
                    let ticket = left;
                    self.move_away(Rival { seat, lane, ticket })?;
                } else if change(word, left, left.with(Phase::Idle)) {
                    break;
                }
                left = Ticket(word.load(SeqCst));
            }
        }
        Ok(())
    }

    /// Makes sure that nobody has to wait for `rival` any more.
    pub(super) fn revoke(&self, rival: Rival) -> io::Result<()> {
        let word = self.memory.word(Word::Lane(rival.seat, rival.lane));
        let ticket = rival.ticket;
        match ticket.phase() {
            Phase::Announced => {
                change(word, ticket, ticket.with(Phase::Idle));
                Ok(())
            }
            Phase::Running if !ticket.writes() => {
                change(word, ticket, ticket.with(Phase::Revoked));
                Ok(())
            }
            Phase::Running => {
                if change(word, ticket, ticket.with(Phase::Revoking)) {
                    return self.move_away(rival);
                }
                Ok(())
            }
            Phase::Revoking => self.move_away(rival),
            Phase::Idle | Phase::Revoked => Ok(()),
        }
    }

    /// Moves the blocks of a command that is being revoked.
    ///
    /// Nobody works on them meanwhile: to all others the command still runs. Its own process may
    /// still write them once, before it finds its command revoked. Several hosts may be doing this;
    /// what the first one publishes counts, and the command stays as it is until there is that.
    fn move_away(&self, rival: Rival) -> io::Result<()> {
        let Some(seat) = &self.seat else {
            return Ok(());
        };
        let revoking = rival.ticket.with(Phase::Revoking);
        let revoked = rival.ticket.with(Phase::Revoked);
        let word = self.memory.word(Word::Lane(rival.seat, rival.lane));
        let incarnation = self.memory.word(Word::SeatIncarnation(rival.seat));
        let port = port(incarnation.load(SeqCst), rival.seat);
        let bytes = revoking.bytes();
        let end = bytes.end.min(self.image.metadata()?.len());
        let length = end.saturating_sub(bytes.start);
        let mut room = None;
        self.change(|record| {
            // After it has ended there are other commands on these blocks. It can't end unless
            // the record changes, and then this is called again.
            let over = word.load(SeqCst) != revoking.0;
            if over || record.revoked(port, rival.lane, revoked.0).is_some() {
                return Ok(());
            }
            let (saved, at) = match room {
                Some(room) => room,
                None => *room.insert(self.allocate(seat.index, length, record)?),
            };
            self.copy_aside(record, bytes.start, length, [saved, at])?;
            record.supersede(Moved {
                start: bytes.start,
                length,
                at,
                revoked: vec![Revoked {
                    port,
                    lane: rival.lane,
                    ticket: revoked.0,
                    start: bytes.start,
                    saved,
                }],
            });
            Ok::<_, io::Error>(())
        })?;
        if change(word, revoking, revoked) {
            tracing::warn!(
                start = bytes.start,
                length,
                process = self.memory.word(Word::SeatProcess(rival.seat)).load(SeqCst),
                "a process doesn't end its write; the blocks go on without it"
            );
        }
        Ok(())
    }

    /// Room for `length` bytes, twice, in this host's part of the file: where they start.
    ///
    /// Nobody but this host uses room for the first time. Late writes to what was used before may
    /// come as long as any blocks are moved.
    fn allocate(&self, seat: usize, length: u64, record: &Record) -> io::Result<(u64, u64)> {
        self.give_room_back(seat, record);
        let word = self.memory.word(Word::AreaOf(seat));
        let used = word.load(SeqCst).min(AREA_SIZE);
        let after = used + 2 * length;
        if after > AREA_SIZE {
            let problem = "too many commands of stopped processes are in the way: end them";
            return Err(io::Error::other(problem));
        }
        word.store(after, SeqCst);
        let start = Memory::area(seat) + used;
        Ok((start, start + length))
    }

    /// Copies blocks to each of `places`.
    fn copy_aside(
        &self,
        record: &Record,
        start: u64,
        length: u64,
        places: [u64; 2],
    ) -> io::Result<()> {
        let blocks = self.blocks(&record.moved);
        let mut buf = vec![0; length.min(CHUNK) as usize];
        let mut again = buf.clone();
        for done in (0..length).step_by(CHUNK as usize) {
            let size = (length - done).min(CHUNK) as usize;
            let (part, again) = (&mut buf[..size], &mut again[..size]);
            blocks.read(start + done, part)?;
            // The command may just be writing: half a block is no content.
            for _ in 0..100 {
                blocks.read(start + done, again)?;
                if part == again {
                    break;
                }
                part.copy_from_slice(again);
            }
            for place in places {
                self.memory.file().write_all_at(part, place + done)?;
            }
        }
        Ok(())
    }

    /// Brings moved blocks back into the image that no late write can hit any more.
    pub(super) fn bring_back(&self) {
        let Some(seat) = &self.seat else {
            return;
        };
        let bring = || -> io::Result<()> {
            self.refresh()?;
            for entry in &self.view().moved {
                if self.is_safe(entry)? {
                    let mut permit = self.acquire(seat, &(entry.start..entry.end()), true)?;
                    self.bring_back_one(entry)?;
                    permit.end()?;
                }
            }
            Ok(())
        };
        if self.access == Access::ReadOnly {
            return;
        }
        // They are as safe where they are.
        if let Err(error) = bring() {
            tracing::warn!(%error, "blocks that lie beside the image can't be brought back");
        }
    }

    /// Brings one entry's blocks back; the caller's command keeps others from them.
    ///
    /// If that command is revoked before it has ended, the blocks are moved anew, so the record has
    /// changed, and what was brought back doesn't count.
    fn bring_back_one(&self, entry: &Moved) -> io::Result<()> {
        self.change(|record| {
            if !record.moved.contains(entry) || !self.is_safe(entry)? {
                return Ok(());
            }
            let mut buf = vec![0; entry.length.min(CHUNK) as usize];
            for done in (0..entry.length).step_by(CHUNK as usize) {
                let part = &mut buf[..(entry.length - done).min(CHUNK) as usize];
                self.memory.file().read_exact_at(part, entry.at + done)?;
                self.image.write_all_at(part, entry.start + done)?;
            }
            // A flush that was answered covers what is there now, wherever it lies.
            self.image.sync_data()?;
            record.moved.retain(|moved| moved != entry);
            Ok(())
        })
    }

    /// Gives back the room for moved blocks in a seat's part of the file, if no blocks are moved.
    ///
    /// The seat's host alone may do this, and not while it allocates: nobody else puts new blocks
    /// there, and late writes to old ones can't come once nothing is moved.
    pub(super) fn give_room_back(&self, seat: usize, record: &Record) {
        let word = self.memory.word(Word::AreaOf(seat));
        let used = word.load(SeqCst).min(AREA_SIZE);
        if used > 0 && record.moved.is_empty() {
            // It is room only: the file system may not be able to take it back.
            let file = self.memory.file();
            let _ = zero_file(file, Memory::area(seat), used, |_, _| Ok(()));
            word.store(0, SeqCst);
        }
    }

    /// Whether all commands have ended that blocks were moved out of the way of.
    fn is_safe(&self, entry: &Moved) -> io::Result<bool> {
        for revoked in &entry.revoked {
            let word = self
                .memory
                .word(Word::Lane(port_seat(revoked.port), revoked.lane));
            let ticket = Ticket(revoked.ticket);
            let now = Ticket(word.load(SeqCst));
            let may_come = now == ticket || now == ticket.with(Phase::Revoking);
            if may_come && self.is_alive(revoked.port)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The blocks of the LUN, with those in `moved` where they were moved to.
    pub(super) fn blocks<'a>(&'a self, moved: &'a [Moved]) -> Blocks<'a> {
        Blocks {
            image: &self.image,
            beside: self.memory.file(),
            moved,
        }
    }

    /// Whether blocks that were moved out of the way of a command had become `data` by then, from
    /// byte `start` of the LUN on: then the command had done its work.
    pub(super) fn had_become(
        &self,
        revoked: &Revoked,
        start: u64,
        data: impl Iterator<Item = u8>,
        length: usize,
    ) -> io::Result<bool> {
        let mut found = vec![0; length];
        let at = revoked.saved + (start - revoked.start);
        self.memory.file().read_exact_at(&mut found, at)?;
        Ok(data.eq(found))
    }
}
