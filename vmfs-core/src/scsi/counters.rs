use std::ops::AddAssign;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Commands that a LUN has answered, by operation.
#[derive(Debug, Default)]
pub struct Counters {
    /// READ commands.
    pub reads: OpCounter,
    /// WRITE commands.
    pub writes: OpCounter,
    /// WRITE SAME commands with zeros.
    pub zeroings: OpCounter,
    /// SYNCHRONIZE CACHE commands.
    pub flushes: OpCounter,
    /// COMPARE AND WRITE commands, those that miscompared included.
    pub compare_and_writes: OpCounter,
    /// UNMAP commands.
    pub unmaps: OpCounter,
    /// RESERVE(6) commands.
    pub reserves: OpCounter,
    /// RELEASE(6) commands.
    pub releases: OpCounter,
    /// PERSISTENT RESERVE IN commands.
    pub persistent_ins: OpCounter,
    /// PERSISTENT RESERVE OUT commands.
    pub persistent_outs: OpCounter,
    /// LUN resets.
    pub resets: OpCounter,
    miscompares: AtomicU64,
    conflicts: AtomicU64,
}

/// One operation's counters.
#[derive(Debug, Default)]
pub struct OpCounter {
    commands: AtomicU64,
    errors: AtomicU64,
    bytes: AtomicU64,
    nanos: AtomicU64,
}

/// One operation's counters at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct OpSnapshot {
    /// Commands, failed ones included.
    pub commands: u64,
    /// Failed commands.
    pub errors: u64,
    /// Bytes moved by those that succeeded.
    pub bytes: u64,
    /// Time spent in all of them, in nanoseconds.
    pub nanos: u64,
}

/// All counters at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct Snapshot {
    /// READ commands.
    pub reads: OpSnapshot,
    /// WRITE commands.
    pub writes: OpSnapshot,
    /// WRITE SAME commands with zeros.
    pub zeroings: OpSnapshot,
    /// SYNCHRONIZE CACHE commands.
    pub flushes: OpSnapshot,
    /// COMPARE AND WRITE commands, those that miscompared included.
    pub compare_and_writes: OpSnapshot,
    /// UNMAP commands.
    pub unmaps: OpSnapshot,
    /// RESERVE(6) commands.
    pub reserves: OpSnapshot,
    /// RELEASE(6) commands.
    pub releases: OpSnapshot,
    /// PERSISTENT RESERVE IN commands.
    pub persistent_ins: OpSnapshot,
    /// PERSISTENT RESERVE OUT commands.
    pub persistent_outs: OpSnapshot,
    /// LUN resets.
    pub resets: OpSnapshot,
    /// COMPARE AND WRITE commands that found other bytes than they expected.
    pub miscompares: u64,
    /// Commands of any kind that ended with RESERVATION CONFLICT; each is an error of its own
    /// kind too.
    pub conflicts: u64,
}

impl Counters {
    /// The counters now.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            reads: self.reads.snapshot(),
            writes: self.writes.snapshot(),
            zeroings: self.zeroings.snapshot(),
            flushes: self.flushes.snapshot(),
            compare_and_writes: self.compare_and_writes.snapshot(),
            unmaps: self.unmaps.snapshot(),
            reserves: self.reserves.snapshot(),
            releases: self.releases.snapshot(),
            persistent_ins: self.persistent_ins.snapshot(),
            persistent_outs: self.persistent_outs.snapshot(),
            resets: self.resets.snapshot(),
            miscompares: self.miscompares.load(Relaxed),
            conflicts: self.conflicts.load(Relaxed),
        }
    }

    /// Counts a COMPARE AND WRITE that found other bytes.
    pub(super) fn count_miscompare(&self) {
        self.miscompares.fetch_add(1, Relaxed);
    }

    /// Counts a RESERVATION CONFLICT.
    pub(super) fn count_conflict(&self) {
        self.conflicts.fetch_add(1, Relaxed);
    }
}

