//! What tests of several crates share.
//!
//! - [`images`]: the volumes that ESXi made.
//! - [`oracle`]: readers that other people wrote.
//! - [`parsers`]: what fuzzers feed.
//! - [`random`]: numbers from a seed.
//! - [`walk`]: everything on a volume.

pub mod images;
pub mod oracle;
pub mod parsers;
pub mod random;
pub mod walk;
