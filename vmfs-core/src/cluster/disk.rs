//! What a disk lock says, and what a host writes into it (FORMAT.md, "Disk lock").

use zerocopy::{FromBytes, FromZeros};

use super::locks::OpenMode;
use super::membership::Membership;
use super::{Host, host_at};
use crate::format::{At, Damage, DiskLock, Layout, LockHolder, LockMode, Uuid};
use crate::lvm::{LvmError, Volume, VolumeOffset};

/// How a host wants to hold a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    /// For a call: soon it is free again.
    Alone,
    /// For a file that is open for writing.
    Write,
    /// For one that is open for reading.
    Read,
    /// For one that several hosts write to.
    MultiWriter,
}

impl From<OpenMode> for Wish {
    fn from(mode: OpenMode) -> Self {
        match mode {
            OpenMode::Read => Self::Read,
            OpenMode::MultiWriter => Self::MultiWriter,
            OpenMode::Write => Self::Write,
        }
    }
}

/// What can be done about a lock.
#[derive(Debug)]
pub(super) enum Decision {
    /// It can be taken by writing this.
    Take(Vec<u8>),
    /// That host has it; it may be dead.
    Held(Box<Holder>),
    /// There is no room for another host to share it.
    Crowded,
}

/// A host that has a lock, as its heartbeat stands.
#[derive(Debug)]
pub(super) struct Holder {
    pub(super) host: Host,
    /// It has it for an open file: waiting for it may take long.
    pub(super) is_open: bool,
}

/// How a lock looks to one who reads what it protects.
pub(super) struct State {
    /// The host that is changing what it protects right now.
    pub(super) changing: Option<Host>,
    /// What it protects stays as it is while the lock stays as it is.
    pub(super) is_settled: bool,
}

pub(super) fn parse(place: VolumeOffset, block: &[u8]) -> Result<&DiskLock, Damage> {
    let at = At::Volume(place.0);
    let lock: &DiskLock = crate::format::view(block, "disk lock", at)?;
    if lock.address.get() != place.0 {
        let found = lock.address.get();
        return Err(Damage::hex("disk lock", at, "address", found, "its own"));
    }
    Ok(lock)
}

/// The number that counts a lock's takings.
pub(super) fn token(block: &[u8]) -> u64 {
    DiskLock::ref_from_prefix(block).map_or(0, |(lock, _)| lock.token.get())
}

/// Whether one host has the lock for itself.
pub(super) fn is_alone(block: &[u8]) -> bool {
    DiskLock::ref_from_prefix(block).is_ok_and(|(lock, _)| lock.mode() == LockMode::Exclusive)
}

/// Whether hosts share the lock that write to what it protects.
pub(super) fn has_writers(block: &[u8]) -> bool {
    DiskLock::ref_from_prefix(block).is_ok_and(|(lock, _)| lock.mode() == LockMode::MultiWriter)
}

/// The holders that a lock lists, whether they are there or not.
pub(super) fn listed(place: VolumeOffset, lock: &DiskLock) -> Result<Vec<LockHolder>, Damage> {
    let count = lock.holder_count.get() as usize;
    Ok(match lock.mode() {
        LockMode::Free => Vec::new(),
        LockMode::Exclusive => vec![LockHolder {
            heartbeat: lock.heartbeat,
            generation: lock.heartbeat_generation,
            host: lock.owner,
        }],
        LockMode::ReadOnly | LockMode::MultiWriter => {
            lock.holders.iter().take(count).cloned().collect()
        }
        LockMode::Unknown(mode) => {
            let at = At::Volume(place.0);
            let expected = "a known mode";
            return Err(Damage::hex("disk lock", at, "mode", mode.into(), expected));
        }
    })
}

/// The holders as far as their heartbeats are still theirs; what others left behind doesn't count.
fn holders(
    volume: &Volume,
    layout: &Layout,
    place: VolumeOffset,
    lock: &DiskLock,
) -> Result<Vec<(LockHolder, Host)>, super::LockError> {
    let mut alive = Vec::new();
    for holder in listed(place, lock)? {
        let slot = VolumeOffset(holder.heartbeat.get());
        let host = host_at(volume, layout, slot)?;
        let same = host
            .filter(|host| (host.host, host.generation) == (holder.host, holder.generation.get()));
        if let Some(host) = same {
            alive.push((holder, host));
        }
    }
    Ok(alive)
}

/// Looks at a lock as one who only reads.
pub(super) fn look(
    volume: &Volume,
    layout: &Layout,
    place: VolumeOffset,
    block: &[u8],
    me: &Membership,
) -> Result<State, super::LockError> {
    let lock = parse(place, block)?;
    if lock.mode() == LockMode::Free {
        return Ok(State {
            changing: None,
            is_settled: true,
        });
    }
    let is_open = lock.holder_count.get() > 0;
    let mut holders = holders(volume, layout, place, lock)?;
    holders.retain(|(_, host)| !me.has_locks_of(host));
    let exclusive = lock.mode() == LockMode::Exclusive;
    let writers = matches!(lock.mode(), LockMode::Exclusive | LockMode::MultiWriter);
    let changing = holders.into_iter().next().filter(|_| exclusive && !is_open);
    Ok(State {
        changing: changing.map(|(_, host)| host),
        is_settled: !writers,
    })
}

