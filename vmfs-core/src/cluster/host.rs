use std::sync::Arc;
use std::time::Duration;

use crate::format::Uuid;
use crate::scsi::{Clock, SystemClock};

/// A host that mounts a volume for writing: a value, so that several can live in one process.
#[derive(Debug, Clone)]
pub struct HostConfig {
    /// Tells this mount apart from every other one, of this host or another.
    pub uuid: Uuid,
    /// What others see as the host's name; at most 45 bytes are kept.
    pub name: String,
    /// The host's clock.
    pub clock: Arc<dyn Clock>,
    /// Time between two heartbeats.
    pub heartbeat: Duration,
    /// Time after which a heartbeat that stood still is that of a dead host.
    pub lease: Duration,
    /// How long what this host tells its users may be kept by them while it is alone on the volume.
    pub kept: Duration,
    /// Time after which a change is durable without anyone asking.
    pub commit: Duration,
    /// Bytes of its journal, if the block for it isn't smaller.
    pub journal: u64,
    /// How it locks; `None` leaves that to what the LUNs can do.
    pub lock: Option<LockMethod>,
}

/// How hosts keep out of each other's way. All hosts of a volume do it in one way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LockMethod {
    /// Each lock is one COMPARE AND WRITE.
    Ats,
    /// Locks are read and written while the LUN is reserved.
    Scsi2,
    /// Not at all: the LUN has no command for it, so one host has it for itself.
    Alone,
}

impl LockMethod {
    /// The method's number in a heartbeat slot.
    pub(super) fn number(self) -> u8 {
        match self {
            Self::Alone => 0,
            Self::Ats => 1,
            Self::Scsi2 => 2,
        }
    }

    pub(super) fn from_number(number: u8) -> Option<Self> {
        [Self::Alone, Self::Ats, Self::Scsi2]
            .into_iter()
            .find(|method| method.number() == number)
    }
}

impl std::fmt::Display for LockMethod {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Ats => "ATS",
            Self::Scsi2 => "SCSI-2 reservations",
            Self::Alone => "no locks",
        })
    }
}

impl HostConfig {
    /// A host with the usual intervals: a heartbeat every 3 s, a lease of 16 s, a commit every 5 s,
    /// a journal of 2 MiB.
    pub fn new(uuid: Uuid, name: &str) -> Self {
        Self {
            uuid,
            name: name.to_owned(),
            clock: Arc::new(SystemClock),
            heartbeat: Duration::from_secs(3),
            lease: Duration::from_secs(16),
            kept: Duration::ZERO,
            commit: Duration::from_secs(5),
            journal: 2 << 20,
            lock: None,
        }
    }
}
