//! A run: a volume, hosts on it, and what is done to them.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, ChildStdin, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use vmfs_core::cluster::LockMethod;
use vmfs_core::format::Family;

use super::ground::{Cuts, Ground};
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

impl Plan {
    /// How long a host may take to mount or unmount.
    fn patience(&self) -> Duration {
        Duration::from_millis(self.lease) * 20 + Duration::from_secs(60)
    }
}

/// What was done to the hosts.
#[derive(Debug, Clone, Copy, Default)]
pub struct Done {
    pub kills: u64,
    pub stops: u64,
    pub cuts: Cuts,
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
            .open(ground.log(number))
            .expect("a log");
        let mut child = ground
            .program(number, program)
            .arg("host")
            .arg("--image")
            .arg(ground.lun_of(number))
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
    let over = AtomicBool::new(false);
    let done = thread::scope(|scope| {
        let cuts = scope.spawn(|| ground.disturb(plan.hosts, plan.seed ^ 0xc075, &over));
        let done = disturb(program, ground, plan, &mut hosts);
        over.store(true, SeqCst);
        let cuts = cuts.join().expect("links and target are as they were");
        done.map(|done| Done { cuts, ..done })
    })?;
    end_all(plan, &mut hosts)?;
    Ok(done)
}

/// Kills and stops hosts for as long as the plan says; some are stopped in the end.
fn disturb(
    program: &Path,
    ground: &Ground,
    plan: &Plan,
    hosts: &mut [Process],
) -> Result<Done, String> {
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
    Ok(done)
}

/// Tells all hosts to end, and waits for that.
fn end_all(plan: &Plan, hosts: &mut [Process]) -> Result<(), String> {
    for host in hosts.iter_mut() {
        host.signal(Signal::CONT);
        host.orders = None;
    }
    let patience = Instant::now() + plan.patience();
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
    Ok(())
}

/// Waits until every host has the volume mounted.
fn wait_for_all(ground: &Ground, plan: &Plan, hosts: &mut [Process]) -> Result<(), String> {
    let patience = Instant::now() + plan.patience();
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
