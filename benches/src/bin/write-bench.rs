//! Write speed of OpenVMFS beside other file systems on the same backing, measured in one run.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Parser;
use vmfs_benches::commands;
use vmfs_benches::contender::{Daemon, Mount};
use vmfs_benches::machine::Machine;
use vmfs_benches::programs;
use vmfs_benches::writes::{Load, ROWS};

/// Bytes of every image.
const IMAGE: u64 = 16 << 30;

/// Measures writing: data, metadata and fsync, beside a raw image, passthrough_ll, ext4 and fuse2fs.
#[derive(Debug, Parser)]
#[command(name = "write-bench", version)]
struct Args {
    /// Rounds; the median of each row counts
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// A tenth of the work, one round: does it run?
    #[arg(long)]
    quick: bool,
    /// Where images and folders lie, all on the same backing
    #[arg(long, default_value = "/dev/shm")]
    folder: PathBuf,
    /// Where the table goes, as write.txt
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/results"))]
    out: PathBuf,
}

/// What is compared, in the order of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Name {
    Raw,
    Ext4,
    Passthrough,
    Fuse2fs,
    Ours6,
    Ours5,
}

impl Name {
    const ALL: [Self; 6] = [
        Self::Raw,
        Self::Ext4,
        Self::Passthrough,
        Self::Fuse2fs,
        Self::Ours6,
        Self::Ours5,
    ];

    const fn title(self) -> &'static str {
        match self {
            Self::Raw => "raw image",
            Self::Ext4 => "ext4 loop",
            Self::Passthrough => "passthrough_ll",
            Self::Fuse2fs => "fuse2fs",
            Self::Ours6 => "ours, VMFS6",
            Self::Ours5 => "ours, VMFS5",
        }
    }
}

/// A contender that is ready to be written to; dropped, it is gone.
struct Ready {
    place: PathBuf,
    mount: Option<Mount>,
    loop_mount: Option<PathBuf>,
    image: PathBuf,
}

impl Drop for Ready {
    fn drop(&mut self) {
        drop(self.mount.take());
        if let Some(point) = &self.loop_mount {
            let _ = run(Command::new("umount").arg(point));
        }
        let _ = fs::remove_file(&self.image);
    }
}

fn run(command: &mut Command) -> Result<()> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("start {command:?}"))?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{command:?}: {}", said.trim());
    Ok(())
}

fn words(words: &[&str], image: &Path) -> Vec<OsString> {
    let word = |word: &&str| match *word {
        "IMAGE" => image.as_os_str().to_owned(),
        other => other.into(),
    };
    words.iter().map(word).collect()
}

/// A sparse image with an ext4 on it.
fn make_ext4(image: &Path) -> Result<()> {
    fs::File::create(image)?.set_len(IMAGE)?;
    run(Command::new("mkfs.ext4")
        .args(["-q", "-F", "-E", "lazy_itable_init=1,lazy_journal_init=1"])
        .arg(image))
}

fn loop_mount(image: &Path, point: &Path) -> Result<PathBuf> {
    fs::create_dir_all(point)?;
    run(Command::new("mount")
        .args(["-o", "loop"])
        .arg(image)
        .arg(point))?;
    Ok(point.to_owned())
}

/// Makes `name` anew in `work` and mounts it.
fn prepare(name: Name, work: &Path, bin: &Path) -> Result<Ready> {
    let image = work.join("image");
    let point = work.join("mount");
    let mut ready = Ready {
        place: point.clone(),
        mount: None,
        loop_mount: None,
        image: image.clone(),
    };
    let log = work.join("log");
    let daemon = |program: PathBuf, arguments: &[&str]| Daemon {
        program,
        arguments: words(arguments, &image),
    };
    match name {
        Name::Raw => {
            fs::File::create(&image)?.set_len(IMAGE)?;
            ready.place = image;
        }
        Name::Ext4 => {
            make_ext4(&image)?;
            ready.loop_mount = Some(loop_mount(&image, &point)?);
        }
        Name::Passthrough => {
            make_ext4(&image)?;
            let below = work.join("below");
            ready.loop_mount = Some(loop_mount(&image, &below)?);
            let source = format!("source={},cache=auto,clone_fd", below.display());
            let program = programs::passthrough(&work.join("passthrough_ll"))?;
            let daemon = daemon(program, &["-f", "-o", &source, "{}"]);
            ready.mount = Some(daemon.mount(&point, &log)?);
        }
        Name::Fuse2fs => {
            make_ext4(&image)?;
            let daemon = daemon("fuse2fs".into(), &["-f", "-o", "fakeroot", "IMAGE", "{}"]);
            ready.mount = Some(daemon.mount(&point, &log)?);
        }
        Name::Ours5 | Name::Ours6 => {
            let kind = if name == Name::Ours5 {
                "vmfs5"
            } else {
                "vmfs6"
            };
            let size = IMAGE.to_string();
            run(Command::new(bin.join("mkfs-vmfs"))
                .args(["--type", kind, "--size", &size])
                .arg(&image))?;
            let daemon = daemon(bin.join("vmfs-fuse"), &["--foreground", "IMAGE", "{}"]);
            ready.mount = Some(daemon.mount(&point, &log)?);
        }
    }
    Ok(ready)
}

