use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU8};

use parking_lot::RwLock;

use super::command::UNKNOWN_COMMAND;
use super::connect::connect;
use super::nexus::{Failure, IscsiTimeouts, Nexus, Ticket};
use super::probe::{Found, probe};
use super::url::IscsiUrl;
use crate::scsi::array::{Attention, LunIdentity};
use crate::scsi::counters::{Counters, OpCounter};
use crate::scsi::error::LunError;
use crate::scsi::lun::{Access, Capabilities, Comparison, DeviceOffset, Lun};
use crate::scsi::lun::{check_comparison, check_range};
use crate::scsi::persistent::{PersistentReserve, Reservations};

/// A LUN of an iSCSI target.
///
/// Commands of different threads are on their way at the same time. When the connection is lost
/// they wait for it to come back, and are sent again if that does no harm (docs/ARCHITECTURE.md
/// says what does). RESERVE(6) belongs to the value; dropping it logs out.
#[derive(Debug)]
pub struct IscsiLun {
    pub(super) nexus: Nexus,
    pub(super) found: Found,
    name: String,
    access: Access,
    /// How zeros are written; less when the target turns out not to take it.
    pub(super) zeroing: AtomicU8,
    /// The target doesn't know SYNCHRONIZE CACHE(16).
    pub(super) no_long_flush: AtomicBool,
    /// The target doesn't know PREEMPT AND ABORT.
    pub(super) no_abort: AtomicBool,
    /// The target doesn't know READ FULL STATUS.
    pub(super) no_full_status: AtomicBool,
    counters: Counters,
    /// Held alone while blocks are written in part, which takes a read and a write.
    pub(super) edges: RwLock<()>,
}

impl IscsiLun {
    /// Connects to the LUN at `url` as the host called `initiator`, which is an iSCSI name or
    /// becomes a part of one; if it isn't given, as this machine.
    ///
    /// # Errors
    /// [`LunError::Open`] with what to do about it.
    pub fn open(
        url: &IscsiUrl,
        access: Access,
        initiator: Option<&str>,
        timeouts: IscsiTimeouts,
    ) -> Result<Self, LunError> {
        let open_error = |source| LunError::Open {
            path: PathBuf::from(url.to_string()),
            source,
        };
        let connection = connect(url, initiator, timeouts.command).map_err(open_error)?;
        let nexus = Nexus::new(connection, timeouts);
        let found = probe(&nexus).map_err(|failure| open_error(failure.into_io()))?;
        Ok(Self {
            nexus,
            name: url.to_string(),
            access,
            zeroing: AtomicU8::new(found.zeroing as u8),
            found,
            no_long_flush: AtomicBool::new(false),
            no_abort: AtomicBool::new(false),
            no_full_status: AtomicBool::new(false),
            counters: Counters::default(),
            edges: RwLock::new(()),
        })
    }

