//! Hosts as real processes on one image, for as long as one likes.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;
use vmfs_core::cluster::LockMethod;
use vmfs_core::format::Family;
use vmfs_tests::contention::ground::Ground;
use vmfs_tests::contention::run::{Plan, Program, run};
use vmfs_tests::contention::{fence, history, host, verdict};

/// Log lines have the times that histories have.
struct Uptime;

impl FormatTime for Uptime {
    fn format_time(&self, writer: &mut Writer<'_>) -> std::fmt::Result {
        write!(writer, "{}", history::now())
    }
}

/// Contention between real processes: storms of names, files that grow side by side, hosts that are killed and stopped.
#[derive(Debug, Parser)]
#[command(after_help = "\
Examples:
  contention run                                   2, 8, 32 and 64 hosts, both lock methods, both formats
  contention run --hosts 32 --lock scsi2 --seconds 120 --seed 7
  contention run --iscsi                           the same on a LUN of Debian's tgtd (as root)
  contention run --mounts --hosts 2,8              hosts are mounts (as root)
  contention fence --trials 1000                   hosts that are stopped inside a write, by both lock methods

Exit status: 0 all is as it must be, 1 it isn't; what remains is kept then, and named.")]
struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Lets hosts loose on a volume, and judges what they did and left
    Run(RunOptions),
    /// Stops hosts inside a write, takes over from them, lets them go on
    Fence(FenceOptions),
    /// Is a host (for `run`)
    #[command(hide = true)]
    Host,
    /// Is a host that will be stopped (for `fence`)
    #[command(hide = true)]
    Victim(fence::Victim),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Lock {
    Ats,
    Scsi2,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Vmfs5,
    Vmfs6,
}

#[derive(Debug, Clone, clap::Args)]
struct Common {
    /// Lock methods
    #[arg(long, value_enum, value_delimiter = ',', default_values = ["ats", "scsi2"])]
    lock: Vec<Lock>,
    /// Formats
    #[arg(long, value_enum, value_delimiter = ',', default_values = ["vmfs6", "vmfs5"])]
    format: Vec<Format>,
    /// Seed of the first run; each has its own
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Where volumes lie
    #[arg(long, default_value_os_t = std::env::temp_dir())]
    folder: PathBuf,
}

#[derive(Debug, clap::Args)]
struct RunOptions {
    #[command(flatten)]
    common: Common,
    /// Numbers of hosts
    #[arg(long, value_delimiter = ',', default_values_t = [2, 8, 32, 64])]
    hosts: Vec<usize>,
    /// How long each run lasts
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Runs of each kind
    #[arg(long, default_value_t = 1)]
    rounds: u64,
    /// Milliseconds between heartbeats [default: 400, with --iscsi 500]
    #[arg(long)]
    heartbeat: Option<u64>,
    /// Milliseconds of a lease [default: 4000, with --iscsi 10000: longer than a link is cut]
    #[arg(long)]
    lease: Option<u64>,
    /// Hosts are network namespaces that share a LUN of Debian's tgtd, by reservations: links and connections are cut,
    /// and the target is killed and started anew
    #[arg(long)]
    iscsi: bool,
    /// Hosts are mounts, by the vmfs-fuse that lies beside this program; the calls go through the kernel (as root)
    #[arg(long)]
    mounts: bool,
    /// Leave all alone: hosts are neither killed nor stopped, links and connections aren't cut
    #[arg(long)]
    undisturbed: bool,
    /// Microseconds that a host waits between two calls
    #[arg(long, default_value_t = 0)]
    pause: u64,
}

#[derive(Debug, clap::Args)]
struct FenceOptions {
    #[command(flatten)]
    common: Common,
    /// Trials in all
    #[arg(long, default_value_t = 1000)]
    trials: u64,
    /// Milliseconds between heartbeats
    #[arg(long, default_value_t = 40)]
    heartbeat: u64,
    /// Milliseconds of a lease
    #[arg(long, default_value_t = 600)]
    lease: u64,
}

