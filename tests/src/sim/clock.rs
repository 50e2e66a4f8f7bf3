//! A host's clock: as fast as its crystal, still while its machine is, and wrong about the date.

use std::sync::Arc;
use std::time::Duration;

use vmfs_core::scsi::Clock;

use super::scheduler::{Baton, HostId};

/// The clock of one mount.
#[derive(Debug)]
pub struct HostClock {
    pub baton: Arc<Baton>,
    pub host: HostId,
    /// How fast it runs, in millionths.
    pub rate: u32,
    /// What it showed at the start of the run.
    pub boot: Duration,
    /// What the date was then; it jumps by up to a day every ten seconds.
    pub date: Duration,
}

const MILLION: u32 = 1_000_000;

impl Clock for HostClock {
    fn now(&self) -> Duration {
        let uptime = self.uptime();
        let jump = (uptime.as_secs() / 10).wrapping_mul(0x9e37_79b9) % 86_400;
        self.date + uptime + Duration::from_secs(jump)
    }

    fn uptime(&self) -> Duration {
        let world = self.baton.world();
        let passed = world.turns.now - world.turns.missed(self.host);
        self.boot + passed / MILLION * self.rate
    }

    fn sleep(&self, time: Duration) {
        let time = time.max(Duration::from_micros(1));
        self.baton.sleep(time / self.rate * MILLION);
    }
}
