use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::array::{Attention, LunIdentity};
use super::clock::Clock;
use super::counters::Counters;
use super::error::LunError;
use super::lun::{Access, Capabilities, Comparison, DeviceOffset, Lun};
use super::persistent::{PersistentReserve, Reservations};

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
            random: AtomicU64::new(seed | 1),
        }
    }

    fn patiently<T>(
        &self,
        mut command: impl FnMut() -> Result<T, LunError>,
    ) -> Result<T, LunError> {
        let mut result = command();
        if !matches!(result, Err(LunError::ReservationConflict { .. })) {
            return result;
        }
        let start = self.clock.uptime();
        let mut wait = FIRST_WAIT;
        while matches!(result, Err(LunError::ReservationConflict { .. }))
            && self.clock.uptime().saturating_sub(start) < self.patience
        {
            self.clock.sleep(jitter(wait, &self.random));
            wait = (wait * 3 / 2).min(LONGEST_WAIT);
            result = command();
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
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn capacity(&self) -> u64 {
        self.inner.capacity()
    }

    fn block_size(&self) -> u32 {
        self.inner.block_size()
    }

    fn access(&self) -> Access {
        self.inner.access()
    }

    fn identity(&self) -> Option<&LunIdentity> {
        self.inner.identity()
    }

    fn read(&self, offset: DeviceOffset, buf: &mut [u8]) -> Result<(), LunError> {
        self.patiently(|| self.inner.read(offset, buf))
    }

    fn write(&self, offset: DeviceOffset, data: &[u8]) -> Result<(), LunError> {
        self.patiently(|| self.inner.write(offset, data))
    }

    fn write_zeros(&self, offset: DeviceOffset, length: u64) -> Result<(), LunError> {
        self.patiently(|| self.inner.write_zeros(offset, length))
    }

    fn write_if(
        &self,
        offset: DeviceOffset,
        data: &[u8],
        may: &dyn Fn() -> bool,
    ) -> Result<(), LunError> {
        self.patiently(|| self.inner.write_if(offset, data, may))
    }

    fn write_zeros_if(
        &self,
        offset: DeviceOffset,
        length: u64,
        may: &dyn Fn() -> bool,
    ) -> Result<(), LunError> {
        self.patiently(|| self.inner.write_zeros_if(offset, length, may))
    }

    fn flush(&self) -> Result<(), LunError> {
        self.patiently(|| self.inner.flush())
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn compare_and_write(
        &self,
        offset: DeviceOffset,
        expected: &[u8],
        new: &[u8],
    ) -> Result<Comparison, LunError> {
        self.patiently(|| self.inner.compare_and_write(offset, expected, new))
    }

    fn reserve(&self) -> Result<(), LunError> {
        self.patiently(|| self.inner.reserve())
    }

    fn release(&self) -> Result<(), LunError> {
        self.inner.release()
    }

    fn reset(&self) -> Result<(), LunError> {
        self.inner.reset()
    }

    fn persistent_reserve(&self, action: PersistentReserve) -> Result<(), LunError> {
        self.inner.persistent_reserve(action)
    }

    fn reservations(&self) -> Result<Reservations, LunError> {
        self.inner.reservations()
    }

    fn unmap(&self, offset: DeviceOffset, length: u64) -> Result<(), LunError> {
        self.patiently(|| self.inner.unmap(offset, length))
    }

    fn attentions(&self) -> Vec<Attention> {
        self.inner.attentions()
    }

    fn counters(&self) -> &Counters {
        self.inner.counters()
    }
}
