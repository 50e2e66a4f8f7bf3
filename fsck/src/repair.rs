//! A whole run on devices: nobody else may have them, dead hosts' journals first, then all passes,
//! then the repair.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use vmfs_core::cluster::{self, Host, Watch};
use vmfs_core::format::{BlockAddr, Family, HeartbeatState, Layout};
use vmfs_core::journal::replay;
use vmfs_core::lvm::{LvmError, Volume};
use vmfs_core::scsi::{Clock, Lun, LunError, SystemClock};

use crate::check::Check;
use crate::code::{Code, Pass, Progress};
use crate::finding::{Finding, Report};
use crate::journals::{self, Journal};
use crate::judge::{Judge, Mode};
use crate::passes;
use crate::plan::{self, Plan, WriteError};
use crate::undo::{Recorder, UndoError};

/// How long a heartbeat may stand still before its host counts as dead, unless told otherwise: the
/// lease of every volume seen.
const LEASE: Duration = Duration::from_secs(16);

/// What a run is told besides its devices.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where what is overwritten is kept.
    pub undo: Option<PathBuf>,
    /// How long a heartbeat may stand still before its host counts as dead.
    pub lease: Duration,
    /// The clock.
    pub clock: Arc<dyn Clock>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            undo: None,
            lease: LEASE,
            clock: Arc::new(SystemClock),
        }
    }
}

/// What a run came to.
#[derive(Debug)]
pub struct Outcome {
    /// What was found.
    pub report: Report,
    /// Whether anything was written.
    pub wrote: bool,
    /// Why nothing may be repaired, if so.
    pub refused: Option<String>,
    /// A person stopped it.
    pub quit: bool,
}

impl Outcome {
    /// The exit code of fsck(8).
    pub fn exit_code(&self) -> u8 {
        let mut code = 0;
        if self.wrote {
            code |= 1;
        }
        if self.report.left > 0 || !self.report.is_clean() && !self.wrote {
            code |= 4;
        }
        if self.refused.is_some() {
            code |= 8;
        }
        if self.quit {
            code |= 32;
        }
        code
    }
}

