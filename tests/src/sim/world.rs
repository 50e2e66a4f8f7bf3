//! Everything that the threads of a run share: time, the array, who lives, what was done, what is
//! wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use vmfs_core::format::Uuid;
use vmfs_core::scsi::Nexus;

use super::array::{Array, Command, Reply};
use super::faults::{Fault, Trap};
use super::history::History;
use super::scheduler::{HostId, Turns};
use super::settings::{Settings, Transport};
use super::watcher;
use crate::random::Random;

/// A mount's number.
pub type MountId = usize;

/// One mount of a host: from joining to leaving or dying.
#[derive(Debug)]
pub struct Mount {
    pub host: HostId,
    pub uuid: Uuid,
    pub nexus: Nexus,
    /// The host died: nothing of it happens any more but what is on its way.
    pub is_dead: bool,
    /// Another host keeps it from writing.
    pub is_fenced: bool,
    /// Its clock stood still once while it was stopped, so it can't know what it missed.
    pub is_dazed: bool,
    /// Nothing of the host uses it any more.
    pub has_ended: bool,
    /// Its slot and the slot's generation.
    pub slot: Option<(u64, u64)>,
    pub key: u64,
    pub shares: bool,
    /// How often it said that it shares no more.
    pub alone_times: u64,
    /// It is to go down after so many commands.
    pub trap: Option<(u64, Trap)>,
    /// When it last renewed its heartbeat.
    pub renewed: Duration,
}

#[derive(Debug)]
enum Event {
    Fault(Fault),
    /// The queued command lands.
    Lands(u64),
    /// The array finds that a host is gone.
    NexusLoss(MountId),
}

#[derive(Debug)]
struct Queued {
    mount: MountId,
    command: Command,
    answer_after: Duration,
    is_lost: bool,
    reply: Option<(Reply, Duration)>,
}

/// A host's way to the LUN.
#[derive(Debug, Clone, Copy, Default)]
pub struct Path {
    /// Nothing gets through before.
    pub hangs_until: Duration,
}

/// How often something happened, to know that a run means something.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counts {
    pub calls: u64,
    pub failed_calls: u64,
    pub commands: u64,
    pub deaths: u64,
    pub pauses: u64,
    pub takeovers: u64,
    pub traps: u64,
    pub fences: u64,
    pub hangs: u64,
    pub resets: u64,
    pub power_losses: u64,
    pub lost_commands: u64,
    pub late_commands: u64,
}

/// The state of a run.
#[derive(Debug)]
pub struct World {
    pub settings: Settings,
    pub turns: Turns,
    pub random: Random,
    pub array: Array,
    pub mounts: Vec<Mount>,
    pub paths: Vec<Path>,
    pub history: History,
    pub counts: Counts,
    /// For each host that was taken over from, the time from its last heartbeat until that was done.
    pub takeovers: Vec<Duration>,
    /// Hosts have to unmount.
    pub ending: bool,
    /// Threads by host that are at work; by number of the mount.
    pub busy: BTreeMap<MountId, u32>,
    /// Hosts that are done.
    pub done: BTreeSet<HostId>,
    /// Storms: a foreign host takes the LUN again and again until then.
    pub storm_until: Duration,
    events: BTreeMap<(Duration, u64), Event>,
    queue: BTreeMap<u64, Queued>,
    next_id: u64,
    failure: Option<String>,
}

impl World {
    /// The start of a run.
    pub fn new(settings: Settings, array: Array, random: Random) -> Self {
        Self {
            turns: Turns::new(settings.hosts),
            paths: vec![Path::default(); settings.hosts],
            settings,
            random,
            array,
            mounts: Vec::new(),
            history: History::default(),
            counts: Counts::default(),
            takeovers: Vec::new(),
            ending: false,
            busy: BTreeMap::new(),
            done: BTreeSet::new(),
            storm_until: Duration::ZERO,
            events: BTreeMap::new(),
            queue: BTreeMap::new(),
            next_id: 1,
            failure: None,
        }
    }

    /// Something is wrong: the run ends here.
    pub fn fail(&mut self, what: String) {
        if self.failure.is_none() {
            let now = self.turns.now.as_secs_f64();
            self.failure = Some(format!("at {now:.6} s: {what}"));
        }
    }

