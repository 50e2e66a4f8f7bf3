//! SCSI commands to one LUN of an iSCSI target, from any thread, through libiscsi.
//!
//! A [`Connection`] has a thread of its own, which owns libiscsi's context (libiscsi is not made
//! for threads), keeps many commands in flight, and logs in again when the connection is lost.
//! What a command means is not known here: callers give command descriptor blocks and decide
//! themselves what is sent again after a cut. Every login begins a new [`Epoch`], and a command is
//! only ever sent in the epoch that it was given for.
//!
//! - `raw`: libiscsi behind a safe interface; the only unsafe code.
//! - `event_loop`: the thread.
//! - [`Connection`]: what callers have.

mod answer;
mod connection;
mod error;
mod event_loop;
mod moment;
#[expect(unsafe_code, reason = "libiscsi is a C library")]
mod raw;
mod settings;

pub use answer::{Answer, Data, Sense, Status};
pub use connection::{Connection, Epoch};
pub use error::{ConnectError, LoginError, Unanswered};
pub use moment::Moment;
pub use settings::{Chap, MAX_NAME, MAX_SECRET, Settings};
