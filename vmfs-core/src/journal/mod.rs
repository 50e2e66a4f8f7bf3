//! Metadata: read through a cache, changed in transactions, safe against a cut at any moment.
//!
//! A [`Txn`] collects changed sectors. Publishing it makes them visible to every reader at once
//! and part of the running compound transaction; [`Journal::commit`] writes that to the journal
//! block, from where a checkpoint brings it in place. [`replay`] does so after a cut.

mod codec;
mod commit;
mod error;
mod foreign;
mod log;
mod meta_reader;
mod overlay;
mod patch;
mod replay;
mod txn;
mod zeroed;

pub use commit::Journal;
pub use error::JournalError;
pub use foreign::is_unused;
pub use log::{JournalHeader, Log};
pub use meta_reader::MetaReader;
pub use overlay::Publisher;
pub use replay::{Replayed, look_through, pending, replay};
pub use txn::Txn;
