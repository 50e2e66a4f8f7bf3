//! A host that is a mount: `vmfs-fuse`, and a process that works on its mountpoint through the kernel.
//!
//! What may be asked of a mount is what docs/SHARING.md says: what a call has done, calls of other hosts see that begin
//! later; a file that is open elsewhere is busy.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, fchown};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use super::history::{Call, Note, Outcome, Writer, now};
use super::host::{COMMON, COUNTER, GROWING, LARGEST, Settings, choose, pattern};
use crate::random::Random;

/// How a process ends that found its mount taken over from.
pub const FENCED: u8 = 3;
/// What `vmfs-fuse` says then.
pub const SAYS_FENCED: &str = "another host took this one for dead";

/// How a process's work came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It was told to end, or its mount was killed.
    Well,
    /// Another host has taken over from the mount.
    Fenced,
    /// Something went wrong that mustn't.
    Badly,
}

impl Ended {
    /// With which code the process ends.
    pub fn code(self) -> u8 {
        match self {
            Self::Well => 0,
            Self::Badly => 1,
            Self::Fenced => FENCED,
        }
    }
}

/// What tells a file from all others of its name: its number, and the group that it was given when it was made. `None`
/// if it has none yet.
pub fn identity(number: u64, group: u32) -> Option<u64> {
    (group != 0).then(|| number << 32 | u64::from(group))
}

/// Whether something is mounted on a folder. Doesn't look into it, which could wait for a stopped process.
pub fn is_mounted(folder: &Path) -> bool {
    let table = fs::read_to_string("/proc/self/mountinfo").expect("the mount table");
    table.contains(&format!(" {} ", folder.display()))
}

struct Worker<'a> {
    settings: &'a Settings,
    mount: PathBuf,
    notes: Writer,
    random: Random,
    stop: &'a AtomicBool,
}

/// Works on the mountpoint `mount` until it is to stop.
pub fn work(settings: &Settings, mount: &Path, stop: &AtomicBool) -> Ended {
    let start = now();
    let mut worker = Worker {
        settings,
        mount: mount.to_owned(),
        notes: Writer::open(&settings.history).expect("a history"),
        random: Random::new(settings.seed),
        stop,
    };
    while !is_mounted(mount) {
        if stop.load(SeqCst) {
            return Ended::Well;
        }
        thread::sleep(Duration::from_millis(5));
    }
    worker.notes.note(&Note::Mounted(now(), now() - start));
    worker.run()
}

/// Whether a call failed so that nothing was done.
fn is_refusal(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::NOENT | Errno::EXIST | Errno::BUSY)
    )
}

