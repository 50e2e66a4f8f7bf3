//! What must be true of every command that lands: no two exclusive owners of a lock, no write after a
//! fence, no slot taken from a host that wasn't claimed.

use vmfs_core::format::{DiskLock, Heartbeat, HeartbeatState, HostNote, LockMode, Uuid};
use vmfs_core::scsi::PersistentReserve;
use zerocopy::FromBytes;

use super::array::Command;
use super::disk::SECTOR;
use super::settings::Transport;
use super::world::{MountId, World};

/// Writes longer than this have no locks in them.
const LONGEST: u64 = 1 << 20;

/// The sectors that a command may change, as they were.
pub type Before = Vec<(u64, [u8; SECTOR])>;

/// A heartbeat slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Slot {
    is_used: bool,
    host: Uuid,
    generation: u64,
    stamp: u64,
    taken_by: (u64, u64),
    shares: bool,
    key: u64,
}

impl Slot {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let (slot, _) = Heartbeat::ref_from_prefix(bytes).ok()?;
        let (note, _) = HostNote::ref_from_prefix(bytes.get(HostNote::OFFSET..)?).ok()?;
        Some(Self {
            is_used: slot.state() == HeartbeatState::InUse,
            host: slot.host,
            generation: slot.generation.get(),
            stamp: slot.stamp.get(),
            taken_by: (note.taken_by.get(), note.taken_by_generation.get()),
            shares: note.shares != 0,
            key: note.key.get(),
        })
    }
}

/// Looks at what a command may change, before it lands.
pub fn before(world: &World, command: &Command) -> Before {
    let Some((offset, length)) = command.changes().filter(|(_, length)| *length <= LONGEST) else {
        return Vec::new();
    };
    let size = SECTOR as u64;
    (offset / size..(offset + length).div_ceil(size))
        .map(|sector| (sector * size, world.array.disk.sector(sector * size)))
        .collect()
}

/// Looks at what a command that was carried out has done.
pub fn after(world: &mut World, mount: MountId, command: &Command, before: Before) {
    if let Some((offset, length)) = command.changes() {
        if world.mounts[mount].is_fenced {
            let host = world.mounts[mount].host;
            world.fail(format!(
                "mount {mount} of host {host} was fenced, and wrote {length} bytes at {offset:#x}"
            ));
        }
        for (offset, old) in before {
            let new = world.array.disk.sector(offset);
            if old != new {
                sector(world, mount, offset, &old, &new);
            }
        }
        return;
    }
    match command {
        Command::Persist(PersistentReserve::Preempt { victim, .. }) => {
            let is_meant = |other: MountId, key| other != mount && key == victim.0;
            world.abort(|other, its| is_meant(other, its.key));
        }
        Command::Reset => {
            world.counts.resets += 1;
            let initiator = world.mounts[mount].nexus.initiator.clone();
            world.abort(|_, other| other.nexus.initiator != initiator);
        }
        _ => {}
    }
    fences(world, mount, command);
}

/// Notes whom `mount` means to keep from writing by a command.
pub fn fences(world: &mut World, mount: MountId, command: &Command) {
    let me = world.mounts[mount].slot;
    let is_meant = |other: &MountId| match command {
        Command::Persist(PersistentReserve::Preempt { victim, .. }) => {
            *other != mount && world.mounts[*other].key == victim.0
        }
        Command::Reset => world.mounts[*other]
            .slot
            .is_some_and(|(place, generation)| {
                slot_at(world, place).is_some_and(|slot| {
                    slot.is_used && slot.generation == generation && Some(slot.taken_by) == me
                })
            }),
        _ => false,
    };
    let fenced: Vec<MountId> = (0..world.mounts.len()).filter(is_meant).collect();
    for other in fenced {
        fence(world, other);
    }
}

/// A mount says that another host has taken its slot: has one?
pub fn gives_up(world: &mut World, mount: MountId) {
    let its = &world.mounts[mount];
    let Some((place, generation)) = its.slot.filter(|_| !its.is_dead) else {
        return;
    };
    let is_untouched = |slot: Slot| {
        let has_it = slot.is_used && (slot.host, slot.generation) == (its.uuid, generation);
        has_it && slot.taken_by == (0, 0)
    };
    if slot_at(world, place).is_some_and(is_untouched) {
        world.fail(format!(
            "mount {mount} gave up, and nobody had taken its heartbeat slot"
        ));
    }
}

fn fence(world: &mut World, mount: MountId) {
    // Without registrations only its clock tells a host that it is too late.
    let blind = world.mounts[mount].is_dazed && world.mounts[mount].key == 0;
    let unnoticed = blind && world.settings.transport == Transport::Wire;
    if !unnoticed && !world.mounts[mount].is_fenced {
        world.mounts[mount].is_fenced = true;
        world.counts.fences += 1;
    }
}

