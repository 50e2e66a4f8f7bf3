//! `vmfs cp` of a thick file beside cp(1) of the same bytes.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use crate::report::Figure;

/// Rates of both, in MiB/s.
#[derive(Debug, Clone, Serialize)]
pub struct CopyFigures {
    /// The volume copied from.
    pub volume: String,
    /// `vmfs cp` out of the image.
    pub vmfs_cp: Figure,
    /// cp(1) of a plain file with the same bytes.
    pub cp: Figure,
}

impl CopyFigures {
    /// One line of a table.
    pub fn line(&self) -> String {
        let (ours, plain) = (self.vmfs_cp.median, self.cp.median);
        format!(
            "vmfs cp of the thick file, {}: {ours:.0} MiB/s; cp of the same bytes {plain:.0} MiB/s; ratio {:.2}",
            self.volume,
            ours / plain
        )
    }
}

/// Copies to `target`, which must be on the same tmpfs as the sources, `rounds` times each, in
/// turns.
///
/// # Errors
/// A command fails, or its copy differs in length.
pub fn measure(
    volume: &str,
    vmfs_cp: (&Path, &[OsString]),
    plain: &Path,
    target: &Path,
    rounds: usize,
) -> Result<CopyFigures> {
    let length = fs::metadata(plain)?.len();
    let cp = (Path::new("cp"), &[plain.as_os_str().to_owned()][..]);
    let mut rates = [Vec::new(), Vec::new()];
    for _ in 0..rounds {
        for (rates, (program, arguments)) in rates.iter_mut().zip([vmfs_cp, cp]) {
            let start = Instant::now();
            let output = Command::new(program).args(arguments).arg(target).output();
            let time = start.elapsed();
            let output = output.with_context(|| format!("start {}", program.display()))?;
            ensure!(
                output.status.success(),
                "{}: {}",
                program.display(),
                String::from_utf8_lossy(&output.stderr)
            );
            ensure!(fs::metadata(target)?.len() == length, "a copy is cut off");
            fs::remove_file(target)?;
            rates.push(length as f64 / f64::from(1 << 20) / time.as_secs_f64());
        }
    }
    let [ours, cp] = rates.map(Figure::new);
    Ok(CopyFigures {
        volume: volume.to_owned(),
        vmfs_cp: ours.context("no round")?,
        cp: cp.context("no round")?,
    })
}
