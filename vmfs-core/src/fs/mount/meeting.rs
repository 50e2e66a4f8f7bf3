//! Whether the volume can be written to, how hosts lock, and who is there already.

use std::sync::Arc;

use crate::cluster::{self, Host, HostConfig, LockMethod, Membership, Watch, take_over};
use crate::format::{Family, FsDescriptor, Layout};
use crate::fs::error::FsError;
use crate::fs::recover::{Left, replay_journal};
use crate::lvm::Volume;
use crate::scsi::Lun;

/// How the host locks: as it is told, if all LUNs can do that, or in the best way that they can.
pub(super) fn lock_method(
    volume: &Volume,
    wanted: Option<LockMethod>,
) -> Result<LockMethod, FsError> {
    let can = |capability: fn(&crate::scsi::Capabilities) -> bool| {
        let luns = volume.luns().iter();
        luns.map(Lun::capabilities).all(|c| capability(&c))
    };
    let (ats, scsi2) = (can(|c| c.compare_and_write), can(|c| c.reserve));
    let unable = |command| {
        FsError::NotWritable(format!(
            "its LUN doesn't know {command}, which the lock method asked for needs; mount it with --lock auto"
        ))
    };
    match wanted {
        Some(LockMethod::Ats) if !ats => Err(unable("COMPARE AND WRITE")),
        Some(LockMethod::Scsi2) if !scsi2 => Err(unable("RESERVE(6)")),
        Some(method) => Ok(method),
        None if ats => Ok(LockMethod::Ats),
        None if scsi2 => Ok(LockMethod::Scsi2),
        None => Ok(LockMethod::Alone),
    }
}

/// The way to lock that hosts are at already, or died at.
pub(super) fn agreed_method(
    method: LockMethod,
    wanted: Option<LockMethod>,
    others: &[Host],
) -> Result<LockMethod, FsError> {
    let locks = |other: &Host| other.method.filter(|&method| method != LockMethod::Alone);
    let other = others
        .iter()
        .find_map(|other| Some((other, locks(other)?)))
        .filter(|&(_, its)| its != method);
    match other {
        None => Ok(method),
        Some((_, its)) if wanted.is_none() => Ok(its),
        Some((other, its)) => Err(FsError::NotWritable(format!(
            "host {} has it mounted or didn't unmount it, and locks by {its}, not by {method}; mount it with --lock auto",
            other.shown()
        ))),
    }
}

/// Takes a heartbeat slot.
pub(super) fn join(
    volume: &Arc<Volume>,
    layout: &Layout,
    host: &HostConfig,
    method: LockMethod,
    version: (u32, u8),
) -> Result<Membership, FsError> {
    loop {
        let free = cluster::free_slot(volume, layout)?.ok_or_else(|| {
            FsError::NotWritable("all heartbeat slots are taken by other hosts".to_owned())
        })?;
        let claimed = Membership::claim(Arc::clone(volume), free, host, method, version)?;
        if let Some(membership) = claimed {
            return Ok(membership);
        }
    }
}

/// Meets the other hosts, takes over from the dead and replays what they left. Returns once nobody is at
/// that any more: what a host that was alone had not in place yet is not protected by locks, so nothing may
/// be read or changed before.
pub(super) fn take_over_all(
    membership: &Arc<Membership>,
    layout: &Layout,
    watch: &Watch,
    host: &HostConfig,
    guarded: &Volume,
) -> Result<Vec<Left>, FsError> {
    let start = host.clock.uptime();
    let mut left = Vec::new();
    loop {
        let mut others_at_it = None;
        for dead in meet_others(membership, layout, watch, (host, &left))? {
            match take_over(membership, layout, watch, &dead)? {
                Some(takeover) => left.push(replay_journal(guarded, layout, takeover)?),
                None => others_at_it = Some(dead),
            }
        }
        let Some(dead) = others_at_it else {
            return Ok(left);
        };
        if host.clock.uptime().saturating_sub(start) > host.lease * 4 {
            return Err(FsError::NotWritable(format!(
                "host {} is dead, and another one that takes over from it doesn't come to an end; try again",
                dead.shown()
            )));
        }
        if membership.age() >= host.heartbeat {
            membership.renew()?;
        }
        host.clock.sleep(host.heartbeat / 8);
    }
}

