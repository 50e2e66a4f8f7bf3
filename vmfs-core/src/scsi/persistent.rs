//! Persistent reservations: who is registered with a LUN, and who may write to it (SPC-4, 5.13).

use std::fmt;

/// What a host registers with, and is known by to other hosts. Zero is no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(pub u64);

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#018x}", self.0)
    }
}

impl serde::Serialize for Key {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Key {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let digits = text.strip_prefix("0x").unwrap_or(&text);
        let key = u64::from_str_radix(digits, 16).map_err(serde::de::Error::custom)?;
        Ok(Self(key))
    }
}

/// Who may do what while a persistent reservation is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReservationType {
    /// Only the holder writes; everybody reads.
    WriteExclusive,
    /// Only the holder reads and writes.
    ExclusiveAccess,
    /// Registered hosts write; everybody reads.
    WriteExclusiveRegistrantsOnly,
    /// Registered hosts read and write.
    ExclusiveAccessRegistrantsOnly,
    /// Registered hosts write and all hold the reservation; everybody reads.
    WriteExclusiveAllRegistrants,
    /// Registered hosts read and write, and all hold the reservation.
    ExclusiveAccessAllRegistrants,
}

/// A change of registrations or of the reservation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PersistentReserve {
    /// REGISTER AND IGNORE EXISTING KEY: from now on this host has `key`; `None` unregisters it.
    Register {
        /// The host's key.
        key: Option<Key>,
    },
    /// RESERVE.
    Reserve {
        /// The host's own key.
        key: Key,
        /// What the reservation allows.
        kind: ReservationType,
    },
    /// RELEASE.
    Release {
        /// The host's own key.
        key: Key,
        /// What the reservation allows.
        kind: ReservationType,
    },
    /// CLEAR: takes away the reservation and every registration.
    Clear {
        /// The host's own key.
        key: Key,
    },
    /// PREEMPT AND ABORT: removes the registration of `victim`, none of whose commands lands
    /// after this has returned, and takes over its reservation.
    Preempt {
        /// The host's own key.
        key: Key,
        /// Key of the host to remove.
        victim: Key,
        /// What the reservation allows that this host takes over.
        kind: ReservationType,
    },
}

/// A host that is registered.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Registration {
    /// Its key.
    pub key: Key,
    /// What the LUN knows it by: its initiator name; empty if the LUN doesn't tell.
    pub initiator: String,
    /// Whether it holds the reservation.
    pub holder: bool,
}

/// The persistent reservation state of a LUN.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize)]
pub struct Reservations {
    /// Counts changes of registrations.
    pub generation: u32,
    /// Every registered host.
    pub registrations: Vec<Registration>,
    /// The reservation, if one is held.
    pub kind: Option<ReservationType>,
}
