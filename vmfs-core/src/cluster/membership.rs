use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use parking_lot::Mutex;
use zerocopy::{FromZeros, IntoBytes};

use super::host::HostConfig;
use crate::format::{Heartbeat, HeartbeatState, Layout, Uuid, view};
use crate::lvm::{LvmError, Volume, VolumeOffset};

/// State word of a slot that a host has.
const IN_USE: u32 = 0xabcd_ef02;
/// State word of a slot that nobody has.
const FREE: u32 = 0xabcd_ef01;
/// How the host locks, as real hosts write it.
const LOCK_IMPLEMENTATION: u8 = 3;

/// A host's hold on its heartbeat slot.
#[derive(Debug)]
pub struct Membership {
    number: u64,
    slot: Mutex<Heartbeat>,
    /// The host's uptime at the last renewal, in milliseconds.
    renewed: AtomicU64,
    lost: AtomicBool,
}

/// A slot that is free: its number, where it lies and the generation that comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FreeSlot {
    /// Number of the slot.
    pub number: u64,
    /// Where it lies.
    pub offset: VolumeOffset,
    /// What its next user writes.
    pub generation: u64,
}

/// Whether a host still has its slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewal {
    /// It has, and other hosts can see that it lives.
    Renewed,
    /// Another host took it for dead and gave its slot away.
    Lost,
}

/// The first slot that nobody has; `None` when all are taken.
pub fn free_slot(volume: &Volume, layout: &Layout) -> Result<Option<FreeSlot>, LvmError> {
    let mut bytes = [0; size_of::<Heartbeat>()];
    for number in 0..layout.heartbeat_slots {
        let offset = VolumeOffset(layout.heartbeats + number * layout.heartbeat_size);
        volume.read(offset, &mut bytes)?;
        let slot: &Heartbeat = view(&bytes, "heartbeat", crate::format::At::Volume(offset.0))?;
        if slot.state() == HeartbeatState::Free || slot.state.get() == 0 {
            // Odd while somebody has it.
            let generation = slot.generation.get().saturating_add(1) | 1;
            return Ok(Some(FreeSlot {
                number,
                offset,
                generation,
            }));
        }
    }
    Ok(None)
}

/// Makes the slot at `offset`, of a host that is gone, free.
pub fn clear_slot(volume: &Volume, offset: VolumeOffset) -> Result<(), LvmError> {
    let mut sector = [0; 512];
    volume.read(offset, &mut sector)?;
    let generation = view::<Heartbeat>(&sector, "heartbeat", crate::format::At::Volume(offset.0))?
        .generation
        .get();
    let mut slot = Heartbeat::new_zeroed();
    slot.state = FREE.into();
    slot.address = offset.0.into();
    slot.generation = generation.saturating_add(1).into();
    sector[..size_of::<Heartbeat>()].copy_from_slice(slot.as_bytes());
    volume.write(offset, &sector)?;
    volume.flush()
}

impl Membership {
    /// Takes a free slot for `host`, whose journal is the block at `journal` with the raw address
    /// `journal_addr`; durable on return.
    pub fn claim(
        volume: &Volume,
        free: FreeSlot,
        host: &HostConfig,
        version: (u32, u8),
        (journal_addr, journal): (u32, VolumeOffset),
    ) -> Result<Self, LvmError> {
        let mut slot = Heartbeat::new_zeroed();
        slot.state = IN_USE.into();
        slot.address = free.offset.0.into();
        slot.generation = free.generation.into();
        slot.host = host.uuid;
        slot.journal_addr = journal_addr.into();
        slot.driver_major = version.0.into();
        slot.driver_minor = version.1;
        slot.lock_implementation = LOCK_IMPLEMENTATION;
        let name = host.name.as_bytes();
        let used = name.len().min(slot.ip.len() - 1);
        slot.ip[..used].copy_from_slice(&name[..used]);
        slot.journal_offset = journal.0.into();
        let membership = Self {
            number: free.number,
            slot: Mutex::new(slot),
            renewed: AtomicU64::new(0),
            lost: AtomicBool::new(false),
        };
        membership.write(volume, host)?;
        volume.flush()?;
        Ok(membership)
    }

    /// Number of the slot.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Writes that the host lives, unless the slot isn't the host's any more.
    pub fn renew(&self, volume: &Volume, host: &HostConfig) -> Result<Renewal, LvmError> {
        if self.lost.load(SeqCst) {
            return Ok(Renewal::Lost);
        }
        let (offset, own) = {
            let slot = self.slot.lock();
            (slot.address.get(), (slot.host, slot.generation.get()))
        };
        let mut bytes = [0; size_of::<Heartbeat>()];
        volume.read(VolumeOffset(offset), &mut bytes)?;
        let found: &Heartbeat = view(&bytes, "heartbeat", crate::format::At::Volume(offset))?;
        let there: (Uuid, u64) = (found.host, found.generation.get());
        if there != own || found.state() != HeartbeatState::InUse {
            self.lost.store(true, SeqCst);
            return Ok(Renewal::Lost);
        }
        self.write(volume, host)?;
        Ok(Renewal::Renewed)
    }

    /// Time since the last renewal.
    pub fn age(&self, host: &HostConfig) -> Duration {
        let renewed = Duration::from_millis(self.renewed.load(SeqCst));
        host.clock.uptime().saturating_sub(renewed)
    }

    /// Whether another host has taken the slot away.
    pub fn is_lost(&self) -> bool {
        self.lost.load(SeqCst)
    }

    /// Gives the slot back; durable on return.
    pub fn release(&self, volume: &Volume) -> Result<(), LvmError> {
        let offset = self.slot.lock().address.get();
        if self.lost.swap(true, SeqCst) {
            return Ok(());
        }
        clear_slot(volume, VolumeOffset(offset))
    }

    fn write(&self, volume: &Volume, host: &HostConfig) -> Result<(), LvmError> {
        let uptime = host.clock.uptime();
        let mut slot = self.slot.lock();
        slot.stamp = (uptime.as_micros() as u64).into();
        let mut sector = [0; 512];
        sector[..size_of::<Heartbeat>()].copy_from_slice(slot.as_bytes());
        volume.write(VolumeOffset(slot.address.get()), &sector)?;
        self.renewed.store(uptime.as_millis() as u64, SeqCst);
        Ok(())
    }
}