impl Worker<'_> {
    fn run(&mut self) -> Ended {
        while !self.stop.load(SeqCst) {
            let call = self.choose();
            self.notes.note(&Note::Begin(now(), call.clone()));
            let result = self.call(&call);
            let errno = result.as_ref().err().and_then(Errno::from_io_error);
            let outcome = match (&result, errno) {
                (Ok(outcome), _) => outcome.clone(),
                (_, Some(Errno::NOENT)) => Outcome::Missing,
                (_, Some(Errno::EXIST)) => Outcome::Exists,
                (_, Some(Errno::BUSY)) => Outcome::Busy,
                _ => Outcome::Unknown,
            };
            self.notes.note(&Note::End(now(), outcome.clone()));
            if matches!(call, Call::Create(_)) && errno == Some(Errno::STALE) {
                // Another host has deleted it before it was open.
                continue;
            }
            if let (Outcome::Unknown, Err(error)) = (outcome, result) {
                return self.explain(&call, &error);
            }
            if self.settings.pause > 0 {
                thread::sleep(Duration::from_micros(self.settings.pause));
            }
        }
        self.notes.note(&Note::Unmounted(now()));
        Ended::Well
    }

    /// What a call's failure means.
    fn explain(&mut self, call: &Call, error: &io::Error) -> Ended {
        match Errno::from_io_error(error) {
            // The mount was killed, and so will this process be.
            Some(Errno::NOTCONN | Errno::CONNABORTED) => return Ended::Well,
            // In the middle of a call it may find that its new file is gone as well.
            _ if self.is_fenced() => {
                self.notes.note(&Note::Fenced(now()));
                return Ended::Fenced;
            }
            _ => {}
        }
        let text = format!("{call:?}: {error}");
        eprintln!("host{}: {text}", self.settings.number);
        self.notes.note(&Note::Surprise(now(), text));
        Ended::Badly
    }

    /// Whether nothing can be written any more.
    fn is_fenced(&self) -> bool {
        let start = Instant::now();
        let lease = Duration::from_millis(self.settings.lease);
        let mut failures = 0;
        while start.elapsed() < lease * 4 && failures < 8 {
            match self.call(&Call::Append(1)) {
                Ok(_) => failures = 0,
                Err(_) => failures += 1,
            }
            thread::sleep(lease / 16);
        }
        failures == 8
    }

    fn choose(&mut self) -> Call {
        match choose(&mut self.random, self.settings) {
            // The kernel takes a rename between two names of one file for done. What it knows of the second name
            // may be younger than what it knows of the first, which another host has given to it meanwhile.
            Call::Rename(from, to, true) if from.starts_with(COMMON) => {
                Call::Rename(from, to, false)
            }
            call => call,
        }
    }

    fn call(&self, call: &Call) -> io::Result<Outcome> {
        let path = |name: &str| self.mount.join(name);
        match call {
            Call::Create(name) => {
                let file = OpenOptions::new()
                    .write(true)
                    .create_new(true)
                    .open(path(name))?;
                let group = u32::MAX >> 1 & now() as u32 | 1;
                fchown(&file, None, Some(group))?;
                let number = file.metadata()?.ino();
                drop(file);
                self.keep(name)?;
                Ok(Outcome::File(identity(number, group).expect("a group")))
            }
            Call::Unlink(name) => {
                fs::remove_file(path(name))?;
                self.keep(name)
            }
            Call::Look(name) => {
                let found = fs::symlink_metadata(path(name))?;
                Ok(identity(found.ino(), found.gid()).map_or(Outcome::Exists, Outcome::File))
            }
            Call::Rename(from, to, replace) => {
                let flags = if *replace {
                    RenameFlags::empty()
                } else {
                    RenameFlags::NOREPLACE
                };
                renameat_with(CWD, path(from), CWD, path(to), flags)?;
                self.keep(from)
            }
            Call::Count => {
                let counter = path(COUNTER);
                let file = OpenOptions::new().read(true).write(true).open(counter)?;
                let mut bytes = [0; 8];
                file.read_exact_at(&mut bytes, 0)?;
                let next = u64::from_le_bytes(bytes) + 1;
                file.write_all_at(&next.to_le_bytes(), 0)?;
                file.sync_all()?;
                Ok(Outcome::Counted(next))
            }
            Call::Append(more) => self.append(*more),
        }
    }

    /// Makes a change of names durable: a host that is alone has it for itself until then.
    fn keep(&self, name: &str) -> io::Result<Outcome> {
        let (folder, _) = name.rsplit_once('/').expect("a path");
        let kept = File::open(self.mount.join(folder)).and_then(|folder| folder.sync_all());
        match kept {
            // It was done, whatever this says.
            Err(error) if is_refusal(&error) => {
                Err(io::Error::other(format!("fsync of {folder}: {error}")))
            }
            kept => kept.map(|()| Outcome::Done),
        }
    }

    fn append(&self, more: u64) -> io::Result<Outcome> {
        let number = self.settings.number;
        let grown = self.mount.join(format!("{GROWING}/{number}"));
        let file = OpenOptions::new().write(true).open(grown)?;
        let mut length = file.metadata()?.len();
        if length > LARGEST {
            file.set_len(0)?;
            length = 0;
        }
        let end = length + more;
        let bytes: Vec<u8> = (length..end).map(|at| pattern(number, at)).collect();
        file.write_all_at(&bytes, length)?;
        file.sync_all()?;
        Ok(Outcome::Counted(end))
    }
}
