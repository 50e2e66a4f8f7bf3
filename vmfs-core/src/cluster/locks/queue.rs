use std::time::Duration;

use crate::cluster::Host;
use crate::lvm::VolumeOffset;

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
