//! What a very large volume costs: time to mount, memory after random reads.

use std::fs::OpenOptions;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use anyhow::{Context, Result};
use rustix::fs::OFlags;
use serde::Serialize;
use vmfs_core::scsi::AlignedBuf;

use crate::contender::Daemon;
use crate::report::Figure;
use crate::workload::{Permutation, SMALL};

/// Figures of one volume.
#[derive(Debug, Clone, Serialize)]
pub struct LargeFigures {
    /// The volume and the file on it.
    pub what: String,
    /// Time from the start of the process to the first answer, in milliseconds.
    pub mount_ms: Figure,
    /// Random reads of 4 KiB done after the last mount.
    pub reads: u64,
    /// How fast they were.
    pub reads_per_second: f64,
    /// Resident memory after them in KiB, and at most.
    pub resident_kib: (u64, u64),
}

impl LargeFigures {
    /// One line of a table.
    pub fn line(&self) -> String {
        format!(
            "{}: mounted in {:.1} ms (at most {:.1}); after {} random reads ({:.0}/s) {:.1} MiB resident, at most {:.1}",
            self.what,
            self.mount_ms.median,
            self.mount_ms.max,
            self.reads,
            self.reads_per_second,
            self.resident_kib.0 as f64 / 1024.0,
            self.resident_kib.1 as f64 / 1024.0
        )
    }
}

/// Mounts `rounds` times, then reads `reads` blocks of `file` (a path on the volume) at random.
///
/// # Errors
/// What mounting or reading fails with.
pub fn measure(
    what: &str,
    daemon: &Daemon,
    (point, log): (&Path, &Path),
    file: &str,
    (rounds, reads): (usize, u64),
) -> Result<LargeFigures> {
    let mut times = Vec::new();
    for _ in 1..rounds {
        times.push(daemon.mount(point, log)?.took.as_secs_f64() * 1e3);
    }
    let mount = daemon.mount(point, log)?;
    times.push(mount.took.as_secs_f64() * 1e3);
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(OFlags::DIRECT.bits().cast_signed())
        .open(mount.point().join(file))
        .with_context(|| format!("open {file}"))?;
    let blocks = opened.metadata()?.len() / SMALL as u64;
    let mut buf = AlignedBuf::new(SMALL);
    let start = std::time::Instant::now();
    let mut done = 0;
    for block in Permutation::new(blocks).take(reads as usize) {
        opened.read_exact_at(&mut buf, block * SMALL as u64)?;
        done += 1;
    }
    Ok(LargeFigures {
        what: what.to_owned(),
        mount_ms: Figure::new(times).context("no round")?,
        reads: done,
        reads_per_second: done as f64 / start.elapsed().as_secs_f64(),
        resident_kib: mount.resident()?,
    })
}
