//! When a host takes another one that has the LUN reserved for stopped.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use vmfs_core::scsi::{
    Clock, DeviceOffset, Lun, LunError, MemoryArray, MemoryLun, MemoryPort, PatientLun, Personality,
};

/// The most patience: an eighth of the usual lease.
const MOST: Duration = Duration::from_secs(2);

type Event = (Duration, Box<dyn FnOnce() + Send>);

/// Time that passes when somebody sleeps, and a step with each look at it, which is how long things take.
struct Time {
    micros: AtomicU64,
    step: AtomicU64,
    /// What others do then, in order.
    events: Mutex<Vec<Event>>,
}

impl std::fmt::Debug for Time {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.micros)
    }
}

impl Time {
    fn get(&self) -> Duration {
        Duration::from_micros(self.micros.load(SeqCst))
    }

    /// Has something done so long from now.
    fn after(&self, time: Duration, what: impl FnOnce() + Send + 'static) {
        let at = self.get() + time;
        self.events
            .lock()
            .expect("no panic")
            .push((at, Box::new(what)));
    }
}

impl Clock for Time {
    fn now(&self) -> Duration {
        self.get()
    }

    fn uptime(&self) -> Duration {
        self.micros.fetch_add(self.step.load(SeqCst), SeqCst);
        self.get()
    }

    fn sleep(&self, time: Duration) {
        let micros = time.as_micros() as u64;
        self.micros.fetch_add(micros, SeqCst);
        loop {
            let mut events = self.events.lock().expect("no panic");
            if events.first().is_none_or(|(at, _)| *at > self.get()) {
                return;
            }
            let (_, what) = events.remove(0);
            drop(events);
            what();
        }
    }
}

struct Hosts {
    time: Arc<Time>,
    host: Arc<PatientLun>,
    other: Arc<MemoryPort>,
    third: Arc<MemoryPort>,
}

impl Hosts {
    /// Hosts on an array where things take `step`. The first has reserved the LUN some times.
    fn new(step: Duration, seed: u64) -> Self {
        let lun = Arc::new(MemoryLun::new("lun", 1 << 20));
        let array = MemoryArray::with(&lun, Personality::Legacy);
        let time = Arc::new(Time {
            micros: AtomicU64::new(1_000_000_000),
            step: AtomicU64::new(step.as_micros() as u64),
            events: Mutex::default(),
        });
        let clock = Arc::clone(&time) as Arc<dyn Clock>;
        let port = Arc::new(array.port("a"));
        let times = (Duration::from_secs(30), MOST);
        let host = Arc::new(PatientLun::with_turns(port, clock, times, seed));
        for _ in 0..20 {
            host.reserve().expect("reserve");
            host.write(DeviceOffset(0), &[1; 512]).expect("write");
            host.release().expect("release");
        }
        Self {
            time,
            host,
            other: Arc::new(array.port("b")),
            third: Arc::new(array.port("c")),
        }
    }

    /// The other host reserves the LUN, and releases it after that time.
    fn other_reserves(&self, time: Duration) {
        self.other.reserve().expect("reserve");
        let other = Arc::clone(&self.other);
        self.time.after(time, move || {
            // If a reset has taken it away it hears of that.
            let _ = other.release();
        });
    }

    /// How long the first host waits.
    fn write(&self) -> Duration {
        let start = self.time.get();
        self.host
            .write(DeviceOffset(0), &[2; 512])
            .expect("at last");
        self.time.get().saturating_sub(start)
    }

    /// How often the first host has reset the LUN.
    fn resets(&self) -> u64 {
        self.host.counters().snapshot().resets.commands
    }
}

fn ms(time: u64) -> Duration {
    Duration::from_millis(time)
}

const FAST: Duration = Duration::from_micros(50);

#[test]
fn a_host_that_stops_is_noticed_soon_on_a_fast_array() {
    for seed in 1..50 {
        let hosts = Hosts::new(FAST, seed);
        hosts.other.reserve().expect("reserve");
        let waited = hosts.write();
        assert!(waited >= MOST / 4 && waited <= MOST / 2, "{waited:?}");
        let write = hosts.other.write(DeviceOffset(0), &[3; 512]);
        assert!(matches!(write, Err(LunError::ReservationLost { .. })));
    }
}

#[test]
fn a_host_that_lives_is_given_time_on_a_slow_array() {
    for seed in 1..50 {
        // A reservation takes 0.4 s.
        let hosts = Hosts::new(ms(200), seed);
        hosts.other_reserves(ms(900));
        hosts.write();
        assert_eq!(hosts.resets(), 0);
    }
}

#[test]
fn a_host_that_lives_though_it_was_reset_is_given_more_time() {
    for seed in 1..50 {
        let hosts = Hosts::new(FAST, seed);
        hosts.other_reserves(ms(900));
        assert!(hosts.write() < ms(900));
        assert_eq!(hosts.resets(), 1);
        hosts.time.sleep(ms(900));
        hosts.other_reserves(ms(900));
        hosts.write();
        assert_eq!(hosts.resets(), 1);
    }
}

#[test]
fn hosts_that_have_it_one_after_the_other_are_told_from_one_that_keeps_it() {
    for seed in 1..50 {
        let hosts = Hosts::new(FAST, seed);
        hosts.other.reserve().expect("reserve");
        // Another thread of this host gets through in between.
        let (host, other) = (Arc::clone(&hosts.host), Arc::clone(&hosts.other));
        hosts.time.after(ms(400), move || {
            other.release().expect("release");
            host.read(DeviceOffset(0), &mut [0; 512]).expect("read");
            other.reserve().expect("reserve");
        });
        let other = Arc::clone(&hosts.other);
        hosts
            .time
            .after(ms(850), move || other.release().expect("release"));
        hosts.write();
        assert_eq!(hosts.resets(), 0);
    }
}

#[test]
fn who_waits_notices_that_another_host_has_reset_the_lun() {
    for seed in 1..50 {
        let hosts = Hosts::new(FAST, seed);
        hosts.other.reserve().expect("reserve");
        let third = Arc::clone(&hosts.third);
        hosts.time.after(ms(400), move || {
            third.reset().expect("reset");
            third.reserve().expect("reserve");
        });
        let third = Arc::clone(&hosts.third);
        hosts
            .time
            .after(ms(850), move || third.release().expect("release"));
        hosts.write();
        assert_eq!(hosts.resets(), 0);
    }
}

#[test]
fn tries_leave_a_slow_lun_its_time() {
    let tries = |step| {
        let hosts = Hosts::new(step, 1);
        hosts.other_reserves(ms(450));
        hosts.write();
        assert_eq!(hosts.resets(), 0);
        hosts.host.counters().snapshot().conflicts
    };
    let (fast, slow) = (tries(Duration::from_micros(2)), tries(ms(1)));
    // On an image about every 4 ms; where each takes a millisecond, ever more rarely.
    assert!(fast > 100, "{fast}");
    assert!(slow < 25, "{slow}");
}