/// Why a run could not be done.
#[derive(Debug, thiserror::Error)]
pub enum FsckError {
    /// The devices make no volume, or can't be read.
    #[error(transparent)]
    Volume(#[from] LvmError),
    /// A LUN failed.
    #[error(transparent)]
    Lun(#[from] LunError),
    /// A host has the volume mounted.
    #[error("host {0} has the volume mounted: unmount it there, then run fsck.vmfs again")]
    Mounted(String),
    /// Another program has reserved the LUN.
    #[error("{0}: another host has it reserved; nothing was changed")]
    Reserved(String),
    /// The undo file.
    #[error(transparent)]
    Undo(#[from] UndoError),
    /// Writing was cut off.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// A dead host's journal could not be replayed.
    #[error("the journal of host {host} could not be replayed: {reason}")]
    Replay {
        /// The host.
        host: String,
        /// What happened.
        reason: String,
    },
}

/// The LUNs, reserved for this process as far as they can be, until it is dropped.
struct Reservation(Vec<Arc<dyn Lun>>);

impl Reservation {
    fn take(luns: &[Arc<dyn Lun>]) -> Result<Self, FsckError> {
        let mut held = Self(Vec::new());
        for lun in luns.iter().filter(|lun| lun.capabilities().reserve) {
            match lun.reserve() {
                Ok(()) => held.0.push(Arc::clone(lun)),
                Err(LunError::ReservationConflict { .. }) => {
                    return Err(FsckError::Reserved(lun.name().to_owned()));
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(held)
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        for lun in &self.0 {
            if let Err(error) = lun.release() {
                tracing::warn!(lun = lun.name(), %error, "could not be released");
            }
        }
    }
}

/// Checks the volume on `luns`, all its devices in any order, and repairs it as `mode` says.
/// `progress` is told each pass as it starts, and how far a search has come.
///
/// # Errors
/// [`FsckError`]: nothing was repaired, or, with [`FsckError::Write`], a part: another run goes on.
pub fn run(
    luns: &[Arc<dyn Lun>],
    mode: Mode,
    options: &Options,
    progress: &mut dyn FnMut(Progress),
) -> Result<Outcome, FsckError> {
    let plan = Arc::new(Plan::default());
    let judge = Judge::new(mode);
    let writes = judge.writes();
    let planned: Vec<Arc<dyn Lun>> = luns
        .iter()
        .map(|lun| plan.wrap(Arc::clone(lun)) as Arc<dyn Lun>)
        .collect();
    let now = options.clock.now().as_secs() as u32;
    let mut check = Check::new(Arc::clone(&plan), judge, progress, now);
    (check.progress)(Progress::Pass(Pass::Devices));
    let volume = passes::devices::open(&mut check, &planned)?;
    let mut refused = None;
    let mut held = None;
    let mut recorder = None;
    let mut wrote = false;
    if writes {
        let layout = passes::volume::run(&mut check, &volume).map(|(_, layout)| layout);
        if let Some(layout) = &layout {
            refuse_living(&volume, layout, options)?;
        }
        held = Some(Reservation::take(luns)?);
        if let Some(path) = &options.undo {
            let new = Recorder::open(path, luns)?;
            plan.record_to(&new);
            recorder = Some(new);
        }
        if let Some(layout) = &layout {
            let hosts = living_again(&volume, layout)?;
            refused = refuse(&volume, layout, &hosts);
            if refused.is_none() {
                for host in hosts {
                    wrote |= settle(&mut check, &volume, layout, &host)?;
                }
            }
        }
        if volume.missing().next().is_some() {
            refused = Some("a device of the volume is missing".to_owned());
        }
        check.judge.refuses = refused.is_some() || check.refused.is_some();
    }
    check.run(&volume);
    // With -p something needs a decision in any case, and with another one it may be readable.
    if writes && refused.is_none() && check.judge.may_write() {
        refused = check.refused.take();
    }
    if check.judge.may_write() && refused.is_none() && !plan.is_empty() {
        plan::apply(&plan, Some(&volume), recorder.as_ref())?;
        wrote = true;
    } else if writes {
        check.not_written();
    }
    drop(held);
    Ok(Outcome {
        quit: check.judge.quit,
        report: check.report,
        wrote,
        refused,
    })
}

/// The hosts that have a slot.
fn hosts(volume: &Volume, layout: &Layout) -> Vec<Host> {
    let hosts = cluster::hosts(volume, layout).unwrap_or_default();
    let in_use = |host: &Host| host.state == HeartbeatState::InUse;
    hosts.into_iter().filter(in_use).collect()
}

/// Waits until every heartbeat has stood still for a lease.
fn refuse_living(volume: &Volume, layout: &Layout, options: &Options) -> Result<(), FsckError> {
    let watch = Watch::new(Arc::clone(&options.clock), options.lease);
    loop {
        let there = hosts(volume, layout);
        let mut waiting = false;
        for host in &there {
            let look = watch.look(host);
            if look.moved {
                return Err(FsckError::Mounted(host.shown()));
            }
            waiting |= look.still < watch.patience();
        }
        if !waiting {
            return Ok(());
        }
        options.clock.sleep(options.lease / 32);
    }
}

/// The dead hosts, unless one came while nothing was reserved yet.
fn living_again(volume: &Volume, layout: &Layout) -> Result<Vec<Host>, FsckError> {
    Ok(cluster::hosts(volume, layout)?
        .into_iter()
        .filter(|host| host.state == HeartbeatState::InUse)
        .collect())
}

/// Why this volume may not be repaired.
fn refuse(volume: &Volume, layout: &Layout, hosts: &[Host]) -> Option<String> {
    if layout.family == Family::Vmfs3 {
        return Some("VMFS3 volumes are only checked".to_owned());
    }
    let foreign = hosts.iter().find(|host| {
        let left = journals::of(volume, layout, host);
        matches!(left, Ok(Journal::Foreign))
    });
    foreign.map(|host| {
        format!(
            "ESXi host {} left changes in its journal that only ESXi can replay: mount the volume on an ESXi host and unmount it, then run fsck.vmfs again",
            host.shown()
        )
    })
}

/// Replays a dead host's journal in place and frees its slot, durably, before anything else is
/// looked at; whether it did. The slot of one whose journal is damaged is freed along with the
/// rest of the repair.
fn settle(
    check: &mut Check<'_>,
    volume: &Volume,
    layout: &Layout,
    host: &Host,
) -> Result<bool, FsckError> {
    let failed = |reason: String| FsckError::Replay {
        host: host.shown(),
        reason,
    };
    let mut replayed = false;
    let mut damage = None;
    match journals::of(volume, layout, host)? {
        // Foreign ones were refused before.
        Journal::Nothing | Journal::Foreign => {}
        Journal::Damaged(why) => damage = Some(why),
        Journal::Ours(header) => {
            let finding = Finding::new(
                Code::JournalPending,
                format!("journal of heartbeat slot {}", host.slot),
                format!("host {} didn't unmount the volume", host.shown()),
            )
            .at_volume(host.journal.0)
            .repair("replay it");
            if !check.found(finding) {
                check.judge.refuses = true;
                return Ok(false);
            }
            let plan = Arc::clone(&check.plan);
            match plan.directly(|| replay(volume, host.journal, &header)) {
                Ok(_) => replayed = true,
                Err(error) if journals::is_damage(&error) => damage = Some(error.to_string()),
                Err(error) => return Err(failed(error.to_string())),
            }
        }
    }
    let journal = BlockAddr::decode(host.journal_addr.into(), layout);
    if let Some(why) = damage {
        if check.found(journals::damaged(host, why)) {
            // With the rest of the repair: what is given up here may be all there is.
            passes::hosts::clear(check, volume, host);
            check.left_journals.push(journal);
        } else {
            check.judge.refuses = true;
        }
        return Ok(replayed);
    }
    let finding = Finding::new(
        Code::HeartbeatStale,
        format!("heartbeat slot {}", host.slot),
        format!("host {} is gone", host.shown()),
    )
    .at_volume(host.offset.0)
    .repair("mark the slot free");
    if !check.found(finding) {
        return Ok(replayed);
    }
    let plan = Arc::clone(&check.plan);
    plan.directly(|| cluster::clear_slot(volume, host.offset))?;
    if host.journal_addr != 0 {
        check.left_journals.push(journal);
    }
    Ok(true)
}
