//! What a seed makes of a run.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use mkfs_vmfs::{Options, Plan, Step};
use vmfs_core::format::Family;
use vmfs_core::scsi::Personality;

use super::broken::Broken;
use super::disk::Disk;
use crate::random::Random;

/// How commands get to the array.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// As in an image file: a host that stops doesn't send what it had not, and what was allowed lands
    /// at once.
    Emulated,
    /// As with iSCSI: a host can stop between asking whether it may write and sending, and what it
    /// has sent lands whatever becomes of it. Answers get lost.
    Wire,
}

/// A volume as mkfs leaves it.
#[derive(Debug)]
pub struct Base {
    pub family: Family,
    pub size: u64,
    /// Where the volume begins on the LUN.
    pub delta: u64,
    /// Heartbeat slots, in volume offsets.
    pub heartbeats: Range<u64>,
    pub heartbeat_size: u64,
    pub pages: Arc<HashMap<u64, Box<[u8; 4096]>>>,
}

/// What is simulated.
#[derive(Debug, Clone)]
pub struct Settings {
    pub seed: u64,
    pub base: Arc<Base>,
    pub personality: Personality,
    pub transport: Transport,
    pub hosts: usize,
    /// Client threads of each host.
    pub clients: usize,
    /// Names in the directory for which all compete.
    pub names: u64,
    /// Time for faults.
    pub faults_until: Duration,
    /// Time that clients work.
    pub work_until: Duration,
    /// How many faults are planned.
    pub faults: u64,
    /// How often, in a million commands, a host goes down at one.
    pub sudden: u64,
    /// How often, in a million, a host goes down while it takes over.
    pub traps: u64,
    /// How often, in a million, a command or its answer is lost.
    pub loss: u64,
    /// Longest time of a command one way, but for hangs.
    pub latest: Duration,
    /// Whether clocks stand still with their hosts sometimes.
    pub freezes: bool,
    /// Whether every command is printed.
    pub is_traced: bool,
    /// Most turns of a run.
    pub max_turns: u64,
    /// Rules that aren't kept.
    pub broken: &'static [Broken],
    /// How long a host stays, at least and at most.
    pub stays: Range<Duration>,
    /// The first host stops once, in the middle of something, for so long, and nothing else goes wrong.
    pub stops: Option<Range<Duration>>,
    /// Where hosts stop and die in the middle of something.
    pub stops_at: StopsAt,
    /// How often, in a million commands of a host that has the LUN reserved, somebody resets it just
    /// before.
    pub resets: u64,
}

/// Where a host may stop or die.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopsAt {
    /// Before any command.
    Commands,
    /// Before a write for which it has its lease, and before it asks for that once more.
    Writes,
    /// On the wire, between asking and sending.
    Sending,
}

/// What seeds are about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scenario {
    /// Anything.
    Any,
    /// One of two hosts stops at a write for longer than its lease.
    Stop(Personality),
    /// The same by iSCSI on an array that fences, between looking at the lease and sending.
    LateStop,
    /// The same for half a lease, on an array that doesn't fence.
    Blink,
    /// Two hosts on an array without COMPARE AND WRITE, and somebody resets the LUN again and again while one
    /// has it reserved.
    Resets,
    /// Answers get lost, one in a hundred.
    Losses,
}

impl Scenario {
    /// What `seed` says.
    pub fn settings(self, seed: u64) -> Settings {
        let stop = Settings::of_fence_trial(seed);
        match self {
            Self::Any => Settings::of(seed),
            Self::Stop(personality) => Settings {
                personality,
                stops_at: StopsAt::Writes,
                ..stop
            },
            Self::LateStop => Settings {
                personality: Personality::Vaai,
                transport: Transport::Wire,
                stops_at: StopsAt::Sending,
                ..stop
            },
            Self::Blink => Settings {
                personality: Personality::Legacy,
                stops_at: StopsAt::Writes,
                stops: Some(Duration::from_secs(5)..Duration::from_secs(11)),
                ..stop
            },
            Self::Resets => Settings {
                personality: Personality::Legacy,
                stops: None,
                faults: 0,
                clients: 2,
                names: 2,
                resets: 250_000,
                ..stop
            },
            Self::Losses => Settings {
                personality: Personality::Vaai,
                transport: Transport::Wire,
                stops: None,
                faults: 0,
                loss: 20_000,
                ..stop
            },
        }
    }

