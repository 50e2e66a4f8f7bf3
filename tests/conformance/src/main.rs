//! `vmfs-conformance`: runs suites on places, and compares with docs/CONFORMANCE.md.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Parser;
use vmfs_conformance::expected::Expected;
use vmfs_conformance::outcome::{Checks, Outcome};
use vmfs_conformance::place::{Kind, Place, Tools};
use vmfs_conformance::process::Processes;
use vmfs_conformance::suites::{SUITES, Session, Suite};
use vmfs_core::format::Family;

/// Runs other people's file system tests, readers and programs on writable VMFS mounts.
///
/// As root. `tests/conformance/run` installs what is needed first.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Suites to run; all without (xfstests only if XFSTESTS_DIR names a checkout).
    suites: Vec<String>,

    /// Where: vmfs5, vmfs6, passthrough or a directory; may be repeated.
    #[arg(long = "on", value_name = "PLACE", default_values = ["vmfs5", "vmfs6"])]
    places: Vec<Kind>,

    /// Only as much as takes a few minutes.
    #[arg(long)]
    quick: bool,

    /// Where images and other temporary files go; some 40 GB with everything.
    #[arg(long, value_name = "DIR")]
    scratch: Option<PathBuf>,

    /// A file to write every single check to.
    #[arg(long, value_name = "FILE")]
    results: Option<PathBuf>,

    /// Leave the volume of a suite with surprises where it is.
    #[arg(long)]
    keep: bool,

    /// Tell what suites there are.
    #[arg(long)]
    list: bool,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("vmfs-conformance: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(arguments: &Arguments) -> Result<bool> {
    if arguments.list {
        for suite in SUITES {
            println!("{:<10} {}", suite.name, suite.about);
        }
        return Ok(true);
    }
    let suites = chosen(&arguments.suites)?;
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/CONFORMANCE.md");
    let page = fs::read_to_string(&page).with_context(|| page.display().to_string())?;
    let expected = Expected::parse(&page)?;
    let this = env::current_exe()?;
    let tools = Tools {
        processes: Processes::new()?,
        programs: this.parent().context("a folder")?.to_owned(),
    };
    let scratch = arguments.scratch.clone().unwrap_or_else(env::temp_dir);
    let mut results = String::new();
    let mut table = Vec::new();
    let mut good = true;
    for suite in suites {
        for kind in &arguments.places {
            let outcome = run_suite(suite, kind, &tools, &scratch, arguments, &expected);
            println!("{}", outcome.told());
            good &= outcome.is_good();
            results.push_str(outcome.lines());
            table.push(outcome);
            if tools.processes.interrupted() {
                bail!("interrupted");
            }
        }
    }
    if let Some(path) = &arguments.results {
        fs::write(path, results).with_context(|| path.display().to_string())?;
    }
    let bad = table.iter().filter(|outcome| !outcome.is_good()).count();
    println!("{} suites as expected, {bad} not", table.len() - bad);
    Ok(good)
}

fn chosen(names: &[String]) -> Result<Vec<&'static Suite>> {
    if names.is_empty() {
        return Ok(SUITES.iter().collect());
    }
    names
        .iter()
        .map(|name| {
            let found = SUITES.iter().find(|suite| suite.name == name);
            found.with_context(|| format!("no suite {name}; --list tells what there is"))
        })
        .collect()
}

/// Runs one suite on a new place, and checks the volume afterwards.
fn run_suite(
    suite: &Suite,
    kind: &Kind,
    tools: &Tools,
    scratch: &Path,
    arguments: &Arguments,
    expected: &Expected,
) -> Outcome {
    let start = Instant::now();
    let mut checks = Checks::default();
    let mut kept = None;
    match Place::new(kind, tools, scratch) {
        Err(error) => checks.note("place", Err(error)),
        Ok(mut place) => {
            let mut session = Session {
                place: &mut place,
                quick: arguments.quick,
                checks: &mut checks,
            };
            if let Err(error) = (suite.run)(&mut session) {
                session.checks.note("suite", Err(error));
            }
            let volume = matches!(kind, Kind::Vmfs(Family::Vmfs5 | Family::Vmfs6));
            if volume && session.checks.is_tested() {
                let clean = place.unmount().and_then(|()| place.fsck());
                checks.note("fsck", clean);
            }
            kept = Some(place);
        }
    }
    let outcome = Outcome::new(kind, suite.name, &checks, expected, start.elapsed());
    if let Some(place) = kept
        && arguments.keep
        && !outcome.is_good()
    {
        eprintln!("kept: {}", place.keep().display());
    }
    outcome
}
