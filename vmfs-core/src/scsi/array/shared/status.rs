//! What an administrator sees of a shared LUN.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::Ordering::SeqCst;

use super::memory::Word;
use super::{Fault, SharedLun, port, record};
use crate::scsi::counters::Snapshot;
use crate::scsi::persistent::Reservations;

/// What an array tells of a LUN beyond its blocks.
#[derive(Debug, Clone, serde::Serialize)]
pub struct SharedStatus {
    /// The file in which the hosts meet.
    pub file: PathBuf,
    /// The host that has the LUN by RESERVE(6).
    pub reserved_by: Option<HostStatus>,
    /// Registrations and the persistent reservation.
    pub reservations: Reservations,
    /// Hosts that have the LUN open, other than who asks.
    pub hosts: Vec<HostStatus>,
    /// Commands of all hosts since the file was made, but for who asks. What a host did in the
    /// last tenth of a second may be missing.
    pub counters: Snapshot,
    /// Bytes that lie beside the image because a stopped process may still write to their place.
    pub moved_bytes: u64,
}

/// A host that has a LUN open.
#[derive(Debug, Clone, serde::Serialize)]
pub struct HostStatus {
    /// Its initiator name.
    pub initiator: String,
    /// Its process.
    pub process: u64,
    /// When it opened the LUN, in seconds since 1970.
    pub opened: u64,
    /// Its commands.
    pub counters: Snapshot,
}

impl SharedLun {
    /// What there is to tell.
    pub(in crate::scsi) fn status(&self) -> Result<SharedStatus, Fault> {
        let (_, record) = record::load(&self.memory)?;
        let reserved = self.memory.word(Word::Reserved).load(SeqCst);
        let own = self.seat.as_ref().map(|seat| seat.index);
        let mut hosts = Vec::new();
        let mut reserved_by = None;
        let mut counters = self.counters_at(Word::Retired);
        for seat in 0..self.seats() {
            let counted = self.counters_at(|index| Word::SeatCounter(seat, index));
            if Some(seat) != own {
                counters += counted;
            }
            let Some(initiator) = self.name_if_alive(seat)? else {
                continue;
            };
            let word = |word| self.memory.word(word).load(SeqCst);
            let host = HostStatus {
                initiator,
                process: word(Word::SeatProcess(seat)),
                opened: word(Word::SeatTime(seat)),
                counters: counted,
            };
            if port(word(Word::SeatIncarnation(seat)), seat) == reserved {
                reserved_by = Some(host.clone());
            }
            if Some(seat) != own {
                hosts.push(host);
            }
        }
        Ok(SharedStatus {
            file: self.memory.path().to_owned(),
            reserved_by,
            reservations: record.reservations.persistent_status(),
            hosts,
            counters,
            moved_bytes: record.moved.iter().map(|moved| moved.length).sum(),
        })
    }

    /// The name of who has a seat; `None` if nobody does.
    pub(super) fn name_if_alive(&self, seat: usize) -> io::Result<Option<String>> {
        let incarnation = self.memory.word(Word::SeatIncarnation(seat)).load(SeqCst);
        if incarnation == 0 || !self.is_alive(port(incarnation, seat))? {
            return Ok(None);
        }
        self.memory.name_of(seat).map(Some)
    }

    fn counters_at(&self, word: impl Fn(usize) -> Word) -> Snapshot {
        let words = std::array::from_fn(|index| self.memory.word(word(index)).load(SeqCst));
        Snapshot::from_words(&words)
    }
}
