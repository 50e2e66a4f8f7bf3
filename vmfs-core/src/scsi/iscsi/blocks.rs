//! Bytes of an [`IscsiLun`] as blocks of commands.

use std::io;
use std::ops::Range;
use std::sync::atomic::Ordering::Relaxed;

use vmfs_iscsi::Data;

use super::command::Command;
use super::lun::IscsiLun;
use super::nexus::{Failure, Ticket};
use super::pages::{Capacity, STATUS_ROOM, lba_status};
use super::probe::Zeroing;
use crate::scsi::lun::Comparison;

/// Most bytes in a READ or WRITE: with more, a slow link would run into the time limit.
const LONGEST_TRANSFER: u32 = 1 << 20;
/// Most bytes in a WRITE SAME or UNMAP, whose time limit is not endless either.
const LONGEST_RANGE: u32 = 64 << 20;
/// Lengths below which zeros are written as bytes.
const SHORT_RANGE: u64 = 64 << 10;

impl IscsiLun {
    pub(super) fn read_bytes(
        &self,
        ticket: &Ticket<'_>,
        offset: u64,
        buf: &mut [u8],
    ) -> Result<(), Failure> {
        let (start, len) = self.widen(offset, buf.len());
        if len == buf.len() {
            return self.read_blocks(ticket, start, buf);
        }
        let mut bounce = vec![0; len];
        self.read_blocks(ticket, start, &mut bounce)?;
        let skip = (offset - start) as usize;
        buf.copy_from_slice(&bounce[skip..skip + buf.len()]);
        Ok(())
    }

    pub(super) fn write_bytes(
        &self,
        ticket: &Ticket<'_>,
        offset: u64,
        data: &[u8],
    ) -> Result<(), Failure> {
        let (start, len) = self.widen(offset, data.len());
        if len == data.len() {
            let _edges = self.edges.read();
            return self.write_blocks(ticket, start, data);
        }
        // Blocks that are written in part keep the rest, which nobody may change meanwhile.
        let _edges = self.edges.write();
        let block = self.found.capacity.block as usize;
        let mut bounce = vec![0; len];
        self.read_blocks(ticket, start, &mut bounce[..block])?;
        if len > block {
            let last = len - block;
            self.read_blocks(ticket, start + last as u64, &mut bounce[last..])?;
        }
        let skip = (offset - start) as usize;
        bounce[skip..skip + data.len()].copy_from_slice(data);
        self.write_blocks(ticket, start, &bounce)
    }

    /// Writes zeros from `start` to `end`.
    pub(super) fn zero_bytes(
        &self,
        ticket: &Ticket<'_>,
        start: u64,
        end: u64,
    ) -> Result<(), Failure> {
        let (first, last) = self.whole_blocks(start, end);
        if end - start < SHORT_RANGE || first >= last {
            return self.write_zero_bytes(ticket, start, end);
        }
        self.write_zero_bytes(ticket, start, first)?;
        let part = self.part(self.found.limits.same, LONGEST_RANGE);
        let zeros = vec![0; self.found.capacity.block as usize];
        let mut at = first;
        while at < last {
            let zeroing = self.zeroing.load(Relaxed);
            if zeroing == Zeroing::Write as u8 {
                self.write_zero_bytes(ticket, at, last)?;
                break;
            }
            let unmap = zeroing == Zeroing::Unmap as u8;
            let part = part.min(last - at);
            let command = Command::write_same(self.blocks(at), self.blocks(part) as u32, unmap);
            let _edges = self.edges.read();
            match self
                .nexus
                .run_for(&ticket.next(), &command, Data::Out(&zeros))
            {
                Ok(_) => at += part,
                // Not every target takes what it offers.
                Err(Failure::Illegal(_)) => self.zeroing.store(zeroing - 1, Relaxed),
                Err(failure) => return Err(failure),
            }
        }
        self.write_zero_bytes(ticket, last, end)
    }

    /// Unmaps the whole blocks from `start` to `end`.
    pub(super) fn unmap_bytes(
        &self,
        ticket: &Ticket<'_>,
        start: u64,
        end: u64,
    ) -> Result<(), Failure> {
        let (mut at, end) = self.whole_blocks(start, end);
        let part = self.part(self.found.limits.unmap.unwrap_or(u32::MAX), LONGEST_RANGE);
        while at < end {
            let part = part.min(end - at);
            // SBC-3, 5.28: a head of 8 bytes, and one descriptor.
            let mut list = [0; 24];
            (list[1], list[3]) = (22, 16);
            list[8..16].copy_from_slice(&self.blocks(at).to_be_bytes());
            list[16..20].copy_from_slice(&(self.blocks(part) as u32).to_be_bytes());
            let _edges = self.edges.read();
            let command = Command::unmap(24);
            self.nexus
                .run_for(&ticket.next(), &command, Data::Out(&list))?;
            at += part;
        }
        Ok(())
    }

    /// The next bytes from `offset` on, which isn't at the end, that blocks of the array's are behind.
    pub(super) fn mapped_bytes(
        &self,
        ticket: &Ticket<'_>,
        offset: u64,
    ) -> Result<Option<Range<u64>>, Failure> {
        let Capacity { size, block, .. } = self.found.capacity;
        let mut at = offset;
        let mut room = [0; STATUS_ROOM];
        while at < size {
            let command = Command::lba_status(self.blocks(at), STATUS_ROOM as u32);
            let (missing, _) = self
                .nexus
                .run_for(&ticket.next(), &command, Data::In(&mut room))?;
            let told = &room[..STATUS_ROOM.saturating_sub(missing)];
            let before = at;
            for (first, blocks, is_mapped) in lba_status(told) {
                let start = first.saturating_mul(block.into());
                let end = start.saturating_add(blocks.saturating_mul(block.into()));
                // Runs follow on each other, the first from where it was asked.
                if start > at || end <= at {
                    break;
                }
                if is_mapped {
                    return Ok(Some(at..end.min(size)));
                }
                at = end;
            }
            if at == before {
                return Ok(Some(at..size));
            }
        }
        Ok(None)
    }

