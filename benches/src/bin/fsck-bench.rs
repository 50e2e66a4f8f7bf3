//! What checking costs: time and memory of fsck.vmfs on volumes full of files and on very large ones, beside
//! Debian's checkers.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::Parser;
use serde::Serialize;
use vmfs_benches::backing::Workspace;
use vmfs_benches::checks::{Cost, make_full, measure};
use vmfs_benches::machine::Machine;
use vmfs_benches::{plot, programs, volumes};
use vmfs_core::format::Family;

/// Files of the largest volume; the others have a half, a quarter and an eighth.
const FILES: u32 = 100_000;

/// Measures fsck.vmfs: full volumes of four sizes, and volumes of 64 TiB.
#[derive(Debug, Parser)]
#[command(name = "fsck-bench", version)]
struct Args {
    /// Runs of each checker on each volume; the median counts
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// A tenth of the files, one run: does it work?
    #[arg(long)]
    quick: bool,
    /// Folder with fsck-vmfs, built already; without it our programs are built first
    #[arg(long)]
    programs: Option<PathBuf>,
    /// Where the images lie: a file system that has files of 64 TiB
    #[arg(long, default_value = "/dev/shm")]
    folder: PathBuf,
    /// Where fsck.txt, fsck.json and fsck.svg go
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/results"))]
    out: PathBuf,
}

/// A checker on a volume.
#[derive(Debug, Serialize)]
struct Row {
    volume: String,
    files: u32,
    checker: &'static str,
    /// The median by time; `None` when the checker isn't there or didn't end.
    cost: Option<Cost>,
    /// Why there is none.
    why: Option<String>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let bin = match &args.programs {
        Some(folder) => folder.clone(),
        None => programs::build()?,
    };
    let work = Workspace::new(&args.folder)?;
    let machine = Machine::here();
    let files = if args.quick { FILES / 10 } else { FILES };
    let rounds = if args.quick { 1 } else { args.rounds.max(1) };
    let mut rows = Vec::new();
    for family in [Family::Vmfs6, Family::Vmfs5] {
        for part in [8, 4, 2, 1] {
            let image = work.path("image");
            make_full(&image, family, files / part)
                .with_context(|| format!("{family}, {} files", files / part))?;
            let name = format!("{family}, full, {} files", files / part);
            check(
                &mut rows,
                (&name, files / part),
                family,
                (&image, &bin),
                rounds,
            );
            fs::remove_file(&image)?;
        }
    }
    for family in [Family::Vmfs6, Family::Vmfs5] {
        let image = work.path("image");
        let length = volumes::make_large(&image, family)?;
        let name = format!("{family}, 64 TiB with a sparse file of {length}");
        check(&mut rows, (&name, 1), family, (&image, &bin), rounds);
        fs::remove_file(&image)?;
    }
    let text = table(&machine, rounds, &rows);
    print!("{text}");
    fs::create_dir_all(&args.out)?;
    fs::write(args.out.join("fsck.txt"), &text)?;
    let json = serde_json::json!({ "machine": machine, "rounds": rounds, "rows": rows });
    fs::write(
        args.out.join("fsck.json"),
        serde_json::to_string_pretty(&json)?,
    )?;
    fs::write(args.out.join("fsck.svg"), drawing(&machine, &rows))?;
    Ok(())
}

/// Runs our checker and Debian's for the format, in turns.
fn check(
    rows: &mut Vec<Row>,
    (volume, files): (&str, u32),
    family: Family,
    (image, bin): (&Path, &Path),
    rounds: usize,
) {
    let (theirs, program) = match family {
        Family::Vmfs6 => ("vmfs6-tools", "fsck.vmfs6"),
        _ => ("vmfs-tools", "fsck.vmfs"),
    };
    let ours = bin.join("fsck-vmfs");
    let debian = programs::debian(program);
    let mut costs = [Vec::new(), Vec::new()];
    let mut errors = [None, None];
    for _ in 0..rounds {
        let runs = [
            measure(&ours, &["-n"], image),
            debian
                .as_ref()
                .map_err(|error| anyhow::anyhow!("{error}"))
                .and_then(|program| measure(program, &[], image)),
        ];
        for (index, run) in runs.into_iter().enumerate() {
            match run {
                Ok(cost) => costs[index].push(cost),
                Err(error) => errors[index] = Some(format!("{error:#}")),
            }
        }
        if errors[1].is_some() {
            // What doesn't end once needn't be tried again.
            break;
        }
    }
    let [why_ours, why_theirs] = errors;
    let [ours, other] = costs;
    for (checker, mut costs, why) in [("ours", ours, why_ours), (theirs, other, why_theirs)] {
        costs.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
        rows.push(Row {
            volume: volume.to_owned(),
            files,
            checker,
            cost: costs.get(costs.len() / 2).copied(),
            why,
        });
    }
}

fn table(machine: &Machine, rounds: usize, rows: &[Row]) -> String {
    let mut out = format!(
        "{}\nfsck-bench: median of {rounds} runs, all on tmpfs\n\n",
        machine.line()
    );
    let _ = writeln!(
        out,
        "{:<48}{:<14}{:>10}{:>12}{:>7}",
        "volume", "checker", "seconds", "memory MiB", "exit"
    );
    for row in rows {
        let _ = write!(out, "{:<48}{:<14}", row.volume, row.checker);
        let _ = match (&row.cost, &row.why) {
            (Some(cost), _) => writeln!(
                out,
                "{:>10.2}{:>12.1}{:>7}",
                cost.seconds,
                cost.peak_kib as f64 / 1024.0,
                cost.code
            ),
            (None, why) => writeln!(out, "  {}", why.as_deref().unwrap_or("not run")),
        };
    }
    out.push('\n');
    for pair in rows.chunks_exact(2) {
        if let (Some(ours), Some(theirs)) = (pair[0].cost, pair[1].cost) {
            let ratio = theirs.seconds / ours.seconds;
            let _ = writeln!(
                out,
                "{}: {ratio:.1} times as fast as {}",
                pair[0].volume, pair[1].checker
            );
        }
    }
    for (family, rows) in lines(rows) {
        if let (Some(first), Some(last)) = (rows.first(), rows.last())
            && first.0 < last.0
        {
            let growth = last.1 / first.1 / (last.0 / first.0);
            let _ = writeln!(
                out,
                "{family}: {} times the files take {:.2} times as long a file",
                last.0 / first.0,
                growth
            );
        }
    }
    out
}

/// Of each of the curves its name and points: files and seconds.
fn lines(rows: &[Row]) -> Vec<(String, Vec<(f64, f64)>)> {
    let mut lines: Vec<(String, Vec<(f64, f64)>)> = Vec::new();
    for row in rows.iter().filter(|row| row.files > 1) {
        let family = row.volume.split(',').next().unwrap_or_default();
        let name = format!("{family}, {}", row.checker);
        let Some(cost) = row.cost else { continue };
        let point = (f64::from(row.files), cost.seconds);
        match lines.iter_mut().find(|(own, _)| *own == name) {
            Some((_, points)) => points.push(point),
            None => lines.push((name, vec![point])),
        }
    }
    lines
}

fn drawing(machine: &Machine, rows: &[Row]) -> String {
    let heading = [
        "Seconds to check a full volume, by its number of files".to_owned(),
        machine.line(),
    ];
    plot::draw(&heading, "files", "seconds", &lines(rows))
}
