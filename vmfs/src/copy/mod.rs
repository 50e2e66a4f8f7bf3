//! `vmfs cp`: copies files out of a volume.
//!
//! - [`walk`]: what is to be copied where.
//! - [`file`]: one file: its runs of data, holes kept, into a part file that is renamed when done.
//! - [`part`]: the part file, and going on with it.
//! - [`lost`]: what of a file could not be read, and the list of it beside the part file.
//! - [`progress`]: the bar.
//! - [`rescue`]: copies out of volumes that can't be opened.

mod file;
mod lost;
mod part;
mod progress;
mod rescue;
mod walk;

use std::path::PathBuf;

use vmfs_core::fs::FileSystem;

use crate::Common;
use crate::error::Error;
use crate::target::Target;

use progress::Progress;

const AFTER_HELP: &str = "\
A file is written to NAME.vmfs-part and renamed when it is complete, so what has its proper name is whole. After an
interruption, --resume goes on where the part file ends. Parts of a file that can't be read are reported as byte ranges,
and the rest of it stays in NAME.vmfs-part; NAME.vmfs-lost says what is missing, and --resume tries it again. Mode and
time of change are kept; with -p the owner as well. Directories that are there already keep theirs. Nothing is written
through symbolic links but the one that DEST may be.

Examples:
  vmfs cp datastore.img:/myvm/myvm-flat.vmdk .
  vmfs cp -r --verify /dev/sdb,/dev/sdc:/myvm /srv/rescue
  vmfs cp -r --resume /dev/sdb:/ /srv/rescue
  vmfs cp --rescue /dev/sdb /srv/rescue            the volume can't be opened: take what can be read";

#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Args {
    /// What to copy
    #[arg(required = true, value_name = "DEVICE:/PATH")]
    sources: Vec<Target>,
    /// Where to: a directory, or a new name for a single source
    #[arg(value_name = "DEST")]
    destination: PathBuf,
    /// Copy directories with all that is in them
    #[arg(short, long)]
    recursive: bool,
    /// Keep the owner as well (as root)
    #[arg(short = 'p', long)]
    preserve_owner: bool,
    /// Read both sides again when a file is copied, and compare
    #[arg(long)]
    verify: bool,
    /// Go on with the part files of an interrupted copy, leave out what is complete
    #[arg(long)]
    resume: bool,
    /// Don't replace files that exist
    #[arg(short, long)]
    no_clobber: bool,
    /// Copy the volume's own system files as well
    #[arg(long)]
    system: bool,
    /// Write zeros instead of leaving holes
    #[arg(long)]
    no_sparse: bool,
    /// Copy all that can be read out of a volume that is too damaged to be opened, below the path if one is
    /// given; what is there is never replaced. Tells of each file what is missing. Files that no name leads to
    /// go to DEST/lost+found
    #[arg(long, conflicts_with_all = ["no_clobber", "verify"])]
    rescue: bool,
    /// With --rescue: read the whole volume for file descriptors, even if it seems to say where they are
    #[arg(long, requires = "rescue")]
    scan: bool,
    /// Don't show progress
    #[arg(short, long)]
    quiet: bool,
}

/// What went wrong, counted; each failure is told as it happens.
#[derive(Debug, Default)]
struct Failures {
    count: u64,
}

impl Failures {
    fn add(&mut self, progress: &Progress, path: &str, message: &str) {
        self.count += 1;
        progress.say(&format!("vmfs: {path}: {message}"));
    }
}

pub(crate) fn run(args: &Args, common: &Common) -> Result<(), Error> {
    if args.rescue {
        return rescue::run(args, common);
    }
    let into_directory = args.destination.is_dir();
    if args.sources.len() > 1 && !into_directory {
        let shown = args.destination.display();
        return Err(Error::Usage(format!(
            "several sources need a directory, and {shown} is none"
        )));
    }
    let progress = Progress::new(!args.quiet && !common.json);
    let mut failures = Failures::default();
    let mut copied = Vec::new();
    for source in &args.sources {
        let fs = source.open(common)?;
        copy_source(
            args,
            &fs,
            source,
            into_directory,
            &progress,
            &mut failures,
            &mut copied,
        )?;
    }
    progress.finish();
    if common.json {
        crate::output::json(&copied)?;
    }
    if failures.count > 0 {
        Err(Error::Reported)
    } else {
        Ok(())
    }
}

fn copy_source(
    args: &Args,
    fs: &FileSystem,
    source: &Target,
    into_directory: bool,
    progress: &Progress,
    failures: &mut Failures,
    copied: &mut Vec<file::Copied>,
) -> Result<(), Error> {
    let inode = source.resolve(fs, !args.recursive)?;
    if inode.is_directory() && !args.recursive {
        return Err(Error::Usage(format!(
            "{} is a directory: add -r",
            source.path
        )));
    }
    let last = source
        .path
        .rsplit('/')
        .find(|name| !name.is_empty() && *name != ".");
    let destination = match last.filter(|name| into_directory && *name != "..") {
        Some(name) => args.destination.join(name),
        // The root of a volume has no name: its files go into the directory itself.
        None => args.destination.clone(),
    };
    let options = file::Options {
        sparse: !args.no_sparse,
        verify: args.verify,
        resume: args.resume,
        no_clobber: args.no_clobber,
        preserve_owner: args.preserve_owner,
    };
    let job = walk::Job {
        fs,
        options,
        system: args.system,
        progress,
        failures,
    };
    let named = destination == args.destination;
    copied.extend(job.run(&inode, &source.path, destination, named));
    Ok(())
}
