use std::sync::Arc;
use std::thread::{self, ThreadId};

use super::error::LunError;
use super::lun::Lun;
use crate::sync::{Condvar, Mutex, RwLock};

/// The turns that threads of a host take at having the LUN reserved.
///
/// The LUN knows one reservation for the whole host: without this the release of one thread would
/// end that of another. And the LUN tells once that a reset has taken the reservation away, with whatever
/// command comes next, of any thread: it is the one that has the turn which must hear it, before
/// anything more of what it does is carried out.
#[derive(Debug, Default)]
pub(super) struct Turns {
    turn: Mutex<Turn>,
    over: Condvar,
    /// Commands of the thread that has the turn have it alone, so that none of them comes between
    /// another one's command being told that the reservation is lost, and its being noted.
    commands: RwLock<()>,
}

#[derive(Debug, Default)]
struct Turn {
    owner: Option<ThreadId>,
    /// For each time that the owner has taken the LUN, whether the reservation has gone since.
    lost: Vec<bool>,
}

impl Turn {
    fn is_lost(&self) -> bool {
        self.lost.last() == Some(&true)
    }

    fn lose(&mut self) {
        self.lost.fill(true);
    }
}

fn is_lost<T>(result: &Result<T, LunError>) -> bool {
    matches!(result, Err(LunError::ReservationLost { .. }))
}

impl Turns {
    /// Reserves the LUN by `reserve` for this thread, after those that came before.
    pub(super) fn reserve(
        &self,
        mut reserve: impl FnMut() -> Result<(), LunError>,
    ) -> Result<(), LunError> {
        let me = thread::current().id();
        let mut turn = self.turn.lock();
        let has_turn = turn.owner == Some(me);
        if has_turn && !turn.is_lost() {
            turn.lost.push(false);
            return Ok(());
        }
        while !has_turn && turn.owner.is_some() {
            self.over.wait(&mut turn);
        }
        turn.owner = Some(me);
        turn.lost.push(false);
        drop(turn);
        loop {
            let result = reserve();
            if is_lost(&result) {
                // By a reset in this moment: there was nothing to lose yet.
                continue;
            }
            if result.is_err() {
                self.end();
            }
            return result;
        }
    }

    /// Ends what was begun last.
    fn end(&self) {
        let mut turn = self.turn.lock();
        turn.lost.pop();
        if !turn.lost.is_empty() {
            return;
        }
        turn.owner = None;
        drop(turn);
        self.over.notify_all();
    }

    /// Releases the LUN by `release`, if this thread hasn't taken it once more.
    pub(super) fn release(
        &self,
        release: impl FnOnce() -> Result<(), LunError>,
    ) -> Result<(), LunError> {
        let turn = self.turn.lock();
        let is_last = turn.owner == Some(thread::current().id()) && turn.lost.len() == 1;
        drop(turn);
        let released = if is_last { release() } else { Ok(()) };
        self.end();
        released
    }

