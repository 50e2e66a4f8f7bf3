use std::time::Duration;

use super::OpenMode;
use crate::cluster::disk::Wish;

/// What this host does with a lock.
#[derive(Debug, Default)]
pub(super) struct Entry {
    /// Calls that have it for themselves, against other hosts.
    pub(super) users: u32,
    /// Those of them that keep it for long.
    pub(super) kept: u32,
    pub(super) open: Option<OpenMode>,
    /// What this host has written there, while it holds the lock.
    pub(super) on_disk: Option<Vec<u8>>,
    pub(super) mode: Option<Wish>,
    /// Taking it or giving it back failed, and nobody knows whether it came to the LUN: others may have
    /// it, or believe that this host has.
    pub(super) unsure: bool,
    /// What was to be there when taking it failed.
    pub(super) tried: Option<Vec<u8>>,
    /// A thread is changing it on disk.
    pub(super) busy: bool,
    /// Uptime when the first of `users` came.
    pub(super) since: Duration,
}

impl Entry {
    /// Whether this host surely holds the lock alone.
    pub(super) fn is_exclusive(&self) -> bool {
        !self.unsure && matches!(self.mode, Some(Wish::Alone | Wish::Write))
    }

    /// Whether what the lock protects has surely not been changed by others.
    pub(super) fn is_mine(&self) -> bool {
        !self.unsure && self.on_disk.is_some()
    }

    /// The lock is on disk as `block` says.
    pub(super) fn has(&mut self, block: Vec<u8>, mode: Wish) {
        self.on_disk = Some(block);
        self.mode = Some(mode);
        self.unsure = false;
        self.tried = None;
    }

    /// Taking the lock failed; if `tried` was on its way then, it may be there.
    pub(super) fn has_failed(&mut self, tried: Option<Vec<u8>>) {
        if tried.is_some() {
            self.unsure = true;
            self.tried = tried;
        }
    }
}
