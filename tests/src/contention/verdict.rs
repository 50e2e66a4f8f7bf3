//! Everything that must be true after a run.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use tempfile::TempDir;
use vmfs_core::fs::{DirEntry, FileSystem, FsError};
use vmfs_core::lvm::open_paths;
use vmfs_core::scsi::Access;

use super::ground::{Counted, Ground};
use super::history::{Call, Event, Note, Outcome, events, notes, now, span};
use super::host::{COMMON, COUNTER, GROWING, LARGEST, OWN, identity, pattern};
use super::mounts;
use super::register::{by_name, check};
use super::run::{Done, Plan, Program, run};

/// What a run was like.
#[derive(Debug)]
pub struct Report {
    pub plan: Plan,
    pub done: Done,
    pub calls: u64,
    /// Calls that found another host in the way.
    pub busy: u64,
    pub mounts: u64,
    pub fenced: u64,
    /// Calls of each host that was neither killed nor stopped for long.
    pub per_host: Vec<u64>,
    pub counted: u64,
    /// The longest calls of hosts that weren't disturbed, and the 99th percentile of all.
    pub longest: Duration,
    pub percentile99: Duration,
    pub counters: Counted,
}

/// Runs `plan` on the ground in `folder`, and judges that.
///
/// # Panics
/// When not all is as it must be; the folder is kept then.
pub fn must_hold(program: &Program, folder: TempDir, ground: &Ground, plan: &Plan) {
    match run(program, ground, plan).and_then(|done| judge(ground, plan, done)) {
        Ok(report) => println!("{report}"),
        Err(error) => {
            let kept = folder.keep();
            panic!("{plan:?} (kept: {}): {error}", kept.display());
        }
    }
}

/// Finds everything that must be true of what the hosts of a run did and left; what isn't, in words.
pub fn judge(ground: &Ground, plan: &Plan, done: Done) -> Result<Report, String> {
    let all_notes: Vec<Vec<Note>> = (0..plan.hosts)
        .map(|host| notes(&ground.history(host)))
        .collect();
    for (host, notes) in all_notes.iter().enumerate() {
        for note in notes {
            if let Note::Surprise(_, text) = note {
                return Err(format!("host {host}: {text}"));
            }
        }
    }
    let mut all: Vec<Event> = Vec::new();
    for (host, notes) in all_notes.iter().enumerate() {
        all.extend(events(host, notes));
    }
    let counters = ground.counted(plan)?;
    // Puts in order what killed hosts left.
    let mounted = ground.mount(plan, usize::from(u16::MAX));
    std::thread::sleep(Duration::from_millis(plan.lease * 2));
    let last = final_looks(&mounted.fs, plan, &all)?;
    counter(&mounted.fs, &all)?;
    growth(&mounted.fs, plan, &all)?;
    mounted
        .close()
        .map_err(|error| format!("unmount: {error}"))?;
    clean(ground)?;

    let mut history = all.clone();
    history.extend(last);
    for (name, steps) in by_name(&history) {
        check(&steps).map_err(|error| format!("{name}: {error}"))?;
    }
    Ok(report(plan, done, &all, &all_notes, counters))
}

/// The names in a directory, with what tells their files from others.
fn names(fs: &FileSystem, plan: &Plan, path: &str) -> Result<Vec<(String, Outcome)>, String> {
    let failed = |error: FsError| format!("{path}: {error}");
    let directory = fs.resolve(path.as_bytes(), true).map_err(failed)?;
    let mut names = Vec::new();
    let visit = |entry: DirEntry| {
        names.push(String::from_utf8(entry.name).expect("UTF-8"));
        true
    };
    fs.read_dir(&directory, 0, visit).map_err(failed)?;
    let look = |name: String| {
        let found = fs.lookup(&directory, name.as_bytes());
        let found = found.map_err(|error| format!("{path}/{name}, which is listed: {error}"))?;
        let file = if plan.fuse.is_some() {
            mounts::identity(found.fd().raw().into(), found.meta().gid.get())
        } else {
            Some(identity(&found))
        };
        Ok((name, file.map_or(Outcome::Exists, Outcome::File)))
    };
    names.into_iter().map(look).collect()
}

/// What each name holds in the end, as calls of one more host.
fn final_looks(fs: &FileSystem, plan: &Plan, all: &[Event]) -> Result<Vec<Event>, String> {
    let mut found: BTreeMap<String, Outcome> = BTreeMap::new();
    let folders = (0..plan.hosts).map(|host| format!("{OWN}/{host}"));
    for folder in std::iter::once(COMMON.to_owned()).chain(folders) {
        for (name, file) in names(fs, plan, &format!("/{folder}"))? {
            let path = format!("{folder}/{name}");
            if found.insert(path.clone(), file).is_some() {
                return Err(format!("{path} is listed twice"));
            }
        }
    }
    let used: BTreeSet<String> = by_name(all).into_keys().collect();
    if let Some(name) = found.keys().find(|name| !used.contains(*name)) {
        return Err(format!("{name} is there, which nobody made"));
    }
    let begin = now();
    let look = |name: String| Event {
        host: plan.hosts,
        begin,
        end: Some(begin + 1),
        outcome: found.get(&name).cloned().unwrap_or(Outcome::Missing),
        call: Call::Look(name),
    };
    Ok(used.into_iter().map(look).collect())
}