    /// What is wrong.
    pub fn failure(&self) -> Option<&String> {
        self.failure.as_ref()
    }

    /// A number that was not given before.
    pub fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// A time between `from` and `to`.
    pub fn between(&mut self, from: Duration, to: Duration) -> Duration {
        let span = to.saturating_sub(from).as_nanos() as u64;
        from + Duration::from_nanos(self.random.below(span.max(1)))
    }

    /// True in so many of a million cases.
    pub fn chance(&mut self, in_a_million: u64) -> bool {
        in_a_million > 0 && self.random.below(1_000_000) < in_a_million
    }

    /// Plans a fault.
    pub fn plan(&mut self, at: Duration, fault: Fault) {
        let id = self.id();
        self.events.insert((at, id), Event::Fault(fault));
    }

    /// When something happens by itself next.
    pub fn next_event(&self) -> Option<Duration> {
        self.events.keys().next().map(|(at, _)| *at)
    }

    /// When the queued command is answered.
    pub fn answered(&self, ticket: u64) -> Option<Duration> {
        let queued = self.queue.get(&ticket)?;
        if self.mounts[queued.mount].is_dead {
            return Some(Duration::ZERO);
        }
        queued.reply.as_ref().map(|(_, at)| *at)
    }

    /// Lets everything happen whose time has come.
    pub fn happen(&mut self) {
        let now = self.turns.now;
        if self.turns.turns > self.settings.max_turns {
            self.fail(format!("{} turns and no end", self.turns.turns));
        }
        for host in 0..self.turns.machines.len() {
            if self.turns.machines[host]
                .paused_until
                .is_some_and(|until| until <= now)
            {
                self.turns.resume(host);
            }
        }
        while let Some(entry) = self.events.first_entry() {
            if entry.key().0 > now {
                break;
            }
            match entry.remove() {
                Event::Fault(fault) => super::faults::strike(self, fault),
                Event::Lands(id) => self.lands(id),
                Event::NexusLoss(mount) => {
                    // With it go its commands: one that landed later could reserve the LUN for nobody.
                    self.abort(|of, _| of == mount);
                    let nexus = self.mounts[mount].nexus.clone();
                    self.array.disconnect(&nexus);
                }
            }
        }
    }

    /// Sends a command on the wire, to land at `at`.
    pub fn send(&mut self, mount: MountId, command: Command, at: Duration) -> u64 {
        let id = self.id();
        let is_lost = !self.ending && self.chance(self.settings.loss);
        if is_lost {
            self.counts.lost_commands += 1;
        }
        let answer_after = super::faults::latency(self);
        self.queue.insert(
            id,
            Queued {
                mount,
                command,
                answer_after,
                is_lost,
                reply: None,
            },
        );
        self.events.insert((at, id), Event::Lands(id));
        id
    }

    /// The answer to a queued command, of which nothing is left.
    pub fn receive(&mut self, ticket: u64) -> Reply {
        let Some(queued) = self.queue.get(&ticket) else {
            return Reply::Silence;
        };
        if self.mounts[queued.mount].is_dead && queued.reply.is_none() {
            // It may land yet.
            return Reply::Silence;
        }
        let queued = self.queue.remove(&ticket);
        self.array.disk.answered(ticket);
        queued
            .and_then(|queued| queued.reply)
            .map_or(Reply::Silence, |(reply, _)| reply)
    }

    fn lands(&mut self, id: u64) {
        let Some(queued) = self.queue.get(&id) else {
            return;
        };
        if queued.reply.is_some() {
            return;
        }
        let (mount, command, after) = (queued.mount, queued.command.clone(), queued.answer_after);
        let (is_lost, now) = (queued.is_lost, self.turns.now);
        let hangs = self.paths[self.mounts[mount].host].hangs_until;
        if hangs > now && !self.mounts[mount].is_dead {
            // What is on its way stays there; nobody waits longer than half a minute.
            if hangs - now < Duration::from_secs(30) {
                self.events.insert((hangs, id), Event::Lands(id));
            } else {
                let at = now + Duration::from_secs(30);
                self.reply(id, Reply::Silence, at);
            }
            return;
        }
        // Of what is lost some is lost on the way there, and some on the way back.
        let silent = now + Duration::from_secs(3) + after;
        if is_lost && self.random.below(2) == 0 {
            self.reply(id, Reply::Silence, silent);
            return;
        }
        let nexus = self.mounts[mount].nexus.clone();
        if self.array.attends(&nexus) {
            self.reply(id, Reply::Attention, now + after);
            return;
        }
        let reply = self.land(mount, &command, id);
        if is_lost {
            self.reply(id, Reply::Silence, silent);
        } else {
            self.reply(id, reply, now + after);
        }
    }

