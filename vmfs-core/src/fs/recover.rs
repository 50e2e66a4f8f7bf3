//! What other hosts left on a volume: whether they live, and putting their journals in order.

use super::error::FsError;
use crate::cluster::{self, Host, HostConfig};
use crate::format::{BlockAddr, FdAddr, HeartbeatState, Layout};
use crate::journal::{JournalHeader, replay};
use crate::lvm::{Volume, VolumeOffset};

/// What a dead host left: its slot, the address of its journal and what it had not finished.
pub(super) struct Left {
    pub(super) slot: VolumeOffset,
    pub(super) journal: Option<BlockAddr>,
    pub(super) pending: Vec<FdAddr>,
}

/// Looks at the hosts on the volume: refuses live ones and journals that only ESXi can replay,
/// replays ours.
pub(super) fn recover(
    volume: &Volume,
    layout: &Layout,
    host: &HostConfig,
) -> Result<Vec<Left>, FsError> {
    let found = cluster::hosts(volume, layout)?;
    if found.is_empty() {
        return Ok(Vec::new());
    }
    for other in &found {
        if let HeartbeatState::Unknown(state) = other.state {
            let reason = format!(
                "heartbeat slot {} has the unknown state {state:#x}; run fsck.vmfs",
                other.slot
            );
            return Err(FsError::NotWritable(reason));
        }
    }
    // What only ESXi can put in order needs no waiting.
    for other in &found {
        journal_of(volume, layout, other)?;
    }
    tracing::info!(
        "{} host(s) had the volume mounted and didn't unmount it; waiting {} s to see whether they live",
        found.len(),
        host.lease.as_secs_f32()
    );
    host.clock.sleep(host.lease);
    let now = cluster::hosts(volume, layout)?;
    if let Some(live) = now.iter().find(|other| !stands_still(&found, other)) {
        let reason = format!(
            "host {} ({}) has it mounted, and sharing a volume between hosts that write isn't built yet; unmount it there, or mount it with -o ro",
            live.host, live.ip
        );
        return Err(FsError::NotWritable(reason));
    }
    now.iter()
        .map(|dead| recover_from(volume, layout, dead))
        .collect()
}

fn stands_still(before: &[Host], host: &Host) -> bool {
    before.iter().any(|before| {
        (before.slot, before.generation, before.stamp_us)
            == (host.slot, host.generation, host.stamp_us)
    })
}

fn recover_from(volume: &Volume, layout: &Layout, dead: &Host) -> Result<Left, FsError> {
    let mut left = Left {
        slot: dead.offset,
        journal: None,
        pending: Vec::new(),
    };
    if dead.journal_addr != 0 {
        if let Some(header) = another_hosts(volume, dead)? {
            // That host may have died before its slot said so.
            left.pending = header.pending().collect();
        } else {
            let address = BlockAddr::decode(dead.journal_addr.into(), layout);
            left.journal = Some(address);
        }
    }
    if let Some(header) = journal_of(volume, layout, dead)? {
        let replayed = replay(volume, dead.journal, &header)?;
        tracing::info!(
            host = %dead.host,
            transactions = replayed.transactions,
            bytes = replayed.bytes,
            "replayed the journal of a host that didn't unmount"
        );
        left.pending = replayed.pending;
    }
    Ok(left)
}

/// The header of another host's journal, if the block that a host had its journal in is that one
/// by now.
fn another_hosts(volume: &Volume, dead: &Host) -> Result<Option<JournalHeader>, FsError> {
    let header = JournalHeader::read(volume, dead.journal)?;
    Ok(header.filter(|header| !header.is_of(dead.host, dead.generation)))
}

/// The journal that a host left, if it is one of ours; `None` when it surely has nothing in it.
fn journal_of(
    volume: &Volume,
    layout: &Layout,
    dead: &Host,
) -> Result<Option<JournalHeader>, FsError> {
    if dead.journal_addr == 0 {
        return Ok(None);
    }
    let header = JournalHeader::read(volume, dead.journal)?;
    let header = header.filter(|header| header.is_of(dead.host, dead.generation));
    if header.is_some()
        || another_hosts(volume, dead)?.is_some()
        || crate::journal::is_unused(volume, layout, dead.journal)?
    {
        return Ok(header);
    }
    Err(FsError::NotWritable(format!(
        "host {} ({}) has it mounted or didn't unmount it, and its journal at {} may have changes that only an ESXi host can replay: mount and unmount it there, or mount it with --force-ro to read it as it is",
        dead.host, dead.ip, dead.journal
    )))
}
