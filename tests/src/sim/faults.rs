//! What goes wrong.

use std::time::Duration;

use super::scheduler::HostId;
use super::world::{MountId, World};

/// What happens to a host in the middle of something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trap {
    Death,
    Pause(Duration),
}

/// Something that goes wrong at a time.
#[derive(Debug, Clone, Copy)]
pub enum Fault {
    /// The host dies, and comes back later.
    Death(HostId),
    /// All threads of the host stop.
    Pause(HostId, Duration, bool),
    /// Nothing gets from the host to the LUN and back.
    Hang(HostId, Duration),
    /// A host that has nothing to do with the volume reserves the LUN, again and again.
    Storm(Duration),
    /// The LUN is reset by somebody.
    Reset,
    /// The power goes for all.
    PowerLoss,
    /// The host stops at one of its next commands.
    Inside(HostId, u64, Duration),
}

/// Makes up the faults of a run.
pub fn plan(world: &mut World) {
    let end = world.settings.faults_until;
    if let Some(times) = world.settings.stops.clone() {
        let at = world.between(Duration::from_secs(12), end);
        let time = world.between(times.start, times.end);
        let commands = world.random.below(60);
        world.plan(at, Fault::Inside(0, commands, time));
        return;
    }
    for _ in 0..world.settings.faults {
        let at = world.between(Duration::from_secs(1), end);
        let host = world.random.below(world.settings.hosts as u64) as usize;
        let fault = match world.random.below(20) {
            0..6 => Fault::Death(host),
            6..11 => {
                let time = pause(world);
                let freeze = world.settings.freezes && world.random.below(3) == 0;
                Fault::Pause(host, time, freeze)
            }
            11..14 => Fault::Hang(host, pause(world)),
            14..17 => {
                Fault::Storm(world.between(Duration::from_millis(10), Duration::from_secs(5)))
            }
            17 => Fault::Reset,
            _ => Fault::PowerLoss,
        };
        world.plan(at, fault);
    }
}

/// How long a host stops: a moment, less than a lease, more than one.
fn pause(world: &mut World) -> Duration {
    let (from, to) = *world.random.one_of(&[
        (1, 3000),
        (9_000, 16_500),
        (11_500, 14_000),
        (17_000, 45_000),
    ]);
    world.between(Duration::from_millis(from), Duration::from_millis(to))
}

/// How long a command takes one way.
pub fn latency(world: &mut World) -> Duration {
    let (from, to) = match world.random.below(1000) {
        0..950 => (5_000, 200_000),
        950..998 => (200_000, 5_000_000),
        _ => {
            world.counts.late_commands += 1;
            (5_000_000, world.settings.latest.as_nanos() as u64)
        }
    };
    world.between(Duration::from_nanos(from), Duration::from_nanos(to))
}

/// A fault strikes.
pub fn strike(world: &mut World, fault: Fault) {
    match fault {
        Fault::Death(host) => world.kill(host),
        Fault::Pause(host, time, freeze) => stop(world, host, time, freeze),
        Fault::Inside(host, commands, time) => {
            if let Some(mount) = world.alive(host) {
                world.mounts[mount].trap = Some((commands, Trap::Pause(time)));
            }
        }
        Fault::Hang(host, time) => {
            world.counts.hangs += 1;
            world.paths[host].hangs_until = world.turns.now + time;
        }
        Fault::Storm(time) => world.storm_until = world.turns.now + time,
        Fault::Reset => {
            world
                .array
                .reservations
                .reset((0..world.settings.hosts).map(|host| format!("host{host}")));
            world.abort(|_, _| true);
        }
        Fault::PowerLoss => {
            world.counts.power_losses += 1;
            for host in 0..world.settings.hosts {
                world.kill(host);
            }
            world.abort(|_, _| true);
            let mut random = world.random.clone();
            world.array.disk.lose_power(&mut random);
            world.random = random;
            world.array.reservations = vmfs_core::scsi::ReservationState::default();
            world.history.power_loss();
        }
    }
}

fn stop(world: &mut World, host: HostId, time: Duration, freeze: bool) {
    world.counts.pauses += 1;
    if freeze && let Some(mount) = world.alive(host) {
        world.mounts[mount].is_dazed = true;
    }
    world.turns.pause(host, time, freeze);
}

/// A host begins to take over from another one: sometimes it doesn't get far.
pub fn spring(world: &mut World, mount: MountId) {
    if world.turns.now > world.settings.faults_until || !world.chance(world.settings.traps) {
        return;
    }
    let trap = if world.random.below(2) == 0 {
        Trap::Death
    } else {
        Trap::Pause(pause(world))
    };
    let commands = world.random.below(60);
    world.mounts[mount].trap = Some((commands, trap));
}

/// Called before each command: whether its host goes down just here.
pub fn before_command(world: &mut World, mount: MountId) {
    let host = world.mounts[mount].host;
    let has_lun = world.array.reservations.reserved() == Some(world.mounts[mount].nexus.port);
    if has_lun
        && world.turns.now <= world.settings.faults_until
        && world.chance(world.settings.resets)
    {
        strike(world, Fault::Reset);
        // Others have it before this one goes on.
        let moment = world.between(Duration::from_millis(1), Duration::from_millis(60));
        world.turns.pause(host, moment, false);
    }
    let set = world.mounts[mount].trap;
    let trap = match set {
        Some((0, trap)) => {
            world.counts.traps += 1;
            world.mounts[mount].trap = None;
            Some(trap)
        }
        Some((left, trap)) => {
            world.mounts[mount].trap = Some((left - 1, trap));
            None
        }
        None if world.turns.now > world.settings.faults_until => None,
        None if world.chance(world.settings.sudden) => Some(if world.random.below(2) == 0 {
            Trap::Death
        } else {
            Trap::Pause(pause(world))
        }),
        None => None,
    };
    match trap {
        Some(Trap::Death) if world.alive(host) == Some(mount) => world.kill(host),
        Some(Trap::Pause(time)) => stop(world, host, time, false),
        _ => {}
    }
}