type Figures = BTreeMap<usize, BTreeMap<Name, Vec<f64>>>;

/// All rows on one contender.
fn measure(name: Name, ready: &Ready, load: Load, figures: &mut Figures) -> Result<()> {
    for (number, row) in ROWS.iter().enumerate() {
        if name == Name::Raw && !row.is_data() {
            continue;
        }
        let rate = match row.measure(&ready.place, name == Name::Raw, load) {
            Ok(rate) => rate,
            // passthrough_ll hands on buffers that O_DIRECT below doesn't take, for one.
            Err(error) if !matches!(name, Name::Ours5 | Name::Ours6) => {
                eprintln!("{} on {}: {error:#}", row.title(), name.title());
                continue;
            }
            Err(error) => {
                let what = format!("{} on {}", row.title(), name.title());
                return Err(error.context(what));
            }
        };
        let names = figures.entry(number).or_default();
        names.entry(name).or_default().push(rate);
    }
    Ok(())
}

fn median(rounds: &[f64]) -> f64 {
    let mut sorted = rounds.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The rates, then ours as ratios to the others'.
fn table(figures: &Figures) -> String {
    use std::fmt::Write as _;
    let mut out = format!("{:<38}", "");
    for name in Name::ALL {
        let _ = write!(out, "{:>16}", name.title());
    }
    out.push('\n');
    let rate = |number: usize, name: Name| {
        let rounds = figures.get(&number)?.get(&name)?;
        Some(median(rounds))
    };
    for (number, row) in ROWS.iter().enumerate() {
        let _ = write!(out, "{:<38}", format!("{}, {}", row.title(), row.unit()));
        for name in Name::ALL {
            match rate(number, name) {
                Some(rate) => _ = write!(out, "{rate:>16.0}"),
                None => _ = write!(out, "{:>16}", "n/a"),
            }
        }
        out.push('\n');
    }
    for ours in [Name::Ours6, Name::Ours5] {
        let _ = write!(out, "\n{:<38}", format!("{} over", ours.title()));
        for name in &Name::ALL[..4] {
            let _ = write!(out, "{:>16}", name.title());
        }
        out.push('\n');
        for (number, row) in ROWS.iter().enumerate() {
            let _ = write!(out, "{:<38}", row.title());
            for name in &Name::ALL[..4] {
                match (rate(number, ours), rate(number, *name)) {
                    (Some(ours), Some(theirs)) => _ = write!(out, "{:>16.2}", ours / theirs),
                    _ => _ = write!(out, "{:>16}", "n/a"),
                }
            }
            out.push('\n');
        }
    }
    out
}

fn main() -> Result<()> {
    let args = Args::parse();
    let bin = programs::build()?;
    let work = args
        .folder
        .join(format!("write-bench-{}", std::process::id()));
    fs::create_dir_all(&work)?;
    let load = if args.quick { Load::QUICK } else { Load::FULL };
    let rounds = if args.quick { 1 } else { args.rounds };
    let result = compare(&work, &bin, load, rounds);
    let _ = fs::remove_dir_all(&work);
    let figures = result?;
    let mut text = format!(
        "{}\n{rounds} round(s), medians, everything on {}\n\n",
        Machine::here().line(),
        args.folder.display()
    );
    text.push_str(&table(&figures));
    text.push('\n');
    text.push_str(&commands::table()?);
    print!("{text}");
    fs::create_dir_all(&args.out)?;
    fs::File::create(args.out.join("write.txt"))?.write_all(text.as_bytes())?;
    Ok(())
}

fn compare(work: &Path, bin: &Path, load: Load, rounds: usize) -> Result<Figures> {
    let mut figures = Figures::new();
    let mut left_out = Vec::new();
    for round in 0..rounds {
        for turn in 0..Name::ALL.len() {
            let name = Name::ALL[(turn + round) % Name::ALL.len()];
            if left_out.contains(&name) {
                continue;
            }
            eprintln!("round {}: {}", round + 1, name.title());
            match prepare(name, work, bin) {
                Ok(ready) => measure(name, &ready, load, &mut figures)?,
                Err(error) if matches!(name, Name::Ours5 | Name::Ours6) => return Err(error),
                Err(error) => {
                    eprintln!("{} is left out: {error:#}", name.title());
                    left_out.push(name);
                }
            }
        }
    }
    if figures.is_empty() {
        bail!("nothing was measured");
    }
    Ok(figures)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_are_of_the_rounds() {
        assert!((median(&[3.0, 1.0, 2.0]) - 2.0).abs() < f64::EPSILON);
        assert!(ROWS[0].is_data());
    }
}