    pub(super) fn flush_cache(&self, ticket: &Ticket<'_>) -> Result<(), Failure> {
        let nexus = &self.nexus;
        if !self.no_long_flush.load(Relaxed) {
            match nexus.run_for(ticket, &Command::flush(), Data::None) {
                Err(Failure::Illegal(_)) => self.no_long_flush.store(true, Relaxed),
                done => return done.map(|_| ()),
            }
        }
        match nexus.run_for(ticket, &Command::flush10(), Data::None) {
            // No command, no cache.
            Ok(_) | Err(Failure::Illegal(_)) => Ok(()),
            Err(failure) => Err(failure),
        }
    }

    pub(super) fn compare_blocks(
        &self,
        ticket: &Ticket<'_>,
        offset: u64,
        expected: &[u8],
        new: &[u8],
    ) -> Result<Comparison, Failure> {
        let blocks = self.blocks(new.len() as u64) as u8;
        let command = Command::compare_and_write(self.blocks(offset), blocks);
        let both = [expected, new].concat();
        let mut found = vec![0; new.len()];
        // Ends at the latest when the ticket's time is over.
        loop {
            match self.nexus.run_for(ticket, &command, Data::Out(&both)) {
                Ok(_) => return Ok(Comparison::Written),
                Err(Failure::Miscompare) => {
                    self.read_blocks(ticket, offset, &mut found)?;
                    return Ok(match Comparison::of(expected, &found) {
                        // By now the bytes are as expected; they were not.
                        Comparison::Written => Comparison::Miscompare { at: 0 },
                        differs @ Comparison::Miscompare { .. } => differs,
                    });
                }
                Err(Failure::Unclear) => {
                    // The command is not under way any more. If the new bytes are there it wrote
                    // them: what hosts compare and write has their name in it. If the expected
                    // ones are there it did nothing, and is sent again.
                    self.read_blocks(ticket, offset, &mut found)?;
                    if found == new {
                        return Ok(Comparison::Written);
                    }
                    let differs = Comparison::of(expected, &found);
                    if differs != Comparison::Written {
                        return Ok(differs);
                    }
                }
                Err(failure) => return Err(failure),
            }
        }
    }

    /// Reads whole blocks.
    fn read_blocks(&self, ticket: &Ticket<'_>, offset: u64, buf: &mut [u8]) -> Result<(), Failure> {
        let part = self.part(self.found.limits.transfer, LONGEST_TRANSFER) as usize;
        let mut block = self.blocks(offset);
        for part in buf.chunks_mut(part) {
            let blocks = self.blocks(part.len() as u64);
            let command = Command::read(block, blocks as u32);
            let (missing, _) = self
                .nexus
                .run_for(&ticket.next(), &command, Data::In(part))?;
            whole(missing)?;
            block += blocks;
        }
        Ok(())
    }

    /// Writes whole blocks.
    fn write_blocks(&self, ticket: &Ticket<'_>, offset: u64, data: &[u8]) -> Result<(), Failure> {
        let part = self.part(self.found.limits.transfer, LONGEST_TRANSFER) as usize;
        let mut block = self.blocks(offset);
        for part in data.chunks(part) {
            let blocks = self.blocks(part.len() as u64);
            let command = Command::write(block, blocks as u32);
            let (missing, _) = self
                .nexus
                .run_for(&ticket.next(), &command, Data::Out(part))?;
            whole(missing)?;
            block += blocks;
        }
        Ok(())
    }

    fn write_zero_bytes(&self, ticket: &Ticket<'_>, start: u64, end: u64) -> Result<(), Failure> {
        let longest = u64::from(LONGEST_TRANSFER);
        let zeros = vec![0; (end - start).min(longest) as usize];
        let mut at = start;
        while at < end {
            let part = (end - at).min(longest);
            self.write_bytes(ticket, at, &zeros[..part as usize])?;
            at += part;
        }
        Ok(())
    }

    /// Blocks in `bytes`, or the block that an offset is in.
    fn blocks(&self, bytes: u64) -> u64 {
        bytes / u64::from(self.found.capacity.block)
    }

    /// Bytes that a command does at once which takes so many `blocks`, and at most `bytes`.
    fn part(&self, blocks: u32, bytes: u32) -> u64 {
        let block = u64::from(self.found.capacity.block);
        (u64::from(blocks) * block).min(bytes.into()).max(block)
    }

    /// The smallest range of whole blocks around `len` bytes at `offset`: its start and length.
    fn widen(&self, offset: u64, len: usize) -> (u64, usize) {
        let block = u64::from(self.found.capacity.block);
        let start = offset - offset % block;
        let end = (offset + len as u64).next_multiple_of(block);
        (start, (end - start) as usize)
    }

    /// Start and end of the whole blocks from `start` to `end`.
    fn whole_blocks(&self, start: u64, end: u64) -> (u64, u64) {
        let block = u64::from(self.found.capacity.block);
        (start.next_multiple_of(block), end - end % block)
    }
}

/// A command that succeeds moves all its bytes.
fn whole(missing: usize) -> Result<(), Failure> {
    if missing == 0 {
        return Ok(());
    }
    let text = format!("the target left out {missing} bytes");
    Err(Failure::Io(io::Error::new(
        io::ErrorKind::UnexpectedEof,
        text,
    )))
}
