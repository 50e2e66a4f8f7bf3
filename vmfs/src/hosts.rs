//! `vmfs hosts`.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;
use vmfs_core::cluster::{Host, LockMethod};
use vmfs_core::format::HeartbeatState;
use vmfs_core::fs::{FileSystem, JournalState};

use crate::Common;
use crate::error::Error;
use crate::locks::{LockInfo, all_locks};
use crate::output::{is_terminal, json, shown};
use crate::target::Target;

const AFTER_HELP: &str = "\
Whether a host lives shows in its heartbeat, which it renews every 3 seconds: the slots are looked at until all have moved, or
for the time that --wait gives. A heartbeat that moved is sure: its host lived just then. One that stood still for 13/16 of the lease
is that of a dead host, which the next host that needs something of it takes over from. In between it is silent: it may be dead, or late.

Locks are counted in all files and resource clusters; with -v each is listed.

Examples:
  vmfs hosts /dev/sdb                   who has it mounted, who lives, whose journal has something in it
  vmfs hosts --wait 16 datastore.img    look for a whole lease, so that a dead host can be told for sure
  vmfs hosts --json datastore.img | jq '.hosts[] | select(.liveness != \"alive\").name'";

#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Args {
    /// The volume: one device, or all of them in any order
    #[arg(required = true, value_name = "DEVICE")]
    devices: Vec<PathBuf>,
    /// Seconds to look for, until all heartbeats have moved; 0 looks once and can't tell who lives
    #[arg(long, value_name = "SECONDS", default_value_t = 4.0)]
    wait: f64,
    /// The hosts' lease in seconds, if it isn't the usual one
    #[arg(long, value_name = "SECONDS", default_value_t = 16.0)]
    lease: f64,
}

/// What the heartbeats say of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Liveness {
    /// The heartbeat moved.
    Alive,
    /// It didn't move while it was looked at, which wasn't long enough to be sure.
    Silent,
    /// It stood still for as long as makes other hosts take over.
    Dead,
    /// It was looked at once.
    Unknown,
    /// It unmounted, or was taken over from, meanwhile.
    Gone,
}

#[derive(Debug, Serialize)]
struct HostInfo {
    slot: u64,
    name: String,
    uuid: String,
    generation: u64,
    /// Whether it is an OpenVMFS host: of others it isn't known how they lock.
    is_ours: bool,
    lock_method: Option<LockMethod>,
    shares: bool,
    liveness: Liveness,
    /// Seconds for which the heartbeat was looked at.
    looked_for: f64,
    journal: JournalState,
    locks: usize,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    held: Vec<LockInfo>,
    /// Slot of the host that takes over from this one.
    taken_over_by: Option<u64>,
    /// Slots of those that this one takes over from.
    takes_over_from: Vec<u64>,
}

#[derive(Debug, Serialize)]
struct Report {
    label: String,
    uuid: String,
    lease: f64,
    hosts: Vec<HostInfo>,
    /// Locks of hosts that are gone: they may be taken as if they were free.
    stale_locks: usize,
}

pub(crate) fn run(args: &Args, common: &Common) -> Result<(), Error> {
    if !(0.0..=3600.0).contains(&args.wait) || !(0.0..=3600.0).contains(&args.lease) {
        let text = "--wait and --lease are seconds, from 0 to 3600";
        return Err(Error::Usage(text.to_owned()));
    }
    let target = Target {
        devices: args.devices.clone(),
        path: "/".to_owned(),
    };
    let fs = target.open(common)?;
    let first = fs.hosts()?;
    let seen = watch(&fs, &first, args)?;
    let locks = all_locks(&fs);
    let slot_of: BTreeMap<(u64, u64), u64> = first
        .iter()
        .map(|host| ((host.offset.0, host.generation), host.slot))
        .collect();
    let mut hosts = Vec::new();
    for (host, (liveness, looked_for)) in first.iter().zip(seen) {
        let of = |lock: &&LockInfo| lock.is_held_by(host);
        let held: Vec<LockInfo> = locks.iter().filter(of).cloned().collect();
        let me = (host.offset.0, host.generation);
        let victims = first.iter().filter(|other| other.taken_by == me);
        hosts.push(HostInfo {
            slot: host.slot,
            name: host.ip.clone(),
            uuid: host.host.to_string(),
            generation: host.generation,
            is_ours: host.method.is_some(),
            lock_method: host.method,
            shares: host.shares,
            liveness,
            looked_for,
            journal: fs.journal_of(host)?,
            locks: held.len(),
            held: if common.verbose { held } else { Vec::new() },
            taken_over_by: slot_of.get(&host.taken_by).copied(),
            takes_over_from: victims.map(|other| other.slot).collect(),
        });
    }
    let report = Report {
        label: fs.descriptor().label(),
        uuid: fs.descriptor().uuid.to_string(),
        lease: args.lease,
        hosts,
        stale_locks: locks.iter().filter(|lock| lock.is_stale).count(),
    };
    if common.json {
        return json(&report);
    }
    print(&mut io::stdout().lock(), &report)
}

