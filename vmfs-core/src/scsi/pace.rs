//! How fast a host tries again while others have the LUN reserved, and when it takes them for stopped: both
//! follow from how long things lately took on this array.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::sync::Mutex;

/// First wait after a conflict, at least.
const FIRST_WAIT: Duration = Duration::from_micros(50);
/// Longest wait between two tries, at least: an image answers in microseconds.
const LONG_WAIT: Duration = Duration::from_millis(4);
/// The same at most, where nobody resets the LUN.
const LONGEST_WAIT: Duration = Duration::from_millis(250);
/// The longest wait in times that a try takes: those of as many hosts as a volume has are an eighth of the LUN's
/// time then.
const TRIES_APART: u32 = 512;
/// Tries of which the shortest counts. The others say more of what else this machine does.
const TRIES: u32 = 32;
/// The least patience, unless the most is less: even a busy machine lets its processes run so often.
const LEAST_PATIENCE: Duration = Duration::from_millis(100);
/// The part that a new time has in the average of those before.
const GAIN: u32 = 16;
/// How much longer than what is usual others may take.
const MARGIN: u32 = 2;

/// What a host knows of how long things take on a LUN.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// When the last command that was carried out was sent, in nanoseconds of uptime.
    through: AtomicU64,
    /// When this host reserved the LUN, likewise.
    reserved: AtomicU64,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    tries: Tries,
    /// For how long this host had the LUN reserved.
    holds: Usual,
    /// For how long others had, without a break that this host noticed.
    waits: Usual,
    /// When it last waited.
    waited: Duration,
    /// How often patience was doubled, when this host reset the LUN last.
    doubled: u32,
    reset: Duration,
}

/// How long it lately took to find that one has to wait: the shortest of the last tries.
#[derive(Debug, Default)]
pub(crate) struct Tries {
    before: Option<Duration>,
    now: Option<Duration>,
    count: u32,
}

impl Tries {
    /// One took so long.
    pub(crate) fn add(&mut self, time: Duration) {
        if self.count == TRIES {
            self.before = self.now.take();
            self.count = 0;
        }
        self.now = Some(self.now.map_or(time, |now| now.min(time)));
        self.count += 1;
    }

    fn shortest(&self) -> Duration {
        let both = self.before.into_iter().chain(self.now);
        both.min().unwrap_or_default()
    }

    /// How long to wait before the next try, at least `least`.
    pub(crate) fn first_wait(&self, least: Duration) -> Duration {
        self.shortest().max(least)
    }

    /// How long at most when there were many, unless it isn't between `least` and `most`.
    pub(crate) fn longest_wait(&self, least: Duration, most: Duration) -> Duration {
        (self.shortest() * TRIES_APART).min(most).max(least)
    }
}

/// Times of something: their average, and how far they are from it.
#[derive(Debug, Default)]
struct Usual(Option<(Duration, Duration)>);

impl Usual {
    fn add(&mut self, time: Duration) {
        self.0 = Some(match self.0 {
            None => (time, time / 2),
            Some((mean, spread)) => {
                let part = |old: Duration, new: Duration| (old * (GAIN - 1) + new) / GAIN;
                (part(mean, time), part(spread, mean.abs_diff(time)))
            }
        });
    }

    /// What it takes at most, but for the odd one.
    fn most(&self) -> Option<Duration> {
        self.0.map(|(mean, spread)| mean + spread * 4)
    }
}

impl Pace {
    /// A command that was sent at this uptime was carried out: nobody else had the LUN reserved.
    pub(super) fn went_through(&self, sent: Duration) {
        self.through.fetch_max(nanos(sent), Relaxed);
    }

    /// When nobody else had it reserved at last, as far as known.
    pub(super) fn through(&self) -> Duration {
        Duration::from_nanos(self.through.load(Relaxed))
    }

    /// The LUN took so long to say that another host has it reserved.
    pub(super) fn answered(&self, time: Duration) {
        self.seen.lock().tries.add(time);
    }

    /// This host has reserved the LUN by a command that was sent then.
    pub(super) fn has_reserved(&self, sent: Duration) {
        self.reserved.store(nanos(sent), Relaxed);
    }

    /// It has given it back by now, or lost it before.
    pub(super) fn has_released(&self, now: Duration) {
        let since = Duration::from_nanos(self.reserved.load(Relaxed));
        self.seen.lock().holds.add(now.saturating_sub(since));
    }

    /// This host waited `time`, without a break, until it got through at `now`.
    pub(super) fn has_waited(&self, time: Duration, now: Duration) {
        let mut seen = self.seen.lock();
        seen.waits.add(time);
        seen.waited = now;
    }

    /// This host has reset the LUN. `most`: as for [`Pace::patience`].
    pub(super) fn has_reset(&self, now: Duration, most: Duration) {
        let mut seen = self.seen.lock();
        seen.doubled = seen.doublings(now, most) + 1;
        seen.reset = now;
    }

