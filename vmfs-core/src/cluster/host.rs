use std::fmt;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::format::Uuid;

/// Where a host takes its time from, so that a simulator can give it another.
pub trait Clock: Send + Sync + fmt::Debug {
    /// Time since 1970, for what users see.
    fn now(&self) -> Duration;

    /// Time that never goes backwards, for leases.
    fn uptime(&self) -> Duration;

    /// Waits.
    fn sleep(&self, time: Duration);
}

/// The machine's clock.
#[derive(Debug)]
pub struct SystemClock {
    start: Instant,
}

impl Default for SystemClock {
    fn default() -> Self {
        Self {
            start: Instant::now(),
        }
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Duration {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
    }

    fn uptime(&self) -> Duration {
        self.start.elapsed()
    }

    fn sleep(&self, time: Duration) {
        thread::sleep(time);
    }
}

/// A host that mounts a volume for writing: a value, so that several can live in one process.
#[derive(Debug, Clone)]
pub struct HostConfig {
    /// Tells this mount apart from every other one, of this host or another.
    pub uuid: Uuid,
    /// What others see as the host's name; at most 45 bytes are kept.
    pub name: String,
    /// The host's clock.
    pub clock: Arc<dyn Clock>,
    /// Time between two heartbeats.
    pub heartbeat: Duration,
    /// Time after which a heartbeat that stood still is that of a dead host.
    pub lease: Duration,
    /// Time after which a change is durable without anyone asking.
    pub commit: Duration,
    /// Bytes of its journal, if the block for it isn't smaller.
    pub journal: u64,
}

impl HostConfig {
    /// A host with the usual intervals: a heartbeat every 3 s, a lease of 16 s, a commit every 5 s,
    /// a journal of 2 MiB.
    pub fn new(uuid: Uuid, name: &str) -> Self {
        Self {
            uuid,
            name: name.to_owned(),
            clock: Arc::new(SystemClock::default()),
            heartbeat: Duration::from_secs(3),
            lease: Duration::from_secs(16),
            commit: Duration::from_secs(5),
            journal: 2 << 20,
        }
    }
}