/// The counter has gone up by one each time that a host counted, in the order in which they did.
fn counter(fs: &FileSystem, all: &[Event]) -> Result<(), String> {
    let mut counts: Vec<(u64, u64, u64)> = Vec::new();
    let mut open = 0;
    for event in all.iter().filter(|event| event.call == Call::Count) {
        match (&event.outcome, event.end) {
            (Outcome::Counted(number), Some(end)) => counts.push((*number, event.begin, end)),
            (Outcome::Busy, _) => {}
            _ => open += 1,
        }
    }
    counts.sort_unstable();
    let twice = counts.windows(2).find(|pair| pair[0].0 == pair[1].0);
    if let Some(pair) = twice {
        return Err(format!("two hosts counted to {}", pair[0].0));
    }
    let mut latest = 0;
    for &(number, begin, end) in &counts {
        if end < latest {
            return Err(format!(
                "{number} was counted before a lower number: it ended at {end}, the other began at {latest}"
            ));
        }
        latest = latest.max(begin);
    }
    let file = fs.resolve(format!("/{COUNTER}").as_bytes(), true);
    let mut bytes = [0; 8];
    let read = file.and_then(|file| fs.read(&file, 0, &mut bytes));
    read.map_err(|error| format!("the counter: {error}"))?;
    let last = u64::from_le_bytes(bytes);
    let sure = counts.len() as u64;
    if last < sure || last > sure + open || counts.last().is_some_and(|count| count.0 > last) {
        return Err(format!(
            "the counter is at {last} after {sure} counts, and {open} that may not have been"
        ));
    }
    Ok(())
}

/// Each growing file has what its host wrote there, and all of it that was durable.
fn growth(fs: &FileSystem, plan: &Plan, all: &[Event]) -> Result<(), String> {
    for host in 0..plan.hosts {
        let path = format!("/{GROWING}/{host}");
        let failed = |error: FsError| format!("{path}: {error}");
        let file = fs.resolve(path.as_bytes(), true).map_err(failed)?;
        let mut bytes = vec![0; file.length() as usize];
        fs.read(&file, 0, &mut bytes).map_err(failed)?;
        let wrong = (0_u64..)
            .zip(&bytes)
            .find(|&(at, &byte)| byte != pattern(host, at));
        if let Some((at, byte)) = wrong {
            return Err(format!("{path} has {byte:#x} at {at} of {}", bytes.len()));
        }
        let mut durable = 0;
        for event in all.iter().filter(|event| event.host == host) {
            match (&event.call, &event.outcome) {
                (Call::Append(_), Outcome::Counted(length)) => durable = *length,
                // It may have been cut to begin anew.
                (Call::Append(_), _) if durable > LARGEST => durable = 0,
                _ => {}
            }
        }
        if file.length() < durable {
            return Err(format!(
                "{path} has {} bytes, {durable} were durable",
                file.length()
            ));
        }
    }
    Ok(())
}

/// fsck finds nothing, and no host has left anything.
pub(super) fn clean(ground: &Ground) -> Result<(), String> {
    let volume = open_paths(&[ground.lun()], Access::ReadOnly).map_err(|e| e.to_string())?;
    let fs = FileSystem::open(volume).map_err(|error| error.to_string())?;
    let report = fsck_vmfs::check(&fs, &mut |_| {});
    if !report.is_clean() {
        return Err(format!("fsck: {:#?}", report.findings));
    }
    let left = fs.hosts().map_err(|error| error.to_string())?;
    if !left.is_empty() {
        return Err(format!("hosts are left: {left:?}"));
    }
    Ok(())
}

fn report(
    plan: &Plan,
    done: Done,
    all: &[Event],
    notes: &[Vec<Note>],
    counters: Counted,
) -> Report {
    let count =
        |kind: fn(&Note) -> bool| notes.iter().flatten().filter(|note| kind(note)).count() as u64;
    let mut times: Vec<u64> = all
        .iter()
        .filter_map(|event| Some(event.end? - event.begin))
        .collect();
    times.sort_unstable();
    let at = |part: f64| {
        let index = (times.len() as f64 * part) as usize;
        span(
            times
                .get(index.min(times.len().saturating_sub(1)))
                .copied()
                .unwrap_or(0),
        )
    };
    let mut per_host = vec![0; plan.hosts];
    for event in all {
        per_host[event.host] += 1;
    }
    Report {
        plan: plan.clone(),
        done,
        calls: all.len() as u64,
        busy: all.iter().filter(|e| e.outcome == Outcome::Busy).count() as u64,
        mounts: count(|note| matches!(note, Note::Mounted(..))),
        fenced: count(|note| matches!(note, Note::Fenced(_))),
        per_host,
        counted: all
            .iter()
            .filter(|e| e.call == Call::Count && matches!(e.outcome, Outcome::Counted(_)))
            .count() as u64,
        longest: at(1.0),
        percentile99: at(0.99),
        counters,
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plan = &self.plan;
        writeln!(
            f,
            "{} {} {} by {}, {:.0} s, seed {}: {} calls ({} busy), {} counted, {} mounts, {} kills, {} stops, {} fenced",
            plan.family,
            plan.hosts,
            if plan.fuse.is_some() {
                "mounts"
            } else {
                "hosts"
            },
            plan.lock,
            plan.time.as_secs_f32(),
            plan.seed,
            self.calls,
            self.busy,
            self.counted,
            self.mounts,
            self.done.kills,
            self.done.stops,
            self.fenced,
        )?;
        let least = self.per_host.iter().min().copied().unwrap_or(0);
        let most = self.per_host.iter().max().copied().unwrap_or(0);
        write!(
            f,
            "    calls of a host: {least} to {most}; 99 % within {:.1} ms, all within {:.0} ms; {}",
            self.percentile99.as_secs_f64() * 1e3,
            self.longest.as_secs_f64() * 1e3,
            self.counters,
        )?;
        let cuts = self.done.cuts;
        if cuts.links + cuts.connections + cuts.restarts > 0 {
            write!(
                f,
                "\n    {} links cut, {} times all connections, {} restarts of the target",
                cuts.links, cuts.connections, cuts.restarts
            )?;
        }
        Ok(())
    }
}
