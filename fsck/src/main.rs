//! `fsck.vmfs`: checks and repairs a VMFS volume. Exit codes are those of fsck(8).

mod cli;
mod print;

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use fsck_vmfs::{Answer, Finding, FsckError, Mode, Options, Outcome, Progress, run};
use indicatif::{HumanBytes, ProgressBar};
use vmfs_core::scsi::{self, Access, Lun};

use cli::{Args, Kind};

/// The check could not be done.
const OPERATIONAL: u8 = 8;
/// The command line is wrong.
const USAGE: u8 = 16;

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() {
                ExitCode::from(USAGE)
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    let level = if args.verbose { "debug" } else { "warn" };
    let filter = tracing_subscriber::EnvFilter::try_from_env("VMFS_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(level));
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_target(false)
        .without_time()
        .with_env_filter(filter)
        .init();
    if args.kind() == Kind::Ask && !std::io::stdin().is_terminal() {
        eprintln!("fsck.vmfs: questions need a terminal; use -n, -p or -y");
        return ExitCode::from(USAGE);
    }
    match work(&args) {
        Ok(outcome) => ExitCode::from(outcome.exit_code()),
        Err(error) => {
            eprintln!("fsck.vmfs: {error}");
            ExitCode::from(OPERATIONAL)
        }
    }
}

fn work(args: &Args) -> Result<Outcome, Box<dyn std::error::Error>> {
    let access = if args.kind() == Kind::Check {
        Access::ReadOnly
    } else {
        Access::ReadWrite
    };
    let luns = args
        .devices
        .iter()
        .map(|device| scsi::open(device, access, None))
        .collect::<Result<Vec<Arc<dyn Lun>>, _>>()?;
    let options = Options {
        undo: args.undo.clone(),
        lease: args
            .lease
            .map_or(Options::default().lease, Duration::from_millis),
        ..Options::default()
    };
    let spinner = progress_spinner(args);
    let mut shown = 0;
    let mut searching = false;
    let mut progress = |progress: Progress| match progress {
        Progress::Pass(pass) => {
            shown += 1;
            spinner.set_message(format!("pass {shown}: {}", pass.title()));
            if args.verbose {
                eprintln!("pass {shown}: {}", pass.title());
            }
        }
        Progress::Search { done, of } => {
            let what = "looking through the whole volume for what belongs to lost resource files";
            let (done, of) = (HumanBytes(done), HumanBytes(of));
            spinner.set_message(format!("{what}: {done} of {of}"));
            if args.verbose && !std::mem::replace(&mut searching, true) {
                eprintln!("{what}, {of}");
            }
        }
    };
    let asked = spinner.clone();
    let ask = move |finding: &Finding| asked.suspend(|| question(finding));
    let mode = match args.kind() {
        Kind::Check => Mode::Check,
        Kind::Preen => Mode::Preen,
        Kind::Yes => Mode::Yes,
        Kind::Ask => Mode::Ask(Box::new(ask)),
    };
    let outcome = run(&luns, mode, &options, &mut progress);
    spinner.finish_and_clear();
    let outcome = match outcome {
        Err(error @ FsckError::Write(_)) => {
            if let Some(undo) = &args.undo {
                eprintln!("fsck.vmfs: what was overwritten is in {}", undo.display());
            }
            return Err(error.into());
        }
        outcome => outcome?,
    };
    let mut out = std::io::stdout().lock();
    if args.json {
        print::json(&mut out, &outcome)?;
    } else {
        print::text(&mut out, &outcome, args)?;
    }
    out.flush()?;
    Ok(outcome)
}

fn progress_spinner(args: &Args) -> ProgressBar {
    if !std::io::stderr().is_terminal() || args.verbose {
        return ProgressBar::hidden();
    }
    let spinner = ProgressBar::new_spinner();
    spinner.enable_steady_tick(Duration::from_millis(200));
    spinner
}

/// Asks a person what to do about a finding.
fn question(finding: &Finding) -> Answer {
    let mut out = std::io::stderr();
    let _ = writeln!(out, "\n{finding}");
    let _ = writeln!(
        out,
        "  repair: {}",
        finding.repair.as_deref().unwrap_or("none")
    );
    let loss = finding.loss.as_deref().unwrap_or("nothing");
    let _ = writeln!(out, "  what may be lost: {loss}");
    loop {
        let _ = write!(
            out,
            "  repair it? [y]es, [n]o, [a]ll from here on, [q]uit and write nothing: "
        );
        let _ = out.flush();
        let mut line = String::new();
        match std::io::stdin().read_line(&mut line) {
            Ok(0) | Err(_) => return Answer::Quit,
            Ok(_) => {}
        }
        match line.trim().to_ascii_lowercase().as_str() {
            "y" | "yes" => return Answer::Yes,
            "n" | "no" => return Answer::No,
            "a" | "all" => return Answer::All,
            "q" | "quit" => return Answer::Quit,
            _ => {}
        }
    }
}
