//! A host that is stopped anywhere inside a write, taken over from, and goes on: nothing of it may land any more.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use rustix::process::{Pid, Signal, kill_process};
use vmfs_core::format::FdAddr;
use vmfs_core::fs::{Allocate, DirEntry, FileSystem, FsError, OpenMode};

use super::ground::Ground;
use super::host::{CREATOR, Mounted, config};
use super::run::Plan;
use crate::random::Random;

/// Bytes of the file that hosts write to.
const DISK: u64 = 256 << 10;
/// What a host writes before it is stopped.
const STALE: u8 = 0xdd;
/// The file's name, and that of the directory beside it.
const NAME: &str = "disk";
const FOLDER: &str = "names";

/// Who a victim is.
#[derive(Debug, Clone, Args)]
pub struct Victim {
    /// The volume's image.
    #[arg(long)]
    pub image: PathBuf,
    /// Milliseconds between heartbeats.
    #[arg(long)]
    pub heartbeat: u64,
    /// Milliseconds of its lease.
    #[arg(long)]
    pub lease: u64,
    /// What it does is chosen by this number.
    #[arg(long)]
    pub seed: u64,
}

/// What trials showed.
#[derive(Debug, Default)]
pub struct Trials {
    pub trials: u64,
    /// How long it took until the other host had the file, each time.
    pub takeovers: Vec<Duration>,
}

/// A host that writes until it can't any more; whether that is because it was taken over from.
pub fn victim(settings: &Victim) -> bool {
    let config = config(1, settings.heartbeat, settings.lease, None);
    let mounted = match Mounted::open(&settings.image, config) {
        Ok(mounted) => mounted,
        Err(error) => {
            eprintln!("victim: mount: {error}");
            return false;
        }
    };
    let fs = &*mounted.fs;
    match write_on(fs, settings.seed) {
        Ok(()) => false,
        Err(error) => {
            eprintln!("victim: {error}");
            // It may take until the next heartbeat before it knows.
            let start = Instant::now();
            while start.elapsed() < Duration::from_millis(settings.lease) * 4 {
                if matches!(fs.sync(), Err(FsError::Fenced)) || !fs.is_writable() {
                    return true;
                }
                thread::sleep(Duration::from_millis(settings.heartbeat));
            }
            false
        }
    }
}

fn write_on(fs: &FileSystem, seed: u64) -> Result<(), FsError> {
    let mut random = Random::new(seed);
    let disk = fs.resolve(format!("/{NAME}").as_bytes(), true)?.fd();
    let folder = fs.resolve(format!("/{FOLDER}").as_bytes(), true)?.fd();
    fs.open_file(disk, OpenMode::Write)?;
    println!("writing");
    std::io::stdout().flush().expect("the other host listens");
    for number in 0_u64.. {
        let length = 512 << random.below(7);
        let offset = random.below((DISK - length) / 512) * 512;
        fs.write(disk, offset, &vec![STALE; length as usize])?;
        match random.below(16) {
            0 => fs.sync()?,
            1 => {
                let name = format!("{number}");
                fs.create(folder, name.as_bytes(), CREATOR)?;
            }
            2 => {
                // Grows and shrinks again: blocks are taken and given back.
                fs.write(disk, DISK + (random.below(4) << 20), &[STALE; 4096])?;
                let size = vmfs_core::fs::Changes {
                    size: Some(DISK),
                    ..Default::default()
                };
                fs.set_attributes(disk, &size)?;
            }
            _ => {}
        }
    }
    Ok(())
}

struct Process(Child);

impl Process {
    fn start(program: &Path, ground: &Ground, plan: &Plan, seed: u64) -> Self {
        let child = Command::new(program)
            .arg("victim")
            .arg("--image")
            .arg(ground.lun())
            .args(["--seed", &seed.to_string()])
            .args(["--heartbeat", &plan.heartbeat.to_string()])
            .args(["--lease", &plan.lease.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("a host starts");
        Self(child)
    }

    fn signal(&self, signal: Signal) {
        let _ = kill_process(Pid::from_child(&self.0), signal);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Stops `trials` hosts inside a write, takes over from each, lets it go on, and compares.
///
/// # Errors
/// When something of a stopped host landed, it wasn't told, or the volume isn't in order.
pub fn run(program: &Path, ground: &Ground, plan: &Plan, trials: u64) -> Result<Trials, String> {
    let mut random = Random::new(plan.seed);
    let mounted = ground.mount(plan, 2);
    let fs = &*mounted.fs;
    let failed = |error: FsError| error.to_string();
    let made = fs.create(FdAddr::ROOT, NAME.as_bytes(), CREATOR);
    let disk = made.map_err(failed)?.fd();
    fs.allocate(disk, 0, DISK, Allocate::Zero, false)
        .map_err(failed)?;
    let folder = fs.make_directory(FdAddr::ROOT, FOLDER.as_bytes(), CREATOR);
    let folder = folder.map_err(failed)?.fd();
    let mut found = Trials::default();
    for trial in 0..trials {
        let mut victim = Process::start(program, ground, plan, random.bits());
        let output = victim.0.stdout.take().expect("piped");
        let mut line = String::new();
        BufReader::new(output)
            .read_line(&mut line)
            .map_err(|e| e.to_string())?;
        if line.trim() != "writing" {
            return Err(format!("trial {trial}: the host can't mount the volume"));
        }
        thread::sleep(Duration::from_micros(random.below(40_000)));
        victim.signal(Signal::STOP);
        let start = Instant::now();
        let patience = Duration::from_millis(plan.lease) * 20 + Duration::from_secs(10);
        while let Err(error) = fs.open_file(disk, OpenMode::Write) {
            if !matches!(error, FsError::Busy { .. }) || start.elapsed() > patience {
                return Err(format!("trial {trial}: open: {error}"));
            }
        }
        found.takeovers.push(start.elapsed());
        let mine = (trial as u8).wrapping_mul(7) | 1;
        let mine = if mine == STALE { 1 } else { mine };
        let written = vec![mine; DISK as usize];
        fs.write(disk, 0, &written).map_err(failed)?;
        let names = names(fs, folder)?;
        victim.signal(Signal::CONT);
        let status = victim.0.wait().map_err(|error| error.to_string())?;
        if !status.success() {
            return Err(format!(
                "trial {trial}: the host wasn't told that it was taken over from: {status}"
            ));
        }
        let inode = fs.inode(disk).map_err(failed)?;
        let mut read = vec![0; DISK as usize + 1];
        let length = fs.read(&inode, 0, &mut read).map_err(failed)?;
        if let Some(at) = read
            .iter()
            .zip(&written)
            .position(|(read, written)| read != written)
        {
            return Err(format!(
                "trial {trial}: a write of the stopped host landed at {at}: {:#x}",
                read[at]
            ));
        }
        if length < DISK as usize || names != self::names(fs, folder)? {
            return Err(format!(
                "trial {trial}: a change of the stopped host landed"
            ));
        }
        fs.close_file(disk, OpenMode::Write);
        found.trials += 1;
    }
    mounted.close().map_err(failed)?;
    super::verdict::clean(ground)?;
    found.takeovers.sort_unstable();
    Ok(found)
}

fn names(fs: &FileSystem, folder: FdAddr) -> Result<Vec<Vec<u8>>, String> {
    let mut names = Vec::new();
    let visit = |entry: DirEntry| {
        names.push(entry.name);
        true
    };
    let listed = fs
        .inode(folder)
        .and_then(|folder| fs.read_dir(&folder, 0, visit));
    listed.map_err(|error| error.to_string())?;
    names.sort();
    Ok(names)
}
