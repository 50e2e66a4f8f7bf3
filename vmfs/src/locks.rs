//! `vmfs locks`.

use std::collections::HashMap;
use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use serde::Serialize;
use vmfs_core::cluster::{Host, HostConfig, LockView};
use vmfs_core::format::{FdAddr, LockMode, Uuid};
use vmfs_core::fs::{FileSystem, FsError, Inode, Protected};
use vmfs_core::lvm::open_paths;
use vmfs_core::scsi::Access;

use crate::Common;
use crate::error::Error;
use crate::output::{is_terminal, json, shown};
use crate::target::Target;

const AFTER_HELP: &str = "\
A lock is exclusive, read-only (shared by readers), multi-writer or free. One that only hosts hold which are gone is stale: any host
takes it as if it were free.

--break takes the lock of a file from the host that has it. This program joins the volume as a host for that. A host that is dead
is taken over from: it is fenced, and its journal is replayed; it takes up to a lease to be sure of that. A host that lives is refused,
unless --force is given: it then loses the WHOLE volume, and whatever it has not written: programs on it get I/O errors until it is
unmounted and mounted again. Close the file there instead, if that can be done.

Examples:
  vmfs locks datastore.img:/vm/disk.vmdk              who has it open?
  vmfs locks datastore.img                            all locks that are held
  vmfs locks --break datastore.img:/vm/disk.vmdk      take it from a host that died
  vmfs locks --break --yes --json datastore.img:/vm/disk.vmdk   the same, in a script

Exit codes: 0 done, 1 a lock could not be read or broken, 2 usage, or a host that lives keeps its lock, 3 the volume could not be opened.";

#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Args {
    /// Files; a volume without a path stands for all locks that are held
    #[arg(required = true, value_name = "DEVICE[:/FILE]")]
    targets: Vec<Target>,
    /// Take the lock from the host that has it
    #[arg(long = "break")]
    breaks: bool,
    /// With --break: don't ask
    #[arg(long, requires = "breaks")]
    yes: bool,
    /// With --break: take it from a host that lives, too, which loses the volume by that
    #[arg(long, requires = "breaks")]
    force: bool,
    /// With --break: the lease of the volume's hosts in seconds, if it isn't the usual one
    #[arg(long, value_name = "SECONDS", default_value_t = 16.0)]
    lease: f64,
}

/// A host in a lock.
#[derive(Debug, Clone, Serialize)]
struct Holder {
    name: String,
    uuid: String,
    /// Slot of its heartbeat; nothing if it is gone.
    slot: Option<u64>,
    heartbeat: u64,
    generation: u64,
}

/// A lock, for people and machines.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct LockInfo {
    /// The file's path, or what else it protects.
    of: String,
    place: u64,
    mode: LockMode,
    /// For an open file, not for one call.
    is_open: bool,
    pub(crate) is_stale: bool,
    holder_count: usize,
    holders: Vec<Holder>,
    token: u64,
}

impl LockInfo {
    fn new(of: String, lock: &LockView) -> Self {
        let holders = lock.holders.iter().map(|holder| Holder {
            name: holder
                .host
                .as_ref()
                .map_or_else(String::new, |host| host.ip.clone()),
            uuid: holder.uuid.to_string(),
            slot: holder.host.as_ref().map(|host| host.slot),
            heartbeat: holder.heartbeat.0,
            generation: holder.generation,
        });
        let holders: Vec<Holder> = holders.collect();
        Self {
            of,
            place: lock.place.0,
            mode: lock.mode,
            is_open: lock.is_open && lock.mode != LockMode::Free,
            is_stale: lock.is_stale(),
            holder_count: holders.len(),
            holders,
            token: lock.token,
        }
    }

    /// Whether this host, as it is now, holds it.
    pub(crate) fn is_held_by(&self, host: &Host) -> bool {
        let is_it = |holder: &Holder| {
            holder.slot.is_some()
                && (holder.heartbeat, holder.generation) == (host.offset.0, host.generation)
        };
        self.holders.iter().any(is_it)
    }