/// Decides whether `me` can have a lock as `wish` says.
pub(super) fn decide(
    volume: &Volume,
    layout: &Layout,
    place: VolumeOffset,
    block: &[u8],
    wish: Wish,
    me: &Membership,
) -> Result<Decision, super::LockError> {
    let lock = parse(place, block)?;
    let is_open = lock.mode() != LockMode::Exclusive || lock.holder_count.get() > 0;
    let mut others = holders(volume, layout, place, lock)?;
    others.retain(|(_, host)| !me.has_locks_of(host));
    let shared = matches!(
        (wish, lock.mode()),
        (Wish::Read, LockMode::ReadOnly) | (Wish::MultiWriter, LockMode::MultiWriter)
    );
    if !shared {
        return Ok(match others.into_iter().next() {
            Some((_, host)) => Decision::Held(Box::new(Holder { host, is_open })),
            None => Decision::Take(take(block, wish, me, Vec::new())),
        });
    }
    let others: Vec<LockHolder> = others.into_iter().map(|(holder, _)| holder).collect();
    if others.len() >= lock.holders.len() {
        return Ok(Decision::Crowded);
    }
    Ok(Decision::Take(take(block, wish, me, others)))
}

/// The block with the lock taken; `others` share it.
fn take(block: &[u8], wish: Wish, me: &Membership, others: Vec<LockHolder>) -> Vec<u8> {
    let mine = LockHolder {
        heartbeat: me.offset().0.into(),
        generation: me.generation().into(),
        host: me.host(),
    };
    let (mode, owner, listed) = match wish {
        Wish::Alone => (1, me.host(), Vec::new()),
        // The holder is listed besides: that tells a lock for an open file from one of a call.
        Wish::Write => (1, me.host(), vec![mine]),
        Wish::Read => (2, Uuid::default(), [others, vec![mine]].concat()),
        Wish::MultiWriter => (3, Uuid::default(), [others, vec![mine]].concat()),
    };
    edit(block, |lock| {
        lock.heartbeat = me.offset().0.into();
        lock.heartbeat_generation = me.generation().into();
        lock.mode = mode.into();
        lock.owner = owner;
        set_holders(lock, listed);
    })
}

/// The block with the lock given back but for what is `left`.
pub(super) fn leave(block: &[u8], left: Option<Wish>, me: &Membership) -> Vec<u8> {
    let shared: Vec<LockHolder> = match DiskLock::ref_from_prefix(block) {
        Ok((lock, _)) if lock.mode() != LockMode::Exclusive => {
            let listed = lock.holders.iter().take(lock.holder_count.get() as usize);
            let others = listed.filter(|holder| {
                (holder.heartbeat.get(), holder.generation.get())
                    != (me.offset().0, me.generation())
            });
            others.cloned().collect()
        }
        _ => Vec::new(),
    };
    if let Some(wish) = left {
        return take(block, wish, me, shared);
    }
    edit(block, |lock| {
        if shared.is_empty() {
            lock.mode = 0.into();
        }
        lock.owner = Uuid::default();
        set_holders(lock, shared);
    })
}

/// Whether `me` is one of several hosts that share the lock.
pub(super) fn is_listed(block: &[u8], me: &Membership) -> bool {
    DiskLock::ref_from_prefix(block).is_ok_and(|(lock, _)| {
        let mut listed = lock.holders.iter().take(lock.holder_count.get() as usize);
        lock.mode() != LockMode::Exclusive
            && listed.any(|holder| {
                (holder.heartbeat.get(), holder.generation.get())
                    == (me.offset().0, me.generation())
            })
    })
}

fn set_holders(lock: &mut DiskLock, listed: Vec<LockHolder>) {
    lock.holder_count = (listed.len() as u32).into();
    let mut listed = listed.into_iter();
    for holder in &mut lock.holders {
        *holder = listed.next().unwrap_or_else(LockHolder::new_zeroed);
    }
}

/// A changed copy of the block; each change gets a number of its own.
fn edit(block: &[u8], change: impl FnOnce(&mut DiskLock)) -> Vec<u8> {
    let mut block = block.to_vec();
    if let Ok((lock, _)) = DiskLock::mut_from_prefix(&mut block) {
        lock.token = lock.token.get().wrapping_add(1).into();
        lock.mtime = lock.mtime.get().wrapping_add(1).into();
        change(lock);
    }
    block
}

/// Whether the lock at `place` has changed since the host whose heartbeat is at `slot`, in its
/// `generation`, took it with the number `token`.
///
/// # Errors
/// When the volume fails.
pub fn has_moved_on(
    volume: &Volume,
    place: VolumeOffset,
    token: u64,
    (slot, generation): (u64, u64),
) -> Result<bool, LvmError> {
    let mut bytes = [0; size_of::<DiskLock>()];
    volume.read(place, &mut bytes)?;
    // With the taking lost with the power, the next host takes it with the same number.
    let is_anothers = DiskLock::ref_from_prefix(&bytes).is_ok_and(|(lock, _)| {
        let last = (lock.heartbeat.get(), lock.heartbeat_generation.get());
        lock.token.get() == token && last != (slot, generation)
    });
    Ok(is_anothers || follows(&bytes, token))
}

/// Whether a lock that had the number `token` has changed since, as it is in `block`.
pub(super) fn follows(block: &[u8], token: u64) -> bool {
    // A smaller one means that the taking itself was lost with the power.
    self::token(block).wrapping_sub(token).cast_signed() > 0
}