/// Waits until each other host shares the volume with this one or is known to be dead; the dead, but for those
/// that this one has taken over from.
fn meet_others(
    membership: &Membership,
    layout: &Layout,
    watch: &Watch,
    (host, left): (&HostConfig, &[Left]),
) -> Result<Vec<Host>, FsError> {
    // A claim of this host's alone doesn't count: nothing is replayed yet.
    let is_replayed = |other: &Host| {
        let mut done = left.iter().map(|left| &left.takeover.host);
        done.any(|dead| (dead.offset, dead.generation) == (other.offset, other.generation))
    };
    let start = host.clock.uptime();
    let mut told = false;
    loop {
        let mut others = cluster::hosts(membership.volume(), layout)?;
        let me = (membership.offset().0, membership.generation());
        others.retain(|other| {
            let is_done = other.taken_by == me && is_replayed(other);
            other.offset != membership.offset() && !is_done
        });
        let (mut dead, mut waiting) = (Vec::new(), Vec::new());
        for other in others {
            let look = watch.look(&other);
            if look.still >= watch.patience() {
                dead.push(other);
                continue;
            }
            if look.moved {
                refuse_stranger(membership, &other)?;
            }
            let same = other.method == Some(membership.method());
            // A dead one among those that share is found by and by.
            if !same || !other.shares || membership.method() == LockMethod::Alone {
                waiting.push(other);
            }
        }
        let Some(first) = waiting.first() else {
            return Ok(dead);
        };
        if host.clock.uptime().saturating_sub(start) > host.lease * 2 {
            return Err(FsError::NotWritable(format!(
                "host {} has it mounted and doesn't make room for another; unmount it there",
                first.shown()
            )));
        }
        if !told {
            told = true;
            tracing::info!(
                "{} host(s) have the volume mounted or didn't unmount it, {} among them; waiting up to {} s to see whether they live",
                waiting.len(),
                first.shown(),
                host.lease.as_secs_f32()
            );
        }
        if membership.age() >= host.heartbeat {
            membership.renew()?;
        }
        host.clock.sleep(host.heartbeat / 8);
    }
}

/// Refuses a host that lives and that this one can't share the volume with.
fn refuse_stranger(membership: &Membership, other: &Host) -> Result<(), FsError> {
    let reason = match other.method {
        None => "it isn't an OpenVMFS host, and sharing a volume with others isn't built yet",
        Some(method) if method != membership.method() => "it locks in another way",
        Some(LockMethod::Alone) => "the LUN has no command for locks",
        Some(_) => return Ok(()),
    };
    Err(FsError::NotWritable(format!(
        "host {} has it mounted, and {reason}; unmount it there, or mount it with -o ro",
        other.shown()
    )))
}

/// Refuses what this version can read and must not write to.
pub(super) fn refuse_unwritable(
    volume: &Volume,
    fsd: &FsDescriptor,
    layout: &Layout,
) -> Result<(), FsError> {
    /// Set while an administrator works on the volume.
    const MAINTENANCE: u32 = 0x8;
    let reason = if !volume.is_writable() {
        "the device is open for reading only".to_owned()
    } else if volume.missing().next().is_some() {
        format!(
            "{} of its devices are missing ({}); give them, or mount it with -o ro",
            volume.missing_devices(),
            volume.missing_names().join(", ")
        )
    } else if layout.family == Family::Vmfs3 {
        "it is VMFS3, which can only be read; mount it with -o ro".to_owned()
    } else if fsd.checksum_type != 0 {
        format!(
            "its metadata has checksums of type {}, which are not known; mount it with -o ro",
            fsd.checksum_type
        )
    } else if fsd.config.get() & MAINTENANCE != 0 {
        "it is in maintenance mode; mount it with -o ro".to_owned()
    } else {
        return Ok(());
    };
    Err(FsError::NotWritable(reason))
}
