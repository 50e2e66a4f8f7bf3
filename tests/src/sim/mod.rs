//! The simulator: hosts over one LUN, with every fault that may befall them, from a seed.
//!
//! [`run`] makes hosts that mount, work, unmount, stop, die and come back, on a LUN in memory
//! ([`array`], [`disk`]) whose commands take their time and get lost ([`lun`]). The engine is the real
//! one; only its clock, its LUN and the way that its threads wait are not ([`scheduler`]). What a run
//! does depends on its seed alone.
//!
//! Asked of each run:
//! - Has a lock never two owners, and does a host that was fenced never write? ([`watcher`])
//! - Is there an order of all calls on names, and on each cell of each file, that explains what they
//!   returned, with nothing lost that was durable? ([`history`], [`checker`])
//! - Do all hosts come to an end when all is calm, and is the structure clean then? ([`run`])

pub mod array;
pub mod broken;
pub mod check;
pub mod checker;
mod client;
mod clock;
pub mod disk;
pub mod faults;
pub mod history;
mod host;
mod lun;
mod run;
pub mod scheduler;
pub mod settings;
mod watcher;
pub mod world;

pub use broken::Broken;
pub use run::{Report, run};
pub use settings::{Scenario, Settings, Transport};