    /// Runs a command once.
    pub(super) fn command<T>(
        &self,
        command: &mut impl FnMut() -> Result<T, LunError>,
        lun: &Arc<dyn Lun>,
    ) -> Result<T, LunError> {
        let has_turn = self.turn.lock().owner == Some(thread::current().id());
        if has_turn {
            let _alone = self.commands.write();
            if self.turn.lock().is_lost() {
                let command = "a command under a reservation";
                let lun = lun.name().to_owned();
                return Err(LunError::ReservationLost { lun, command });
            }
            let result = command();
            if is_lost(&result) {
                self.turn.lock().lose();
            }
            return result;
        }
        loop {
            let _with_others = self.commands.read();
            let result = command();
            if !is_lost(&result) {
                return result;
            }
            // It wasn't carried out, and is none of those that the reservation was for.
            self.turn.lock().lose();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
    use std::time::{Duration, Instant};

    use super::*;
    use crate::scsi::{
        Clock, DeviceOffset, MemoryArray, MemoryLun, MemoryPort, PatientLun, Personality,
        SystemClock,
    };

    fn patient(lun: Arc<dyn Lun>) -> Arc<PatientLun> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let times = (Duration::from_secs(9), Duration::from_millis(50));
        Arc::new(PatientLun::with_turns(lun, clock, times, 1))
    }

    fn array() -> MemoryArray {
        let lun = Arc::new(MemoryLun::new("lun", 1 << 20));
        MemoryArray::with(&lun, Personality::Legacy)
    }

    #[test]
    fn who_keeps_the_lun_too_long_loses_it() {
        let array = array();
        let (host, stopped) = (patient(Arc::new(array.port("a"))), array.port("b"));
        stopped.reserve().expect("reserve");
        host.write(DeviceOffset(0), &[1; 512])
            .expect("after a reset");
        assert!(is_lost(&stopped.write(DeviceOffset(0), &[2; 512])));
    }

    #[test]
    fn who_waits_below_doesnt_keep_it_from_that() {
        let array = array();
        let stopped = array.port("b");
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let port: Arc<dyn Lun> = Arc::new(array.port("a"));
        let (start, long) = (Instant::now(), Duration::from_secs(20));
        let below = Arc::new(PatientLun::for_reading(port, clock, long, 1));
        let host = patient(Arc::clone(&below) as Arc<dyn Lun>);
        below.end_patience();
        stopped.reserve().expect("reserve");
        host.read(DeviceOffset(0), &mut [0; 512])
            .expect("after a reset");
        assert!(start.elapsed() < long / 2);
        assert!(is_lost(&stopped.write(DeviceOffset(0), &[2; 512])));
    }

    #[test]
    fn the_release_of_one_thread_leaves_another_its_reservation() {
        let array = MemoryArray::with(
            &Arc::new(MemoryLun::new("lun", 1 << 20)),
            Personality::Legacy,
        );
        let (host, other) = (patient(Arc::new(array.port("a"))), array.port("b"));
        let inside = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        host.reserve().expect("reserve");
                        assert_eq!(inside.fetch_add(1, SeqCst), 0, "one at a time");
                        host.reserve().expect("once more");
                        host.release().expect("release");
                        let write = other.write(DeviceOffset(0), &[1; 512]);
                        assert!(matches!(write, Err(LunError::ReservationConflict { .. })));
                        inside.fetch_sub(1, SeqCst);
                        host.release().expect("release");
                    }
                });
            }
        });
        other.write(DeviceOffset(0), &[1; 512]).expect("released");
    }

    #[test]
    fn who_has_the_turn_learns_that_a_reset_took_it() {
        let array = MemoryArray::with(
            &Arc::new(MemoryLun::new("lun", 1 << 20)),
            Personality::Legacy,
        );
        let (host, other) = (patient(Arc::new(array.port("a"))), array.port("b"));
        host.reserve().expect("reserve");
        other.reset().expect("reset");
        // Another thread's command is the one that is told, and is carried out all the same.
        let write = || host.write(DeviceOffset(0), &[2; 512]);
        thread::scope(|scope| scope.spawn(write).join())
            .expect("a thread")
            .expect("write");
        assert!(is_lost(&write()) && is_lost(&write()));
        // What is done in between has a reservation of its own.
        host.reserve().expect("once more");
        write().expect("write");
        host.release().expect("release");
        assert!(is_lost(&write()));
        host.release().expect("release");
        write().expect("without a reservation");
    }

    /// A LUN that tells of a lost reservation with a reset, too.
    #[derive(Debug)]
    struct TellingLun {
        port: MemoryPort,
    }

    impl Lun for TellingLun {
        crate::forward_lun!(port: name capacity block_size access capabilities read write write_zeros flush reserve release attentions counters);

        fn reset(&self) -> Result<(), LunError> {
            self.port.read(DeviceOffset(0), &mut [0; 512])?;
            self.port.reset()
        }
    }

    #[test]
    fn who_has_the_turn_learns_what_a_reset_by_another_thread_was_told() {
        let array = array();
        let port = array.port("a");
        let host = patient(Arc::new(TellingLun { port }));
        let other = array.port("b");
        host.reserve().expect("reserve");
        other.reset().expect("reset");
        thread::scope(|scope| scope.spawn(|| host.reset()).join())
            .expect("a thread")
            .expect("reset");
        other.reserve().expect("reserve");
        assert!(is_lost(&host.write(DeviceOffset(0), &[2; 512])));
    }
}
