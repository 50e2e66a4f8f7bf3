use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use super::MutexGuard;
use super::waiter::{has_waiter, wait_for};

/// Where threads wait for a change of what a mutex has.
#[derive(Debug, Default)]
pub struct Condvar {
    inner: parking_lot::Condvar,
    /// Counts the calls of [`Condvar::notify_all`].
    changes: AtomicU64,
}

impl Condvar {
    /// Nobody waits.
    pub const fn new() -> Self {
        Self {
            inner: parking_lot::Condvar::new(),
            changes: AtomicU64::new(0),
        }
    }

    /// Gives the mutex up until [`Condvar::notify_all`] is called, or for no reason.
    pub fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        if !has_waiter() {
            return self.inner.wait(guard);
        }
        let before = self.changes.load(SeqCst);
        let mutex = MutexGuard::mutex(guard);
        MutexGuard::unlocked(guard, || {
            wait_for(|| (self.changes.load(SeqCst) != before && !mutex.is_locked()).then_some(()))
        });
    }

    /// Wakes all who wait.
    pub fn notify_all(&self) {
        self.changes.fetch_add(1, SeqCst);
        self.inner.notify_all();
    }
}
