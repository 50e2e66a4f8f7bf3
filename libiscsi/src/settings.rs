//! Where to connect to, and as whom.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

/// Longest iSCSI name (RFC 7143, 4.2.7.1).
pub const MAX_NAME: usize = 223;
/// Longest CHAP name or secret that libiscsi takes.
pub const MAX_SECRET: usize = 255;

/// Where to connect to, and as whom.
#[derive(Debug, Clone)]
pub struct Settings {
    /// This host's iSCSI name.
    pub initiator: String,
    /// Tells apart sessions of one host. A session that comes with the number of another of the
    /// same host takes its place, and the target ends what the other had begun.
    pub session: u32,
    /// The target's iSCSI name.
    pub target: String,
    /// The LUN's number.
    pub lun: u16,
    /// The target's addresses, tried one after the other.
    pub portals: Vec<SocketAddr>,
    /// Name and secret that the target wants.
    pub chap: Option<Chap>,
    /// Name and secret that the target must prove to have.
    pub target_chap: Option<Chap>,
    /// How long the target may say nothing while it has something to answer, and how long
    /// connecting may take.
    pub silence: Duration,
}

/// A name and a secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Chap {
    /// The name.
    pub name: String,
    /// The secret; RFC 7143 wants 12 bytes at least.
    pub secret: String,
}

impl fmt::Debug for Chap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chap")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl Settings {
    /// Why libiscsi would not take them as they are.
    pub(crate) fn problem(&self) -> Option<&'static str> {
        let names = [&self.initiator, &self.target];
        let chaps = self.chap.iter().chain(&self.target_chap);
        let mut secrets = chaps.flat_map(|chap| [&chap.name, &chap.secret]);
        if names.iter().any(|name| name.is_empty()) {
            Some("an iSCSI name is empty")
        } else if names.iter().any(|name| name.len() > MAX_NAME) {
            Some("an iSCSI name is longer than 223 bytes")
        } else if secrets.clone().any(|text| text.len() > MAX_SECRET) {
            Some("a CHAP name or secret is longer than 255 bytes")
        } else if secrets.any(|text| text.contains('\0'))
            || names.iter().any(|name| name.contains('\0'))
        {
            Some("a name or secret has a zero byte in it")
        } else if self.portals.is_empty() {
            Some("the target has no address")
        } else if self.lun >= 0x4000 {
            Some("LUN numbers end at 16383")
        } else if self.target_chap.is_some() && self.chap.is_none() {
            Some("a target proves who it is only to a host that does so as well")
        } else {
            None
        }
    }

    /// The LUN's number as it stands in a PDU: flat addressing from 256 on (SAM-5, 4.7.7).
    pub(crate) fn lun_field(&self) -> u16 {
        if self.lun < 256 {
            self.lun
        } else {
            self.lun | 0x4000
        }
    }
}
