//! What hosts on one volume cost each other: both ways to lock, side by side in one run.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use clap::Parser;
use serde::Serialize;
use vmfs_benches::lines::{Chart, Line};
use vmfs_benches::machine::Machine;
use vmfs_core::cluster::{HostConfig, LockMethod};
use vmfs_core::format::{Family, FdAddr, Uuid};
use vmfs_core::fs::{Allocate, Creator, FileSystem, OpenMode};
use vmfs_core::lvm::open_luns;
use vmfs_core::scsi::{Access, ArrayState, FileLun, Lun, LunIdentity, Personality};
use vmfs_fixtures::FixtureBuilder;
use vmfs_fixtures::mkfs_vmfs::Options;

/// Bytes that the bystander reads and writes at a time, and those of its file.
const BLOCK: usize = 4096;
const FILE: u64 = 16 << 20;
const CREATOR: Creator = Creator {
    mode: 0o644,
    uid: 0,
    gid: 0,
};

/// Measures metadata operations of 1 to 64 hosts, and what a bystander notices of them.
///
/// Each host makes, renames and removes files, half of them in a directory of its own, half in one for all. The bystander is one host more, which
/// only reads and writes blocks of a file that it has open. Hosts are threads with an initiator, a mount and an engine each.
#[derive(Debug, Parser)]
#[command(name = "cluster-bench", version)]
struct Args {
    /// Numbers of hosts
    #[arg(long, value_delimiter = ',', default_values_t = [1, 2, 4, 8, 16, 32, 64])]
    hosts: Vec<usize>,
    /// Seconds of each row
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// A second each, up to eight hosts: does it run?
    #[arg(long)]
    quick: bool,
    /// Where the images lie
    #[arg(long, default_value = "/dev/shm")]
    folder: PathBuf,
    /// Where the table and the plots go: cluster.txt, cluster.json, cluster.svg
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/results"))]
    out: PathBuf,
}

/// One row of the table.
#[derive(Debug, Clone, Serialize)]
struct Row {
    method: LockMethod,
    hosts: usize,
    /// Metadata operations of all hosts in a second.
    rate: f64,
    /// Milliseconds within which 99 of 100 were done.
    percentile99: f64,
    longest: f64,
    /// Operations of the host that did the fewest, as a part of those of the one that did most.
    fairness: f64,
    failed: u64,
    /// Microseconds of the bystander's commands: median and 99th percentile.
    bystander: (f64, f64),
}

/// A host with the thread that does its upkeep.
struct Host {
    fs: FileSystem,
    stop: AtomicBool,
}

impl Host {
    fn mount(image: &Path, number: usize, lock: Option<LockMethod>) -> Result<Arc<Self>> {
        let name = format!("host{number}");
        let uuid = Uuid {
            time_lo: (number as u32 + 1).into(),
            ..Uuid::default()
        };
        let mut config = HostConfig::new(uuid, &name);
        // Joining takes some heartbeats; what they cost is as much as usual.
        config.heartbeat = Duration::from_millis(500);
        config.lock = lock;
        let lun = Arc::new(FileLun::open_as(image, Access::ReadWrite, &name)?) as Arc<dyn Lun>;
        let fs = FileSystem::open_for_writing(open_luns(vec![lun])?, config)?;
        let host = Arc::new(Self {
            fs,
            stop: AtomicBool::new(false),
        });
        let its = Arc::clone(&host);
        thread::spawn(move || {
            while !its.stop.load(SeqCst) {
                let (wait, result) = its.fs.keep_up();
                if let Err(error) = result {
                    eprintln!("{name}: {error}");
                }
                thread::sleep(wait.min(Duration::from_millis(100)));
            }
        });
        Ok(host)
    }

    fn unmount(&self) -> Result<()> {
        self.stop.store(true, SeqCst);
        Ok(self.fs.close()?)
    }
}

fn main() -> Result<()> {
    let mut args = Args::parse();
    if args.quick {
        args.seconds = 1.0;
        args.hosts.retain(|&hosts| hosts <= 8);
    }
    let machine = Machine::here();
    let folder = args
        .folder
        .join(format!("cluster-bench.{}", std::process::id()));
    fs::create_dir(&folder).with_context(|| format!("can't make {}", folder.display()))?;
    let measured = measure(&args, &folder);
    fs::remove_dir_all(&folder)?;
    let (rows, alone) = measured?;
    let mut text = format!(
        "{}\n{} s a row, images on {}\n\n",
        machine.line(),
        args.seconds,
        args.folder.display()
    );
    table(&mut text, &rows, alone)?;
    print!("{text}");
    fs::create_dir_all(&args.out)?;
    fs::write(args.out.join("cluster.txt"), &text)?;
    let all = serde_json::json!({ "rows": rows, "alone_of_unlocked": alone });
    fs::write(
        args.out.join("cluster.json"),
        serde_json::to_string_pretty(&all)?,
    )?;
    fs::write(args.out.join("cluster.svg"), plots(&machine, &rows))?;
    Ok(())
}

