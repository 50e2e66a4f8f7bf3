//! Checks a VMFS volume: decodes every file descriptor, rebuilds every allocation bitmap from the
//! references to it and compares it with the one on disk.
//!
//! [`check`] runs the passes in order; each only reads:
//!
//! - [`descriptors`]: every file descriptor marked used, its block map and counts.
//! - [`tree`]: every directory from the root: names, hashes, link counts, connectivity.
//! - [`journals`]: the journal blocks that heartbeats name.
//! - [`bitmaps`]: what is marked used against what is referenced, cluster by cluster.

pub mod bitmaps;
pub mod descriptors;
mod finding;
pub mod journals;
pub mod tree;
mod usage;

pub use finding::{Code, Finding, Report, ResourceCount};
pub use usage::Usage;

use vmfs_core::fs::FileSystem;

/// What the passes share: the volume, what has been found and what is referenced.
pub struct Check<'a> {
    /// The volume.
    pub fs: &'a FileSystem,
    /// Findings and counts so far.
    pub report: Report,
    /// References to resources so far.
    pub usage: Usage,
}

/// Runs every pass; `progress` is told each pass's name as it starts.
pub fn check(fs: &FileSystem, progress: &mut dyn FnMut(&'static str)) -> Report {
    let usage = Usage::new(fs);
    let mut check = Check {
        fs,
        report: Report::default(),
        usage,
    };
    for (file, error) in &fs.store().resources().problems {
        let detail = format!("{}: {error}", file.name());
        check.report.add(Code::ResourceFileUnreadable, detail);
    }
    progress("file descriptors");
    let found = descriptors::run(&mut check);
    progress("directories");
    tree::run(&mut check, &found);
    progress("journals");
    journals::run(&mut check);
    progress("allocation bitmaps");
    bitmaps::run(&mut check);
    check.report
}
