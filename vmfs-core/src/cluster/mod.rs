//! The hosts of a volume, as its heartbeat slots show them (FORMAT.md, "Heartbeats").

mod disk;
mod host;
mod host_lun;
mod locks;
mod membership;
mod sector;
mod takeover;
mod view;
mod watch;

pub use disk::has_moved_on;
pub use host::{HostConfig, LockMethod};
pub use host_lun::HostLun;
pub use locks::{Held, LockError, LockTable, OpenMode, Version};
pub use membership::{FreeSlot, Membership, Renewal, clear_slot, free_slot};
pub use takeover::{Takeover, evict, first_of, take_over};
pub use view::{HolderView, LockView};
pub use watch::{Look, Watch};

pub use crate::scsi::{Clock, SystemClock};

use zerocopy::FromBytes;

use crate::format::{Heartbeat, HeartbeatState, HostNote, Layout, Uuid, text};
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
    /// How the host locks; `None` if it isn't an OpenVMFS host.
    pub method: Option<LockMethod>,
    /// Whether the host keeps nothing from others.
    pub shares: bool,
    /// What it is registered with at the LUNs; 0 if it isn't.
    pub key: u64,
    /// Volume offset and generation of the heartbeat of the host that takes over from it; zeros if
    /// none does.
    pub taken_by: (u64, u64),
}

impl Host {
    /// What a message calls the host.
    pub fn shown(&self) -> String {
        if self.ip.is_empty() {
            self.host.to_string()
        } else {
            format!("{} ({})", self.ip, self.host)
        }
    }
}

fn as_text<S: serde::Serializer>(uuid: &Uuid, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(uuid)
}

/// Bytes read at a time while looking through the slots.
const CHUNK: u64 = 512 << 10;

/// The slots that aren't free: hosts that have the volume mounted, or died while they had.
pub fn hosts(volume: &Volume, layout: &Layout) -> Result<Vec<Host>, LvmError> {
    first_hosts(volume, layout, layout.heartbeat_slots)
}

/// Those among the first `count` slots that aren't free.
pub fn first_hosts(volume: &Volume, layout: &Layout, count: u64) -> Result<Vec<Host>, LvmError> {
    let slots_per_chunk = (CHUNK / layout.heartbeat_size).min(count).max(1);
    let mut hosts = Vec::new();
    for first in (0..count.min(layout.heartbeat_slots)).step_by(slots_per_chunk as usize) {
        let start = VolumeOffset(layout.heartbeats + first * layout.heartbeat_size);
        let slots = slots_per_chunk.min(layout.heartbeat_slots - first);
        let mut chunk = vec![0; (slots * layout.heartbeat_size) as usize];
        volume.read(start, &mut chunk)?;
        let found = chunk.chunks_exact(layout.heartbeat_size as usize);
        for (index, bytes) in (0..).zip(found) {
            let offset = start + index * layout.heartbeat_size;
            hosts.extend(host(bytes, first + index, offset));
        }
    }
    Ok(hosts)
}

/// The host whose slot lies at `offset`; `None` if the slot is free.
pub fn host_at(
    volume: &Volume,
    layout: &Layout,
    offset: VolumeOffset,
) -> Result<Option<Host>, LvmError> {
    let inside = offset.0.checked_sub(layout.heartbeats);
    let number = inside
        .filter(|inside| inside.is_multiple_of(layout.heartbeat_size))
        .map(|inside| inside / layout.heartbeat_size)
        .filter(|&number| number < layout.heartbeat_slots);
    let Some(number) = number else {
        return Ok(None);
    };
    let mut bytes = [0; 512];
    volume.read(offset, &mut bytes)?;
    Ok(host(&bytes, number, offset))
}

/// What a slot says; `None` if nobody has it.
fn host(bytes: &[u8], number: u64, offset: VolumeOffset) -> Option<Host> {
    let (slot, _) = Heartbeat::ref_from_prefix(bytes).ok()?;
    // A slot of zeros was never written: images made by other tools have some.
    if slot.state() == HeartbeatState::Free || slot.state.get() == 0 {
        return None;
    }
    let note = bytes.get(HostNote::OFFSET..)?;
    let note = HostNote::ref_from_prefix(note).ok().map(|(note, _)| note);
    let note = note.filter(|note| note.magic == HostNote::MAGIC);
    Some(Host {
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
        method: note.and_then(|note| LockMethod::from_number(note.lock_method)),
        shares: note.is_some_and(|note| note.shares != 0),
        key: note.map_or(0, |note| note.key.get()),
        taken_by: note.map_or((0, 0), |note| {
            (note.taken_by.get(), note.taken_by_generation.get())
        }),
    })
}
