//! Rules of the protocol, each of which can be left out: to see whether the simulator notices.
//!
//! Nothing of this is in the engine: what it asks of its LUN isn't done, or not as it should be.

use std::collections::HashMap;

use vmfs_core::scsi::{LunError, PersistentReserve, Personality};

use super::array::{Command, Reply};
use super::disk::SECTOR;
use super::lun::SimLun;
use super::settings::Scenario;
use super::watcher;

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

/// What is left out, where, and the first seed there that notices; `None` where none does because another
/// rule stands in.
pub type LeftOut = (&'static [Broken], Scenario, Option<u64>);

/// Each rule, and those together that stand in for each other.
pub const LEFT_OUT: [LeftOut; 13] = [
    (&[Broken::Reread], Scenario::Any, Some(1)),
    (&[Broken::Atomic], Scenario::Any, Some(3)),
    (&[Broken::Flush], Scenario::Any, Some(7)),
    (&[Broken::Replay], Scenario::Any, Some(9)),
    (&[Broken::Patience], Scenario::Blink, Some(4)),
    (
        &[Broken::Lease],
        Scenario::Stop(Personality::Legacy),
        Some(1),
    ),
    (&[Broken::Lease], Scenario::Stop(Personality::Vaai), None),
    (&[Broken::Fence], Scenario::Stop(Personality::Legacy), None),
    (&[Broken::Fence], Scenario::Stop(Personality::Vaai), Some(2)),
    (&[Broken::Fence], Scenario::LateStop, Some(1)),
    (
        &[Broken::Lease, Broken::Fence],
        Scenario::Stop(Personality::Vaai),
        Some(1),
    ),
    (&[Broken::Attention], Scenario::Resets, Some(8)),
    (&[Broken::Answer], Scenario::Losses, Some(1)),
];

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
        name: &'static str,
        command: Command,
        may: Option<&dyn Fn() -> bool>,
    ) -> Result<Reply, LunError> {
        let is_left_out = |broken| self.broken.contains(&broken);
        let always = || true;
        let may = match may {
            Some(_) if is_left_out(Broken::Lease) => Some(&always as &dyn Fn() -> bool),
            may => may,
        };
        match &command {
            Command::Persist(PersistentReserve::Preempt { .. }) | Command::Reset
                if is_left_out(Broken::Fence) && self.is_only_fence(&command) =>
            {
                Ok(Reply::Done)
            }
            Command::Flush if is_left_out(Broken::Flush) => Ok(Reply::Done),
            Command::Read { length, .. } if *length == LOG_HALF && is_left_out(Broken::Replay) => {
                Ok(Reply::Bytes(vec![0; LOG_HALF]))
            }
            Command::CompareAndWrite { offset, old, new } if is_left_out(Broken::Atomic) => {
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
            _ if is_left_out(Broken::Attention) => loop {
                match self.send(name, command.clone(), may) {
                    Err(LunError::ReservationLost { .. }) => {}
                    done => return done,
                }
            },
            _ if is_left_out(Broken::Reread) => self.run_from_memory(name, command, may),
            _ => self.send(name, command, may),
        }
    }

    /// Whether a command does nothing but keep a dead host from writing: a reset of a LUN that somebody has
    /// reserved does more. The dead host counts as kept out then.
    fn is_only_fence(&self, command: &Command) -> bool {
        let mut world = self.baton.world();
        let is_reserved = world.array.reservations.reserved().is_some();
        if matches!(command, Command::Reset) && is_reserved {
            return false;
        }
        watcher::fences(&mut world, self.mount, command);
        true
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
