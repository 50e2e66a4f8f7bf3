use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::array::Attention;
use super::clock::Clock;
use super::error::LunError;
use super::lun::{Comparison, DeviceOffset, Lun};
use super::pace::Pace;
use super::turns::Turns;
use crate::sync::Mutex;

/// A LUN whose commands are tried again while another host has it reserved: hosts that lock by
/// SCSI-2 reservations hold them for some commands only.
#[derive(Debug)]
pub struct PatientLun {
    inner: Arc<dyn Lun>,
    clock: Arc<dyn Clock>,
    patience: Duration,
    /// Everything else fails at once.
    only_reads: bool,
    /// Where hosts reserve the LUN.
    turns: Option<Turns>,
    /// Who has had the LUN reserved for so long, or less if [`Pace::patience`] says so, has stopped in the
    /// middle: a reset takes it away.
    reset_after: Option<Duration>,
    pace: Pace,
    /// What the LUN has told while this looked for resets.
    attentions: Mutex<Vec<Attention>>,
    /// Everything fails at once by now.
    has_ended: AtomicBool,
    /// State of the generator that spreads hosts' tries.
    random: AtomicU64,
}

impl PatientLun {
    /// `inner`, with conflicts hidden for `patience` each; `seed` tells hosts apart.
    pub fn new(inner: Arc<dyn Lun>, clock: Arc<dyn Clock>, patience: Duration, seed: u64) -> Self {
        Self {
            inner,
            clock,
            patience,
            only_reads: false,
            turns: None,
            reset_after: None,
            pace: Pace::default(),
            attentions: Mutex::default(),
            has_ended: AtomicBool::new(false),
            random: AtomicU64::new(seed | 1),
        }
    }

    /// The same for reads; what changes the LUN fails at once, as without this.
    pub fn for_reading(
        inner: Arc<dyn Lun>,
        clock: Arc<dyn Clock>,
        patience: Duration,
        seed: u64,
    ) -> Self {
        Self {
            only_reads: true,
            ..Self::new(inner, clock, patience, seed)
        }
    }

    /// The same for a host that reserves the LUN, and whose threads take turns at that: a thread
    /// that has it reserved learns by [`LunError::ReservationLost`] when it has it no more; others'
    /// commands are tried again. Commands that a reservation keeps waiting reset the LUN, after `reset_after` up
    /// to half as much longer, or sooner on an array that is fast: no host needs it for so long, unless it
    /// was stopped. One that lives begins anew.
    pub fn with_turns(
        inner: Arc<dyn Lun>,
        clock: Arc<dyn Clock>,
        (patience, reset_after): (Duration, Duration),
        seed: u64,
    ) -> Self {
        Self {
            turns: Some(Turns::default()),
            reset_after: Some(reset_after),
            ..Self::new(inner, clock, patience, seed)
        }
    }

    /// One attempt.
    fn attempt<T>(&self, command: &mut impl FnMut() -> Result<T, LunError>) -> Result<T, LunError> {
        match &self.turns {
            Some(turns) => turns.command(command, &self.inner),
            None => command(),
        }
    }

    fn change<T>(&self, mut command: impl FnMut() -> Result<T, LunError>) -> Result<T, LunError> {
        if self.only_reads {
            return command();
        }
        self.patiently(command)
    }

    fn patiently<T>(
        &self,
        mut command: impl FnMut() -> Result<T, LunError>,
    ) -> Result<T, LunError> {
        self.retry(|| self.attempt(&mut command))
    }

    fn retry<T>(&self, mut command: impl FnMut() -> Result<T, LunError>) -> Result<T, LunError> {
        let start = self.clock.uptime();
        let mut result = self.send(start, &mut command);
        if !is_conflict(&result) || self.has_ended.load(Relaxed) {
            return result;
        }
        // Not all hosts at once: up to half as much longer, in thousandths.
        let longer = jitter(Duration::from_millis(500), &self.random).as_millis() as u32 - 250;
        let mut since = start;
        let mut wait = self.pace.first_wait();
        while is_conflict(&result) && !self.has_ended.load(Relaxed) {
            let now = self.clock.uptime();
            if now.saturating_sub(start) >= self.patience {
                break;
            }
            let mut pause = jitter(wait, &self.random);
            wait = (wait * 3 / 2).min(self.pace.longest_wait(self.reset_after));
            if let Some(most) = self.reset_after {
                since = since.max(self.pace.through());
                if self.was_reset() {
                    // Whoever has it reserved has it since then.
                    since = now;
                }
                let patience = self.pace.patience(now, most);
                let at = since + patience + patience * longer / 1000;
                pause = pause.min(at.saturating_sub(now));
                if pause.is_zero() {
                    self.reset_for(now.saturating_sub(since))?;
                    since = self.clock.uptime();
                    self.pace.has_reset(since, most);
                    wait = self.pace.first_wait();
                }
            }
            self.clock.sleep(pause);
            result = self.send(self.clock.uptime(), &mut command);
        }
        if result.is_ok() {
            let now = self.clock.uptime();
            self.pace.has_waited(now.saturating_sub(since), now);
        }
        result
    }

