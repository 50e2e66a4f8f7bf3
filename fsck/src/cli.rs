use std::path::PathBuf;

use clap::Parser;

const HELP: &str = "\
Exit codes, added up: 0 clean, 1 errors repaired, 4 errors left, 8 the check could not be done or nothing may be repaired, 16 usage, 32 stopped by the user.

Examples:
  fsck.vmfs -n /dev/sdb1
  fsck.vmfs -y --undo before.undo extent0.img extent1.img
  vmfs undo before.undo extent0.img extent1.img";

/// Checks and repairs a VMFS volume.
///
/// All repairs are planned in memory first, then written in an order of which every part leaves a volume that another run
/// repairs. Without -n, -p or -y every repair is asked about on the terminal.
#[derive(Debug, Parser)]
#[command(name = "fsck.vmfs", version, after_help = HELP)]
pub(crate) struct Args {
    /// Check only, change nothing
    #[arg(short = 'n', group = "mode")]
    check: bool,
    /// Repair what is certain; if anything isn't, repair nothing and exit with 4
    #[arg(short = 'p', short_alias = 'a', group = "mode")]
    preen: bool,
    /// Repair everything
    #[arg(short = 'y', group = "mode")]
    yes: bool,
    /// Check even if the volume seems clean: always done
    #[arg(short = 'f')]
    force: bool,
    /// Say more: each pass, what was lost, debugging
    #[arg(short = 'v', long)]
    pub(crate) verbose: bool,
    /// Keep what a repair overwrites in FILE, for `vmfs undo`
    #[arg(long, value_name = "FILE", conflicts_with = "check")]
    pub(crate) undo: Option<PathBuf>,
    /// Print one JSON object a line: each finding, then a summary
    #[arg(long)]
    pub(crate) json: bool,
    /// Milliseconds after which a heartbeat that stands still is a dead host's
    #[arg(long, value_name = "MS", hide = true)]
    pub(crate) lease: Option<u64>,
    /// The volume: an image file, a block device or an iscsi:// URL, or all its extents in any order
    #[arg(required = true, value_name = "DEVICE")]
    pub(crate) devices: Vec<PathBuf>,
}

/// How repairs are decided on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Check,
    Preen,
    Yes,
    Ask,
}

impl Args {
    pub(crate) fn kind(&self) -> Kind {
        match (self.check, self.preen, self.yes) {
            (true, ..) => Kind::Check,
            (_, true, _) => Kind::Preen,
            (.., true) => Kind::Yes,
            _ => Kind::Ask,
        }
    }
}
