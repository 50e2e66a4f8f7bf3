use std::cell::Cell;
use std::sync::Arc;

use super::membership::Membership;
use crate::scsi::{Comparison, DeviceOffset, Lun, LunError, PersistentReserve};

/// A LUN to which a host writes only as long as it holds its lease.
#[derive(Debug)]
pub struct HostLun {
    inner: Arc<dyn Lun>,
    membership: Arc<Membership>,
}

impl HostLun {
    /// `inner` as the host with this membership may use it.
    pub fn new(inner: Arc<dyn Lun>, membership: Arc<Membership>) -> Self {
        Self { inner, membership }
    }

    /// Runs a write that is carried out only while the lease is good. A host that was stopped on
    /// the way asks for it once more.
    fn in_time(
        &self,
        mut command: impl FnMut(&dyn Lun, &dyn Fn() -> bool) -> Result<(), LunError>,
    ) -> Result<(), LunError> {
        loop {
            self.membership.check(self.inner.name())?;
            match command(&*self.inner, &|| self.membership.may_write()) {
                Err(LunError::Fenced { .. }) if !self.membership.is_lost() => {}
                done => return self.membership.heard(done),
            }
        }
    }

    fn checked<T>(
        &self,
        command: impl FnOnce(&dyn Lun) -> Result<T, LunError>,
    ) -> Result<T, LunError> {
        self.membership.check(self.inner.name())?;
        self.membership.heard(command(&*self.inner))
    }
}

impl Lun for HostLun {
    crate::forward_lun!(inner: name capacity block_size access identity next_mapped read capabilities release reservations attentions counters);

    fn write(&self, offset: DeviceOffset, data: &[u8]) -> Result<(), LunError> {
        self.in_time(|lun, may| lun.write_if(offset, data, may))
    }

    fn write_zeros(&self, offset: DeviceOffset, length: u64) -> Result<(), LunError> {
        self.in_time(|lun, may| lun.write_zeros_if(offset, length, may))
    }

    fn write_if(
        &self,
        offset: DeviceOffset,
        data: &[u8],
        may: &dyn Fn() -> bool,
    ) -> Result<(), LunError> {
        let refused = Cell::new(false);
        let done = self.in_time(|lun, in_time| {
            let both = || {
                in_time() && {
                    refused.set(!may());
                    !refused.get()
                }
            };
            match lun.write_if(offset, data, &both) {
                // Asking for the lease once more would change nothing.
                Err(LunError::Fenced { .. }) if refused.get() => Ok(()),
                done => done,
            }
        });
        done?;
        if refused.get() {
            return Err(LunError::fenced(self.name()));
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), LunError> {
        self.checked(|lun| lun.flush())
    }

    fn compare_and_write(
        &self,
        offset: DeviceOffset,
        expected: &[u8],
        new: &[u8],
    ) -> Result<Comparison, LunError> {
        self.checked(|lun| lun.compare_and_write(offset, expected, new))
    }

    fn reserve(&self) -> Result<(), LunError> {
        self.checked(|lun| lun.reserve())
    }

    fn reset(&self) -> Result<(), LunError> {
        self.checked(|lun| lun.reset())
    }

    fn persistent_reserve(&self, action: PersistentReserve) -> Result<(), LunError> {
        self.checked(|lun| lun.persistent_reserve(action))
    }

    fn unmap(&self, offset: DeviceOffset, length: u64) -> Result<(), LunError> {
        self.checked(|lun| lun.unmap(offset, length))
    }
}
