//! The array: commands land, one after the other, by SCSI's rules.

use std::collections::BTreeMap;

use vmfs_core::scsi::{
    Attention, Demand, Nexus, PersistentReserve, Personality, Refusal, ReservationState,
    Reservations,
};

use super::disk::Disk;

/// A command with all that it says.
#[derive(Debug, Clone)]
pub enum Command {
    Read {
        offset: u64,
        length: usize,
    },
    Write {
        offset: u64,
        bytes: Vec<u8>,
    },
    Zero {
        offset: u64,
        length: u64,
    },
    Flush,
    CompareAndWrite {
        offset: u64,
        old: Vec<u8>,
        new: Vec<u8>,
    },
    Reserve,
    Release,
    Persist(PersistentReserve),
    Status,
    Reset,
}

/// What a command came to.
#[derive(Debug, Clone)]
pub enum Reply {
    Done,
    Bytes(Vec<u8>),
    Miscompare(usize),
    Status(Reservations),
    Conflict,
    Invalid(&'static str),
    /// The host's reservation is gone.
    Lost,
    /// The LUN was reset since the last command; this one wasn't carried out.
    Attention,
    /// There is no answer, and no one knows whether the command was carried out. It isn't later.
    Silence,
}

impl Command {
    /// A number for the trace.
    pub fn number(&self) -> u64 {
        match self {
            Self::Read { .. } => 1,
            Self::Write { .. } => 2,
            Self::Zero { .. } => 3,
            Self::Flush => 4,
            Self::CompareAndWrite { .. } => 5,
            Self::Reserve => 6,
            Self::Release => 7,
            Self::Persist(_) => 8,
            Self::Status => 9,
            Self::Reset => 10,
        }
    }

    /// What it is called.
    pub fn name(&self) -> String {
        match self {
            Self::Persist(action) => format!("{action:?}"),
            Self::Read { offset, length } => format!("READ {offset:#x} {length}"),
            Self::Write { .. } => "WRITE".to_owned(),
            Self::Zero { .. } => "WRITE SAME".to_owned(),
            Self::CompareAndWrite { .. } => "COMPARE AND WRITE".to_owned(),
            other => format!("{other:?}").to_uppercase(),
        }
    }

    /// What it would change: offset and length.
    pub fn changes(&self) -> Option<(u64, u64)> {
        match self {
            Self::Write { offset, bytes } => Some((*offset, bytes.len() as u64)),
            Self::Zero { offset, length } => Some((*offset, *length)),
            Self::CompareAndWrite { offset, new, .. } => Some((*offset, new.len() as u64)),
            _ => None,
        }
    }
}

/// A LUN with its reservations.
#[derive(Debug)]
pub struct Array {
    pub personality: Personality,
    pub disk: Disk,
    pub reservations: ReservationState,
    /// Open ports and the initiators that they belong to.
    ports: BTreeMap<u64, String>,
    next_port: u64,
}

impl Array {
    /// An array with nobody connected.
    pub fn new(personality: Personality, disk: Disk) -> Self {
        Self {
            personality,
            disk,
            reservations: ReservationState::default(),
            ports: BTreeMap::new(),
            next_port: 1,
        }
    }

    /// Whether it has COMPARE AND WRITE and persistent reservations.
    pub fn is_vaai(&self) -> bool {
        self.personality == Personality::Vaai
    }

    /// A way to the LUN for `initiator`.
    pub fn connect(&mut self, initiator: &str) -> Nexus {
        let port = self.next_port;
        self.next_port += 1;
        self.ports.insert(port, initiator.to_owned());
        Nexus {
            initiator: initiator.to_owned(),
            port,
        }
    }

    /// The way is gone, and its reservation.
    pub fn disconnect(&mut self, nexus: &Nexus) {
        self.reservations.disconnect(nexus.port);
        self.ports.remove(&nexus.port);
    }

    /// The connection is another one: the host loses its reservation.
    pub fn reconnect(&mut self, nexus: &Nexus) {
        if self.reservations.reserved() == Some(nexus.port) {
            self.reservations.reset([]);
        }
    }

    /// Whether a command of `nexus` gets a unit attention for a reset instead of an answer.
    pub fn attends(&mut self, nexus: &Nexus) -> bool {
        let attentions = self.reservations.take_attentions(&nexus.initiator);
        attentions.contains(&Attention::Reset)
    }

    /// Carries out command number `id`.
    pub fn land(&mut self, nexus: &Nexus, command: &Command, id: u64) -> Reply {
        if self.reservations.has_lost(nexus.port) {
            return Reply::Lost;
        }
        match self.carry_out(nexus, command, id) {
            Ok(reply) => reply,
            Err(Refusal::Conflict) => Reply::Conflict,
            Err(Refusal::Invalid(reason)) => Reply::Invalid(reason),
        }
    }

    fn carry_out(&mut self, nexus: &Nexus, command: &Command, id: u64) -> Result<Reply, Refusal> {
        let reservations = &mut self.reservations;
        match command {
            Command::Read { offset, length } => {
                reservations.check(nexus, Demand::Read)?;
                let mut bytes = vec![0; *length];
                self.disk.read(*offset, &mut bytes);
                return Ok(Reply::Bytes(bytes));
            }
            Command::Write { offset, bytes } => {
                reservations.check(nexus, Demand::Write)?;
                self.disk.write(*offset, bytes, Some(id));
            }
            Command::Zero { offset, length } => {
                reservations.check(nexus, Demand::Write)?;
                self.disk
                    .write(*offset, &vec![0; *length as usize], Some(id));
            }
            Command::Flush => {
                reservations.check(nexus, Demand::Write)?;
                self.disk.flush();
            }
            Command::CompareAndWrite { offset, old, new } => {
                reservations.check(nexus, Demand::Write)?;
                let mut found = vec![0; old.len()];
                self.disk.read(*offset, &mut found);
                let differs = old.iter().zip(&found).position(|(old, found)| old != found);
                if let Some(at) = differs {
                    return Ok(Reply::Miscompare(at));
                }
                self.disk.write(*offset, new, Some(id));
            }
            Command::Reserve => reservations.reserve(nexus)?,
            Command::Release => reservations.release(nexus)?,
            Command::Persist(action) => {
                reservations.persistent(nexus, *action)?;
            }
            Command::Status => return reservations.report().map(Reply::Status),
            Command::Reset => {
                let others = self.ports.values().filter(|name| **name != nexus.initiator);
                let others: Vec<String> = others.cloned().collect();
                reservations.reset(others);
            }
        }
        Ok(Reply::Done)
    }
}
