//! Where hosts meet: a fresh volume in an image, or on a LUN of an iSCSI target behind a link for each host.

use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use mkfs_vmfs::{Options, apply};
use vmfs_core::cluster::LockMethod;
use vmfs_core::format::{Family, FdAddr};
use vmfs_core::fs::FileSystem;
use vmfs_core::scsi::{self, Access, ArrayState, FileLun, LunIdentity, Personality};
use vmfs_fixtures::FixtureBuilder;

use super::host::{COMMON, COUNTER, CREATOR, GROWING, Mounted, OWN, config};
use super::run::Plan;
use crate::network::Network;
use crate::random::Random;
use crate::tgt::{self, Target};

/// Bytes of the volume's LUN.
const SIZE: u64 = 16 << 30;
/// Milliseconds that a link is cut at most: hosts live through that, since it is shorter than their lease.
const LONGEST_CUT: u64 = 1500;
/// Milliseconds between two disturbances at most.
const LONGEST_PEACE: u64 = 2000;
/// Operation codes.
const COMPARE_AND_WRITE: u8 = 0x89;
const RESERVE: u8 = 0x16;
const PERSISTENT_RESERVE_OUT: u8 = 0x5f;

/// A volume, with a folder for the hosts' histories.
#[derive(Debug)]
pub struct Ground {
    folder: PathBuf,
    lun: Place,
}

#[derive(Debug)]
enum Place {
    Image(PathBuf),
    Target {
        network: Network,
        target: Box<Mutex<Target>>,
    },
}

/// How often what was done to an iSCSI target.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cuts {
    pub links: u64,
    /// Each time, all connections in the middle of an answer.
    pub connections: u64,
    /// tgtd was killed and started anew.
    pub restarts: u64,
}

/// What an array counted of all hosts' commands.
#[derive(Debug, Clone, Copy)]
pub struct Counted {
    pub reserves: u64,
    pub compare_and_writes: u64,
    /// Commands that another host's reservation kept out, if the array tells.
    pub conflicts: Option<u64>,
}

impl Ground {
    /// Makes the volume in an image, with what hosts find on it.
    pub fn make(folder: &Path, plan: &Plan) -> Self {
        let image = folder.join("volume.img");
        let file = File::create_new(&image).expect("an image");
        let builder = FixtureBuilder::create(options(plan.family, SIZE), vec![file]);
        builder.expect("a builder").finish().expect("a volume");
        let personality = match plan.lock {
            LockMethod::Ats => Personality::Vaai,
            _ => Personality::Legacy,
        };
        ArrayState::create(&image, LunIdentity::new("contention"), personality).expect("an array");
        Self::furnished(folder, Place::Image(image), plan)
    }

    /// Makes it on a LUN of Debian's tgtd, which hosts reach each by a link of its own; `None` for who isn't root.
    /// tgt has reservations and no COMPARE AND WRITE.
    pub fn over_iscsi(folder: &Path, plan: &Plan) -> Option<Self> {
        let network = Network::new(u32::try_from(plan.hosts).expect("not so many hosts"))?;
        let target = Target::start_with(tgt::Options {
            size: SIZE,
            address: "0.0.0.0".to_owned(),
            ..tgt::Options::default()
        });
        let lun = scsi::open(target.url().as_ref(), Access::ReadWrite, Some("mkfs"));
        let lun = lun.expect("the LUN");
        let mut options = options(plan.family, lun.capacity());
        let identity = lun.identity().expect("an identity");
        options.devices[0].disk_id = identity.as_str().as_bytes().to_vec();
        let layout = mkfs_vmfs::Plan::new(options).expect("a plan");
        apply(&layout, &[lun]).expect("a volume");
        let target = Box::new(Mutex::new(target));
        Some(Self::furnished(
            folder,
            Place::Target { network, target },
            plan,
        ))
    }

    fn furnished(folder: &Path, lun: Place, plan: &Plan) -> Self {
        let folder = folder.to_owned();
        let ground = Self { folder, lun };
        let mounted = ground.mount(plan, usize::from(u16::MAX));
        furnish(&mounted.fs, plan.hosts);
        mounted.close().expect("unmount");
        ground
    }

    /// The volume's LUN for programs of this machine: a path, or a URL.
    pub fn lun(&self) -> PathBuf {
        match &self.lun {
            Place::Image(image) => image.clone(),
            Place::Target { target, .. } => target.lock().expect("no panic").url().into(),
        }
    }

    /// The same as a host reaches it.
    pub fn lun_of(&self, host: usize) -> PathBuf {
        match &self.lun {
            Place::Image(image) => image.clone(),
            Place::Target { network, target } => {
                let gateway = network.gateway(host as u32);
                target
                    .lock()
                    .expect("no panic")
                    .url_from(&gateway, 1)
                    .into()
            }
        }
    }

