//! What hosts agree on that changes rarely: reservations and registrations, and blocks that were
//! moved.
//!
//! A host that changes the record writes a new version of it to a place of its own, and then makes
//! it the one that counts by changing a word, unless another host was faster. So nobody waits for a
//! process that was stopped meanwhile, and what that one does late comes to nothing.

use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering::SeqCst;

use super::memory::{Memory, RECORD_SIZE, SEATS, Word};
use crate::scsi::array::rules::ReservationState;

/// Version, length and checksum before the text.
const HEADER: usize = 20;

/// The record.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct Record {
    pub(super) reservations: ReservationState,
    /// Blocks that aren't in the image, no two of them the same, in the order of their addresses.
    pub(super) moved: Vec<Moved>,
}

/// Blocks whose content is beside the image, because commands may still write to their place in
/// it (or where they were moved to first) that nobody wants any more.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct Moved {
    /// First byte on the LUN.
    pub(super) start: u64,
    /// How many bytes.
    pub(super) length: u64,
    /// Where their content is, in the file that hosts meet in.
    pub(super) at: u64,
    /// The commands that they were moved out of the way of.
    pub(super) revoked: Vec<Revoked>,
}

/// A command that was revoked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct Revoked {
    /// Port whose command it is.
    pub(super) port: u64,
    /// Lane of that port's seat.
    pub(super) lane: usize,
    /// What stands in the lane as long as the command may still do something.
    pub(super) ticket: u64,
    /// First byte on the LUN that the command has to do with.
    pub(super) start: u64,
    /// Where the content of its blocks is kept as it was when they were moved.
    pub(super) saved: u64,
}

impl Moved {
    pub(super) fn end(&self) -> u64 {
        self.start + self.length
    }
}

impl Record {
    /// The command with this ticket, if its blocks were moved.
    pub(super) fn revoked(&self, port: u64, lane: usize, ticket: u64) -> Option<Revoked> {
        let mut all = self.moved.iter().flat_map(|moved| &moved.revoked);
        let sought = (port, lane, ticket);
        let found = all.find(|one| (one.port, one.lane, one.ticket) == sought);
        found.copied()
    }

    /// Notes that this command has ended.
    pub(super) fn forget(&mut self, ended: &Revoked) {
        for moved in &mut self.moved {
            moved.revoked.retain(|one| one != ended);
        }
    }

    /// Puts `new` in the place of what was known of its blocks.
    pub(super) fn supersede(&mut self, mut new: Moved) {
        let (start, end) = (new.start, new.end());
        let mut kept = Vec::with_capacity(self.moved.len() + 2);
        for old in self.moved.drain(..) {
            if old.end() <= start || end <= old.start {
                kept.push(old);
                continue;
            }
            for revoked in &old.revoked {
                if !new.revoked.contains(revoked) {
                    new.revoked.push(*revoked);
                }
            }
            if old.start < start {
                kept.push(Moved {
                    length: start - old.start,
                    ..old.clone()
                });
            }
            if end < old.end() {
                kept.push(Moved {
                    start: end,
                    length: old.end() - end,
                    at: old.at + (end - old.start),
                    ..old
                });
            }
        }
        kept.push(new);
        kept.sort_by_key(|moved| moved.start);
        self.moved = kept;
    }
}

/// A version of the record: its number, and the seat that wrote it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version(pub(super) u64);

impl Version {
    fn number(self) -> u64 {
        self.0 >> 8
    }

    fn seat(self) -> usize {
        (self.0 & 0xff) as usize % SEATS
    }

    fn next(self, seat: usize) -> Self {
        Self((self.number() + 1) << 8 | seat as u64)
    }

    fn place(self) -> u64 {
        Memory::record_place(self.seat(), self.number())
    }
}

/// The version that counts now.
pub(super) fn version(memory: &Memory) -> Version {
    Version(memory.word(Word::Version).load(SeqCst))
}

/// The record, and its version.
pub(super) fn load(memory: &Memory) -> io::Result<(Version, Record)> {
    // Who reads it while it is superseded, and its place used again, begins anew.
    for _ in 0..10_000 {
        let version = version(memory);
        let found = read(memory, version);
        if self::version(memory) == version {
            return match found {
                Ok(record) => Ok((version, record)),
                Err(error) => newest(memory, version).ok_or(error),
            };
        }
    }
    Err(io::ErrorKind::TimedOut.into())
}