    /// One line about it.
    pub(crate) fn line(&self, for_terminal: bool) -> String {
        let mode = match self.mode {
            LockMode::Free => "free".to_owned(),
            LockMode::Exclusive => "exclusive".to_owned(),
            LockMode::ReadOnly => "read-only".to_owned(),
            LockMode::MultiWriter => "multi-writer".to_owned(),
            LockMode::Unknown(mode) => format!("unknown mode {mode}"),
        };
        let mut line = format!("{}  {mode}", shown(self.of.as_bytes(), for_terminal));
        if self.mode == LockMode::Free {
            return line;
        }
        line += if self.is_stale {
            ", stale"
        } else if self.is_open {
            ", open"
        } else {
            ", for a call"
        };
        let holders = self.holders.iter().map(|holder| {
            let name = shown(holder.name.as_bytes(), for_terminal);
            match holder.slot {
                Some(slot) => format!("{name} ({}, slot {slot})", holder.uuid),
                None => format!("{} (gone)", holder.uuid),
            }
        });
        let holders: Vec<String> = holders.collect();
        line + ": " + &holders.join(", ")
    }
}

pub(crate) fn run(args: &Args, common: &Common) -> Result<(), Error> {
    if args.breaks {
        return break_all(args, common);
    }
    let mut infos = Vec::new();
    for target in &args.targets {
        let fs = target.open(common)?;
        if target.path == "/" {
            infos.extend(all_locks(&fs));
        } else {
            let file = target.resolve(&fs, true)?;
            infos.push(LockInfo::new(target.path.clone(), &fs.lock_of(file.fd())?));
        }
    }
    if common.json {
        return json(&infos);
    }
    let mut out = io::stdout().lock();
    if infos.is_empty() {
        writeln!(out, "no lock is held")?;
    }
    for info in &infos {
        writeln!(out, "{}", info.line(is_terminal()))?;
    }
    Ok(())
}

/// All locks that aren't free.
pub(crate) fn all_locks(fs: &FileSystem) -> Vec<LockInfo> {
    let mut found = Vec::new();
    fs.for_each_lock(|protected, lock| found.push((protected, lock)));
    let files = found.iter().filter_map(|(protected, _)| match protected {
        Protected::File(fd) => Some((*fd, None)),
        Protected::Cluster(..) => None,
    });
    let mut paths: HashMap<FdAddr, Option<String>> = files.collect();
    find_paths(fs, &mut paths);
    let name = |protected| match protected {
        Protected::File(fd) => paths
            .get(&fd)
            .cloned()
            .flatten()
            .unwrap_or_else(|| format!("file {fd}")),
        Protected::Cluster(kind, number) => format!("{kind} cluster {number}"),
    };
    let infos = found
        .iter()
        .map(|(protected, lock)| LockInfo::new(name(*protected), lock));
    infos.collect()
}

/// Walks through the tree until all of `paths` are found; directories that can't be read are left out.
fn find_paths(fs: &FileSystem, paths: &mut HashMap<FdAddr, Option<String>>) {
    let mut left = paths.len();
    if left == 0 {
        return;
    }
    let mut note = |fd: FdAddr, path: &str| {
        if let Some(known) = paths.get_mut(&fd)
            && known.is_none()
        {
            *known = Some(path.to_owned());
            left -= 1;
        }
        left == 0
    };
    let mut queue: Vec<(Arc<Inode>, String)> = fs
        .root()
        .map(|root| (root, String::new()))
        .into_iter()
        .collect();
    if note(FdAddr::ROOT, "/") {
        return;
    }
    while let Some((directory, path)) = queue.pop() {
        let mut inside = Vec::new();
        let visit = |entry: vmfs_core::fs::DirEntry| {
            inside.push(entry);
            true
        };
        if let Err(error) = fs.read_dir(&directory, 0, visit) {
            tracing::debug!(%error, "{path}/ can't be looked through");
        }
        for entry in inside {
            let path = format!("{path}/{}", String::from_utf8_lossy(&entry.name));
            if note(entry.fd, &path) {
                return;
            }
            if entry.kind == vmfs_core::format::FileKind::Directory
                && let Ok(inode) = fs.inode(entry.fd)
            {
                queue.push((inode, path));
            }
        }
    }
}

