use std::time::Duration;

use super::{FIRST_WAIT, LONGEST_WAIT, LockTable};
use crate::cluster::Host;
use crate::lvm::VolumeOffset;
use crate::scsi::jitter;

/// Waiting for a lock that others have: as long as it goes from one to the next nobody keeps it, and
/// it is a matter of patience.
#[derive(Default)]
pub(super) struct Queue {
    /// The holder's slot, its generation, and since when it has been seen to have the lock.
    holder: Option<(VolumeOffset, u64, Duration)>,
}

impl Queue {
    /// For how long the lock has been `by`'s without a break, as far as this host has seen.
    pub(super) fn waits_for(&mut self, by: &Host, now: Duration) -> Duration {
        match self.holder {
            Some((offset, generation, since))
                if (offset, generation) == (by.offset, by.generation) =>
            {
                now.saturating_sub(since)
            }
            _ => {
                self.holder = Some((by.offset, by.generation, now));
                Duration::ZERO
            }
        }
    }
}

impl LockTable {
    /// Waits after a look that took `looked` and found the lock another host's, longer each time: the looks of
    /// many hosts are to leave the LUN time for the one that they wait for. `wait` is for the next time.
    pub(super) fn pause(&self, wait: &mut Option<Duration>, looked: Duration) {
        let (now, longest) = {
            let mut looks = self.looks.lock();
            looks.add(looked);
            let longest = looks.longest_wait(LONGEST_WAIT, self.host.lease / 64);
            (
                wait.unwrap_or_else(|| looks.first_wait(FIRST_WAIT)),
                longest,
            )
        };
        self.host.clock.sleep(jitter(now, &self.random));
        *wait = Some((now * 3 / 2).min(longest));
    }
}
