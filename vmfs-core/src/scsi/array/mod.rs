//! What an array knows of a LUN that isn't in its blocks: its identity, and what its hosts have
//! agreed on with it.
//!
//! `rules` is what SCSI says about reservations, as a state machine without any I/O; an array in
//! memory (`memory_array`) and one that processes emulate together on an image file (`shared`)
//! both go by it.

mod identity;
mod rules;
mod shared;

pub use identity::{ArrayState, LunIdentity, MAX_IDENTITY, Personality};
pub use rules::{Attention, Demand, Nexus, Refusal, ReservationState};
pub use shared::{HostStatus, SharedStatus};

pub(super) use identity::{identity_of, personality_of};
pub(super) use shared::{Fault, SharedLun, zero_file};