fn main() -> ExitCode {
    let filter = EnvFilter::try_from_env("VMFS_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_env_filter(filter)
        .with_timer(Uptime)
        .init();
    let good = match Options::parse().command {
        Command::Run(options) => contend(&options),
        Command::Fence(options) => fence_trials(&options),
        Command::Host => return be_host(),
        Command::Victim(settings) => fence::victim(&settings),
    };
    if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Is the host that the environment says.
fn be_host() -> ExitCode {
    let settings = host::Settings::from_environment().expect("started by `contention run`");
    ExitCode::from(host::run(&settings).code())
}

/// All combinations of what was asked for.
fn kinds(common: &Common) -> Vec<(LockMethod, Family)> {
    let mut kinds = Vec::new();
    for format in &common.format {
        for lock in &common.lock {
            let lock = match lock {
                Lock::Ats => LockMethod::Ats,
                Lock::Scsi2 => LockMethod::Scsi2,
            };
            let family = match format {
                Format::Vmfs5 => Family::Vmfs5,
                Format::Vmfs6 => Family::Vmfs6,
            };
            kinds.push((lock, family));
        }
    }
    kinds
}

fn contend(options: &RunOptions) -> bool {
    let program = Program {
        path: std::env::current_exe().expect("this program"),
        arguments: vec!["host".to_owned()],
    };
    let fuse = options
        .mounts
        .then(|| program.path.with_file_name("vmfs-fuse"));
    if let Some(fuse) = &fuse
        && !fuse.exists()
    {
        eprintln!(
            "contention: {} isn't there: cargo build -p vmfs-fuse first",
            fuse.display()
        );
        return false;
    }
    let mut seed = options.common.seed;
    let mut good = true;
    let (heartbeat, lease) = if options.iscsi {
        (500, 10_000)
    } else {
        (400, 4000)
    };
    for _ in 0..options.rounds {
        for &hosts in &options.hosts {
            for (lock, family) in kinds(&options.common) {
                if options.iscsi && lock != LockMethod::Scsi2 {
                    // tgt hasn't what the other way needs.
                    continue;
                }
                let plan = Plan {
                    hosts,
                    family,
                    lock,
                    time: Duration::from_secs(options.seconds),
                    kills: !options.undisturbed,
                    stops: !options.undisturbed,
                    seed,
                    heartbeat: options.heartbeat.unwrap_or(heartbeat),
                    lease: options.lease.unwrap_or(lease),
                    pause: options.pause,
                    fuse: fuse.clone(),
                };
                seed += 1;
                let folder = tempfile::tempdir_in(&options.common.folder).expect("a folder");
                let Some(ground) = ground(options, folder.path(), &plan) else {
                    return false;
                };
                let judged = run(&program, &ground, &plan)
                    .and_then(|done| verdict::judge(&ground, &plan, done));
                match judged {
                    Ok(report) => println!("{report}"),
                    Err(error) => {
                        good = false;
                        let kept = folder.keep();
                        println!("FAILED {plan:?}\n{error}\nkept: {}", kept.display());
                    }
                }
            }
        }
    }
    good
}

/// The ground that was asked for; `None` if there is none.
fn ground(options: &RunOptions, folder: &Path, plan: &Plan) -> Option<Ground> {
    if options.iscsi {
        Ground::over_iscsi(folder, plan)
    } else {
        Some(Ground::make(folder, plan))
    }
}

fn fence_trials(options: &FenceOptions) -> bool {
    let program = std::env::current_exe().expect("this program");
    let kinds = kinds(&options.common);
    let mut good = true;
    for (index, &(lock, family)) in kinds.iter().enumerate() {
        let plan = Plan {
            hosts: 2,
            family,
            lock,
            time: Duration::ZERO,
            kills: false,
            stops: true,
            seed: options.common.seed + index as u64,
            heartbeat: options.heartbeat,
            lease: options.lease,
            pause: 0,
            fuse: None,
        };
        let folder = tempfile::tempdir_in(&options.common.folder).expect("a folder");
        let ground = Ground::make(folder.path(), &plan);
        let trials = options.trials.div_ceil(kinds.len() as u64);
        match fence::run(&program, &ground, &plan, trials) {
            Ok(found) => {
                let at = |percent: usize| {
                    found.takeovers[found.takeovers.len() * percent / 100].as_millis()
                };
                println!(
                    "{family} by {lock}: {} trials, nothing stale landed; the lease is {} ms, taking over took {} ms (median), {} ms (99 %), {} ms at most",
                    found.trials,
                    plan.lease,
                    at(50),
                    at(99),
                    found.takeovers.last().map_or(0, Duration::as_millis)
                );
            }
            Err(error) => {
                good = false;
                println!(
                    "FAILED {plan:?}\n{error}\nkept: {}",
                    folder.keep().display()
                );
            }
        }
    }
    good
}