/// All rows, and how fast a host alone is compared with one that doesn't lock.
fn measure(args: &Args, folder: &Path) -> Result<(Vec<Row>, f64)> {
    let time = Duration::from_secs_f64(args.seconds);
    let mut rows = Vec::new();
    for &hosts in &args.hosts {
        for method in [LockMethod::Ats, LockMethod::Scsi2] {
            let image = volume(folder, method)?;
            eprintln!("{hosts} hosts by {method}");
            rows.push(row(&image, method, hosts, time)?);
        }
    }
    // In turns, so that both see the same machine.
    let (mut with, mut without) = (0.0, 0.0);
    for _ in 0..3 {
        for (sum, lock) in [(&mut with, None), (&mut without, Some(LockMethod::Alone))] {
            let image = volume(folder, LockMethod::Ats)?;
            let host = Host::mount(&image, 0, lock)?;
            let places = places(&host.fs, 1)?;
            let (latencies, _) = work(&host.fs, places.0, places.1[0], 0, Instant::now() + time);
            *sum += latencies.len() as f64;
            host.unmount()?;
        }
    }
    Ok((rows, with / without))
}

fn volume(folder: &Path, method: LockMethod) -> Result<PathBuf> {
    let image = folder.join("image");
    for path in [
        image.clone(),
        ArrayState::path(&image),
        folder.join("image.array.hosts"),
    ] {
        let _ = fs::remove_file(path);
    }
    let options = Options::new(Family::Vmfs6, &[16 << 30]);
    let builder = FixtureBuilder::create(options, vec![File::create_new(&image)?]);
    builder
        .and_then(FixtureBuilder::finish)
        .map_err(|error| anyhow!("{error:?}"))?;
    let personality = match method {
        LockMethod::Scsi2 => Personality::Legacy,
        _ => Personality::Vaai,
    };
    ArrayState::create(&image, LunIdentity::new("cluster-bench"), personality)?;
    Ok(image)
}

/// The directory for all, and that of each host.
fn places(fs: &FileSystem, hosts: usize) -> Result<(FdAddr, Vec<FdAddr>)> {
    let common = fs.make_directory(FdAddr::ROOT, b"common", CREATOR)?.fd();
    let own = (0..hosts).map(|host| {
        let name = format!("own{host}");
        Ok(fs
            .make_directory(FdAddr::ROOT, name.as_bytes(), CREATOR)?
            .fd())
    });
    Ok((common, own.collect::<Result<_>>()?))
}

fn row(image: &Path, method: LockMethod, count: usize, time: Duration) -> Result<Row> {
    let bystander = Host::mount(image, count, None)?;
    let (common, own) = places(&bystander.fs, count)?;
    let file = bystander.fs.create(FdAddr::ROOT, b"disk", CREATOR)?.fd();
    bystander
        .fs
        .allocate(file, 0, FILE, Allocate::Zero, false)?;
    bystander.fs.write(file, 0, &vec![1; FILE as usize])?;
    bystander.fs.open_file(file, OpenMode::Write)?;
    let hosts = (0..count)
        .map(|number| Host::mount(image, number, None))
        .collect::<Result<Vec<_>>>()?;
    let begin = Barrier::new(count + 2);
    let failed = AtomicU64::new(0);
    let (latencies, data) = thread::scope(|scope| {
        let workers: Vec<_> = (hosts.iter().zip(own).enumerate())
            .map(|(number, (host, own))| {
                let (begin, failed) = (&begin, &failed);
                scope.spawn(move || {
                    begin.wait();
                    let (latencies, errors) =
                        work(&host.fs, common, own, number, Instant::now() + time);
                    failed.fetch_add(errors, SeqCst);
                    latencies
                })
            })
            .collect();
        let data = scope.spawn(|| {
            begin.wait();
            look_on(&bystander.fs, file, Instant::now() + time)
        });
        begin.wait();
        let joined = |result: thread::Result<Vec<u64>>| result.unwrap_or_default();
        let all: Vec<Vec<u64>> = workers
            .into_iter()
            .map(|worker| joined(worker.join()))
            .collect();
        (all, joined(data.join()))
    });
    for host in hosts.iter().chain([&bystander]) {
        host.unmount()?;
    }
    let counts = latencies.iter().map(Vec::len);
    let (least, most) = (counts.clone().min().unwrap_or(0), counts.max().unwrap_or(1));
    let mut all: Vec<u64> = latencies.concat();
    all.sort_unstable();
    let mut data = data;
    data.sort_unstable();
    Ok(Row {
        method,
        hosts: count,
        rate: all.len() as f64 / time.as_secs_f64(),
        percentile99: at(&all, 99) / 1e6,
        longest: at(&all, 100) / 1e6,
        fairness: least as f64 / most.max(1) as f64,
        failed: failed.into_inner(),
        bystander: (at(&data, 50) / 1e3, at(&data, 99) / 1e3),
    })
}

