use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::Host;
use crate::lvm::VolumeOffset;
use crate::scsi::Clock;
use crate::sync::Mutex;

/// What this host knows of the others' heartbeats: since when each stands still.
#[derive(Debug)]
pub struct Watch {
    clock: Arc<dyn Clock>,
    lease: Duration,
    seen: Mutex<HashMap<VolumeOffset, Seen>>,
}

#[derive(Debug)]
struct Seen {
    generation: u64,
    stamp: u64,
    taken_by: (u64, u64),
    since: Duration,
    moved: bool,
}

/// What is known of a heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    /// For how long it has stood still at least.
    pub still: Duration,
    /// Whether it has moved since it was seen first: then its host lived at that time.
    pub moved: bool,
}

impl Watch {
    /// Nothing is known yet. A heartbeat that stands still for `lease` is that of a dead host.
    pub fn new(clock: Arc<dyn Clock>, lease: Duration) -> Self {
        Self {
            clock,
            lease,
            seen: Mutex::default(),
        }
    }

    /// Takes in a heartbeat that was just read.
    pub fn look(&self, host: &Host) -> Look {
        let now = self.clock.uptime();
        let mut seen = self.seen.lock();
        let known = seen.entry(host.offset).or_insert_with(|| Seen {
            generation: host.generation,
            stamp: host.stamp_us,
            taken_by: host.taken_by,
            since: now,
            moved: false,
        });
        let found = (host.generation, host.stamp_us, host.taken_by);
        if (known.generation, known.stamp, known.taken_by) != found {
            (known.generation, known.stamp, known.taken_by) = found;
            known.since = now;
            known.moved = true;
        }
        Look {
            still: now.saturating_sub(known.since),
            moved: known.moved,
        }
    }

    /// How long a heartbeat has to stand still before its host counts as dead. A host stops
    /// writing after three quarters of its lease; the rest covers the time between two looks and
    /// clocks that don't run alike.
    pub fn patience(&self) -> Duration {
        self.lease * 13 / 16
    }

    /// Takes in a heartbeat that was just read; whether its host is dead.
    pub fn is_dead(&self, host: &Host) -> bool {
        self.look(host).still >= self.patience()
    }
}
