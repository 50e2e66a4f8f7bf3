//! Figures, their medians and ratios, as a table and as JSON.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

use crate::copy::CopyFigures;
use crate::large::LargeFigures;
use crate::machine::Machine;
use crate::workload::Row;

/// A file system in the comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Name {
    /// The bytes in the image on tmpfs, and the same small files on tmpfs: no FUSE at all.
    Raw,
    /// libfuse's example over the same files on tmpfs.
    PassthroughLl,
    /// The in-memory file system with vmfs-fuse's settings.
    Ceiling,
    /// Debian's vmfs-fuse on the VMFS5 image.
    VmfsTools,
    /// Debian's vmfs6-fuse on the VMFS6 image.
    Vmfs6Tools,
    /// Our vmfs-fuse on the VMFS5 image.
    Ours5,
    /// Our vmfs-fuse on the VMFS6 image.
    Ours6,
}

impl Name {
    /// All, in the order of the tables.
    pub const ALL: [Self; 7] = [
        Self::Raw,
        Self::Ceiling,
        Self::PassthroughLl,
        Self::Vmfs6Tools,
        Self::Ours6,
        Self::VmfsTools,
        Self::Ours5,
    ];

    /// What a table calls it.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Raw => "raw tmpfs",
            Self::Ceiling => "ceiling",
            Self::PassthroughLl => "passthrough_ll",
            Self::Vmfs6Tools => "vmfs6-tools",
            Self::Ours6 => "ours, VMFS6",
            Self::VmfsTools => "vmfs-tools",
            Self::Ours5 => "ours, VMFS5",
        }
    }
}

/// All rounds of one row on one file system.
#[derive(Debug, Clone, Serialize)]
pub struct Figure {
    /// The middle one.
    pub median: f64,
    /// The lowest.
    pub min: f64,
    /// The highest.
    pub max: f64,
    /// In the order they were taken.
    pub rounds: Vec<f64>,
}

impl Figure {
    /// The figure for `rounds`; `None` without any.
    pub fn new(rounds: Vec<f64>) -> Option<Self> {
        let mut sorted = rounds.clone();
        sorted.sort_by(f64::total_cmp);
        Some(Self {
            median: *sorted.get(sorted.len() / 2)?,
            min: *sorted.first()?,
            max: *sorted.last()?,
            rounds,
        })
    }
}

/// Everything a run found out.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// What it ran on.
    pub machine: Machine,
    /// How it was called: sizes, rounds.
    pub setup: String,
    /// Rates by row and file system; a missing one is n/a.
    pub rows: BTreeMap<Row, BTreeMap<Name, Figure>>,
    /// Resident memory in KiB of each process at the end of its last round, and at most.
    pub resident_kib: BTreeMap<Name, (u64, u64)>,
    /// Copies out of the volumes.
    pub copies: Vec<CopyFigures>,
    /// What very large volumes cost.
    pub large: Vec<LargeFigures>,
}

impl Report {
    /// The median, if there is one.
    pub fn median(&self, row: Row, name: Name) -> Option<f64> {
        Some(self.rows.get(&row)?.get(&name)?.median)
    }

    /// `a` over `b` in a row.
    pub fn ratio(&self, row: Row, a: Name, b: Name) -> Option<f64> {
        Some(self.median(row, a)? / self.median(row, b)?)
    }

    /// The whole report as aligned text.
    pub fn text(&self) -> String {
        let mut out = format!("{}\n{}\n\n", self.machine.line(), self.setup);
        self.write_rates(&mut out);
        self.write_ratios(&mut out);
        out.push_str("\nResident memory of each process after its rows, MiB (at most):\n");
        for (name, (now, most)) in &self.resident_kib {
            let (now, most) = (now / 1024, most / 1024);
            let _ = writeln!(out, "  {:<16}{now:>6} ({most})", name.title());
        }
        for copy in &self.copies {
            let _ = writeln!(out, "{}", copy.line());
        }
        for large in &self.large {
            let _ = writeln!(out, "{}", large.line());
        }
        out
    }

    fn write_rates(&self, out: &mut String) {
        let _ = write!(out, "{:<36}{:<8}", "median of all rounds", "");
        for name in Name::ALL {
            let _ = write!(out, "{:>15}", name.title());
        }
        out.push('\n');
        for row in self.rows.keys() {
            let _ = write!(out, "{:<36}{:<8}", row.title(), row.unit());
            for name in Name::ALL {
                let _ = match self.median(*row, name) {
                    Some(rate) => write!(out, "{rate:>15.0}"),
                    None => write!(out, "{:>15}", "n/a"),
                };
            }
            out.push('\n');
        }
    }

    fn write_ratios(&self, out: &mut String) {
        let versus = [
            (Name::Ours6, Name::Ceiling),
            (Name::Ours6, Name::PassthroughLl),
            (Name::Ours6, Name::Vmfs6Tools),
            (Name::Ours5, Name::Ceiling),
            (Name::Ours5, Name::PassthroughLl),
            (Name::Ours5, Name::VmfsTools),
        ];
        let _ = write!(out, "\n{:<36}{:>33}{:>45}", "ratios", "VMFS6", "VMFS5");
        let _ = write!(out, "\n{:<36}", "ours to");
        for (_, other) in versus {
            let _ = write!(out, "{:>15}", other.title());
        }
        out.push('\n');
        for row in self.rows.keys() {
            let _ = write!(out, "{:<36}", row.title());
            for (ours, other) in versus {
                let _ = match self.ratio(*row, ours, other) {
                    Some(ratio) => write!(out, "{ratio:>15.2}"),
                    None => write!(out, "{:>15}", "n/a"),
                };
            }
            out.push('\n');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_round() {
        let figure = Figure::new(vec![5.0, 1.0, 9.0]).expect("three rounds");
        assert_eq!((figure.median, figure.min, figure.max), (5.0, 1.0, 9.0));
        assert!(Figure::new(Vec::new()).is_none());
    }
}
