//! `vmfs df`.

use std::io::{self, Write};
use std::path::PathBuf;

use serde::Serialize;
use vmfs_core::fs::Space;

use crate::Common;
use crate::error::Error;
use crate::output::{human, json};
use crate::target::Target;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The volume: one device, or all of them in any order
    #[arg(required = true, value_name = "DEVICE")]
    devices: Vec<PathBuf>,
    /// Sizes as people write them
    #[arg(short = 'H', long = "human")]
    human: bool,
}

#[derive(Debug, Serialize)]
struct Usage {
    label: String,
    #[serde(flatten)]
    space: Space,
    size: u64,
    used: u64,
    free: u64,
}

pub(crate) fn run(args: &Args, common: &Common) -> Result<(), Error> {
    let target = Target {
        devices: args.devices.clone(),
        path: "/".to_owned(),
    };
    let fs = target.open(common)?;
    let space = fs.space();
    let usage = Usage {
        label: fs.descriptor().label(),
        space,
        size: space.blocks * space.block_size,
        used: (space.blocks - space.free_blocks.min(space.blocks)) * space.block_size,
        free: space.free_blocks * space.block_size,
    };
    if common.json {
        return json(&usage);
    }
    let show = |bytes: u64| {
        if args.human {
            human(bytes)
        } else {
            (bytes / 1024).to_string()
        }
    };
    let unit = if args.human { "Size" } else { "1K-blocks" };
    let percent = (usage.used * 100).div_ceil(usage.size.max(1));
    let mut out = io::stdout().lock();
    writeln!(
        out,
        "{:<20} {unit:>14} {:>14} {:>14} {:>5}",
        "Volume", "Used", "Available", "Use%"
    )?;
    writeln!(
        out,
        "{:<20} {:>14} {:>14} {:>14} {percent:>4}%",
        usage.label,
        show(usage.size),
        show(usage.used),
        show(usage.free)
    )?;
    Ok(())
}
