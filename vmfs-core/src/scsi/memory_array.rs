use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::array::{Attention, Demand, LunIdentity, Nexus, Personality, Refusal, ReservationState};
use super::counters::{Counters, OpCounter};
use super::error::LunError;
use super::holder::Holder;
use super::lun::{Access, Capabilities, Comparison, DeviceOffset, Lun};
use super::lun::{check_comparison, check_range};
use super::memory_lun::{MemoryLun, Pages};
use super::persistent::{PersistentReserve, Reservations};

/// An array in memory with one LUN, that several hosts in one process share.
///
/// Every command is one step, so that what comes of a sequence of commands depends on nothing
/// but the sequence.
#[derive(Debug, Clone)]
pub struct MemoryArray {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    name: String,
    capacity: u64,
    identity: LunIdentity,
    personality: Personality,
    lun: Mutex<State>,
    counters: Counters,
}

#[derive(Debug)]
struct State {
    pages: Pages,
    reservations: ReservationState,
    /// Open ports and the initiators that they belong to.
    ports: BTreeMap<u64, String>,
    next_port: u64,
}

impl MemoryArray {
    /// An array with an empty LUN of `capacity` bytes; its name is its identity.
    pub fn new(name: &str, capacity: u64, personality: Personality) -> Self {
        Self::with(&MemoryLun::new(name, capacity), personality)
    }

    /// An array whose LUN has the name, the size and the content of `lun`.
    pub fn with(lun: &MemoryLun, personality: Personality) -> Self {
        Self {
            shared: Arc::new(Shared {
                name: lun.name().to_owned(),
                capacity: lun.capacity(),
                identity: LunIdentity::new(lun.name()),
                personality,
                lun: Mutex::new(State {
                    pages: lun.pages(),
                    reservations: ReservationState::default(),
                    ports: BTreeMap::new(),
                    next_port: 1,
                }),
                counters: Counters::default(),
            }),
        }
    }

    /// The LUN as the host called `initiator` sees it. Dropping it is the loss of its nexus.
    pub fn port(&self, initiator: &str) -> MemoryPort {
        let mut lun = self.shared.lun.lock();
        let port = lun.next_port;
        lun.next_port += 1;
        lun.ports.insert(port, initiator.to_owned());
        MemoryPort {
            shared: Arc::clone(&self.shared),
            nexus: Nexus {
                initiator: initiator.to_owned(),
                port,
            },
            name: format!("{} of {initiator}", self.shared.name),
            counters: Counters::default(),
            holder: Holder::default(),
        }
    }

    /// Every port of `initiator` loses its nexus, and with it a RESERVE(6): the next command
    /// fails with [`LunError::ReservationLost`] if it had one, and then it is as if the host had
    /// connected again.
    pub fn disconnect(&self, initiator: &str) {
        let mut lun = self.shared.lun.lock();
        let State {
            ports,
            reservations,
            ..
        } = &mut *lun;
        let reserved = reservations.reserved();
        if reserved.is_some_and(|port| ports.get(&port).is_some_and(|name| name == initiator)) {
            reservations.reset([]);
        }
    }

    /// The initiator that has the LUN by RESERVE(6).
    pub fn reserved_by(&self) -> Option<String> {
        let lun = self.shared.lun.lock();
        let port = lun.reservations.reserved()?;
        lun.ports.get(&port).cloned()
    }

    /// Registrations and persistent reservation, whatever is reserved.
    pub fn reservations(&self) -> Reservations {
        self.shared.lun.lock().reservations.persistent_status()
    }

    /// Commands of all hosts.
    pub fn counters(&self) -> &Counters {
        &self.shared.counters
    }
}

/// A host's way to the LUN of a [`MemoryArray`].
#[derive(Debug)]
pub struct MemoryPort {
    shared: Arc<Shared>,
    nexus: Nexus,
    name: String,
    counters: Counters,
    /// Which of its threads has reserved the LUN last.
    holder: Holder,
}

