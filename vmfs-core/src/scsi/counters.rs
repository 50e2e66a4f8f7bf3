use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

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
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Snapshot {
    /// READ commands.
    pub reads: OpSnapshot,
    /// WRITE commands.
    pub writes: OpSnapshot,
    /// WRITE SAME commands with zeros.
    pub zeroings: OpSnapshot,
    /// SYNCHRONIZE CACHE commands.
    pub flushes: OpSnapshot,
}

impl Counters {
    /// The counters now.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            reads: self.reads.snapshot(),
            writes: self.writes.snapshot(),
            zeroings: self.zeroings.snapshot(),
            flushes: self.flushes.snapshot(),
        }
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
        self.nanos
            .fetch_add(start.elapsed().as_nanos() as u64, Relaxed);
        self.commands.fetch_add(1, Relaxed);
        match &result {
            Ok(_) => self.bytes.fetch_add(bytes as u64, Relaxed),
            Err(_) => self.errors.fetch_add(1, Relaxed),
        };
        result
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