    /// Runs one command and counts it.
    fn command<T>(
        &self,
        counter: &OpCounter,
        name: &'static str,
        offset: DeviceOffset,
        length: usize,
        run: impl FnOnce(Ticket<'_>) -> Result<T, Failure>,
    ) -> Result<T, LunError> {
        let result = counter.count(length, || run(self.nexus.begin()?));
        result.map_err(|failure| self.error(name, offset, length, failure))
    }

    /// Runs one command that isn't about blocks.
    fn whole_lun<T>(
        &self,
        counter: &OpCounter,
        name: &'static str,
        run: impl FnOnce(&Ticket<'_>) -> Result<T, Failure>,
    ) -> Result<T, LunError> {
        self.command(counter, name, DeviceOffset(0), 0, |ticket| run(&ticket))
    }

    /// Writes `data`, with a ticket that is made for it.
    fn store<'a>(
        &self,
        offset: DeviceOffset,
        data: &[u8],
        made: impl FnOnce(Ticket<'a>) -> Ticket<'a>,
    ) -> Result<(), LunError> {
        let len = data.len();
        self.check_writable()?;
        check_range(self, offset, len)?;
        let result = self.counters.writes.count(len, || {
            let ticket = made(self.nexus.begin()?);
            self.write_bytes(&ticket, offset.0, data)
        });
        result.map_err(|failure| self.error("WRITE", offset, len, failure))
    }

    /// Writes zeros, with a ticket that is made for it.
    fn zero<'a>(
        &self,
        offset: DeviceOffset,
        length: u64,
        made: impl FnOnce(Ticket<'a>) -> Ticket<'a>,
    ) -> Result<(), LunError> {
        let len = length as usize;
        self.check_writable()?;
        check_range(self, offset, len)?;
        let result = self.counters.zeroings.count(len, || {
            let ticket = made(self.nexus.begin()?);
            self.zero_bytes(&ticket, offset.0, offset.0 + length)
        });
        result.map_err(|failure| self.error("WRITE SAME", offset, len, failure))
    }

    fn error(
        &self,
        command: &'static str,
        offset: DeviceOffset,
        length: usize,
        failure: Failure,
    ) -> LunError {
        let lun = self.name.clone();
        match failure {
            Failure::Conflict => {
                self.counters.count_conflict();
                LunError::ReservationConflict { lun, command }
            }
            Failure::ReservationLost { .. } => LunError::lost(&lun, command),
            Failure::Fenced => LunError::fenced(&lun),
            Failure::Illegal(sense) if sense.code == UNKNOWN_COMMAND => {
                LunError::unsupported(&lun, command)
            }
            failure => LunError::Io {
                lun,
                operation: command,
                offset,
                length,
                source: failure.into_io(),
            },
        }
    }

    fn check_writable(&self) -> Result<(), LunError> {
        match self.access {
            Access::ReadWrite => Ok(()),
            Access::ReadOnly => Err(LunError::read_only(&self.name)),
        }
    }

    fn has(&self, capability: bool, command: &'static str) -> Result<(), LunError> {
        if capability {
            Ok(())
        } else {
            Err(LunError::unsupported(&self.name, command))
        }
    }
}

impl Lun for IscsiLun {
    fn name(&self) -> &str {
        &self.name
    }

    fn capacity(&self) -> u64 {
        self.found.capacity.size
    }

    fn block_size(&self) -> u32 {
        self.found.capacity.block
    }

    fn access(&self) -> Access {
        self.access
    }

    fn identity(&self) -> Option<&LunIdentity> {
        self.found.identity.as_ref()
    }

    fn read(&self, offset: DeviceOffset, buf: &mut [u8]) -> Result<(), LunError> {
        let len = buf.len();
        check_range(self, offset, len)?;
        self.command(&self.counters.reads, "READ", offset, len, |ticket| {
            self.read_bytes(&ticket, offset.0, buf)
        })
    }

    fn next_mapped(&self, offset: DeviceOffset) -> Result<Option<Range<u64>>, LunError> {
        let rest = Some(offset.0..self.capacity()).filter(|rest| !rest.is_empty());
        if rest.is_none() || !self.found.capacity.is_thin {
            return Ok(rest);
        }
        let found = self
            .nexus
            .begin()
            .and_then(|ticket| self.mapped_bytes(&ticket, offset.0));
        match found {
            // Not every thin LUN tells.
            Err(Failure::Illegal(_)) => Ok(rest),
            found => found.map_err(|failure| self.error("GET LBA STATUS", offset, 0, failure)),
        }
    }

    fn write(&self, offset: DeviceOffset, data: &[u8]) -> Result<(), LunError> {
        self.store(offset, data, |ticket| ticket)
    }

    fn write_zeros(&self, offset: DeviceOffset, length: u64) -> Result<(), LunError> {
        self.zero(offset, length, |ticket| ticket)
    }

    fn write_if(
        &self,
        offset: DeviceOffset,
        data: &[u8],
        may: &dyn Fn() -> bool,
    ) -> Result<(), LunError> {
        self.store(offset, data, |ticket| ticket.provided(may))
    }

    fn write_zeros_if(
        &self,
        offset: DeviceOffset,
        length: u64,
        may: &dyn Fn() -> bool,
    ) -> Result<(), LunError> {
        self.zero(offset, length, |ticket| ticket.provided(may))
    }

    fn flush(&self) -> Result<(), LunError> {
        self.whole_lun(&self.counters.flushes, "SYNCHRONIZE CACHE", |ticket| {
            self.flush_cache(ticket)
        })
    }

    fn capabilities(&self) -> Capabilities {
        self.found.capabilities
    }

    fn compare_and_write(
        &self,
        offset: DeviceOffset,
        expected: &[u8],
        new: &[u8],
    ) -> Result<Comparison, LunError> {
        const COMMAND: &str = "COMPARE AND WRITE";
        self.has(self.capabilities().compare_and_write, COMMAND)?;
        self.check_writable()?;
        check_comparison(self, offset, expected, new)?;
        let most = usize::from(self.found.limits.compare) * self.block_size() as usize;
        if new.len() > most {
            return Err(LunError::Invalid {
                lun: self.name.clone(),
                command: COMMAND,
                reason: "its target takes fewer blocks at a time",
            });
        }
        let counter = &self.counters.compare_and_writes;
        let done = self.command(counter, COMMAND, offset, new.len(), |ticket| {
            self.compare_blocks(&ticket, offset.0, expected, new)
        })?;
        if done != Comparison::Written {
            self.counters.count_miscompare();
        }
        Ok(done)
    }

    fn reserve(&self) -> Result<(), LunError> {
        const COMMAND: &str = "RESERVE";
        self.has(self.capabilities().reserve, COMMAND)?;
        self.whole_lun(&self.counters.reserves, COMMAND, |ticket| {
            self.nexus.reserve(ticket)
        })
    }

    fn release(&self) -> Result<(), LunError> {
        const COMMAND: &str = "RELEASE";
        self.has(self.capabilities().reserve, COMMAND)?;
        self.whole_lun(&self.counters.releases, COMMAND, |ticket| {
            self.nexus.release(ticket)
        })
    }

    fn persistent_reserve(&self, action: PersistentReserve) -> Result<(), LunError> {
        const COMMAND: &str = "PERSISTENT RESERVE OUT";
        self.has(self.capabilities().persistent_reserve, COMMAND)?;
        self.whole_lun(&self.counters.persistent_outs, COMMAND, |ticket| {
            self.change_registrations(ticket, action)
        })
    }

    fn reservations(&self) -> Result<Reservations, LunError> {
        const COMMAND: &str = "PERSISTENT RESERVE IN";
        self.has(self.capabilities().persistent_reserve, COMMAND)?;
        self.whole_lun(&self.counters.persistent_ins, COMMAND, |ticket| {
            self.read_reservations(ticket)
        })
    }

    fn unmap(&self, offset: DeviceOffset, length: u64) -> Result<(), LunError> {
        const COMMAND: &str = "UNMAP";
        let len = length as usize;
        self.has(self.capabilities().unmap, COMMAND)?;
        self.check_writable()?;
        check_range(self, offset, len)?;
        self.command(&self.counters.unmaps, COMMAND, offset, len, |ticket| {
            self.unmap_bytes(&ticket, offset.0, offset.0 + length)
        })
    }

    fn reset(&self) -> Result<(), LunError> {
        self.whole_lun(&self.counters.resets, "LOGICAL UNIT RESET", |ticket| {
            self.nexus.reset(ticket)
        })
    }

    fn attentions(&self) -> Vec<Attention> {
        self.nexus.attentions()
    }

    fn counters(&self) -> &Counters {
        &self.counters
    }
}