/// The command that a thread learns by that another one has lost the LUN.
const RESERVE: &str = "RESERVE";

impl MemoryPort {
    /// Runs one command, counted by what `op` picks: on the port and on the array.
    fn command<T>(
        &self,
        command: &'static str,
        bytes: usize,
        op: impl Fn(&Counters) -> &OpCounter,
        run: impl FnOnce(&mut State) -> Result<T, Refusal>,
    ) -> Result<T, LunError> {
        op(&self.shared.counters).count(bytes, || {
            op(&self.counters).count(bytes, || {
                let mut lun = self.shared.lun.lock();
                let concerned = command == RESERVE || self.holder.is_this_thread();
                if concerned && lun.reservations.has_lost(self.nexus.port) {
                    return Err(LunError::lost(&self.name, command));
                }
                run(&mut lun).map_err(|refusal| {
                    if refusal == Refusal::Conflict {
                        self.counters.count_conflict();
                        self.shared.counters.count_conflict();
                    }
                    LunError::refused(&self.name, command, refusal)
                })
            })
        })
    }

    fn unless_fenced(&self, carried_out: Result<bool, LunError>) -> Result<(), LunError> {
        if carried_out? {
            return Ok(());
        }
        Err(LunError::fenced(&self.name))
    }

    /// Fails on arrays that don't have `command`.
    fn has(&self, command: &'static str) -> Result<(), LunError> {
        match self.shared.personality {
            Personality::Vaai => Ok(()),
            Personality::Legacy => Err(LunError::unsupported(&self.name, command)),
        }
    }
}

impl Drop for MemoryPort {
    fn drop(&mut self) {
        let mut lun = self.shared.lun.lock();
        lun.reservations.disconnect(self.nexus.port);
        lun.ports.remove(&self.nexus.port);
    }
}

impl Lun for MemoryPort {
    fn name(&self) -> &str {
        &self.name
    }

    fn capacity(&self) -> u64 {
        self.shared.capacity
    }

    fn block_size(&self) -> u32 {
        512
    }

    fn access(&self) -> Access {
        Access::ReadWrite
    }

    fn identity(&self) -> Option<&LunIdentity> {
        Some(&self.shared.identity)
    }

    fn read(&self, offset: DeviceOffset, buf: &mut [u8]) -> Result<(), LunError> {
        check_range(self, offset, buf.len())?;
        self.command(
            "READ",
            buf.len(),
            |all| &all.reads,
            |lun| {
                lun.reservations.check(&self.nexus, Demand::Read)?;
                lun.pages.read(offset.0, buf);
                Ok(())
            },
        )
    }

    fn write(&self, offset: DeviceOffset, data: &[u8]) -> Result<(), LunError> {
        self.write_if(offset, data, &|| true)
    }

    fn write_zeros(&self, offset: DeviceOffset, length: u64) -> Result<(), LunError> {
        self.write_zeros_if(offset, length, &|| true)
    }

    fn write_if(
        &self,
        offset: DeviceOffset,
        data: &[u8],
        may: &dyn Fn() -> bool,
    ) -> Result<(), LunError> {
        check_range(self, offset, data.len())?;
        let write = |lun: &mut State| {
            lun.reservations.check(&self.nexus, Demand::Write)?;
            if may() {
                lun.pages.write(offset.0, data);
                return Ok(true);
            }
            Ok(false)
        };
        self.unless_fenced(self.command("WRITE", data.len(), |all| &all.writes, write))
    }