/// Looks at the heartbeats until all have moved or the time is over; for each, what that says, and
/// for how many seconds it was looked at.
fn watch(fs: &FileSystem, first: &[Host], args: &Args) -> Result<Vec<(Liveness, f64)>, Error> {
    let dead = Duration::from_secs_f64(args.lease * 13.0 / 16.0);
    let wait = Duration::from_secs_f64(args.wait);
    let start = Instant::now();
    let mut seen = vec![(Liveness::Unknown, 0.0); first.len()];
    loop {
        let time = start.elapsed();
        if !time.is_zero() {
            let now = fs.hosts()?;
            for (host, seen) in first.iter().zip(&mut seen) {
                if matches!(seen.0, Liveness::Alive | Liveness::Gone) {
                    continue;
                }
                let same = |other: &&Host| {
                    (other.offset, other.generation) == (host.offset, host.generation)
                };
                let liveness = match now.iter().find(same) {
                    None => Liveness::Gone,
                    Some(other) if other.stamp_us != host.stamp_us => Liveness::Alive,
                    Some(_) if time >= dead => Liveness::Dead,
                    Some(_) => Liveness::Silent,
                };
                *seen = (liveness, time.as_secs_f64());
            }
        }
        let open = |&(liveness, _): &(Liveness, f64)| {
            matches!(liveness, Liveness::Unknown | Liveness::Silent)
        };
        let in_use = first.iter().any(|host| host.state == HeartbeatState::InUse);
        if wait.is_zero() || !in_use || !seen.iter().any(open) || start.elapsed() >= wait {
            if wait.is_zero() {
                seen.fill((Liveness::Unknown, 0.0));
            }
            return Ok(seen);
        }
        let left = wait.saturating_sub(start.elapsed());
        thread::sleep(
            left.min(Duration::from_millis(250))
                .max(Duration::from_millis(1)),
        );
    }
}

fn print(out: &mut dyn Write, report: &Report) -> Result<(), Error> {
    writeln!(out, "volume {} ({})", report.label, report.uuid)?;
    if report.hosts.is_empty() {
        writeln!(out, "no host has it mounted")?;
    }
    for host in &report.hosts {
        let name = shown(host.name.as_bytes(), is_terminal());
        let name = if name.is_empty() { "(no name)" } else { &name };
        writeln!(out, "slot {:<5}{name}  {}", host.slot, host.uuid)?;
        writeln!(out, "  liveness   {}", liveness(host, report.lease))?;
        let how = match host.lock_method {
            None => "unknown: it isn't an OpenVMFS host".to_owned(),
            Some(LockMethod::Alone) => "not at all: it has the volume for itself".to_owned(),
            Some(method) if host.shares => format!("by {method}; shares the volume"),
            Some(method) => format!("by {method} when another host comes; alone now"),
        };
        writeln!(out, "  locks      {how}; holds {}", host.locks)?;
        for lock in &host.held {
            writeln!(out, "    {}", lock.line(is_terminal()))?;
        }
        writeln!(out, "  journal    {}", journal(host.journal))?;
        if let Some(slot) = host.taken_over_by {
            writeln!(out, "  takeover   by the host in slot {slot}")?;
        }
        for slot in &host.takes_over_from {
            writeln!(out, "  takeover   of the host in slot {slot}")?;
        }
    }
    if report.stale_locks > 0 {
        writeln!(
            out,
            "{} locks are of hosts that are gone; they may be taken as if they were free",
            report.stale_locks
        )?;
    }
    Ok(())
}

fn liveness(host: &HostInfo, lease: f64) -> String {
    let seconds = host.looked_for;
    match host.liveness {
        Liveness::Alive => format!("alive: its heartbeat moved within {seconds:.1} s"),
        Liveness::Dead => format!("dead: no heartbeat for {seconds:.1} s"),
        Liveness::Silent => format!(
            "silent: no heartbeat for {seconds:.1} s; dead if there is none for {:.0} s (--wait {lease:.0})",
            lease * 13.0 / 16.0
        ),
        Liveness::Unknown => "unknown: looked at once only (--wait)".to_owned(),
        Liveness::Gone => "gone: it has given back its slot meanwhile".to_owned(),
    }
}

fn journal(state: JournalState) -> String {
    match state {
        JournalState::None => "none".to_owned(),
        JournalState::Empty => "empty: all is in place".to_owned(),
        JournalState::Pending { transactions: 1 } => {
            "a transaction that may not be in place; a takeover replays it".to_owned()
        }
        JournalState::Pending { transactions } => {
            format!("{transactions} transactions that may not be in place; a takeover replays them")
        }
        JournalState::Reused => "another host's by now".to_owned(),
        JournalState::EsxiEmpty => "ESXi's, empty".to_owned(),
        JournalState::Esxi => "ESXi's; it may have changes that only ESXi can replay".to_owned(),
    }
}
