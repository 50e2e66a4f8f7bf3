use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use super::waiter::{has_waiter, wait_for, wait_for_some_time};

pub use parking_lot::{RwLockReadGuard, RwLockWriteGuard};

/// What threads share for reading, or one has for writing. One that waits for writing goes before
/// those that come later for reading.
#[derive(Debug, Default)]
pub struct RwLock<T> {
    inner: parking_lot::RwLock<T>,
    /// Threads with a waiter that wait for writing.
    pub(super) writers: AtomicUsize,
}

impl<T> RwLock<T> {
    /// A lock that nobody has.
    pub const fn new(value: T) -> Self {
        Self {
            inner: parking_lot::RwLock::new(value),
            writers: AtomicUsize::new(0),
        }
    }

    /// Waits until no other thread writes, or waits for that.
    pub fn read(&self) -> RwLockReadGuard<'_, T> {
        let attempt = || {
            let writer = has_waiter() && self.writers.load(SeqCst) > 0;
            (!writer).then(|| self.inner.try_read()).flatten()
        };
        attempt().unwrap_or_else(|| wait_for(attempt).unwrap_or_else(|| self.inner.read()))
    }

    /// Waits until no other thread writes; for a thread that may be reading already.
    pub fn read_recursive(&self) -> RwLockReadGuard<'_, T> {
        self.inner.try_read_recursive().unwrap_or_else(|| {
            wait_for(|| self.inner.try_read_recursive())
                .unwrap_or_else(|| self.inner.read_recursive())
        })
    }

    /// Waits until no other thread reads or writes.
    pub fn write(&self) -> RwLockWriteGuard<'_, T> {
        self.inner.try_write().unwrap_or_else(|| {
            let _waits = Waits::for_writing(&self.writers);
            wait_for(|| self.inner.try_write()).unwrap_or_else(|| self.inner.write())
        })
    }

    /// For writing, if no other thread reads or writes.
    pub fn try_write(&self) -> Option<RwLockWriteGuard<'_, T>> {
        self.inner.try_write()
    }

    /// Waits until no other thread reads or writes, for `time` at most.
    pub fn try_write_for(&self, time: Duration) -> Option<RwLockWriteGuard<'_, T>> {
        self.inner.try_write().or_else(|| {
            let _waits = Waits::for_writing(&self.writers);
            wait_for_some_time(time, || self.inner.try_write())
                .unwrap_or_else(|_| self.inner.try_write_for(time))
        })
    }
}

/// A thread that waits for writing.
struct Waits<'a>(&'a AtomicUsize);

impl<'a> Waits<'a> {
    fn for_writing(writers: &'a AtomicUsize) -> Self {
        writers.fetch_add(1, SeqCst);
        Self(writers)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}