    /// A program that is to run on a host.
    pub fn program(&self, host: usize, program: &Path) -> Command {
        match &self.lun {
            Place::Image(_) => Command::new(program),
            Place::Target { network, .. } => network.program(host as u32, program),
        }
    }

    /// Mounts the volume in this process, as a host that locks in whatever way the array wants.
    pub fn mount(&self, plan: &Plan, number: usize) -> Mounted {
        let config = config(number, plan.heartbeat, plan.lease, None);
        Mounted::open(&self.lun(), config).expect("mount")
    }

    /// The history of a host.
    pub fn history(&self, host: usize) -> PathBuf {
        self.folder.join(format!("host{host}.history"))
    }

    /// Where a host that is a mount has the volume.
    pub fn mountpoint(&self, host: usize) -> PathBuf {
        self.folder.join(format!("mount{host}"))
    }

    /// What a host says.
    pub fn log(&self, host: usize) -> PathBuf {
        self.folder.join(format!("host{host}.log"))
    }

    /// Cuts links and connections, and kills the target, until it is `over`. An image is left alone.
    pub fn disturb(&self, hosts: usize, seed: u64, over: &AtomicBool) -> Cuts {
        let mut cuts = Cuts::default();
        let Place::Target { network, target } = &self.lun else {
            return cuts;
        };
        let mut random = Random::new(seed);
        loop {
            thread::sleep(Duration::from_millis(random.below(LONGEST_PEACE)));
            if over.load(SeqCst) {
                return cuts;
            }
            match random.below(3) {
                0 => {
                    let host = random.below(hosts as u64) as u32;
                    network.set_link(host, false);
                    thread::sleep(Duration::from_millis(random.below(LONGEST_CUT)));
                    network.set_link(host, true);
                    cuts.links += 1;
                }
                1 => {
                    let target = target.lock().expect("no panic");
                    target.proxy().cut_after(random.below(100_000));
                    cuts.connections += 1;
                }
                _ => {
                    target.lock().expect("no panic").restart();
                    cuts.restarts += 1;
                }
            }
        }
    }

    /// What the array counted.
    ///
    /// # Errors
    /// When hosts used a command of the other way to lock, or none of their own.
    pub fn counted(&self, plan: &Plan) -> Result<Counted, String> {
        let (counted, others) = match &self.lun {
            Place::Image(image) => {
                // The last host shows its counts when it goes.
                let lun = FileLun::open(image, Access::ReadOnly).map_err(|e| e.to_string())?;
                let status = lun.status().map_err(|error| error.to_string())?;
                let all = status.ok_or("nobody shares the image")?.counters;
                let counted = Counted {
                    reserves: all.reserves.commands,
                    compare_and_writes: all.compare_and_writes.commands,
                    conflicts: Some(all.conflicts),
                };
                let others = match plan.lock {
                    LockMethod::Ats => all.releases.commands + all.resets.commands,
                    _ => all.persistent_outs.commands,
                };
                (counted, others)
            }
            Place::Target { target, .. } => {
                let target = target.lock().expect("no panic");
                let counted = Counted {
                    reserves: target.proxy().commands(RESERVE),
                    compare_and_writes: target.proxy().commands(COMPARE_AND_WRITE),
                    conflicts: None,
                };
                (counted, target.proxy().commands(PERSISTENT_RESERVE_OUT))
            }
        };
        let (used, unused) = match plan.lock {
            LockMethod::Ats => (counted.compare_and_writes, counted.reserves),
            _ => (counted.reserves, counted.compare_and_writes),
        };
        if unused + others > 0 || used == 0 {
            return Err(format!(
                "a host didn't keep to {}: {counted:?}, and {others} other commands",
                plan.lock
            ));
        }
        Ok(counted)
    }
}

impl fmt::Display for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} reservations, {} compare and writes",
            self.reserves, self.compare_and_writes
        )?;
        match self.conflicts {
            Some(conflicts) => write!(f, ", {conflicts} conflicts"),
            None => Ok(()),
        }
    }
}

fn options(family: Family, size: u64) -> Options {
    let mut options = Options::new(family, &[size]);
    options.time_us = 1_700_000_000_000_000;
    options
}

/// Makes the directories and files that hosts work on.
fn furnish(fs: &FileSystem, hosts: usize) {
    let directory = |parent, name: &str| {
        let made = fs.make_directory(parent, name.as_bytes(), CREATOR);
        made.expect("a directory").fd()
    };
    directory(FdAddr::ROOT, COMMON);
    let own = directory(FdAddr::ROOT, OWN);
    let growing = directory(FdAddr::ROOT, GROWING);
    for host in 0..hosts {
        let name = host.to_string();
        directory(own, &name);
        fs.create(growing, name.as_bytes(), CREATOR)
            .expect("a file");
    }
    let counter = fs.create(FdAddr::ROOT, COUNTER.as_bytes(), CREATOR);
    let counter = counter.expect("the counter").fd();
    fs.write(counter, 0, &[0; 8]).expect("write");
}
