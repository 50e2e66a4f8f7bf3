use std::fmt;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

/// Where a host takes its time from, so that a simulator can give it another.
pub trait Clock: Send + Sync + fmt::Debug {
    /// Time since 1970, for what users see.
    fn now(&self) -> Duration;

    /// Time that never goes backwards, for leases.
    fn uptime(&self) -> Duration;

    /// Waits.
    fn sleep(&self, time: Duration);
}

/// The machine's clock. Its uptime goes on while the machine is suspended, as leases do.
#[derive(Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Duration {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
    }

    fn uptime(&self) -> Duration {
        let time = clock_gettime(ClockId::Boottime);
        let whole = Duration::from_secs(u64::try_from(time.tv_sec).unwrap_or_default());
        whole + Duration::from_nanos(u64::try_from(time.tv_nsec).unwrap_or_default())
    }

    fn sleep(&self, time: Duration) {
        thread::sleep(time);
    }
}