impl OpCounter {
    /// Runs one command of `bytes` bytes and counts it.
    pub(super) fn count<T, E>(
        &self,
        bytes: usize,
        command: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, E> {
        let start = Instant::now();
        let result = command();
        self.add(bytes, start.elapsed(), result.is_ok());
        result
    }

    /// Counts one command of `bytes` bytes that took `time`.
    pub(super) fn add(&self, bytes: usize, time: Duration, succeeded: bool) {
        self.nanos.fetch_add(time.as_nanos() as u64, Relaxed);
        self.commands.fetch_add(1, Relaxed);
        if succeeded {
            self.bytes.fetch_add(bytes as u64, Relaxed);
        } else {
            self.errors.fetch_add(1, Relaxed);
        }
    }

    fn snapshot(&self) -> OpSnapshot {
        OpSnapshot {
            commands: self.commands.load(Relaxed),
            errors: self.errors.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
            nanos: self.nanos.load(Relaxed),
        }
    }
}

impl Snapshot {
    /// Each command's name and numbers.
    pub fn by_name(&self) -> [(&'static str, OpSnapshot); 11] {
        [
            ("READ", self.reads),
            ("WRITE", self.writes),
            ("WRITE SAME", self.zeroings),
            ("SYNCHRONIZE CACHE", self.flushes),
            ("COMPARE AND WRITE", self.compare_and_writes),
            ("UNMAP", self.unmaps),
            ("RESERVE", self.reserves),
            ("RELEASE", self.releases),
            ("PERSISTENT RESERVE IN", self.persistent_ins),
            ("PERSISTENT RESERVE OUT", self.persistent_outs),
            ("LOGICAL UNIT RESET", self.resets),
        ]
    }

    /// Numbers in [`Snapshot::to_words`].
    pub(super) const WORDS: usize = 4 * 11 + 2;

    /// All counters, one after the other; their order is kept in files.
    pub(super) fn to_words(self) -> [u64; Self::WORDS] {
        let mut words = [0; Self::WORDS];
        let mut ops = self;
        let (ops, rest) = ops.ops_mut();
        let numbers = ops
            .into_iter()
            .flat_map(|op| [op.commands, op.errors, op.bytes, op.nanos])
            .chain(rest.map(|number| *number));
        for (word, number) in words.iter_mut().zip(numbers) {
            *word = number;
        }
        words
    }

    /// What [`Snapshot::to_words`] made the words of.
    pub(super) fn from_words(words: &[u64; Self::WORDS]) -> Self {
        let mut snapshot = Self::default();
        let (ops, rest) = snapshot.ops_mut();
        let numbers = ops
            .into_iter()
            .flat_map(|op| {
                [
                    &mut op.commands,
                    &mut op.errors,
                    &mut op.bytes,
                    &mut op.nanos,
                ]
            })
            .chain(rest);
        for (number, &word) in numbers.zip(words) {
            *number = word;
        }
        snapshot
    }

    fn ops_mut(&mut self) -> ([&mut OpSnapshot; 11], [&mut u64; 2]) {
        let ops = [
            &mut self.reads,
            &mut self.writes,
            &mut self.zeroings,
            &mut self.flushes,
            &mut self.compare_and_writes,
            &mut self.unmaps,
            &mut self.reserves,
            &mut self.releases,
            &mut self.persistent_ins,
            &mut self.persistent_outs,
            &mut self.resets,
        ];
        (ops, [&mut self.miscompares, &mut self.conflicts])
    }
}

impl AddAssign for Snapshot {
    fn add_assign(&mut self, other: Self) {
        let mut words = self.to_words();
        for (word, more) in words.iter_mut().zip(other.to_words()) {
            *word = word.wrapping_add(more);
        }
        *self = Self::from_words(&words);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_counter_has_a_word_of_its_own() {
        let words = std::array::from_fn(|i| i as u64 + 1);
        let mut snapshot = Snapshot::from_words(&words);
        assert_eq!(snapshot.to_words(), words);
        assert_eq!(snapshot.reads.commands, 1);
        assert_eq!(snapshot.conflicts, Snapshot::WORDS as u64);
        snapshot += snapshot;
        assert_eq!(snapshot.to_words(), words.map(|word| 2 * word));
    }
}