    fn write_zeros_if(
        &self,
        offset: DeviceOffset,
        length: u64,
        may: &dyn Fn() -> bool,
    ) -> Result<(), LunError> {
        check_range(self, offset, length as usize)?;
        let zero = |lun: &mut State| {
            lun.reservations.check(&self.nexus, Demand::Write)?;
            if may() {
                lun.pages.zero(offset.0, length);
                return Ok(true);
            }
            Ok(false)
        };
        // An array without WRITE SAME is written zeros to.
        let done = match self.shared.personality {
            Personality::Vaai => {
                self.command("WRITE SAME", length as usize, |all| &all.zeroings, zero)
            }
            Personality::Legacy => self.command("WRITE", length as usize, |all| &all.writes, zero),
        };
        self.unless_fenced(done)
    }

    fn flush(&self) -> Result<(), LunError> {
        self.command(
            "SYNCHRONIZE CACHE",
            0,
            |all| &all.flushes,
            |lun| lun.reservations.check(&self.nexus, Demand::Write),
        )
    }

    fn capabilities(&self) -> Capabilities {
        self.shared.personality.capabilities()
    }

    fn compare_and_write(
        &self,
        offset: DeviceOffset,
        expected: &[u8],
        new: &[u8],
    ) -> Result<Comparison, LunError> {
        const COMMAND: &str = "COMPARE AND WRITE";
        self.has(COMMAND)?;
        check_comparison(self, offset, expected, new)?;
        let done = self.command(
            COMMAND,
            new.len(),
            |all| &all.compare_and_writes,
            |lun| {
                lun.reservations.check(&self.nexus, Demand::Write)?;
                let mut found = vec![0; expected.len()];
                lun.pages.read(offset.0, &mut found);
                let done = Comparison::of(expected, &found);
                if done == Comparison::Written {
                    lun.pages.write(offset.0, new);
                }
                Ok(done)
            },
        )?;
        if done != Comparison::Written {
            self.counters.count_miscompare();
            self.shared.counters.count_miscompare();
        }
        Ok(done)
    }

    fn reserve(&self) -> Result<(), LunError> {
        self.command(
            RESERVE,
            0,
            |all| &all.reserves,
            |lun| lun.reservations.reserve(&self.nexus),
        )?;
        self.holder.set();
        Ok(())
    }

    fn release(&self) -> Result<(), LunError> {
        self.command(
            "RELEASE",
            0,
            |all| &all.releases,
            |lun| lun.reservations.release(&self.nexus),
        )
    }

    fn persistent_reserve(&self, action: PersistentReserve) -> Result<(), LunError> {
        const COMMAND: &str = "PERSISTENT RESERVE OUT";
        self.has(COMMAND)?;
        self.command(
            COMMAND,
            0,
            |all| &all.persistent_outs,
            |lun| lun.reservations.persistent(&self.nexus, action),
        )?;
        Ok(())
    }

    fn reservations(&self) -> Result<Reservations, LunError> {
        const COMMAND: &str = "PERSISTENT RESERVE IN";
        self.has(COMMAND)?;
        self.command(
            COMMAND,
            0,
            |all| &all.persistent_ins,
            |lun| lun.reservations.report(),
        )
    }

    fn unmap(&self, offset: DeviceOffset, length: u64) -> Result<(), LunError> {
        self.has("UNMAP")?;
        check_range(self, offset, length as usize)?;
        self.command(
            "UNMAP",
            length as usize,
            |all| &all.unmaps,
            |lun| {
                lun.reservations.check(&self.nexus, Demand::Write)?;
                lun.pages.zero(offset.0, length);
                Ok(())
            },
        )
    }

    fn reset(&self) -> Result<(), LunError> {
        let me = &self.nexus.initiator;
        self.command(
            "LOGICAL UNIT RESET",
            0,
            |all| &all.resets,
            |lun| {
                let others = lun.ports.values().filter(|name| *name != me);
                let others: Vec<String> = others.cloned().collect();
                lun.reservations.reset(others);
                Ok(())
            },
        )
    }

    fn attentions(&self) -> Vec<Attention> {
        let mut lun = self.shared.lun.lock();
        lun.reservations.take_attentions(&self.nexus.initiator)
    }

    fn counters(&self) -> &Counters {
        &self.counters
    }
}
