//! `vmfs undo`.

use std::path::PathBuf;
use std::sync::Arc;

use fsck_vmfs::undo::undo;
use vmfs_core::scsi::{self, Access, Lun};

use crate::Common;
use crate::error::Error;
use crate::output::json;

const AFTER_HELP: &str = "\
FILE is what `fsck.vmfs --undo FILE` has written: every block as it was before the repair. If the volume was changed since,
by a mount or another repair, nothing is done: the old blocks may not fit what is there now.

Examples:
  fsck.vmfs -y --undo before.undo datastore.img
  vmfs undo before.undo datastore.img";

#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Args {
    /// Restore also where the volume was changed since
    #[arg(long)]
    force: bool,
    /// The undo file
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// All devices that were repaired, in any order
    #[arg(value_name = "DEVICE", required = true)]
    devices: Vec<PathBuf>,
}

/// Puts back what a repair has overwritten.
pub(crate) fn run(args: &Args, common: &Common) -> Result<(), Error> {
    let devices = args.devices.iter().chain(&common.devices);
    let luns = devices
        .map(|device| scsi::open(device, Access::ReadWrite, None))
        .collect::<Result<Vec<Arc<dyn Lun>>, _>>()?;
    let sectors =
        undo(&args.file, &luns, args.force).map_err(|error| Error::Undo(Box::new(error)))?;
    if common.json {
        return json(&serde_json::json!({ "restored_sectors": sectors }));
    }
    println!("restored {sectors} sectors of 512 bytes");
    Ok(())
}
