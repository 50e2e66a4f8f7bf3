//! A run: a volume, hosts on it, and what is done to them.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use vmfs_core::cluster::LockMethod;
use vmfs_core::format::Family;

use super::ground::{Cuts, Ground};
use super::process::Process;
pub use super::process::Program;
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
    /// Hosts are mounts, by this `vmfs-fuse`.
    pub fuse: Option<PathBuf>,
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

/// Runs `plan` on `ground` with `program`'s hosts.
///
/// # Errors
/// When a host ends by itself, or doesn't end when it is told to.
pub fn run(program: &Program, ground: &Ground, plan: &Plan) -> Result<Done, String> {
    let mut random = Random::new(plan.seed);
    let mut start = |number| Process::start(program, ground, plan, number, random.bits());
    let mut hosts: Vec<Process> = (0..plan.hosts).map(&mut start).collect();
    wait_for_all(ground, plan, &mut hosts)?;
    let over = AtomicBool::new(false);
    let done = thread::scope(|scope| {
        let cuts = scope.spawn(|| {
            if plan.kills || plan.stops {
                ground.disturb(plan.hosts, plan.seed ^ 0xc075, &over)
            } else {
                Cuts::default()
            }
        });
        let done = disturb(program, ground, plan, &mut hosts);
        over.store(true, SeqCst);
        let cuts = cuts.join().expect("links and target are as they were");
        done.map(|done| Done { cuts, ..done })
    })?;
    end_all(ground, plan, &mut hosts)?;
    Ok(done)
}

/// Kills and stops hosts for as long as the plan says; some are stopped in the end.
fn disturb(
    program: &Program,
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
            if !host.is_at_work(ground, plan)? {
                host.kill();
                *host = Process::start(program, ground, plan, number, random.bits());
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
fn end_all(ground: &Ground, plan: &Plan, hosts: &mut [Process]) -> Result<(), String> {
    for host in hosts.iter_mut() {
        host.tell_to_end();
    }
    let patience = Instant::now() + plan.patience();
    for host in hosts {
        host.wait(ground, patience)?;
    }
    Ok(())
}

/// Waits until every host has the volume mounted.
fn wait_for_all(ground: &Ground, plan: &Plan, hosts: &mut [Process]) -> Result<(), String> {
    let patience = Instant::now() + plan.patience();
    for (number, host) in hosts.iter_mut().enumerate() {
        while !host.has_mounted(ground) {
            if !host.is_at_work(ground, plan)? || Instant::now() > patience {
                return Err(format!("host {number} can't mount"));
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
    Ok(())
}