fn slot_at(world: &World, volume_offset: u64) -> Option<Slot> {
    let place = volume_offset + world.settings.base.delta;
    Slot::parse(&world.array.disk.sector(place))
}

/// A sector that a command has changed.
fn sector(world: &mut World, mount: MountId, offset: u64, old: &[u8], new: &[u8]) {
    let base = &world.settings.base;
    let Some(place) = offset.checked_sub(base.delta) else {
        return;
    };
    if base.heartbeats.contains(&place) {
        if (place - base.heartbeats.start).is_multiple_of(base.heartbeat_size) {
            slot(world, mount, place, old, new);
        }
    } else {
        lock(world, mount, place, old, new);
    }
}

fn slot(world: &mut World, mount: MountId, place: u64, old: &[u8], new: &[u8]) {
    let (Some(old), Some(new)) = (Slot::parse(old), Slot::parse(new)) else {
        return;
    };
    let uuid = world.mounts[mount].uuid;
    let me = world.mounts[mount].slot;
    if old.is_used && old.host != uuid {
        let claims = new.is_used && Some(new.taken_by) == me;
        let clears = !new.is_used && Some(old.taken_by) == me;
        if !claims && !clears {
            world.fail(format!(
                "mount {mount} changed the heartbeat slot at {place:#x} of another host without a claim: {old:?}, {new:?}"
            ));
        }
        if claims {
            let victim = world.mounts.iter().position(|other| other.uuid == old.host);
            if let Some(victim) = victim {
                // What it had in memory only is lost, whatever it believes.
                world.history.crash(victim);
            }
            world.counts.takeovers += 1;
            super::faults::spring(world, mount);
        }
    }
    if old.is_used && !new.is_used {
        let gone = world.mounts.iter().position(|other| other.uuid == old.host);
        if let Some(gone) = gone {
            world.history.gone(gone);
            if old.host != uuid {
                let since = world.turns.now - world.mounts[gone].renewed;
                world.takeovers.push(since);
            }
        }
    }
    if new.is_used && new.host == uuid {
        let now = world.turns.now;
        let mine = &mut world.mounts[mount];
        if mine.shares && !new.shares {
            mine.alone_times += 1;
        }
        mine.slot = Some((place, new.generation));
        (mine.shares, mine.key) = (new.shares, new.key);
        if new.stamp != old.stamp {
            mine.renewed = now;
        }
    }
}

/// Whether a host that is named in a lock has its slot yet, and `mount` isn't the one that takes over
/// from it.
fn stands_in_the_way(
    world: &World,
    mount: MountId,
    slot: u64,
    generation: u64,
    host: Uuid,
) -> bool {
    if host == world.mounts[mount].uuid || slot == 0 {
        return false;
    }
    slot_at(world, slot).is_some_and(|slot| {
        slot.is_used
            && (slot.host, slot.generation) == (host, generation)
            && Some(slot.taken_by) != world.mounts[mount].slot
    })
}

fn lock(world: &mut World, mount: MountId, place: u64, old: &[u8], new: &[u8]) {
    let (Ok((old, _)), Ok((new, _))) = (
        DiskLock::ref_from_prefix(old),
        DiskLock::ref_from_prefix(new),
    ) else {
        return;
    };
    if old.address.get() != place || new.address.get() != place {
        return;
    }
    let in_the_way = |slot: u64, generation: u64, host: Uuid| {
        stands_in_the_way(world, mount, slot, generation, host)
    };
    let problem = match (old.mode(), new.mode()) {
        (LockMode::Exclusive, _) => in_the_way(
            old.heartbeat.get(),
            old.heartbeat_generation.get(),
            old.owner,
        ),
        (LockMode::ReadOnly | LockMode::MultiWriter, LockMode::Exclusive) => {
            let listed = old.holders.iter().take(old.holder_count.get() as usize);
            let mut others = listed.filter(|holder| holder.host != new.owner);
            others
                .any(|other| in_the_way(other.heartbeat.get(), other.generation.get(), other.host))
        }
        _ => false,
    };
    if problem {
        let show = |lock: &DiskLock| {
            let (slot, owner) = (lock.heartbeat.get(), lock.owner);
            format!(
                "{:?} of {owner} in {slot:#x}, number {}",
                lock.mode(),
                lock.token.get()
            )
        };
        let (old, new) = (show(old), show(new));
        world.fail(format!(
            "mount {mount} changed the lock at {place:#x} while another host holds it: {old}, then {new}"
        ));
    }
}
