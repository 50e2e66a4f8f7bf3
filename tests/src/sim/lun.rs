//! The LUN as a host sees it: each command takes its time, on the way there and back.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use vmfs_core::sync::Mutex;

use vmfs_core::scsi::{
    Access, Attention, Capabilities, Comparison, Counters, DeviceOffset, Lun, LunError,
    PersistentReserve, Reservations,
};

use super::array::{Command, Reply};
use super::broken::{Broken, Seen};
use super::faults;
use super::scheduler::{Baton, Status};
use super::settings::{Base, StopsAt, Transport};
use super::world::MountId;

/// How long a host tries a command on the wire.
const PATIENCE: Duration = Duration::from_secs(30);
/// The same where nothing else keeps it from landing too late.
const SHORT_PATIENCE: Duration = Duration::from_secs(10);

/// A mount's way to the LUN.
#[derive(Debug)]
pub struct SimLun {
    pub(super) baton: Arc<Baton>,
    pub(super) mount: MountId,
    name: String,
    counters: Counters,
    pub(super) broken: &'static [Broken],
    pub(super) base: Arc<Base>,
    pub(super) seen: Mutex<Seen>,
    /// The LUN has told of a reset.
    was_reset: AtomicBool,
}

impl SimLun {
    /// The way for `mount`.
    pub fn new(baton: Arc<Baton>, mount: MountId) -> Self {
        let (broken, base) = {
            let world = baton.world();
            (world.settings.broken, Arc::clone(&world.settings.base))
        };
        Self {
            broken,
            base,
            seen: Mutex::default(),
            was_reset: AtomicBool::new(false),
            baton,
            mount,
            name: format!("the LUN of mount {mount}"),
            counters: Counters::default(),
        }
    }

    fn run(
        &self,
        name: &'static str,
        command: Command,
        may: Option<&dyn Fn() -> bool>,
    ) -> Result<Reply, LunError> {
        if self.broken.is_empty() {
            self.send(name, command, may)
        } else {
            self.run_broken(name, command, may)
        }
    }

    pub(super) fn send(
        &self,
        name: &'static str,
        command: Command,
        may: Option<&dyn Fn() -> bool>,
    ) -> Result<Reply, LunError> {
        let (transport, start) = {
            let mut world = self.baton.world();
            let stops_here = match world.settings.stops_at {
                StopsAt::Commands => true,
                StopsAt::Writes => may.is_some(),
                StopsAt::Sending => false,
            };
            if stops_here && !world.mounts[self.mount].is_dead {
                faults::before_command(&mut world, self.mount);
            }
            (world.settings.transport, world.turns.now)
        };
        loop {
            let reply = match transport {
                Transport::Emulated => self.at_once(name, &command, may)?,
                Transport::Wire => self.by_wire(name, &command, may, start)?,
            };
            let lun = self.name.clone();
            return match reply {
                Reply::Attention => {
                    self.was_reset.store(true, SeqCst);
                    continue;
                }
                Reply::Conflict => Err(LunError::ReservationConflict { lun, command: name }),
                Reply::Lost => Err(LunError::ReservationLost { lun, command: name }),
                Reply::Invalid(reason) => Err(LunError::Invalid {
                    lun,
                    command: name,
                    reason,
                }),
                reply => Ok(reply),
            };
        }
    }

    /// As an image file: whoever stops on the way has not sent anything.
    fn at_once(
        &self,
        name: &'static str,
        command: &Command,
        may: Option<&dyn Fn() -> bool>,
    ) -> Result<Reply, LunError> {
        let (there, back) = {
            let mut world = self.baton.world();
            (faults::latency(&mut world), faults::latency(&mut world))
        };
        self.baton.sleep(there);
        loop {
            let hang = {
                let world = self.baton.world();
                let host = world.mounts[self.mount].host;
                world.paths[host]
                    .hangs_until
                    .saturating_sub(world.turns.now)
            };
            if hang.is_zero() || self.is_dead() {
                break;
            }
            self.baton.sleep(hang);
        }
        if self.is_dead() {
            return Err(self.failed(name, "this host is dead"));
        }
        if may.is_some_and(|may| !may()) {
            return Err(self.fenced());
        }
        let id = {
            let mut world = self.baton.world();
            let id = world.id();
            let reply = world.land(self.mount, command, id);
            (id, reply)
        };
        self.baton.sleep(back);
        if self.is_dead() {
            return Err(self.failed(name, "this host is dead"));
        }
        let (id, reply) = id;
        self.baton.world().array.disk.answered(id);
        Ok(reply)
    }

