//! `fsck.vmfs`: checks a VMFS volume. Exit codes are those of fsck(8).

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use fsck_vmfs::{Report, check};
use vmfs_core::fs::FileSystem;
use vmfs_core::lvm::open_paths;
use vmfs_core::scsi::Access;

/// Nothing is wrong.
const CLEAN: u8 = 0;
/// Something is wrong and was left so.
const UNCORRECTED: u8 = 4;
/// The check could not be done.
const OPERATIONAL: u8 = 8;

/// Checks a VMFS volume without changing it.
///
/// Decodes every file descriptor, walks every directory, rebuilds every allocation bitmap from
/// the references to it and compares it with the one on disk.
#[derive(Debug, Parser)]
#[command(
    name = "fsck.vmfs",
    version,
    after_help = "Exit codes: 0 clean, 4 errors found, 8 the check could not be done, 16 usage.\n\n\
                  Examples:\n  fsck.vmfs -n /dev/sdb1\n  fsck.vmfs -n --json extent0.img extent1.img"
)]
struct Args {
    /// Check only, change nothing. Required: there is no repair yet
    #[arg(short = 'n', required = true)]
    no_change: bool,
    /// Print the report as one JSON object
    #[arg(long)]
    json: bool,
    /// The volume: an image file or a block device, or all its extents in any order
    #[arg(required = true, value_name = "DEVICE")]
    devices: Vec<PathBuf>,
}

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            let _ = error.print();
            // fsck(8): 16 is "usage or syntax error"; --help and --version are none.
            return if error.use_stderr() {
                ExitCode::from(16)
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_target(false)
        .init();
    match run(&args) {
        Ok(report) if report.is_clean() => ExitCode::from(CLEAN),
        Ok(_) => ExitCode::from(UNCORRECTED),
        Err(error) => {
            eprintln!("fsck.vmfs: {error}");
            ExitCode::from(OPERATIONAL)
        }
    }
}

fn run(args: &Args) -> Result<Report, Box<dyn std::error::Error>> {
    let fs = FileSystem::open(open_paths(&args.devices, Access::ReadOnly)?)?;
    let spinner = progress_spinner();
    let report = check(&fs, &mut |pass| spinner.set_message(pass));
    spinner.finish_and_clear();
    let mut out = std::io::stdout().lock();
    if args.json {
        serde_json::to_writer_pretty(&mut out, &report)?;
        writeln!(out)?;
    } else {
        print(&mut out, &report)?;
    }
    Ok(report)
}

fn progress_spinner() -> indicatif::ProgressBar {
    if !std::io::stderr().is_terminal() {
        return indicatif::ProgressBar::hidden();
    }
    let spinner = indicatif::ProgressBar::new_spinner();
    spinner.enable_steady_tick(Duration::from_millis(200));
    spinner
}

fn print(out: &mut dyn Write, report: &Report) -> std::io::Result<()> {
    for finding in &report.findings {
        writeln!(out, "{}: {}", finding.code, finding.detail)?;
    }
    for (code, total) in &report.totals {
        let shown = report
            .findings
            .iter()
            .filter(|finding| finding.code == *code)
            .count();
        if *total > shown as u64 {
            writeln!(out, "{code}: {} more", total - shown as u64)?;
        }
    }
    writeln!(
        out,
        "{} file descriptors, {} directory entries, {} addresses",
        report.descriptors, report.entries, report.addresses
    )?;
    for count in &report.resources {
        writeln!(
            out,
            "{:<18} {:>10} compared {:>10} used {:>6} differ",
            count.kind.to_string(),
            count.compared,
            count.used,
            count.differing
        )?;
    }
    let total: u64 = report.totals.values().sum();
    match total {
        0 => writeln!(out, "clean"),
        _ => writeln!(out, "{total} errors"),
    }
}
