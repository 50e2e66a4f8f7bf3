//! What tests of several crates share.
//!
//! - [`contention`]: hosts as processes on one image.
//! - [`corpus`]: crafted images, and what fsck.vmfs has to do with them.
//! - [`crash`]: cuts of the power, and what they may leave.
//! - [`images`]: the volumes that ESXi made.
//! - [`network`]: hosts with links that can be cut.
//! - [`oracle`]: readers that other people wrote.
//! - [`parsers`]: what fuzzers feed.
//! - [`random`]: numbers from a seed.
//! - [`sim`]: many hosts on one LUN, and every fault.
//! - [`tgt`]: iSCSI targets.
//! - [`walk`]: everything on a volume.

#[allow(
    clippy::pedantic,
    missing_docs,
    unreachable_pub,
    reason = "a test harness: what panics has failed, and its modules say at their head what they are"
)]
pub mod contention;
pub mod corpus;
#[allow(
    clippy::pedantic,
    clippy::let_and_return,
    missing_docs,
    unreachable_pub,
    reason = "a test harness: what panics has failed, and its modules say at their head what they are"
)]
pub mod crash;
pub mod images;
pub mod network;
pub mod oracle;
pub mod parsers;
pub mod random;
#[allow(
    clippy::pedantic,
    missing_docs,
    unreachable_pub,
    reason = "a test harness: what panics has failed, and its modules say at their head what they are"
)]
pub mod sim;
pub mod tgt;
pub mod walk;
