//! Measures how fast files are read from a mounted VMFS volume, beside everything worth comparing
//! with, in one run.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use vmfs_benches::backing::{self, SMALL_FILES, Sizes, THICK, Workspace};
use vmfs_benches::contender::{Daemon, Mount};
use vmfs_benches::copy::{self, CopyFigures};
use vmfs_benches::large::{self, LargeFigures};
use vmfs_benches::machine::{Machine, available_memory};
use vmfs_benches::report::{Figure, Name, Report};
use vmfs_benches::volumes::{self, LARGE_FILE};
use vmfs_benches::workload::{self, Limits, Row, Target};
use vmfs_benches::{chart, programs};
use vmfs_core::format::Family;

/// Measures reads of VMFS volumes on tmpfs: raw, through FUSE's ceiling, libfuse's passthrough_ll,
/// Debian's vmfs-fuse and vmfs6-fuse, and our vmfs-fuse.
///
/// Prints a table and writes read.txt, read.json and read.svg. Needs /dev/fuse, a C compiler,
/// and Debian's packages libfuse3-dev, vmfs-tools and vmfs6-tools; what is missing is left out,
/// and said so.
#[derive(Debug, Parser)]
#[command(
    after_help = "Example:\n  cargo run --release -p vmfs-benches --bin read-bench -- --quick --out /tmp"
)]
struct Args {
    /// A quarter of the data, three rounds, short rows: less than two minutes
    #[arg(long)]
    quick: bool,
    /// Where the results go
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/results"))]
    out: PathBuf,
    /// A directory on tmpfs
    #[arg(long, default_value = "/dev/shm")]
    tmpfs: PathBuf,
    /// Rounds; the median counts
    #[arg(long)]
    rounds: Option<usize>,
    /// Take our programs from this directory instead of building them
    #[arg(long)]
    programs: Option<PathBuf>,
}

/// What a run does, by its arguments.
struct Plan {
    sizes: Sizes,
    limits: Limits,
    rounds: usize,
    large_reads: u64,
    stop: Arc<AtomicBool>,
}

/// A contender: how it is started, and where its files are once it runs.
struct Contender {
    name: Name,
    /// `None` for raw reads, which need no process.
    daemon: Option<Daemon>,
    target: Target,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        // Guards unmount and remove on the way out, which they can't if the signal kills us.
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    let plan = Plan::new(&args, stop)?;
    let own = match &args.programs {
        Some(directory) => directory.clone(),
        None => programs::build()?,
    };
    let machine = Machine::here();
    let workspace = Workspace::new(&args.tmpfs)?;
    let report = plan.run(&workspace, &own, machine)?;
    let text = report.text();
    print!("{text}");
    fs::create_dir_all(&args.out)?;
    fs::write(args.out.join("read.txt"), text)?;
    fs::write(
        args.out.join("read.json"),
        serde_json::to_vec_pretty(&report)?,
    )?;
    fs::write(args.out.join("read.svg"), chart::draw(&report))?;
    eprintln!("written to {}", args.out.display());
    Ok(())
}

impl Plan {
    fn new(args: &Args, stop: Arc<AtomicBool>) -> Result<Self> {
        // Twice in images, once plain, once in the ceiling, once copied, and twice for page caches.
        const COPIES: u64 = 7;
        let wanted: u64 = if args.quick { 256 << 20 } else { 1 << 30 };
        let possible = available_memory() / COPIES * 3 / 4;
        let thick = wanted.min(possible) >> 20 << 20;
        ensure!(
            thick >= 64 << 20,
            "too little memory: {possible} bytes for the thick file"
        );
        Ok(Self {
            sizes: Sizes {
                thick,
                files: 10_000,
                file: 2048,
            },
            limits: Limits {
                random: Duration::from_millis(if args.quick { 250 } else { 1000 }),
                walk: Duration::from_millis(if args.quick { 1000 } else { 4000 }),
            },
            rounds: args.rounds.unwrap_or(if args.quick { 3 } else { 5 }),
            large_reads: 100_000,
            stop,
        })
    }

