//! The hosts of a volume, as its heartbeat slots show them (FORMAT.md, "Heartbeats").

mod host;
mod membership;

pub use host::{Clock, HostConfig, SystemClock};
pub use membership::{FreeSlot, Membership, Renewal, clear_slot, free_slot};

use zerocopy::FromBytes;

use crate::format::{Heartbeat, HeartbeatState, Layout, Uuid, text};
use crate::lvm::{LvmError, Volume, VolumeOffset};

/// A heartbeat slot that a host has, or that isn't in order.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Host {
    /// Number of the slot.
    pub slot: u64,
    /// Where the slot lies.
    pub offset: VolumeOffset,
    /// Whether the slot has an owner.
    pub state: HeartbeatState,
    /// The host's UUID.
    #[serde(serialize_with = "as_text")]
    pub host: Uuid,
    /// Counts uses of the slot.
    pub generation: u64,
    /// Microseconds since the host's boot at its last renewal.
    pub stamp_us: u64,
    /// Version of the host's driver.
    pub driver: String,
    /// The host's address, if it wrote one.
    pub ip: String,
    /// Raw address of the host's journal block.
    pub journal_addr: u32,
    /// Volume offset of the host's journal.
    pub journal: VolumeOffset,
}

fn as_text<S: serde::Serializer>(uuid: &Uuid, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(uuid)
}

/// Bytes read at a time while looking through the slots.
const CHUNK: u64 = 256 << 10;

/// The slots that aren't free: hosts that have the volume mounted, or died while they had.
pub fn hosts(volume: &Volume, layout: &Layout) -> Result<Vec<Host>, LvmError> {
    let slots_per_chunk = CHUNK / layout.heartbeat_size;
    let mut chunk = vec![0; CHUNK as usize];
    let mut hosts = Vec::new();
    for first in (0..layout.heartbeat_slots).step_by(slots_per_chunk as usize) {
        let start = VolumeOffset(layout.heartbeats + first * layout.heartbeat_size);
        volume.read(start, &mut chunk)?;
        for (index, bytes) in chunk
            .chunks_exact(layout.heartbeat_size as usize)
            .enumerate()
        {
            let Ok((slot, _)) = Heartbeat::ref_from_prefix(bytes) else {
                continue;
            };
            // A slot of zeros was never written: images made by other tools have some.
            if slot.state() != HeartbeatState::Free && slot.state.get() != 0 {
                let offset = start + index as u64 * layout.heartbeat_size;
                hosts.push(host(slot, first + index as u64, offset));
            }
        }
    }
    Ok(hosts)
}

fn host(slot: &Heartbeat, number: u64, offset: VolumeOffset) -> Host {
    Host {
        slot: number,
        offset,
        state: slot.state(),
        host: slot.host,
        generation: slot.generation.get(),
        stamp_us: slot.stamp.get(),
        driver: format!("{}.{}", slot.driver_major, slot.driver_minor),
        ip: String::from_utf8_lossy(text(&slot.ip)).into_owned(),
        journal_addr: slot.journal_addr.get(),
        journal: VolumeOffset(slot.journal_offset.get()),
    }
}
