//! Which files have writes that nobody has waited for, so that a failure to make them durable
//! reaches the next who does.

use dashmap::DashMap;

use crate::format::FdAddr;

/// Files that were written to and not made durable since, as long as somebody has them open.
#[derive(Debug, Default)]
pub(super) struct Unsynced(DashMap<FdAddr, Noted>);

/// What is known of a file's writes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Noted {
    /// Flushes of the LUN that had failed before the first of them.
    pub(super) failures: u64,
    writes: u64,
}

impl Unsynced {
    /// Notes that a file is going to be written to, after so many flushes that failed.
    pub(super) fn note(&self, file: FdAddr, failures: u64) {
        let noted = Noted {
            failures,
            writes: 0,
        };
        self.0.entry(file).or_insert(noted).writes += 1;
    }

    /// What was noted of a file; for [`Unsynced::told`].
    pub(super) fn noted(&self, file: FdAddr) -> Option<Noted> {
        self.0.get(&file).map(|noted| *noted)
    }

    /// Somebody was told what became of the writes that `noted` speaks of, and of flushes that had
    /// failed up to number `failures`. Later writes are left for the next.
    pub(super) fn told(&self, file: FdAddr, noted: Noted, failures: u64) {
        self.0.remove_if_mut(&file, |_, now| {
            now.failures = failures;
            now.writes == noted.writes
        });
    }

    /// Nobody has the file open any more.
    pub(super) fn forget(&self, file: FdAddr) {
        self.0.remove(&file);
    }
}
