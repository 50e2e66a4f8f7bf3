//! `mkfs.vmfs`: makes a VMFS volume on image files or block devices.

mod cli;
mod device;
mod report;
mod signatures;
mod size;

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Parser;
use mkfs_vmfs::{Plan, PlanError};

use cli::Arguments;
use device::Opened;
use report::Report;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mkfs.vmfs: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let mut opened: Vec<Opened> = arguments
        .devices
        .iter()
        .map(|path| Opened::open(path, arguments.size, arguments.dry_run))
        .collect::<anyhow::Result<_>>()?;
    refuse_repeated(&opened)?;
    if !arguments.force {
        refuse_used(&opened)?;
    }
    let plan = Plan::new(arguments.options(&opened)?).map_err(|error| named(error, &opened))?;
    let report = Report::new(&plan, arguments, &opened);
    if !arguments.dry_run {
        for device in &mut opened {
            device.prepare()?;
        }
        let spinner = spinner();
        let files: Vec<_> = opened.iter_mut().filter_map(Opened::take_backing).collect();
        let written = mkfs_vmfs::apply(&plan, &files);
        spinner.finish_and_clear();
        written.context("the volume is not complete and can't be mounted; run mkfs.vmfs again")?;
    }
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else if !arguments.quiet {
        print!("{report}");
    }
    Ok(())
}

/// Puts the name of the device that is wrong in front of the error.
fn named(error: PlanError, opened: &[Opened]) -> anyhow::Error {
    let device = match &error {
        PlanError::DeviceTooSmall { device, .. } | PlanError::PartitionTable { device, .. } => {
            opened.get(*device)
        }
        _ => None,
    };
    let name = device.map(|device| device.name().to_string());
    let error = anyhow::Error::from(error);
    match name {
        Some(name) => error.context(name),
        None => error,
    }
}

/// A device that is given twice would become two extents over each other.
fn refuse_repeated(opened: &[Opened]) -> anyhow::Result<()> {
    for (index, device) in opened.iter().enumerate() {
        let twin = opened[..index].iter().find(|other| other.is_same(device));
        if let Some(twin) = twin {
            bail!("{} and {} are the same device", twin.name(), device.name());
        }
    }
    Ok(())
}

fn refuse_used(opened: &[Opened]) -> anyhow::Result<()> {
    let mut found = Vec::new();
    for device in opened {
        if let Some(what) = device.contents()? {
            found.push(format!("{} holds {what}", device.name()));
        }
    }
    if !found.is_empty() {
        bail!(
            "{}; what is there would be lost. Nothing was changed. Use --force if that is what \
             you want",
            found.join("; ")
        );
    }
    Ok(())
}

/// Shows that work goes on, where someone looks and once it lasts.
fn spinner() -> indicatif::ProgressBar {
    if !std::io::stderr().is_terminal() {
        return indicatif::ProgressBar::hidden();
    }
    let spinner = indicatif::ProgressBar::new_spinner().with_message("writing the volume");
    spinner.enable_steady_tick(Duration::from_secs(1));
    spinner
}
