//! A host: a process that mounts the volume through the engine and works on it until its standard input ends.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use clap::{Args, Parser as _};
use vmfs_core::cluster::{HostConfig, LockMethod};
use vmfs_core::format::{FdAddr, Uuid};
use vmfs_core::fs::{Creator, FileSystem, FsError, Inode, OpenMode, Rename};
use vmfs_core::lvm::open_paths_as;
use vmfs_core::scsi::Access;

use super::history::{Call, Note, Outcome, Writer, now};
use super::mounts::{self, Ended};
use crate::random::Random;

/// Directory in which all hosts work.
pub const COMMON: &str = "common";
/// Directory with one for each host.
pub const OWN: &str = "own";
/// Directory with the file of each host that grows.
pub const GROWING: &str = "growing";
/// The file with a number that all hosts count up.
pub const COUNTER: &str = "counter";
/// What new files are made with.
pub const CREATOR: Creator = Creator {
    mode: 0o644,
    uid: 0,
    gid: 0,
};
/// Bytes that a growing file has at most.
pub const LARGEST: u64 = 24 << 20;

/// Who a host is, and where it works.
#[derive(Debug, Clone, Args)]
pub struct Settings {
    /// The volume's image, or the URL of its LUN.
    #[arg(long)]
    pub image: PathBuf,
    /// The host's number.
    #[arg(long)]
    pub number: usize,
    /// Milliseconds between heartbeats.
    #[arg(long, default_value_t = 100)]
    pub heartbeat: u64,
    /// Milliseconds of its lease.
    #[arg(long, default_value_t = 2000)]
    pub lease: u64,
    /// Where it notes what it does.
    #[arg(long)]
    pub history: PathBuf,
    /// What it does is chosen by this number.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Names in the common directory.
    #[arg(long, default_value_t = 16)]
    pub names: u64,
    /// Microseconds between two calls.
    #[arg(long, default_value_t = 0)]
    pub pause: u64,
    /// It works on this mountpoint, as soon as something is mounted there.
    #[arg(long)]
    pub mount: Option<PathBuf>,
}

/// Environment variable with the arguments of a host whose program doesn't take any, one a line.
pub const ARGUMENTS: &str = "VMFS_CONTENTION_HOST";

impl Settings {
    /// What [`ARGUMENTS`] says; `None` if it isn't there.
    pub fn from_environment() -> Option<Self> {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            settings: Settings,
        }
        let arguments = std::env::var(ARGUMENTS).ok()?;
        let line = Line::parse_from(std::iter::once("host").chain(arguments.lines()));
        Some(line.settings)
    }
}

/// A mounted volume, with the thread that does its upkeep.
pub struct Mounted {
    pub fs: Arc<FileSystem>,
    stop: Arc<AtomicBool>,
    upkeep: Option<JoinHandle<()>>,
}

impl Mounted {
    /// Mounts the volume on `lun`, an image or the URL of a LUN, for writing.
    pub fn open(lun: &Path, config: HostConfig) -> Result<Self, FsError> {
        let heartbeat = config.heartbeat;
        let volume = open_paths_as(&[lun], Access::ReadWrite, Some(&config.name))?;
        let fs = Arc::new(FileSystem::open_for_writing(volume, config)?);
        let stop = Arc::new(AtomicBool::new(false));
        let (its, stopped) = (Arc::clone(&fs), Arc::clone(&stop));
        let upkeep = thread::spawn(move || {
            while !stopped.load(SeqCst) {
                let (wait, result) = its.keep_up();
                if let Err(error) = result {
                    eprintln!("upkeep: {error}");
                }
                thread::sleep(wait.min(heartbeat));
            }
        });
        Ok(Self {
            fs,
            stop,
            upkeep: Some(upkeep),
        })
    }

    /// Unmounts it.
    pub fn close(mut self) -> Result<(), FsError> {
        self.end_upkeep();
        self.fs.close()
    }