    fn reply(&mut self, id: u64, reply: Reply, at: Duration) {
        if let Some(queued) = self.queue.get_mut(&id) {
            queued.reply = Some((reply, at));
        }
    }

    /// Carries a command out, now.
    pub fn land(&mut self, mount: MountId, command: &Command, id: u64) -> Reply {
        self.counts.commands += 1;
        let before = watcher::before(self, command);
        let nexus = self.mounts[mount].nexus.clone();
        let reply = self.array.land(&nexus, command, id);
        let (place, length) = command.changes().unwrap_or_default();
        let outcome = u64::from(matches!(reply, Reply::Done | Reply::Bytes(_)));
        self.turns
            .note(&[mount as u64, command.number(), place, length, outcome]);
        if let Command::Write { bytes, .. } = command {
            self.turns.note(&[crc32fast::hash(bytes).into()]);
        }
        if self.settings.is_traced {
            let (now, shown) = (self.turns.now.as_secs_f64(), format!("{reply:?}"));
            let shown = &shown[..shown.len().min(40)];
            eprintln!(
                "{now:.6} mount {mount} {} {place:#x} {length} {shown}",
                command.name()
            );
        }
        if matches!(reply, Reply::Done) {
            watcher::after(self, mount, command, before);
        }
        reply
    }

    /// Commands of `mounts` that have not landed don't land any more.
    pub fn abort(&mut self, mut of: impl FnMut(MountId, &Mount) -> bool) {
        let now = self.turns.now;
        for queued in self.queue.values_mut() {
            if queued.reply.is_none() && of(queued.mount, &self.mounts[queued.mount]) {
                queued.reply = Some((Reply::Attention, now + queued.answer_after));
            }
        }
    }

    /// A host's mount begins.
    pub fn begin_mount(&mut self, host: HostId) -> MountId {
        let mount = self.mounts.len();
        let random = self.random.bits() as u32;
        let uuid = Uuid {
            time_lo: (mount as u32 + 1).into(),
            time_hi: random.into(),
            ..Uuid::default()
        };
        // Whatever an earlier life of the host has under way ends when it logs in again.
        self.abort(|_, earlier| earlier.host == host);
        let nexus = self.array.connect(&format!("host{host}"));
        self.mounts.push(Mount {
            host,
            uuid,
            nexus,
            is_dead: false,
            is_fenced: false,
            is_dazed: false,
            has_ended: false,
            slot: None,
            key: 0,
            shares: true,
            alone_times: 0,
            trap: None,
            renewed: self.turns.now,
        });
        mount
    }

    /// A mount is over: the array notices sooner or later.
    pub fn end_mount(&mut self, mount: MountId) {
        let at_once = self.settings.transport == Transport::Emulated || !self.mounts[mount].is_dead;
        let after = if at_once {
            Duration::ZERO
        } else {
            self.between(Duration::ZERO, Duration::from_secs(8))
        };
        let id = self.id();
        let at = self.turns.now + after;
        self.events.insert((at, id), Event::NexusLoss(mount));
    }

    /// The host dies.
    pub fn kill(&mut self, host: HostId) {
        let Some(mount) = self.alive(host) else {
            return;
        };
        self.counts.deaths += 1;
        self.mounts[mount].is_dead = true;
        self.turns.resume(host);
        self.history.crash(mount);
        self.end_mount(mount);
    }

    /// Whether a host was fenced and doesn't know it yet.
    pub fn has_sleepers(&self) -> bool {
        let mut mounts = self.mounts.iter();
        mounts.any(|mount| mount.is_fenced && !mount.is_dead && !mount.has_ended)
    }

    /// The mount that a host has now.
    pub fn alive(&self, host: HostId) -> Option<MountId> {
        let newest = self.mounts.iter().rposition(|mount| mount.host == host)?;
        (!self.mounts[newest].is_dead).then_some(newest)
    }
}