/// The newest version that is whole: after a power failure the word may be ahead of what it counts.
fn newest(memory: &Memory, version: Version) -> Option<(Version, Record)> {
    let numbers = (0..SEATS).flat_map(|seat| {
        [0, 1].map(|parity| {
            let mut number = [0; 8];
            let place = Memory::record_place(seat, parity);
            let there = memory.file().read_exact_at(&mut number, place);
            there.map_or(0, |()| u64::from_le_bytes(number))
        })
    });
    let mut numbers: Vec<u64> = numbers.filter(|&number| number < version.0).collect();
    numbers.sort_unstable();
    let mut versions = numbers.into_iter().rev().map(Version);
    let record = versions.find_map(|older| read(memory, older).ok())?;
    tracing::warn!("the newest version of the LUN's reservations is lost; an older one is used");
    Some((version, record))
}

fn read(memory: &Memory, version: Version) -> io::Result<Record> {
    if version.number() == 0 {
        return Ok(Record::default());
    }
    let damaged = |what: &str| {
        let path = memory.path().display();
        io::Error::other(format!(
            "the reservations kept in {path} are damaged: {what}"
        ))
    };
    let mut header = [0; HEADER];
    memory.file().read_exact_at(&mut header, version.place())?;
    let word = |at: usize| {
        let bytes = header[at..at + 8].iter().rev();
        bytes.fold(0_u64, |value, &byte| value << 8 | u64::from(byte))
    };
    let length = word(8);
    if word(0) != version.0 || length > RECORD_SIZE - HEADER as u64 {
        return Err(damaged("another version than the one that counts"));
    }
    let mut text = vec![0; length as usize];
    let place = version.place() + HEADER as u64;
    memory.file().read_exact_at(&mut text, place)?;
    if header[16..] != crc32fast::hash(&text).to_le_bytes() {
        return Err(damaged("wrong checksum"));
    }
    serde_json::from_slice(&text).map_err(|error| damaged(&error.to_string()))
}

/// Makes `record`, which was made of version `before`, the one that counts, as version of `seat`.
/// `false` if another host was faster.
///
/// No two threads of a host may do this at a time, since they have the same place.
pub(super) fn publish(
    memory: &Memory,
    seat: usize,
    before: Version,
    record: &Record,
) -> io::Result<bool> {
    let text = serde_json::to_vec(record).map_err(io::Error::other)?;
    if text.len() as u64 > RECORD_SIZE - HEADER as u64 {
        return Err(io::Error::other("there is no room for more reservations"));
    }
    let after = before.next(seat);
    let mut bytes = Vec::with_capacity(HEADER + text.len());
    bytes.extend(after.0.to_le_bytes());
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(crc32fast::hash(&text).to_le_bytes());
    bytes.extend(text);
    memory.file().write_all_at(&bytes, after.place())?;
    let word = memory.word(Word::Version);
    Ok(word
        .compare_exchange(before.0, after.0, SeqCst, SeqCst)
        .is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moved(start: u64, length: u64, at: u64, port: u64) -> Moved {
        let revoked = Revoked {
            port,
            lane: 0,
            ticket: 0,
            start,
            saved: 0,
        };
        Moved {
            start,
            length,
            at,
            revoked: vec![revoked],
        }
    }

    #[test]
    fn newer_moves_cut_older_ones_and_wait_for_both_commands() {
        let mut record = Record::default();
        record.supersede(moved(100, 100, 1000, 1));
        record.supersede(moved(120, 10, 2000, 2));
        let places: Vec<_> = record
            .moved
            .iter()
            .map(|moved| (moved.start, moved.length, moved.at, moved.revoked.len()))
            .collect();
        assert_eq!(
            places,
            [(100, 20, 1000, 1), (120, 10, 2000, 2), (130, 70, 1030, 1)]
        );
        record.supersede(moved(0, 1000, 3000, 3));
        assert_eq!(record.moved.len(), 1);
        assert_eq!(record.moved[0].revoked.len(), 3);
    }

    #[test]
    fn a_seat_never_writes_over_its_own_version_that_counts() {
        let first = Version(0).next(5);
        let second = first.next(5);
        assert_ne!(first.place(), second.place());
        assert!(second > first && second.next(0) > second);
        assert_eq!((second.seat(), second.number()), (5, 2));
    }
}
