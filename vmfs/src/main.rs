//! `vmfs`: looks into VMFS volumes and copies files out of them, without mounting.

mod cat;
mod copy;
mod df;
mod dump;
mod error;
mod hosts;
mod info;
mod list;
mod locks;
mod lun;
mod lvm;
mod output;
mod stat;
mod target;
mod undo;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use error::Error;

const EXAMPLES: &str = "\
A file on a volume is written DEVICE:/PATH. A volume on several devices is DEVICE,DEVICE,…:/PATH, in any order, or
-d DEVICE for each further one. DEVICE is an image file, a disk or a partition; nothing is ever written to it.

Examples:
  vmfs info /dev/sdb
  vmfs ls -lR datastore.img:/
  vmfs cp -r --verify /dev/sdb:/myvm .
  vmfs stat extent0.img,extent1.img:/myvm/disk-flat.vmdk
  vmfs cat datastore.img:/myvm/myvm.vmx

Exit codes: 0 done, 1 some file could not be read or copied, 2 usage, 3 the volume could not be opened.";

/// Looks into VMFS volumes and copies files out of them, without mounting.
#[derive(Debug, Parser)]
#[command(name = "vmfs", version, after_help = EXAMPLES)]
struct Args {
    #[command(subcommand)]
    command: Command,
    /// A further device of the volume
    #[arg(short = 'd', long = "device", value_name = "DEVICE", global = true)]
    extra_devices: Vec<std::path::PathBuf>,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
    /// Log more
    #[arg(short, long, global = true)]
    verbose: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Tells what a volume is: devices, versions, sizes, hosts, what is missing
    Info(info::Args),
    /// Lists files
    Ls(list::Args),
    /// Tells all about a file, with its block map
    Stat(stat::Args),
    /// Writes a file to standard output
    Cat(cat::Args),
    /// Copies files out of a volume
    Cp(copy::Args),
    /// Tells how full a volume is
    Df(df::Args),
    /// Shows structures as they stand on disk
    Dump(dump::Args),
    /// Tells which hosts have a volume mounted, whether they live, what they hold
    Hosts(hosts::Args),
    /// Tells who holds locks, and takes them from hosts that don't give them up
    Locks(locks::Args),
    /// Tells who shares a LUN, and how: hosts, reservations, counted commands
    Lun(lun::Args),
    /// Works on the devices of volumes
    Lvm(lvm::Args),
    /// Puts back what a repair by fsck.vmfs has overwritten
    Undo(undo::Args),
}

/// What every command is given.
pub(crate) struct Common {
    /// Further devices.
    pub(crate) devices: Vec<std::path::PathBuf>,
    /// Whether to print JSON.
    pub(crate) json: bool,
    /// Whether to tell more.
    pub(crate) verbose: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let level = if args.verbose { "debug" } else { "warn" };
    let filter = EnvFilter::try_from_env("VMFS_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_target(false)
        .without_time()
        .with_env_filter(filter)
        .init();
    let common = Common {
        devices: args.extra_devices,
        json: args.json,
        verbose: args.verbose,
    };
    let result = match args.command {
        Command::Info(args) => info::run(&args, &common),
        Command::Ls(args) => list::run(&args, &common),
        Command::Stat(args) => stat::run(&args, &common),
        Command::Cat(args) => cat::run(&args, &common),
        Command::Cp(args) => copy::run(&args, &common),
        Command::Df(args) => df::run(&args, &common),
        Command::Dump(args) => dump::run(&args, &common),
        Command::Hosts(args) => hosts::run(&args, &common),
        Command::Locks(args) => locks::run(&args, &common),
        Command::Lun(args) => lun::run(&args, &common),
        Command::Lvm(args) => lvm::run(&args, &common),
        Command::Undo(args) => undo::run(&args, &common),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads our output has seen enough.
        Err(error) if error.is_broken_pipe() => ExitCode::SUCCESS,
        Err(error) => {
            if !matches!(error, Error::Reported) {
                eprintln!("vmfs: {error}");
            }
            ExitCode::from(error.exit_code())
        }
    }
}