    fn end_upkeep(&mut self) {
        self.stop.store(true, SeqCst);
        if let Some(upkeep) = self.upkeep.take() {
            upkeep.join().expect("upkeep");
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        self.end_upkeep();
    }
}

/// A host that nobody has been before.
pub fn config(number: usize, heartbeat: u64, lease: u64, lock: Option<LockMethod>) -> HostConfig {
    let nanos = now();
    let uuid = Uuid {
        time_lo: (number as u32).into(),
        time_hi: (nanos as u32).into(),
        random: ((nanos >> 32) as u16).into(),
        mac: [2, 0, 0, 0, (number >> 8) as u8, number as u8],
    };
    let mut config = HostConfig::new(uuid, &format!("host{number}"));
    config.heartbeat = Duration::from_millis(heartbeat);
    config.lease = Duration::from_millis(lease);
    config.commit = config.lease / 4;
    config.lock = lock;
    config
}

/// What tells a file from all others that had its descriptor.
pub fn identity(file: &Inode) -> u64 {
    u64::from(file.fd().raw()) << 32 | u64::from(file.meta().generation.get())
}

/// The byte at `offset` of the growing file of host `number`.
pub fn pattern(number: usize, offset: u64) -> u8 {
    ((offset >> 9) as u8)
        .wrapping_mul(31)
        .wrapping_add(number as u8)
        ^ offset as u8
}

struct Worker {
    settings: Settings,
    notes: Writer,
    random: Random,
    stop: Arc<AtomicBool>,
}

/// The directories that a host works in, as it has found them.
struct Places {
    common: FdAddr,
    own: FdAddr,
    grown: FdAddr,
    counter: FdAddr,
}

/// Runs a host until standard input ends.
pub fn run(settings: &Settings) -> Ended {
    let stop = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&stop);
    thread::spawn(move || {
        let _ = std::io::stdin().read(&mut [0]);
        told.store(true, SeqCst);
    });
    if let Some(mount) = &settings.mount {
        return mounts::work(settings, mount, &stop);
    }
    let mut worker = Worker {
        notes: Writer::open(&settings.history).expect("a history"),
        random: Random::new(settings.seed),
        settings: settings.clone(),
        stop,
    };
    if worker.run() {
        Ended::Well
    } else {
        Ended::Badly
    }
}

/// What a host does next.
pub fn choose(random: &mut Random, settings: &Settings) -> Call {
    let kind = random.below(100);
    let number = settings.number;
    let (own, names) = (kind >= 70, settings.names);
    let mut name = || {
        if own {
            format!("{OWN}/{number}/{}", random.below(8))
        } else {
            format!("{COMMON}/{}", random.below(names))
        }
    };
    match if own { (kind - 70) * 70 / 20 } else { kind } {
        0..22 => Call::Create(name()),
        22..40 => Call::Unlink(name()),
        40..52 => Call::Look(name()),
        52..70 => {
            let (from, to) = (name(), name());
            if from == to {
                return Call::Look(from);
            }
            Call::Rename(from, to, random.below(2) == 0)
        }
        _ if kind < 95 => Call::Count,
        _ => Call::Append(1 + random.below(48 << 10)),
    }
}

impl Worker {
    fn run(&mut self) -> bool {
        let mut failed = 0;
        while !self.stop.load(SeqCst) {
            let start = now();
            let settings = &self.settings;
            let config = config(settings.number, settings.heartbeat, settings.lease, None);
            let mounted = match Mounted::open(&settings.image, config) {
                Ok(mounted) => mounted,
                Err(error) => {
                    // It may have been stopped on the way, and taken over from.
                    eprintln!("host{}: mount: {error}", settings.number);
                    failed += 1;
                    if failed > 5 {
                        return self.surprise(&format!("mount: {error}"));
                    }
                    // A target may be away for a moment.
                    thread::sleep(Duration::from_millis(self.settings.lease) / 16);
                    continue;
                }
            };
            failed = 0;
            self.notes.note(&Note::Mounted(now(), now() - start));
            match self.work(&mounted) {
                Ok(()) => {
                    let closed = mounted.close();
                    if let Err(error) = closed
                        && !matches!(error, FsError::Fenced)
                    {
                        return self.surprise(&format!("unmount: {error}"));
                    }
                    self.notes.note(&Note::Unmounted(now()));
                    return true;
                }
                Err(error) if self.is_fenced(&mounted.fs) => {
                    eprintln!("host{}: {error}", self.settings.number);
                    self.notes.note(&Note::Fenced(now()));
                }
                Err(error) => return self.surprise(&error.to_string()),
            }
        }
        true
    }

    fn surprise(&mut self, text: &str) -> bool {
        eprintln!("host{}: {text}", self.settings.number);
        self.notes.note(&Note::Surprise(now(), text.to_owned()));
        false
    }

    /// Whether a call failed because another host took over from this one: that shows soon.
    fn is_fenced(&self, fs: &FileSystem) -> bool {
        let start = Instant::now();
        let lease = Duration::from_millis(self.settings.lease);
        while start.elapsed() < lease * 4 {
            if matches!(fs.sync(), Err(FsError::Fenced)) || !fs.is_writable() {
                return true;
            }
            thread::sleep(lease / 16);
        }
        false
    }