#[derive(Debug, Serialize)]
struct Broken {
    path: String,
    /// What the lock was like before.
    before: LockInfo,
    /// What it is like now.
    after: LockInfo,
}

fn break_all(args: &Args, common: &Common) -> Result<(), Error> {
    let mut broken = Vec::new();
    for target in &args.targets {
        if target.path == "/" {
            let text = "--break wants a file: DEVICE:/FILE";
            return Err(Error::Usage(text.to_owned()));
        }
        broken.push(break_one(target, args, common)?);
    }
    if common.json {
        return json(&broken);
    }
    let mut out = io::stdout().lock();
    for one in &broken {
        writeln!(out, "was {}", one.before.line(is_terminal()))?;
        writeln!(out, "now {}", one.after.line(is_terminal()))?;
    }
    Ok(())
}

fn break_one(target: &Target, args: &Args, common: &Common) -> Result<Broken, Error> {
    let fs = target.open(common)?;
    let file = target.resolve(&fs, true)?.fd();
    let before = LockInfo::new(target.path.clone(), &fs.lock_of(file)?);
    drop(fs);
    eprintln!("vmfs: {}", before.line(io::stderr().is_terminal()));
    if before.mode != LockMode::Free && !before.is_stale {
        eprintln!(
            "vmfs: warning: a dead host is fenced and taken over from; {}",
            if args.force {
                "ONE THAT LIVES LOSES THE WHOLE VOLUME, and what it has not written"
            } else {
                "one that lives keeps its lock"
            }
        );
        if !args.yes && !confirmed()? {
            let text = "nothing was changed; --yes breaks the lock without asking";
            return Err(Error::Usage(text.to_owned()));
        }
    }
    let devices: Vec<_> = target.devices.iter().chain(&common.devices).collect();
    let volume =
        open_paths(&devices, Access::ReadWrite).map_err(|error| Error::Open(error.to_string()))?;
    let lease = Duration::try_from_secs_f64(args.lease)
        .map_err(|_| Error::Usage("--lease is a number of seconds".to_owned()))?;
    let mut host = HostConfig::new(uuid()?, "vmfs locks --break");
    (host.heartbeat, host.lease) = (lease * 3 / 16, lease);
    let fs = FileSystem::open_for_writing(volume, host)
        .map_err(|error| Error::Open(error.to_string()))?;
    let done = AtomicBool::new(false);
    let result = thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(SeqCst) {
                let (wait, result) = fs.keep_up();
                if let Err(error) = result {
                    tracing::warn!("{error}");
                }
                thread::sleep(wait.min(Duration::from_millis(100)));
            }
        });
        let result = fs.break_lock(file, args.force);
        done.store(true, SeqCst);
        result
    });
    let after = fs
        .lock_of(file)
        .map(|lock| LockInfo::new(target.path.clone(), &lock));
    let closed = fs.close();
    if let Err(FsError::Busy { by }) = &result {
        return Err(Error::Usage(format!(
            "host {by} lives, and keeps its lock: close the file there, or take the whole volume from that host with --force"
        )));
    }
    result?;
    closed?;
    Ok(Broken {
        path: target.path.clone(),
        before,
        after: after?,
    })
}

/// Asks on the terminal.
fn confirmed() -> Result<bool, Error> {
    if !io::stdin().is_terminal() {
        return Ok(false);
    }
    eprint!("vmfs: break the lock? [y/N] ");
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// An identifier for this run.
fn uuid() -> Result<Uuid, Error> {
    let mut random = [0; 16];
    getrandom::fill(&mut random)
        .map_err(|error| Error::Open(format!("no random numbers: {error}")))?;
    let (a, rest) = random.split_at(4);
    let number = |bytes: &[u8]| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    Ok(Uuid {
        time_lo: number(a).into(),
        time_hi: number(rest).into(),
        random: u16::from_le_bytes([rest[4], rest[5]]).into(),
        mac: [2, rest[6], rest[7], rest[8], rest[9], rest[10]],
    })
}
