//! A run: a volume, hosts on it, and what is done to them.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use mkfs_vmfs::Options;
use rustix::process::{Pid, Signal, kill_process};
use vmfs_core::cluster::LockMethod;
use vmfs_core::format::{Family, FdAddr};
use vmfs_core::fs::FileSystem;
use vmfs_core::scsi::{ArrayState, LunIdentity, Personality};
use vmfs_fixtures::FixtureBuilder;

use super::host::{COMMON, COUNTER, CREATOR, GROWING, Mounted, OWN, config};
use crate::random::Random;

/// What a run is to be like.
#[derive(Debug, Clone)]
pub struct Plan {
    pub hosts: usize,
    pub family: Family,
    /// ATS on an array that has it, or SCSI-2 reservations on one that hasn't.
    pub lock: LockMethod,
    /// How long the hosts work.
    pub time: Duration,
    /// Hosts are killed, and start again.
    pub kills: bool,
    /// Hosts are stopped for a while, some for longer than their lease.
    pub stops: bool,
    pub seed: u64,
    /// Milliseconds.
    pub heartbeat: u64,
    /// Milliseconds.
    pub lease: u64,
    /// Microseconds that a host waits between two calls.
    pub pause: u64,
}

/// What was done to the hosts.
#[derive(Debug, Clone, Copy, Default)]
pub struct Done {
    pub kills: u64,
    pub stops: u64,
}

/// A volume in a folder of its own, and the hosts' histories beside it.
#[derive(Debug)]
pub struct Ground {
    pub image: PathBuf,
    folder: PathBuf,
}

impl Ground {
    /// Makes the volume, with what hosts find on it.
    pub fn make(folder: &Path, plan: &Plan) -> Self {
        let image = folder.join("volume.img");
        let mut options = Options::new(plan.family, &[16 << 30]);
        options.time_us = 1_700_000_000_000_000;
        let file = File::create_new(&image).expect("an image");
        let builder = FixtureBuilder::create(options, vec![file]).expect("a builder");
        builder.finish().expect("a volume");
        let personality = match plan.lock {
            LockMethod::Ats => Personality::Vaai,
            _ => Personality::Legacy,
        };
        ArrayState::create(&image, LunIdentity::new("contention"), personality).expect("an array");
        let ground = Self {
            image,
            folder: folder.to_owned(),
        };
        let mounted = ground.mount(plan, usize::from(u16::MAX));
        furnish(&mounted.fs, plan.hosts);
        mounted.close().expect("unmount");
        ground
    }

    /// Mounts the volume in this process, as a host that locks in whatever way the array wants.
    pub fn mount(&self, plan: &Plan, number: usize) -> Mounted {
        let config = config(number, plan.heartbeat, plan.lease, None);
        Mounted::open(&self.image, config).expect("mount")
    }

    /// The history of a host.
    pub fn history(&self, host: usize) -> PathBuf {
        self.folder.join(format!("host{host}.history"))
    }
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

/// A host's process. Dropped, it is killed.
#[derive(Debug)]
struct Process {
    child: Child,
    /// Closed, the host ends.
    orders: Option<ChildStdin>,
    stopped_until: Option<Instant>,
}

impl Process {
    fn start(program: &Path, ground: &Ground, plan: &Plan, number: usize, seed: u64) -> Self {
        let log = File::options()
            .create(true)
            .append(true)
            .open(ground.folder.join(format!("host{number}.log")))
            .expect("a log");
        let mut child = Command::new(program)
            .arg("host")
            .arg("--image")
            .arg(&ground.image)
            .arg("--history")
            .arg(ground.history(number))
            .args(["--number", &number.to_string()])
            .args(["--seed", &seed.to_string()])
            .args(["--heartbeat", &plan.heartbeat.to_string()])
            .args(["--lease", &plan.lease.to_string()])
            .args(["--names", &(plan.hosts as u64 + 8).to_string()])
            .args(["--pause", &plan.pause.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("a host starts");
        let orders = child.stdin.take();
        Self {
            child,
            orders,
            stopped_until: None,
        }
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        let _ = kill_process(pid, signal);
    }

    fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Runs `plan` on `ground` with `program`'s hosts.
///
/// # Errors
/// When a host ends by itself, or doesn't end when it is told to.
pub fn run(program: &Path, ground: &Ground, plan: &Plan) -> Result<Done, String> {
    let mut random = Random::new(plan.seed);
    let mut start = |number| Process::start(program, ground, plan, number, random.bits());
    let mut hosts: Vec<Process> = (0..plan.hosts).map(&mut start).collect();
    wait_for_all(ground, plan, &mut hosts)?;
    let mut done = Done::default();
    let end = Instant::now() + plan.time;
    let mut random = Random::new(plan.seed ^ 0x5eed);
    let lease = Duration::from_millis(plan.lease);
    while Instant::now() < end {
        thread::sleep(
            lease.mul_f64(random.below(100) as f64 / 1000.0 / (plan.hosts as f64 / 8.0).max(1.0)),
        );
        for (number, host) in hosts.iter_mut().enumerate() {
            if let Some(until) = host.stopped_until
                && Instant::now() >= until
            {
                host.signal(Signal::CONT);
                host.stopped_until = None;
            }
            if let Ok(Some(status)) = host.child.try_wait() {
                return Err(format!("host {number} ended by itself: {status}"));
            }
        }
        let number = random.below(plan.hosts as u64) as usize;
        let stopped = hosts.iter().filter(|host| host.stopped_until.is_some());
        if stopped.count() * 2 >= plan.hosts.max(2) {
            continue;
        }
        match random.below(24) {
            0 if plan.kills => {
                hosts[number].kill();
                hosts[number] = Process::start(program, ground, plan, number, random.bits());
                done.kills += 1;
            }
            1..4 if plan.stops && hosts[number].stopped_until.is_none() => {
                hosts[number].signal(Signal::STOP);
                let longest = if random.below(3) == 0 { 2500 } else { 300 };
                let time = lease.mul_f64(random.below(longest) as f64 / 1000.0);
                hosts[number].stopped_until = Some(Instant::now() + time);
                done.stops += 1;
            }
            _ => {}
        }
    }
    for host in &mut hosts {
        host.signal(Signal::CONT);
        host.orders = None;
    }
    let patience = Instant::now() + lease * 20 + Duration::from_secs(60);
    for (number, host) in hosts.iter_mut().enumerate() {
        loop {
            match host.child.try_wait().expect("wait") {
                Some(status) if status.success() => break,
                Some(status) => return Err(format!("host {number} ended with {status}")),
                None if Instant::now() > patience => {
                    return Err(format!("host {number} doesn't end"));
                }
                None => thread::sleep(Duration::from_millis(5)),
            }
        }
    }
    Ok(done)
}

/// Waits until every host has the volume mounted.
fn wait_for_all(ground: &Ground, plan: &Plan, hosts: &mut [Process]) -> Result<(), String> {
    let patience =
        Instant::now() + Duration::from_millis(plan.lease) * 20 + Duration::from_secs(60);
    for (number, host) in hosts.iter_mut().enumerate() {
        while fs::metadata(ground.history(number)).map_or(0, |found| found.len()) == 0 {
            if let Ok(Some(status)) = host.child.try_wait() {
                return Err(format!("host {number} ended by itself: {status}"));
            }
            if Instant::now() > patience {
                return Err(format!("host {number} can't mount"));
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
    Ok(())
}