    /// As by iSCSI: what is sent lands whatever becomes of its host; what has no answer is sent
    /// again if that does no harm.
    fn by_wire(
        &self,
        name: &'static str,
        command: &Command,
        may: Option<&dyn Fn() -> bool>,
        start: Duration,
    ) -> Result<Reply, LunError> {
        loop {
            if command.changes().is_some() && may.is_some_and(|may| !may()) {
                return Err(self.fenced());
            }
            // A host may stop here, too. Where nothing but its clock keeps it from writing late it
            // must not: docs/SHARING.md, "What this doesn't do".
            let (before, there) = {
                let mut world = self.baton.world();
                let stops_here = world.settings.stops_at == StopsAt::Sending && may.is_some();
                if stops_here && !world.mounts[self.mount].is_dead {
                    faults::before_command(&mut world, self.mount);
                }
                let longest = if world.array.is_vaai() { 20_000 } else { 1 };
                let moment = world.random.below(longest);
                (Duration::from_nanos(moment), faults::latency(&mut world))
            };
            if !before.is_zero() {
                self.baton.sleep(before);
            }
            if self.is_dead() {
                return Err(self.failed(name, "this host is dead"));
            }
            let mut sent = None;
            self.baton.wait(|world, _| {
                let at = world.turns.now + there;
                let ticket = world.send(self.mount, command.clone(), at);
                sent = Some(ticket);
                Status::Commanding(ticket)
            });
            let reply = {
                let mut world = self.baton.world();
                world.receive(sent.unwrap_or_default())
            };
            if self.is_dead() {
                return Err(self.failed(name, "this host is dead"));
            }
            if !matches!(reply, Reply::Silence) {
                return Ok(reply);
            }
            // The next connection is another one.
            let (waited, sure) = {
                let mut world = self.baton.world();
                let nexus = world.mounts[self.mount].nexus.clone();
                world.array.reconnect(&nexus);
                let key = world.mounts[self.mount].key != 0;
                let sure = command.changes().is_none() || may.is_some() || key;
                (world.turns.now - start, sure)
            };
            if waited > if sure { PATIENCE } else { SHORT_PATIENCE } {
                return Err(self.failed(name, "no answer"));
            }
            if let Command::CompareAndWrite { offset, old, new } = command
                && !self.broken.contains(&Broken::Answer)
            {
                let read = Command::Read {
                    offset: *offset,
                    length: new.len(),
                };
                let mut found = self.by_wire(name, &read, None, start)?;
                while matches!(found, Reply::Attention) {
                    // It says nothing of what became of the command.
                    self.was_reset.store(true, SeqCst);
                    found = self.by_wire(name, &read, None, start)?;
                }
                match found {
                    Reply::Bytes(found) if found == *new => return Ok(Reply::Done),
                    Reply::Bytes(found) => {
                        let differs = found.iter().zip(old).position(|(found, old)| found != old);
                        if let Some(at) = differs {
                            return Ok(Reply::Miscompare(at));
                        }
                    }
                    reply => return Ok(reply),
                }
            }
        }
    }

    fn is_dead(&self) -> bool {
        self.baton.world().mounts[self.mount].is_dead
    }

    fn failed(&self, operation: &'static str, why: &'static str) -> LunError {
        LunError::Io {
            lun: self.name.clone(),
            operation,
            offset: DeviceOffset(0),
            length: 0,
            source: io::Error::other(why),
        }
    }

    fn fenced(&self) -> LunError {
        LunError::Fenced {
            lun: self.name.clone(),
        }
    }

    fn has_vaai(&self, command: &'static str) -> Result<(), LunError> {
        if self.capabilities().compare_and_write {
            return Ok(());
        }
        Err(LunError::Unsupported {
            lun: self.name.clone(),
            command,
        })
    }
}

impl Drop for SimLun {
    fn drop(&mut self) {
        let mut world = self.baton.world();
        world.mounts[self.mount].has_ended = true;
        if !world.mounts[self.mount].is_dead {
            world.end_mount(self.mount);
        }
    }
}

