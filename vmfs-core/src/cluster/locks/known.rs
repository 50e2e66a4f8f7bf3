//! What is known of locks that this host hasn't.

use std::time::Duration;

use super::queue::Queue;
use super::{LockError, LockTable, REMEMBERED};
use crate::cluster::{disk, sector};
use crate::lvm::VolumeOffset;

/// Is told of a place whose lock other hosts have held since this one last did.
pub(super) struct Listener(pub(super) Box<dyn Fn(VolumeOffset) + Send + Sync>);

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Listener")
    }
}

/// How a lock is at a moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version(Vec<u8>);

impl LockTable {
    /// How the lock is now, to be compared with how it is later: what it protects didn't change in
    /// between if it is the same. Waits while another host is changing it.
    pub fn version(&self, place: VolumeOffset, patience: Duration) -> Result<Version, LockError> {
        let mut queue = Queue::default();
        let mut wait = None;
        loop {
            let start = self.host.clock.uptime();
            let block = sector::read(&self.volume, place)?;
            let state = disk::look(&self.volume, &self.layout, place, &block, &self.membership)?;
            match state.changing {
                None => {
                    self.compare(place, &block, state.is_settled);
                    return Ok(Version(block));
                }
                Some(by) => {
                    if self.watch.is_dead(&by) {
                        let host = Box::new(by);
                        return Err(LockError::Dead { place, host });
                    }
                    let now = self.host.clock.uptime();
                    if queue.waits_for(&by, now) >= patience {
                        let (by, is_open) = (Box::new(by), false);
                        return Err(LockError::Held { place, by, is_open });
                    }
                    self.pause(&mut wait, now.saturating_sub(start));
                }
            }
        }
    }

    /// Forgets what was known of a lock: its next user looks again.
    pub fn forget(&self) {
        self.known.lock().clear();
    }

    /// Compares a lock with what is known of it and tells the listener if it changed. If
    /// `is_settled`, what is read from now on belongs to this state.
    pub(super) fn compare(&self, place: VolumeOffset, block: &[u8], is_settled: bool) {
        let same = self.known.lock().get(&place).map(Vec::as_slice) == Some(block);
        if same {
            return;
        }
        if let Some(listener) = self.listener.get() {
            (listener.0)(place);
        }
        if is_settled {
            self.remember(place, block);
        } else {
            self.known.lock().remove(&place);
        }
    }

    pub(super) fn remember(&self, place: VolumeOffset, block: &[u8]) {
        let mut known = self.known.lock();
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known.insert(place, block.to_vec());
    }
}
