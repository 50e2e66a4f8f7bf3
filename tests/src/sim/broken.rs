//! Rules of the protocol, each of which can be left out: to see whether the simulator notices.
//!
//! Nothing of this is in the engine: what it asks of its LUN isn't done, or not as it should be.

use std::collections::HashMap;

use vmfs_core::scsi::{LunError, PersistentReserve};

use super::array::{Command, Reply};
use super::disk::SECTOR;
use super::lun::SimLun;

/// A rule that isn't kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broken {
    /// Before a write nobody asks whether the host has its lease yet.
    Lease,
    /// Some hosts take others for dead after a third of the lease.
    Patience,
    /// What was read once isn't read again after its lock was taken.
    Reread,
    /// The journal of a dead host isn't replayed.
    Replay,
    /// A dead host isn't kept from writing.
    Fence,
    /// A host doesn't hear that a reset took its reservation away.
    Attention,
    /// A lock or a slot is compared first and written then, not in one step.
    Atomic,
    /// A COMPARE AND WRITE without an answer is sent again without a look at the block.
    Answer,
    /// Nothing is flushed.
    Flush,
}

impl Broken {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Lease,
        Self::Patience,
        Self::Reread,
        Self::Replay,
        Self::Fence,
        Self::Attention,
        Self::Atomic,
        Self::Answer,
        Self::Flush,
    ];

    /// What isn't done.
    pub fn shown(self) -> &'static str {
        match self {
            Self::Lease => "no look at the lease before a write",
            Self::Patience => "dead after a third of the lease",
            Self::Reread => "nothing read again after locking",
            Self::Replay => "no replay at takeover",
            Self::Fence => "no fence at takeover",
            Self::Attention => "a lost reservation goes unheard",
            Self::Atomic => "compare, then write, in two steps",
            Self::Answer => "no look at a block after a lost answer",
            Self::Flush => "no flush",
        }
    }
}

/// Bytes of half a journal's log, for the journals that simulated hosts have: only a replay reads so much.
pub const LOG_HALF: usize = 63_488;
/// Fewer bytes at once are locks, slots or file content.
const METADATA: usize = 4096;

/// What a mount has read and written, for [`Broken::Reread`].
#[derive(Debug, Default)]
pub struct Seen(HashMap<u64, [u8; SECTOR]>);

impl Seen {
    /// What a read would find if nobody else wrote, if it was all read before.
    pub fn read(&self, command: &Command) -> Option<Vec<u8>> {
        let (offset, length) = metadata(command)?;
        let sectors = (0..length / SECTOR).map(|at| self.0.get(&(offset + (at * SECTOR) as u64)));
        let sectors: Option<Vec<&[u8]>> = sectors
            .map(|sector| sector.map(<[u8; SECTOR]>::as_slice))
            .collect();
        Some(sectors?.concat())
    }

    /// Takes in what was read.
    pub fn note(&mut self, command: &Command, found: &[u8]) {
        let Some((offset, _)) = metadata(command) else {
            return;
        };
        for (at, bytes) in (offset..).step_by(SECTOR).zip(found.chunks_exact(SECTOR)) {
            self.0.insert(at, bytes.try_into().expect("a sector"));
        }
    }

    /// Takes in what was written, where something was read.
    pub fn write(&mut self, command: &Command) {
        let (offset, bytes) = match command {
            Command::Write { offset, bytes } => (*offset, bytes.clone()),
            Command::CompareAndWrite { offset, new, .. } => (*offset, new.clone()),
            Command::Zero { offset, length } => (*offset, vec![0; *length as usize]),
            _ => return,
        };
        for (at, new) in (offset..).step_by(SECTOR).zip(bytes.chunks_exact(SECTOR)) {
            if let Some(known) = self.0.get_mut(&at) {
                known.copy_from_slice(new);
            }
        }
    }
}

fn metadata(command: &Command) -> Option<(u64, usize)> {
    match command {
        Command::Read { offset, length }
            if *length >= METADATA
                && length % SECTOR == 0
                && offset.is_multiple_of(SECTOR as u64)
                && *length != LOG_HALF =>
        {
            Some((*offset, *length))
        }
        _ => None,
    }
}

impl SimLun {
    /// Does what a command asks for, but for what isn't kept.
    pub(super) fn run_broken(
        &self,
        broken: Broken,
        name: &'static str,
        command: Command,
        may: Option<&dyn Fn() -> bool>,
    ) -> Result<Reply, LunError> {
        match (broken, &command) {
            (Broken::Lease, _) => self.send(name, command, None),
            (Broken::Fence, Command::Persist(PersistentReserve::Preempt { .. }))
            | (Broken::Fence, Command::Reset)
            | (Broken::Flush, Command::Flush) => Ok(Reply::Done),
            (Broken::Replay, Command::Read { length, .. }) if *length == LOG_HALF => {
                Ok(Reply::Bytes(vec![0; LOG_HALF]))
            }
            (Broken::Attention, _) => loop {
                match self.send(name, command.clone(), may) {
                    Err(LunError::ReservationLost { .. }) => {}
                    done => return done,
                }
            },
            (Broken::Atomic, Command::CompareAndWrite { offset, old, new }) => {
                let (offset, length) = (*offset, new.len());
                let read = Command::Read { offset, length };
                let Reply::Bytes(found) = self.send(name, read, None)? else {
                    return Ok(Reply::Miscompare(0));
                };
                if let Some(at) = found.iter().zip(old).position(|(found, old)| found != old) {
                    return Ok(Reply::Miscompare(at));
                }
                let bytes = new.clone();
                self.send(name, Command::Write { offset, bytes }, may)
            }
            (Broken::Reread, _) => self.run_from_memory(name, command, may),
            _ => self.send(name, command, may),
        }
    }

    fn run_from_memory(
        &self,
        name: &'static str,
        command: Command,
        may: Option<&dyn Fn() -> bool>,
    ) -> Result<Reply, LunError> {
        let is_heartbeat = |offset: u64| {
            let base = &self.base;
            let place = offset.wrapping_sub(base.delta);
            base.heartbeats.contains(&place)
        };
        let reads = matches!(&command, Command::Read { offset, .. } if !is_heartbeat(*offset));
        if let Some(known) = reads.then(|| self.seen.lock().read(&command)).flatten() {
            return Ok(Reply::Bytes(known));
        }
        let reply = self.send(name, command.clone(), may)?;
        match &reply {
            Reply::Bytes(found) if reads => self.seen.lock().note(&command, found),
            Reply::Done => self.seen.lock().write(&command),
            _ => {}
        }
        Ok(reply)
    }
}