impl Lun for SimLun {
    fn name(&self) -> &str {
        &self.name
    }

    fn capacity(&self) -> u64 {
        self.baton.world().settings.base.size
    }

    fn block_size(&self) -> u32 {
        512
    }

    fn access(&self) -> Access {
        Access::ReadWrite
    }

    fn read(&self, offset: DeviceOffset, buf: &mut [u8]) -> Result<(), LunError> {
        let command = Command::Read {
            offset: offset.0,
            length: buf.len(),
        };
        if let Reply::Bytes(bytes) = self.run("READ", command, None)? {
            buf.copy_from_slice(&bytes);
        }
        Ok(())
    }

    fn write(&self, offset: DeviceOffset, data: &[u8]) -> Result<(), LunError> {
        let bytes = data.to_vec();
        let offset = offset.0;
        self.run("WRITE", Command::Write { offset, bytes }, None)?;
        Ok(())
    }

    fn write_zeros(&self, offset: DeviceOffset, length: u64) -> Result<(), LunError> {
        let offset = offset.0;
        self.run("WRITE SAME", Command::Zero { offset, length }, None)?;
        Ok(())
    }

    fn write_if(
        &self,
        offset: DeviceOffset,
        data: &[u8],
        may: &dyn Fn() -> bool,
    ) -> Result<(), LunError> {
        let bytes = data.to_vec();
        let offset = offset.0;
        self.run("WRITE", Command::Write { offset, bytes }, Some(may))?;
        Ok(())
    }

    fn write_zeros_if(
        &self,
        offset: DeviceOffset,
        length: u64,
        may: &dyn Fn() -> bool,
    ) -> Result<(), LunError> {
        let offset = offset.0;
        self.run("WRITE SAME", Command::Zero { offset, length }, Some(may))?;
        Ok(())
    }

    fn flush(&self) -> Result<(), LunError> {
        self.run("SYNCHRONIZE CACHE", Command::Flush, None)?;
        Ok(())
    }

    fn capabilities(&self) -> Capabilities {
        let vaai = self.baton.world().array.is_vaai();
        Capabilities {
            compare_and_write: vaai,
            reserve: true,
            persistent_reserve: vaai,
            unmap: false,
        }
    }

    fn compare_and_write(
        &self,
        offset: DeviceOffset,
        expected: &[u8],
        new: &[u8],
    ) -> Result<Comparison, LunError> {
        const COMMAND: &str = "COMPARE AND WRITE";
        self.has_vaai(COMMAND)?;
        let command = Command::CompareAndWrite {
            offset: offset.0,
            old: expected.to_vec(),
            new: new.to_vec(),
        };
        Ok(match self.run(COMMAND, command, None)? {
            Reply::Miscompare(at) => Comparison::Miscompare { at },
            _ => Comparison::Written,
        })
    }

    fn reserve(&self) -> Result<(), LunError> {
        self.run("RESERVE", Command::Reserve, None)?;
        Ok(())
    }

    fn release(&self) -> Result<(), LunError> {
        self.run("RELEASE", Command::Release, None)?;
        Ok(())
    }

    fn persistent_reserve(&self, action: PersistentReserve) -> Result<(), LunError> {
        const COMMAND: &str = "PERSISTENT RESERVE OUT";
        self.has_vaai(COMMAND)?;
        self.run(COMMAND, Command::Persist(action), None)?;
        Ok(())
    }

    fn reservations(&self) -> Result<Reservations, LunError> {
        const COMMAND: &str = "PERSISTENT RESERVE IN";
        self.has_vaai(COMMAND)?;
        match self.run(COMMAND, Command::Status, None)? {
            Reply::Status(status) => Ok(status),
            _ => Ok(Reservations::default()),
        }
    }

    fn reset(&self) -> Result<(), LunError> {
        self.run("LOGICAL UNIT RESET", Command::Reset, None)?;
        Ok(())
    }

    fn attentions(&self) -> Vec<Attention> {
        let was_reset = self.was_reset.swap(false, SeqCst);
        was_reset.then_some(Attention::Reset).into_iter().collect()
    }

    fn counters(&self) -> &Counters {
        &self.counters
    }
}
