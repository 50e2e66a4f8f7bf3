//! LUNs of iSCSI targets, through libiscsi.
//!
//! - [`IscsiUrl`]: where a LUN is; `credentials`: who this host is to its target.
//! - `command`, `pages`, `persistent`: what goes over the wire, as bytes.
//! - `nexus`: sending commands, over connections that are lost and made anew.
//! - `connect`: from a URL to a connection; `probe`: finding out what a LUN can do; `quirks`: what
//!   targets are known for.
//! - [`IscsiLun`]: the LUN; `blocks` and `registrations` are parts of it.

mod blocks;
mod command;
mod connect;
mod credentials;
mod lun;
mod nexus;
mod pages;
mod persistent;
mod probe;
mod quirks;
mod registrations;
mod url;

pub use lun::IscsiLun;
pub use nexus::IscsiTimeouts;
pub use url::IscsiUrl;