    fn work(&mut self, mounted: &Mounted) -> Result<(), FsError> {
        let fs = &*mounted.fs;
        let find = |path: String| Ok::<_, FsError>(fs.resolve(path.as_bytes(), true)?.fd());
        let number = self.settings.number;
        let places = Places {
            common: find(format!("/{COMMON}"))?,
            own: find(format!("/{OWN}/{number}"))?,
            grown: find(format!("/{GROWING}/{number}"))?,
            counter: find(format!("/{COUNTER}"))?,
        };
        while !self.stop.load(SeqCst) {
            let call = choose(&mut self.random, &self.settings);
            self.notes.note(&Note::Begin(now(), call.clone()));
            let result = self.call(fs, &places, &call);
            // What this host has for itself is durable only then; what it shares is in place.
            let result = match result {
                Ok(outcome) if !fs.is_shared() => fs.sync().map(|()| outcome),
                result => result,
            };
            let outcome = match &result {
                Ok(outcome) => outcome.clone(),
                Err(FsError::NotFound { .. }) => Outcome::Missing,
                Err(FsError::Exists { .. }) => Outcome::Exists,
                Err(FsError::Busy { .. }) => Outcome::Busy,
                Err(_) => Outcome::Unknown,
            };
            self.notes.note(&Note::End(now(), outcome.clone()));
            if outcome == Outcome::Unknown {
                result?;
            }
            if self.settings.pause > 0 {
                thread::sleep(Duration::from_micros(self.settings.pause));
            }
        }
        Ok(())
    }

    fn call(&mut self, fs: &FileSystem, places: &Places, call: &Call) -> Result<Outcome, FsError> {
        let split = |name: &str| {
            let (folder, last) = name.rsplit_once('/').expect("a path");
            let folder = if folder == COMMON {
                places.common
            } else {
                places.own
            };
            (folder, last.as_bytes().to_vec())
        };
        match call {
            Call::Create(name) => {
                let (folder, name) = split(name);
                let made = fs.create(folder, &name, CREATOR)?;
                Ok(Outcome::File(identity(&made)))
            }
            Call::Unlink(name) => {
                let (folder, name) = split(name);
                fs.unlink(folder, &name)?;
                Ok(Outcome::Done)
            }
            Call::Look(name) => {
                let (folder, name) = split(name);
                let found = fs.lookup(&*fs.inode(folder)?, &name);
                // It was there, and another host has deleted it meanwhile.
                if matches!(found, Err(FsError::Stale { .. })) {
                    return Ok(Outcome::Busy);
                }
                let found = found?;
                Ok(Outcome::File(identity(&found)))
            }
            Call::Rename(from, to, replace) => {
                let ((folder, from), (into, to)) = (split(from), split(to));
                let how = if *replace {
                    Rename::Replace
                } else {
                    Rename::NoReplace
                };
                fs.rename(folder, &from, into, &to, how)?;
                Ok(Outcome::Done)
            }
            Call::Count => {
                fs.open_file(places.counter, OpenMode::Write)?;
                let counted = Self::count(fs, places.counter);
                fs.close_file(places.counter, OpenMode::Write);
                counted
            }
            Call::Append(more) => self.append(fs, places.grown, *more),
        }
    }

    fn count(fs: &FileSystem, counter: FdAddr) -> Result<Outcome, FsError> {
        let mut bytes = [0; 8];
        fs.read(&*fs.inode(counter)?, 0, &mut bytes)?;
        let next = u64::from_le_bytes(bytes) + 1;
        fs.write(counter, 0, &next.to_le_bytes())?;
        fs.sync_file(counter)?;
        Ok(Outcome::Counted(next))
    }

    fn append(&self, fs: &FileSystem, file: FdAddr, more: u64) -> Result<Outcome, FsError> {
        let mut length = fs.inode(file)?.length();
        if length > LARGEST {
            let changes = vmfs_core::fs::Changes {
                size: Some(0),
                ..Default::default()
            };
            fs.set_attributes(file, &changes)?;
            length = 0;
        }
        let number = self.settings.number;
        let bytes: Vec<u8> = (length..length + more)
            .map(|at| pattern(number, at))
            .collect();
        fs.write(file, length, &bytes)?;
        fs.sync_file(file)?;
        Ok(Outcome::Counted(length + more))
    }
}