/// The time, in nanoseconds, within which so many of a hundred were done.
fn at(sorted: &[u64], percent: usize) -> f64 {
    let index = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
    sorted.get(index).copied().unwrap_or(0) as f64
}

/// Makes, renames and removes files until `end`; nanoseconds of each operation, and how many failed.
fn work(
    fs: &FileSystem,
    common: FdAddr,
    own: FdAddr,
    host: usize,
    end: Instant,
) -> (Vec<u64>, u64) {
    let (mut latencies, mut failed) = (Vec::new(), 0);
    let mut time = |result: &mut dyn FnMut() -> bool| {
        let start = Instant::now();
        failed += u64::from(!result());
        latencies.push(start.elapsed().as_nanos() as u64);
    };
    for number in 0_u64.. {
        if Instant::now() >= end {
            break;
        }
        let directory = if number.is_multiple_of(2) {
            own
        } else {
            common
        };
        let (name, new) = (format!("h{host}n{number}"), format!("h{host}r{number}"));
        let how = vmfs_core::fs::Rename::Replace;
        time(&mut || fs.create(directory, name.as_bytes(), CREATOR).is_ok());
        time(&mut || {
            fs.rename(directory, name.as_bytes(), directory, new.as_bytes(), how)
                .is_ok()
        });
        time(&mut || fs.unlink(directory, new.as_bytes()).is_ok());
    }
    (latencies, failed)
}

/// Reads and writes blocks of a file until `end`; nanoseconds of each.
fn look_on(fs: &FileSystem, file: FdAddr, end: Instant) -> Vec<u64> {
    let mut latencies = Vec::new();
    let mut block = vec![2; BLOCK];
    for number in 0_u64.. {
        if Instant::now() >= end {
            break;
        }
        let offset = number * 7919 % (FILE / BLOCK as u64) * BLOCK as u64;
        let start = Instant::now();
        let done = if number.is_multiple_of(2) {
            fs.inode(file)
                .and_then(|inode| fs.read(&inode, offset, &mut block))
                .is_ok()
        } else {
            fs.write(file, offset, &block).is_ok()
        };
        if done {
            latencies.push(start.elapsed().as_nanos() as u64);
        }
        // It looks on; it doesn't compete for processors.
        thread::sleep(Duration::from_micros(500));
    }
    latencies
}

fn table(text: &mut String, rows: &[Row], alone: f64) -> Result<()> {
    writeln!(
        text,
        "{:<8}{:<22}{:>12}{:>12}{:>12}{:>10}{:>8}{:>16}{:>12}",
        "hosts",
        "by",
        "ops/s",
        "99 % ms",
        "longest ms",
        "min/max",
        "failed",
        "bystander µs",
        "99 % µs"
    )?;
    for row in rows {
        writeln!(
            text,
            "{:<8}{:<22}{:>12.0}{:>12.2}{:>12.0}{:>10.2}{:>8}{:>16.0}{:>12.0}",
            row.hosts,
            row.method.to_string(),
            row.rate,
            row.percentile99,
            row.longest,
            row.fairness,
            row.failed,
            row.bystander.0,
            row.bystander.1
        )?;
    }
    writeln!(
        text,
        "\na host alone does {alone:.2} of what one does that doesn't lock"
    )?;
    Ok(())
}

fn plots(machine: &Machine, rows: &[Row]) -> String {
    let line =
        |title: &str, colour: &'static str, method: LockMethod, value: fn(&Row) -> f64| Line {
            title: title.to_owned(),
            colour,
            points: rows
                .iter()
                .filter(|row| row.method == method)
                .map(|row| (row.hosts as f64, value(row)))
                .collect(),
        };
    let both = |value: fn(&Row) -> f64| {
        vec![
            line("ATS", "#004488", LockMethod::Ats, value),
            line("SCSI-2", "#bb5566", LockMethod::Scsi2, value),
        ]
    };
    let charts = [
        Chart {
            title: "metadata operations per second, all hosts".to_owned(),
            lines: both(|row| row.rate),
        },
        Chart {
            title: "99th percentile of a metadata operation, ms".to_owned(),
            lines: both(|row| row.percentile99),
        },
        Chart {
            title: "bystander's 4 KiB reads and writes, 99th percentile, µs".to_owned(),
            lines: both(|row| row.bystander.1),
        },
    ];
    vmfs_benches::lines::draw(&machine.line(), &charts)
}
