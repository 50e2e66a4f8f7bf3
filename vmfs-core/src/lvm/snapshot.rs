//! Snapshots and replicas: devices whose header was written on another LUN
//! (FORMAT.md, "Device header").

use super::device::Device;

/// How a device's stored identity compares with the LUN's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// The header was written on this LUN.
    Original,
    /// The header was written on another LUN: this is a snapshot or a replica of it.
    Snapshot,
    /// The LUN doesn't say what it is, or the header doesn't say on which it was written.
    Unknown,
}

impl Device {
    /// The identity of the LUN that the header was written on.
    pub fn stored_identity(&self) -> String {
        self.metadata().disk_id.text()
    }

    /// Whether this is that LUN.
    pub fn origin(&self) -> Origin {
        let stored = self.stored_identity();
        match self.lun().identity() {
            Some(own) if own.as_str() == stored => Origin::Original,
            Some(_) if !stored.is_empty() => Origin::Snapshot,
            _ => Origin::Unknown,
        }
    }
}