    /// For how long another host may have the LUN reserved before it counts as stopped, at most `most`:
    /// a quarter of that where reservations take milliseconds, more where this host's own or the
    /// waits for others' lately took more. After each reset by this host it is twice as long,
    /// for a while: it may have hit a host that lives.
    pub(super) fn patience(&self, now: Duration, most: Duration) -> Duration {
        let seen = self.seen.lock();
        let holds = seen.holds.most();
        let waits = seen
            .waits
            .most()
            .filter(|_| seen.has_waited_lately(now, most));
        let Some(usual) = holds.max(waits) else {
            return most;
        };
        let least = (most / 4).max(LEAST_PATIENCE);
        let patience = (usual * MARGIN).max(least);
        let doubled = 1 << seen.doublings(now, most).min(8);
        (patience * doubled).min(most)
    }

    /// The first wait after a conflict.
    pub(super) fn first_wait(&self) -> Duration {
        self.seen.lock().tries.first_wait(FIRST_WAIT)
    }

    /// The longest wait between two tries. `most`: as for [`Pace::patience`], if the LUN is reset then.
    pub(super) fn longest_wait(&self, most: Option<Duration>) -> Duration {
        let most = most.map_or(LONGEST_WAIT, |most| LONGEST_WAIT.min(most / 8));
        self.seen.lock().tries.longest_wait(LONG_WAIT, most)
    }
}

impl Seen {
    /// Whether what is known of waits is from the time of a lease.
    fn has_waited_lately(&self, now: Duration, most: Duration) -> bool {
        now.saturating_sub(self.waited) < most * 8
    }

    /// How often patience is doubled now.
    fn doublings(&self, now: Duration, most: Duration) -> u32 {
        let quiet = now.saturating_sub(self.reset).as_nanos();
        let forgotten = quiet / most.as_nanos().max(1);
        self.doubled
            .saturating_sub(u32::try_from(forgotten).unwrap_or(u32::MAX))
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: Duration = Duration::from_secs(2);

    fn ms(time: u64) -> Duration {
        Duration::from_millis(time)
    }

    /// A host whose reservations take so long, one after the other.
    fn host(times: impl IntoIterator<Item = Duration>) -> (Pace, Duration) {
        let pace = Pace::default();
        let mut now = Duration::from_secs(100);
        for time in times {
            pace.has_reserved(now);
            now += time;
            pace.has_released(now);
        }
        (pace, now)
    }

    #[test]
    fn patience_follows_the_array() {
        let (pace, now) = host([]);
        assert_eq!(pace.patience(now, MOST), MOST, "nothing is known yet");
        let (pace, now) = host([ms(2); 50]);
        assert_eq!(pace.patience(now, MOST), MOST / 4);
        assert_eq!(
            pace.patience(now, ms(80)),
            ms(80),
            "never more than the most"
        );
        let (pace, now) = host((0..50).map(|turn| ms(300 + turn % 7 * 40)));
        let patience = pace.patience(now, MOST);
        assert!(patience > ms(2 * 540) && patience < MOST, "{patience:?}");
    }

    #[test]
    fn one_that_took_long_is_forgotten_soon() {
        let times = |after| {
            [ms(2); 50]
                .into_iter()
                .chain([ms(1500)])
                .chain(vec![ms(2); after])
        };
        let (pace, now) = host(times(0));
        assert!(pace.patience(now, MOST) < MOST / 2);
        let (pace, now) = host(times(25));
        assert_eq!(pace.patience(now, MOST), MOST / 4);
    }

    #[test]
    fn who_has_to_wait_long_is_more_patient_for_a_lease() {
        let (pace, now) = host([ms(2); 50]);
        for _ in 0..50 {
            pace.has_waited(ms(700), now);
        }
        assert!(pace.patience(now, MOST) > ms(1400));
        assert_eq!(pace.patience(now + MOST * 8, MOST), MOST / 4);
    }

    #[test]
    fn each_reset_doubles_patience_for_a_while() {
        let (pace, now) = host([ms(2); 50]);
        pace.has_reset(now, MOST);
        assert_eq!(pace.patience(now, MOST), MOST / 2);
        pace.has_reset(now, MOST);
        assert_eq!(pace.patience(now, MOST), MOST);
        assert_eq!(pace.patience(now + MOST, MOST), MOST / 2);
        assert_eq!(pace.patience(now + MOST * 2, MOST), MOST / 4);
    }

    #[test]
    fn waits_follow_the_shortest_answers() {
        let pace = Pace::default();
        for _ in 0..TRIES {
            pace.answered(ms(20));
        }
        pace.answered(Duration::from_micros(5));
        assert_eq!(pace.first_wait(), FIRST_WAIT);
        assert_eq!(pace.longest_wait(Some(MOST)), LONG_WAIT);
        for _ in 0..3 * TRIES {
            pace.answered(Duration::from_micros(200));
        }
        pace.answered(ms(9));
        assert_eq!(pace.first_wait(), Duration::from_micros(200));
        assert_eq!(
            pace.longest_wait(Some(MOST)),
            Duration::from_micros(102_400)
        );
        assert_eq!(pace.longest_wait(Some(ms(400))), ms(50));
        for _ in 0..3 * TRIES {
            pace.answered(ms(9));
        }
        assert_eq!(pace.longest_wait(None), LONGEST_WAIT);
        assert_eq!(pace.longest_wait(Some(MOST)), MOST / 8);
    }
}
