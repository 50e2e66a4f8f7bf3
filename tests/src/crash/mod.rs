//! Crash tests of the write engine: what does a volume look like when the power goes?
//!
//! A [`Workload`] changes a fresh volume in ways that its seed chooses, and notes in a model what
//! must have become of it ([`model`]). The LUN records every command
//! ([`vmfs_core::scsi::RecorderLun`]). Then the power goes, in the record, anywhere, and of the
//! writes that no flush covers any may have reached the disk, in whole or in part ([`cut`]). Each
//! time another host mounts what is left, and [`explore`] asks:
//!
//! - does it mount, and does fsck find nothing?
//! - are names, sizes and attributes those of one state of the model, between the last sync and
//!   the cut?
//! - is each byte of each file one that may be there: durable ones exactly, those written since as
//!   they were before or after, none from anyone else's file?
//! - does it go on: change, unmount, mount again without anything to recover?
//!
//! The disk had another owner before: what was never written is full of [`image::STALE`].

mod compare;
pub mod content;
pub mod cut;
pub mod explore;
pub mod image;
pub mod model;
mod names;
mod operations;
mod show;
pub mod volume;
pub mod worker;
pub mod workload;

pub use explore::{Counts, Cuts, Failure, explore, try_cuts};
pub use workload::{Performed, Variant, Workload};