    fn run(&self, workspace: &Workspace, own: &Path, machine: Machine) -> Result<Report> {
        eprintln!("making the backing in {} …", workspace.path("").display());
        let plain = workspace.path("plain");
        backing::plain_tree(&plain, self.sizes)?;
        let mut images = BTreeMap::new();
        for family in [Family::Vmfs5, Family::Vmfs6] {
            let image = workspace.path(&format!("{family}.img"));
            volumes::make(&image, family, self.sizes)?;
            let pieces = backing::pieces(&image)?;
            backing::stamp(&image, &pieces)?;
            images.insert(family.to_string(), image);
        }
        let mut report = Report {
            machine,
            setup: self.setup(),
            rows: BTreeMap::new(),
            resident_kib: BTreeMap::new(),
            copies: Vec::new(),
            large: Vec::new(),
        };
        let contenders = self.contenders(workspace, own, &plain, &images)?;
        self.measure_rows(workspace, &contenders, &mut report)?;
        report.copies = self.measure_copies(workspace, own, &plain, &images)?;
        drop(images);
        report.large = self.measure_large(workspace, own)?;
        Ok(report)
    }

    fn setup(&self) -> String {
        format!(
            "thick file {} MiB, {} files of {} bytes, all on tmpfs; {} rounds, contenders take turns row by row; walks end after {:?}, random rows after {:?}",
            self.sizes.thick >> 20,
            self.sizes.files,
            self.sizes.file,
            self.rounds,
            self.limits.walk,
            self.limits.random
        )
    }

    fn contenders(
        &self,
        workspace: &Workspace,
        own: &Path,
        plain: &Path,
        images: &BTreeMap<String, PathBuf>,
    ) -> Result<Vec<Contender>> {
        let five = &images[&Family::Vmfs5.to_string()];
        let six = &images[&Family::Vmfs6.to_string()];
        let mut contenders = vec![Contender {
            name: Name::Raw,
            daemon: None,
            target: Target {
                thick: six.clone(),
                length: self.sizes.thick,
                pieces: backing::pieces(six)?,
                directory: plain.join(SMALL_FILES),
            },
        }];
        let mut add = |name, program: PathBuf, arguments: Vec<OsString>| {
            let point = workspace.path(&format!("mnt-{name:?}"));
            contenders.push(Contender {
                name,
                daemon: Some(Daemon { program, arguments }),
                target: Target {
                    thick: point.join(THICK),
                    length: self.sizes.thick,
                    pieces: Vec::new(),
                    directory: point.join(SMALL_FILES),
                },
            });
        };
        let sizes = [
            format!("--thick={}", self.sizes.thick),
            format!("--files={}", self.sizes.files),
            format!("--file={}", self.sizes.file),
        ];
        let mut ceiling = vec![OsString::from("{}")];
        ceiling.extend(sizes.map(OsString::from));
        add(Name::Ceiling, own.join("memfs-ceiling"), ceiling);
        match programs::passthrough(&workspace.path("passthrough_ll")) {
            Ok(program) => {
                let mut source = OsString::from("source=");
                source.push(plain);
                source.push(",cache=always,clone_fd");
                add(
                    Name::PassthroughLl,
                    program,
                    vec!["-f".into(), "-o".into(), source, "{}".into()],
                );
            }
            Err(error) => eprintln!("left out: passthrough_ll: {error:#}"),
        }
        for (name, program, image) in [
            (Name::Vmfs6Tools, "vmfs6-fuse", six),
            (Name::VmfsTools, "vmfs-fuse", five),
        ] {
            match programs::debian(program) {
                Ok(path) => add(name, path, vec![image.into(), "{}".into(), "-f".into()]),
                Err(error) => eprintln!("left out: {error:#}"),
            }
        }
        for (name, image) in [(Name::Ours6, six), (Name::Ours5, five)] {
            let arguments = vec!["--foreground".into(), image.into(), "{}".into()];
            add(name, own.join("vmfs-fuse"), arguments);
        }
        Ok(contenders)
    }