    /// What tables call it.
    pub fn shown(self) -> &'static str {
        match self {
            Self::Any => "anything goes wrong",
            Self::Stop(Personality::Vaai) => "a host stops at a write, full VAAI",
            Self::Stop(Personality::Legacy) => "a host stops at a write, SCSI-2 only",
            Self::LateStop => "a host stops between look and sending, VAAI by iSCSI",
            Self::Blink => "a host stops at a write for half a lease, SCSI-2 only",
            Self::Resets => "resets while the LUN is reserved",
            Self::Losses => "lost answers",
        }
    }
}

impl Settings {
    /// What `seed` says.
    pub fn of(seed: u64) -> Self {
        let mut random = Random::new(seed ^ 0x5e77_1465);
        let family = *random.one_of(&[Family::Vmfs5, Family::Vmfs6]);
        let personality = *random.one_of(&[Personality::Vaai, Personality::Legacy]);
        let transport = *random.one_of(&[Transport::Emulated, Transport::Wire]);
        let wire = u64::from(transport == Transport::Wire);
        let work = 30 + random.below(60);
        Self {
            seed,
            base: base(family),
            personality,
            transport,
            hosts: *random.one_of(&[1, 2, 2, 3, 3, 4, 6]),
            clients: *random.one_of(&[1, 1, 2]),
            names: 2 + random.below(5),
            faults_until: Duration::from_secs(work),
            work_until: Duration::from_secs(work + 20),
            faults: random.below(8),
            sudden: *random.one_of(&[0, 0, 50, 300, 1500]),
            traps: *random.one_of(&[0, 300_000, 700_000]),
            loss: wire * *random.one_of(&[0, 0, 300, 3000]),
            latest: Duration::from_millis(*random.one_of(&[6, 50, 1500])),
            freezes: random.below(4) == 0 && personality == Personality::Vaai,
            is_traced: std::env::var_os("VMFS_SIM_TRACE").is_some(),
            max_turns: 3_000_000,
            broken: &[],
            stays: Duration::from_secs(5)..Duration::from_secs(60),
            stops: None,
            stops_at: StopsAt::Commands,
            resets: 0,
        }
    }

    /// Two hosts, of which one stops for longer than its lease.
    pub fn of_fence_trial(seed: u64) -> Self {
        Self {
            hosts: 2,
            faults: 1,
            sudden: 0,
            traps: 0,
            loss: 0,
            freezes: false,
            faults_until: Duration::from_secs(40),
            work_until: Duration::from_secs(100),
            stays: Duration::from_secs(90)..Duration::from_secs(91),
            stops: Some(Duration::from_secs(17)..Duration::from_secs(45)),
            ..Self::of(seed)
        }
    }
}

/// The volume that runs with this format start with.
pub fn base(family: Family) -> Arc<Base> {
    static VMFS5: OnceLock<Arc<Base>> = OnceLock::new();
    static VMFS6: OnceLock<Arc<Base>> = OnceLock::new();
    let made = if family == Family::Vmfs6 {
        &VMFS6
    } else {
        &VMFS5
    };
    Arc::clone(made.get_or_init(|| Arc::new(make(family))))
}

fn make(family: Family) -> Base {
    let mut options = Options::new(family, &[2 << 30]);
    options.time_us = 1_700_000_000_000_000;
    let size = options.devices[0].size;
    let plan = Plan::new(options).expect("a plan");
    let mut disk = Disk::default();
    for step in plan.steps() {
        match step {
            Step::Write { offset, bytes, .. } => disk.write(offset, &bytes, None),
            Step::Zero { offset, length, .. } => {
                for start in (0..length).step_by(1 << 20) {
                    let part = (length - start).min(1 << 20);
                    disk.write(offset + start, &vec![0; part as usize], None);
                }
            }
            Step::Flush => {}
        }
    }
    let (disk, delta, heartbeats, heartbeat_size) = super::check::prepare(disk, size);
    let pages = disk.into_pages();
    Base {
        family,
        size,
        delta,
        heartbeats,
        heartbeat_size,
        pages,
    }
}