    /// Runs a command, which is sent `now`, once.
    fn send<T>(
        &self,
        now: Duration,
        command: &mut impl FnMut() -> Result<T, LunError>,
    ) -> Result<T, LunError> {
        let result = command();
        if result.is_ok() {
            self.pace.went_through(now);
        } else if is_conflict(&result) {
            let answered = self.clock.uptime();
            self.pace.answered(answered.saturating_sub(now));
        }
        result
    }

    /// Whether another host has reset the LUN since this was asked last.
    fn was_reset(&self) -> bool {
        let told = self.inner.attentions();
        let was_reset = told.contains(&Attention::Reset);
        let mut attentions = self.attentions.lock();
        for attention in told {
            if !attentions.contains(&attention) {
                attentions.push(attention);
            }
        }
        was_reset
    }

    fn reset_for(&self, waited: Duration) -> Result<(), LunError> {
        tracing::warn!(
            "{}: a host has it reserved for {} ms: resetting the LUN",
            self.inner.name(),
            waited.as_millis()
        );
        match self.reset() {
            // Another host has just done that.
            Err(LunError::ReservationLost { .. }) => Ok(()),
            reset => reset,
        }
    }
}

fn is_conflict<T>(result: &Result<T, LunError>) -> bool {
    matches!(result, Err(LunError::ReservationConflict { .. }))
}

/// `wait` give or take a half. `random` is the state of a generator (xorshift64*), which needn't be
/// a good one.
pub(crate) fn jitter(wait: Duration, random: &AtomicU64) -> Duration {
    let mut state = random.load(Relaxed);
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    random.store(state, Relaxed);
    let percent = state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32;
    wait / 2 + wait * (percent % 100) as u32 / 100
}

impl Lun for PatientLun {
    crate::forward_lun!(inner: name capacity block_size access identity next_mapped capabilities persistent_reserve reservations counters);

    fn read(&self, offset: DeviceOffset, buf: &mut [u8]) -> Result<(), LunError> {
        self.patiently(|| self.inner.read(offset, buf))
    }

    fn write(&self, offset: DeviceOffset, data: &[u8]) -> Result<(), LunError> {
        self.change(|| self.inner.write(offset, data))
    }

    fn write_zeros(&self, offset: DeviceOffset, length: u64) -> Result<(), LunError> {
        self.change(|| self.inner.write_zeros(offset, length))
    }

    fn write_if(
        &self,
        offset: DeviceOffset,
        data: &[u8],
        may: &dyn Fn() -> bool,
    ) -> Result<(), LunError> {
        self.change(|| self.inner.write_if(offset, data, may))
    }

    fn write_zeros_if(
        &self,
        offset: DeviceOffset,
        length: u64,
        may: &dyn Fn() -> bool,
    ) -> Result<(), LunError> {
        self.change(|| self.inner.write_zeros_if(offset, length, may))
    }

    fn flush(&self) -> Result<(), LunError> {
        self.change(|| self.inner.flush())
    }

    fn compare_and_write(
        &self,
        offset: DeviceOffset,
        expected: &[u8],
        new: &[u8],
    ) -> Result<Comparison, LunError> {
        self.change(|| self.inner.compare_and_write(offset, expected, new))
    }

    fn reserve(&self) -> Result<(), LunError> {
        if self.only_reads {
            return self.inner.reserve();
        }
        let reserve = || {
            self.retry(|| {
                let sent = self.clock.uptime();
                self.inner.reserve()?;
                self.pace.has_reserved(sent);
                Ok(())
            })
        };
        match &self.turns {
            Some(turns) => turns.reserve(reserve),
            None => reserve(),
        }
    }

    fn release(&self) -> Result<(), LunError> {
        match &self.turns {
            Some(turns) => turns.release(|| {
                let released = self.inner.release();
                self.pace.has_released(self.clock.uptime());
                released
            }),
            None => self.inner.release(),
        }
    }

    fn unmap(&self, offset: DeviceOffset, length: u64) -> Result<(), LunError> {
        self.change(|| self.inner.unmap(offset, length))
    }

    fn reset(&self) -> Result<(), LunError> {
        // It may be told that this host's reservation is gone, which the thread that has it must hear.
        self.attempt(&mut || self.inner.reset())
    }

    fn end_patience(&self) {
        self.has_ended.store(true, Relaxed);
        self.inner.end_patience();
    }

    fn attentions(&self) -> Vec<Attention> {
        self.was_reset();
        std::mem::take(&mut *self.attentions.lock())
    }
}