    /// Touches as much memory as the rows will, and checks that all contenders show the same.
    fn warm_up(&self, workspace: &Workspace, contenders: &[Contender]) -> Result<()> {
        eprintln!("warming up …");
        let _mounts = mount_all(workspace, contenders)?;
        for step in [workload::warm_up, workload::verify] {
            for contender in contenders {
                self.check_stop()?;
                step(&contender.target).with_context(|| contender.name.title())?;
            }
        }
        Ok(())
    }

    fn measure_rows(
        &self,
        workspace: &Workspace,
        contenders: &[Contender],
        report: &mut Report,
    ) -> Result<()> {
        self.warm_up(workspace, contenders)?;
        let mut rates: BTreeMap<Row, BTreeMap<Name, Vec<f64>>> = BTreeMap::new();
        for round in 0..self.rounds {
            eprintln!("round {} of {} …", round + 1, self.rounds);
            let mounts = mount_all(workspace, contenders)?;
            for row in Row::ALL {
                // Another one goes first each time, so that none always runs behind the same.
                for index in 0..contenders.len() {
                    let contender = &contenders[(index + round) % contenders.len()];
                    self.check_stop()?;
                    let rate = workload::measure(row, &contender.target, self.limits)
                        .with_context(|| contender.name.title())?;
                    let rates = rates.entry(row).or_default().entry(contender.name);
                    rates.or_default().extend(rate);
                }
            }
            for (name, mount) in &mounts {
                report.resident_kib.insert(*name, mount.resident()?);
            }
        }
        for (row, rates) in rates {
            let figures = rates
                .into_iter()
                .filter_map(|(name, rounds)| Some((name, Figure::new(rounds)?)))
                .collect();
            report.rows.insert(row, figures);
        }
        Ok(())
    }

    fn measure_copies(
        &self,
        workspace: &Workspace,
        own: &Path,
        plain: &Path,
        images: &BTreeMap<String, PathBuf>,
    ) -> Result<Vec<CopyFigures>> {
        let program = own.join("vmfs");
        if !program.exists() {
            eprintln!("left out: vmfs cp: {} isn't there", program.display());
            return Ok(Vec::new());
        }
        eprintln!("copies …");
        let mut figures = Vec::new();
        for (family, image) in images {
            self.check_stop()?;
            let mut source = image.clone().into_os_string();
            source.push(format!(":/{THICK}"));
            let arguments = ["cp".into(), source];
            figures.push(copy::measure(
                family,
                (&program, &arguments),
                &plain.join(THICK),
                &workspace.path("copy"),
                self.rounds,
            )?);
        }
        Ok(figures)
    }

    fn measure_large(&self, workspace: &Workspace, own: &Path) -> Result<Vec<LargeFigures>> {
        let mut figures = Vec::new();
        for family in [Family::Vmfs6, Family::Vmfs5] {
            self.check_stop()?;
            eprintln!("64 TiB, {family} …");
            let image = workspace.path("large.img");
            let file = volumes::make_large(&image, family)?;
            let daemon = Daemon {
                program: own.join("vmfs-fuse"),
                arguments: vec!["--foreground".into(), (&image).into(), "{}".into()],
            };
            let paths = (&*workspace.path("mnt-large"), &*workspace.path("large.log"));
            let counts = (self.rounds, self.large_reads);
            let what = format!("{family}, 64 TiB, a file of {file}");
            figures.push(large::measure(&what, &daemon, paths, LARGE_FILE, counts)?);
            fs::remove_file(&image)?;
        }
        Ok(figures)
    }

    fn check_stop(&self) -> Result<()> {
        if self.stop.load(Ordering::Relaxed) {
            bail!("interrupted");
        }
        Ok(())
    }
}

fn mount_all(workspace: &Workspace, contenders: &[Contender]) -> Result<Vec<(Name, Mount)>> {
    let mut mounts = Vec::new();
    for Contender { name, daemon, .. } in contenders {
        if let Some(daemon) = daemon {
            let point = workspace.path(&format!("mnt-{name:?}"));
            let log = workspace.path(&format!("{name:?}.log"));
            mounts.push((*name, daemon.mount(&point, &log)?));
        }
    }
    Ok(mounts)
}
