//! Cuts the power off many workloads, at many places; says how to have a failure again.

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Instant;

use clap::Parser;
use vmfs_core::format::Family;
use vmfs_tests::crash::{Counts, Cuts, Variant, Workload, explore};

/// Crash tests of the write engine, for as long as one likes.
#[derive(Debug, Parser)]
#[command(after_help = "\
Examples:
  crash-soak                                       500 workloads, 200 cuts each
  crash-soak --workloads 20000 --first 1000        seeds 1000 to 20999
  crash-soak --dense 2 --workloads 8               every command of 8 workloads, three ways
  crash-soak --only vmfs6 --kind mixed --first 17 --workloads 1 --cut 123")]
struct Options {
    /// Seed of the first workload.
    #[arg(long, default_value_t = 1)]
    first: u64,
    /// Workloads.
    #[arg(long, default_value_t = 500)]
    workloads: u64,
    /// Cuts of each.
    #[arg(long, default_value_t = 200)]
    cuts: u64,
    /// Cut at each command, and so many more times, instead of spreading --cuts.
    #[arg(long)]
    dense: Option<u64>,
    /// Only the cut with this number.
    #[arg(long, conflicts_with = "dense")]
    cut: Option<u64>,
    /// Calls of each worker.
    #[arg(long, default_value_t = 150)]
    calls: u32,
    /// Only this format: vmfs5 or vmfs6.
    #[arg(long)]
    only: Option<String>,
    /// Only this kind of use: mixed, tight, crowded, threads or growing.
    #[arg(long)]
    kind: Option<String>,
    /// Threads.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// Show so many commands before a cut that failed.
    #[arg(long, default_value_t = 0)]
    show: usize,
    /// Give up after so many failures.
    #[arg(long, default_value_t = 20)]
    failures: u64,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let named = |name: String, wanted: &Option<String>| {
        let wanted = wanted.as_ref();
        wanted.is_none_or(|wanted| name.eq_ignore_ascii_case(wanted))
    };
    let families = [Family::Vmfs5, Family::Vmfs6];
    let mut kinds = Vec::new();
    for family in families {
        for variant in Variant::ALL {
            if named(family.to_string(), &options.only)
                && named(format!("{variant:?}"), &options.kind)
            {
                kinds.push((family, variant));
            }
        }
    }
    if kinds.is_empty() {
        eprintln!("crash-soak: no such format or kind");
        return ExitCode::from(2);
    }
    let cuts = match (options.dense, options.cut) {
        (Some(each), _) => Cuts::Dense(each),
        (None, Some(number)) => Cuts::One(number, options.cuts),
        (None, None) => Cuts::Spread(options.cuts),
    };
    let (next, failures) = (AtomicU64::new(0), AtomicU64::new(0));
    let counts = Mutex::new(Counts::default());
    let start = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..options.jobs {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, SeqCst);
                    if number >= options.workloads || failures.load(SeqCst) >= options.failures {
                        break;
                    }
                    let seed = options.first + number;
                    let (family, variant) = kinds[(seed % kinds.len() as u64) as usize];
                    let calls = options.calls;
                    let workload = Workload {
                        family,
                        variant,
                        seed,
                        calls,
                    };
                    match explore(workload, cuts) {
                        Ok(more) => *counts.lock().expect("counts") += more,
                        Err(failure) => {
                            failures.fetch_add(1, SeqCst);
                            println!("FAILED {failure}\n");
                            if let (Some(cut), Ok(performed)) = (failure.cut, workload.perform())
                                && options.show > 0
                            {
                                println!("{}", performed.show(cut.position, options.show));
                            }
                        }
                    }
                }
            });
        }
    });
    let counts = counts.into_inner().expect("counts");
    println!(
        "{} workloads of {} commands in all, {} cuts, {} cuts of recoveries, {} failures, {:.0} s",
        counts.workloads,
        counts.commands,
        counts.cuts,
        counts.second_cuts,
        failures.load(SeqCst),
        start.elapsed().as_secs_f64()
    );
    if failures.into_inner() == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
