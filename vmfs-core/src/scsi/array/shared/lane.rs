//! One word for each command that runs: what it does, and where.

use std::ops::Range;

/// Bytes that are locked together. Commands on the same ones come one after the other, unless
/// they only read.
pub(super) const GRANULE: u64 = 4096;
/// Most bytes of one command; longer ones are several.
pub(super) const MAX_COMMAND: u64 = 16 << 20;
/// Largest LUN that addresses in words are enough for.
pub(super) const MAX_CAPACITY: u64 = GRANULE << START_BITS;

const LENGTH_AT: u32 = 5;
const LENGTH_BITS: u32 = 13;
const START_AT: u32 = LENGTH_AT + LENGTH_BITS;
const START_BITS: u32 = 35;
const COUNT_AT: u32 = START_AT + START_BITS;

const WRITES: u64 = 1 << 3;
const URGENT: u64 = 1 << 4;

const _: () = assert!(MAX_COMMAND / GRANULE + 1 < 1 << LENGTH_BITS && COUNT_AT < 64);

/// Where a command is on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// There is none.
    Idle,
    /// It wants to run, and has done nothing yet.
    Announced,
    /// It may be reading or writing its blocks.
    Running,
    /// It ran too long, and its blocks are being moved out of its way.
    Revoking,
    /// It may still read or write, but nobody cares: if it wrote, its blocks are elsewhere.
    Revoked,
}

/// What stands in a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ticket(pub(super) u64);

impl Ticket {
    /// The ticket of a command on `bytes` that follows this one.
    pub(super) fn next(self, bytes: &Range<u64>, writes: bool) -> Self {
        let start = bytes.start / GRANULE;
        let length = bytes.end.div_ceil(GRANULE) - start;
        let count = (self.0 >> COUNT_AT).wrapping_add(1);
        let kind = if writes { WRITES } else { 0 };
        Self(count << COUNT_AT | start << START_AT | length << LENGTH_AT | kind)
            .with(Phase::Announced)
    }

    pub(super) fn phase(self) -> Phase {
        match self.0 & 7 {
            1 => Phase::Announced,
            2 => Phase::Running,
            3 => Phase::Revoking,
            4 => Phase::Revoked,
            _ => Phase::Idle,
        }
    }

    /// The same command in another phase.
    pub(super) fn with(self, phase: Phase) -> Self {
        let number = match phase {
            Phase::Idle => 0,
            Phase::Announced => 1,
            Phase::Running => 2,
            Phase::Revoking => 3,
            Phase::Revoked => 4,
        };
        Self(self.0 & !7 | number)
    }

    pub(super) fn writes(self) -> bool {
        self.0 & WRITES != 0
    }

    /// Whether it has waited so long that others let it go first.
    pub(super) fn is_urgent(self) -> bool {
        self.0 & URGENT != 0
    }

    pub(super) fn urgent(self) -> Self {
        Self(self.0 | URGENT)
    }

    /// The bytes that it keeps others from, in whole granules.
    pub(super) fn bytes(self) -> Range<u64> {
        let start = self.0 >> START_AT & ((1 << START_BITS) - 1);
        let length = self.0 >> LENGTH_AT & ((1 << LENGTH_BITS) - 1);
        start * GRANULE..(start + length) * GRANULE
    }

    /// Whether the two commands may not run at the same time, as far as their blocks go.
    pub(super) fn clashes(self, other: Self) -> bool {
        let (a, b) = (self.bytes(), other.bytes());
        (self.writes() || other.writes()) && a.start < b.end && b.start < a.end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_holds_the_largest_command() {
        let end = MAX_CAPACITY - 1;
        let ticket = Ticket(u64::MAX).next(&(end - MAX_COMMAND..end), true);
        assert_eq!(
            ticket.bytes(),
            MAX_CAPACITY - MAX_COMMAND - GRANULE..MAX_CAPACITY
        );
        assert!(ticket.writes() && !ticket.is_urgent() && ticket.urgent().is_urgent());
        for phase in [Phase::Idle, Phase::Running, Phase::Revoking, Phase::Revoked] {
            assert_eq!(ticket.with(phase).phase(), phase);
            assert_eq!(ticket.with(phase).bytes(), ticket.bytes());
        }
        assert_ne!(ticket.next(&(end - MAX_COMMAND..end), true), ticket);
    }

    #[test]
    fn readers_clash_with_writers_of_the_same_granule_only() {
        let ticket = |bytes, writes| Ticket(0).next(&bytes, writes);
        let read = ticket(0..512, false);
        assert!(!read.clashes(ticket(0..512, false)));
        assert!(read.clashes(ticket(4095..4096, true)));
        assert!(!read.clashes(ticket(4096..8192, true)));
        assert!(ticket(4000..5000, true).clashes(ticket(4999..5000, true)));
    }
}
