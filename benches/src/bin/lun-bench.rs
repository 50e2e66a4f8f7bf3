//! What a command to an image file costs over the bare system call, measured in one run.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::hint::black_box;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result};
use clap::Parser;
use vmfs_benches::machine::Machine;
use vmfs_core::scsi::{Access, Comparison, DeviceOffset, FileLun, Lun};

/// Bytes of the image.
const IMAGE: u64 = 256 << 20;
/// Length of each command.
const LENGTHS: [usize; 4] = [512, 4096, 64 << 10, 1 << 20];

/// Measures what commands to an image file cost over bare pread(2) and pwrite(2).
///
/// In each round the contenders take turns, each with the same commands at the same places. What
/// is told is the median of the rounds' means, and the difference to the bare call.
#[derive(Debug, Parser)]
#[command(name = "lun-bench", version)]
struct Args {
    /// Rounds
    #[arg(long, default_value_t = 31)]
    rounds: usize,
    /// A tenth of the rounds: does it run?
    #[arg(long)]
    quick: bool,
    /// Where the image lies
    #[arg(long, default_value = "/dev/shm")]
    folder: PathBuf,
    /// Where the table goes, as lun.txt
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/results"))]
    out: PathBuf,
}

/// What sends the commands.
enum Way<'a> {
    Bare(&'a File),
    Lun(&'a FileLun),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Read,
    Write,
}

impl Way<'_> {
    /// Runs `count` commands; mean nanoseconds of one.
    fn run(&self, kind: Kind, buf: &mut [u8], count: usize) -> Result<f64> {
        let places = IMAGE / buf.len() as u64;
        let start = Instant::now();
        for index in 0..count as u64 {
            // All over the image, and the same for everyone.
            let offset = (index * 7919) % places * buf.len() as u64;
            match (self, kind) {
                (Self::Bare(file), Kind::Read) => file.read_exact_at(buf, offset)?,
                (Self::Bare(file), Kind::Write) => file.write_all_at(buf, offset)?,
                (Self::Lun(lun), Kind::Read) => lun.read(DeviceOffset(offset), buf)?,
                (Self::Lun(lun), Kind::Write) => lun.write(DeviceOffset(offset), buf)?,
            }
            black_box(&buf);
        }
        Ok(start.elapsed().as_nanos() as f64 / count as f64)
    }
}

/// One contender's means, by round.
#[derive(Default)]
struct Means(Vec<f64>);

impl Means {
    fn median(&mut self) -> f64 {
        self.0.sort_by(f64::total_cmp);
        self.0[self.0.len() / 2]
    }
}

fn main() -> Result<()> {
    let args = Args::parse();
    let rounds = if args.quick {
        args.rounds.div_ceil(10)
    } else {
        args.rounds
    };
    let machine = Machine::here();
    let folder = args
        .folder
        .join(format!("lun-bench.{}", std::process::id()));
    fs::create_dir(&folder).with_context(|| format!("can't make {}", folder.display()))?;
    let table = measure(&folder, rounds);
    fs::remove_dir_all(&folder)?;
    let text = format!(
        "{}\n{rounds} round(s), medians, image on {}\n\n{}",
        machine.line(),
        args.folder.display(),
        table?
    );
    print!("{text}");
    fs::create_dir_all(&args.out)?;
    fs::write(args.out.join("lun.txt"), text)?;
    Ok(())
}

fn measure(folder: &Path, rounds: usize) -> Result<String> {
    let image = folder.join("image");
    let bare = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&image)?;
    let fill = vec![0x5a; 1 << 20];
    for offset in (0..IMAGE).step_by(fill.len()) {
        bare.write_all_at(&fill, offset)?;
    }
    let mut text = String::new();
    writeln!(
        text,
        "{:<34}{:>10}{:>12}{:>10}{:>14}{:>10}",
        "ns a command", "bare", "one host", "over", "eight hosts", "over"
    )?;
    for kind in [Kind::Read, Kind::Write] {
        for length in LENGTHS {
            row(&mut text, &image, &bare, kind, length, rounds)?;
        }
    }
    commands(&mut text, &image, rounds)?;
    Ok(text)
}

fn row(
    text: &mut String,
    image: &Path,
    bare: &File,
    kind: Kind,
    length: usize,
    rounds: usize,
) -> Result<()> {
    let mut buf = vec![0x5a; length];
    let count = (64 << 20) / length.max(4096) / 4;
    let (mut without, mut one, mut eight) = <(Means, Means, Means)>::default();
    for round in 0..=rounds {
        let lun = FileLun::open(image, Access::ReadWrite)?;
        let bare = Way::Bare(bare).run(kind, &mut buf, count)?;
        let alone = Way::Lun(&lun).run(kind, &mut buf, count)?;
        let others = (0..7)
            .map(|_| FileLun::open(image, Access::ReadWrite))
            .collect::<Result<Vec<_>, _>>()?;
        for other in &others {
            // So that each has a lane.
            other.read(DeviceOffset(0), &mut buf[..512])?;
        }
        let among = Way::Lun(&lun).run(kind, &mut buf, count)?;
        // The first round warms up.
        if round > 0 {
            without.0.push(bare);
            one.0.push(alone);
            eight.0.push(among);
        }
    }
    let (bare, one, eight) = (without.median(), one.median(), eight.median());
    writeln!(
        text,
        "{:<34}{bare:>10.0}{one:>12.0}{:>10.0}{eight:>14.0}{:>10.0}",
        format!("{kind:?} of {length} bytes").to_lowercase(),
        one - bare,
        eight - bare
    )?;
    Ok(())
}

/// Commands that have no bare counterpart.
fn commands(text: &mut String, image: &Path, rounds: usize) -> Result<()> {
    const COUNT: usize = 20_000;
    let lun = FileLun::open(image, Access::ReadWrite)?;
    let _other = FileLun::open(image, Access::ReadWrite)?;
    let (mut compared, mut reserved) = <(Means, Means)>::default();
    let mean = |start: Instant| start.elapsed().as_nanos() as f64 / COUNT as f64;
    for _ in 0..rounds {
        let mut found = [0; 512];
        lun.read(DeviceOffset(0), &mut found)?;
        let start = Instant::now();
        for index in 0..COUNT {
            let mut new = found;
            new[..8].copy_from_slice(&index.to_le_bytes());
            let comparison = lun.compare_and_write(DeviceOffset(0), &found, &new)?;
            anyhow::ensure!(comparison == Comparison::Written, "nobody else writes here");
            found = new;
        }
        compared.0.push(mean(start));
        let start = Instant::now();
        for _ in 0..COUNT {
            lun.reserve()?;
            lun.release()?;
        }
        reserved.0.push(mean(start));
    }
    let rows = [
        ("compare and write of 512 bytes", compared.median()),
        ("reserve and release", reserved.median()),
    ];
    for (name, median) in rows {
        writeln!(text, "{name:<34}{:>10}{median:>12.0}", "")?;
    }
    Ok(())
}
