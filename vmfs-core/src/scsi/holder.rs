use std::thread::{self, ThreadId};

use parking_lot::Mutex;

/// Which thread of a host has reserved the LUN: its commands, and no other thread's, must not be
/// carried out as if nothing were when the reservation is lost.
#[derive(Debug, Default)]
pub(super) struct Holder(Mutex<Option<ThreadId>>);

impl Holder {
    /// It is this thread.
    pub(super) fn set(&self) {
        *self.0.lock() = Some(thread::current().id());
    }

    /// Whether it is this thread.
    pub(super) fn is_this_thread(&self) -> bool {
        *self.0.lock() == Some(thread::current().id())
    }
}
