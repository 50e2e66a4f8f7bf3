use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::clock::Clock;
use super::error::LunError;
use super::lun::{Comparison, DeviceOffset, Lun};
use super::turns::Turns;

/// First wait after a conflict.
const FIRST_WAIT: Duration = Duration::from_micros(50);
/// Longest wait between two tries.
const LONGEST_WAIT: Duration = Duration::from_millis(4);

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
    /// Who has had the LUN reserved for so long has stopped in the middle: a reset takes it away.
    reset_after: Option<Duration>,
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
    /// commands are tried again. Commands that a reservation keeps waiting for `reset_after` reset the LUN:
    /// no host needs it for so long, unless it was stopped. One that lives begins anew.
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
        let mut result = command();
        if !matches!(result, Err(LunError::ReservationConflict { .. }))
            || self.has_ended.load(Relaxed)
        {
            return result;
        }
        let start = self.clock.uptime();
        // Not all hosts at once: up to half as much longer.
        let patience = |after: Duration| after * 3 / 4 + jitter(after / 2, &self.random);
        let mut reset = self.reset_after.map(patience);
        let mut wait = FIRST_WAIT;
        while matches!(result, Err(LunError::ReservationConflict { .. }))
            && self.clock.uptime().saturating_sub(start) < self.patience
        {
            self.clock.sleep(jitter(wait, &self.random));
            wait = (wait * 3 / 2).min(LONGEST_WAIT);
            let waited = self.clock.uptime().saturating_sub(start);
            if let (Some(after), Some(at)) = (self.reset_after, reset)
                && waited >= at
            {
                tracing::warn!(
                    "{}: a host has it reserved for {} ms: resetting the LUN",
                    self.inner.name(),
                    waited.as_millis()
                );
                self.inner.reset()?;
                reset = Some(waited + patience(after));
            }
            result = command();
            if self.has_ended.load(Relaxed) {
                break;
            }
        }
        result
    }
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
    crate::forward_lun!(inner: name capacity block_size access identity next_mapped capabilities reset persistent_reserve reservations attentions counters);

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
        let reserve = || self.retry(|| self.inner.reserve());
        match &self.turns {
            Some(turns) => turns.reserve(reserve),
            None => reserve(),
        }
    }

    fn release(&self) -> Result<(), LunError> {
        match &self.turns {
            Some(turns) => turns.release(&self.inner),
            None => self.inner.release(),
        }
    }

    fn unmap(&self, offset: DeviceOffset, length: u64) -> Result<(), LunError> {
        self.change(|| self.inner.unmap(offset, length))
    }

    fn end_patience(&self) {
        self.has_ended.store(true, Relaxed);
        self.inner.end_patience();
    }
}
