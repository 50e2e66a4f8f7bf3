use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use zerocopy::{FromBytes, FromZeros, IntoBytes};

use super::Host;
use super::host::{HostConfig, LockMethod};
use super::sector::{self, Reserved};
use crate::format::{Heartbeat, HeartbeatState, HostNote, Layout, Uuid, view};
use crate::lvm::{LvmError, Volume, VolumeOffset};
use crate::scsi::{Clock, Key, LunError, PersistentReserve, ReservationType};
use crate::sync::Mutex;

/// State word of a slot that a host has.
const IN_USE: u32 = 0xabcd_ef02;
/// State word of a slot that nobody has.
const FREE: u32 = 0xabcd_ef01;
/// How the host locks, as real hosts write it.
const LOCK_IMPLEMENTATION: u8 = 3;
/// The reservation that keeps out hosts that were fenced.
pub(super) const FENCE: ReservationType = ReservationType::WriteExclusiveAllRegistrants;

/// A host's hold on its heartbeat slot, and with it the right to write.
#[derive(Debug)]
pub struct Membership {
    /// Commands that go past the check for this right.
    volume: Arc<Volume>,
    method: LockMethod,
    clock: Arc<dyn Clock>,
    lease: Duration,
    number: u64,
    offset: VolumeOffset,
    host: Uuid,
    generation: u64,
    /// What the host has written last.
    own: Mutex<Own>,
    /// The host's uptime at the last renewal, in milliseconds.
    renewed: AtomicU64,
    lost: AtomicBool,
    /// Slots and their generations of hosts that this one takes over from and whose journals it has
    /// replayed.
    replayed: Mutex<BTreeSet<(VolumeOffset, u64)>>,
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

/// What a host knows of its slot before it changes it.
#[derive(Debug, Clone, Copy)]
enum Trust<'a> {
    Nothing,
    /// It has just read this there.
    Seen(&'a Host),
    /// Nobody can change it meanwhile.
    Reserved,
}

/// The block with the host's slot.
#[derive(Debug, Default)]
struct Own {
    /// As the host has written it last.
    block: Vec<u8>,
    /// As it may be instead: nobody has said whether this was written.
    tried: Option<Vec<u8>>,
}

impl Own {
    /// Whether `found` in its place is from this host.
    fn is(&mut self, found: &[u8]) -> bool {
        if self.tried.as_deref() == Some(found) {
            self.block = found.to_vec();
            self.tried = None;
        }
        self.block == found
    }
}

/// Whether `seen` is what the slot `own` says.
fn is_of(seen: &Host, own: &[u8]) -> bool {
    Heartbeat::ref_from_prefix(own).is_ok_and(|(slot, _)| {
        (seen.host, seen.generation, seen.stamp_us)
            == (slot.host, slot.generation.get(), slot.stamp.get())
            && seen.taken_by == (0, 0)
    })
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

/// What a slot of this generation looks like when nobody has it any more.
pub(super) fn free_image(offset: VolumeOffset, generation: u64, length: usize) -> Vec<u8> {
    let mut slot = Heartbeat::new_zeroed();
    slot.state = FREE.into();
    slot.address = offset.0.into();
    slot.generation = generation.saturating_add(1).into();
    let mut image = slot.as_bytes().to_vec();
    image.resize(length, 0);
    image
}

/// Makes the slot at `offset`, of a host that is gone, free, whatever is in it.
pub fn clear_slot(volume: &Volume, offset: VolumeOffset) -> Result<(), LvmError> {
    let old = sector::read(volume, offset)?;
    let at = crate::format::At::Volume(offset.0);
    let generation = view::<Heartbeat>(&old, "heartbeat", at)?.generation.get();
    volume.write(offset, &free_image(offset, generation, old.len()))?;
    volume.flush()
}

impl Membership {
    /// Takes the slot `free` for `host`; `None` if another host was faster. Durable on return.
    pub fn claim(
        volume: Arc<Volume>,
        free: FreeSlot,
        host: &HostConfig,
        method: LockMethod,
        version: (u32, u8),
    ) -> Result<Option<Self>, LvmError> {
        let old = sector::read(&volume, free.offset)?;
        let at = crate::format::At::Volume(free.offset.0);
        let found: &Heartbeat = view(&old, "heartbeat", at)?;
        if found.state() == HeartbeatState::InUse || found.generation.get() >= free.generation {
            return Ok(None);
        }
        let mut slot = Heartbeat::new_zeroed();
        slot.state = IN_USE.into();
        slot.address = free.offset.0.into();
        slot.generation = free.generation.into();
        slot.host = host.uuid;
        slot.driver_major = version.0.into();
        slot.driver_minor = version.1;
        slot.lock_implementation = LOCK_IMPLEMENTATION;
        let name = host.name.as_bytes();
        let used = name.len().min(slot.ip.len() - 1);
        slot.ip[..used].copy_from_slice(&name[..used]);
        let mut note = HostNote::new_zeroed();
        note.magic = HostNote::MAGIC;
        note.lock_method = method.number();
        note.shares = 1;
        let mut own = vec![0; old.len()];
        let membership = Self {
            method,
            clock: Arc::clone(&host.clock),
            lease: host.lease,
            number: free.number,
            offset: free.offset,
            host: host.uuid,
            generation: free.generation,
            own: Mutex::default(),
            renewed: AtomicU64::new(host.clock.uptime().as_millis() as u64),
            lost: AtomicBool::new(false),
            replayed: Mutex::default(),
            volume,
        };
        note.key = membership.register()?.map_or(0, |key| key.0).into();
        slot.stamp = membership.stamp().into();
        own[..size_of::<Heartbeat>()].copy_from_slice(slot.as_bytes());
        own[HostNote::OFFSET..][..size_of::<HostNote>()].copy_from_slice(note.as_bytes());
        if !sector::swap(&membership.volume, method, free.offset, &old, &own)? {
            membership.unregister();
            return Ok(None);
        }
        membership.volume.flush()?;
        membership.own.lock().block = own;
        Ok(Some(membership))
    }

    /// Number of the slot.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Where the slot lies.
    pub fn offset(&self) -> VolumeOffset {
        self.offset
    }

    /// Generation of the slot: tells this mount from earlier ones that had it.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The host's UUID.
    pub fn host(&self) -> Uuid {
        self.host
    }

    /// How the host locks.
    pub fn method(&self) -> LockMethod {
        self.method
    }

    /// The volume without the check whether this host may write.
    pub fn volume(&self) -> &Arc<Volume> {
        &self.volume
    }

    /// Writes that the host lives, unless the slot isn't the host's any more.
    pub fn renew(&self) -> Result<Renewal, LvmError> {
        self.change_slot(|_, _| {})
    }

    /// [`Membership::renew`], for a host that has just read its slot and found `seen` there: that needn't
    /// be read again if it is what the host has written last.
    pub fn renew_as_seen(&self, seen: Option<&Host>) -> Result<Renewal, LvmError> {
        if let Some(seen) = seen
            && self.method == LockMethod::Scsi2
            && !self.is_stale()
            && let Some(renewal) = self.try_change(&|_, _| {}, Trust::Seen(seen))?
        {
            return Ok(renewal);
        }
        self.renew()
    }

    /// Says where the host's journal is; durable on return.
    pub fn set_journal(&self, raw: u32, place: VolumeOffset) -> Result<Renewal, LvmError> {
        let renewal = self.change_slot(|slot, _| {
            slot.journal_addr = raw.into();
            slot.journal_offset = place.0.into();
        })?;
        self.volume.flush()?;
        Ok(renewal)
    }

    /// Whether the slot says where a journal is.
    pub fn has_journal(&self) -> bool {
        let own = self.own.lock();
        Heartbeat::ref_from_prefix(&own.block).is_ok_and(|(slot, _)| slot.journal_addr.get() != 0)
    }

    /// Says whether the host shares all it knows with other hosts at once.
    pub fn set_shares(&self, shares: bool) -> Result<Renewal, LvmError> {
        self.change_slot(|_, note| note.shares = u8::from(shares))
    }

    /// Notes the host that this one takes over from, `None` when that is done.
    pub fn set_replaying(
        &self,
        other: Option<(Uuid, VolumeOffset, u64)>,
    ) -> Result<Renewal, LvmError> {
        let (host, offset, generation) = other.unwrap_or_default();
        self.change_slot(|slot, _| {
            slot.replay_host = host;
            slot.replay_heartbeat = offset.0.into();
            slot.replay_generation = generation.into();
        })
    }

    fn change_slot(
        &self,
        change: impl Fn(&mut Heartbeat, &mut HostNote),
    ) -> Result<Renewal, LvmError> {
        loop {
            // Before the lock below: who has the LUN reserved may need that.
            let reserved = if self.method == LockMethod::Scsi2 && self.is_stale() {
                let changed = match self.is_changed() {
                    // By a caller that has the LUN reserved: it hears of that, too.
                    lost if sector::is_lost(&lost) => false,
                    changed => changed?,
                };
                if self.is_lost() || changed {
                    return Ok(self.lose());
                }
                Some(Reserved::take(&self.volume, self.offset)?)
            } else {
                None
            };
            let trust = if reserved.is_some() {
                Trust::Reserved
            } else {
                Trust::Nothing
            };
            match self.try_change(&change, trust) {
                lost if sector::is_lost(&lost) => {}
                Ok(None) => {}
                renewed => return renewed.map(|renewal| renewal.unwrap_or(Renewal::Lost)),
            }
        }
    }

    /// One attempt; `None` when it took so long that a reservation is needed by now.
    fn try_change(
        &self,
        change: &impl Fn(&mut Heartbeat, &mut HostNote),
        trust: Trust<'_>,
    ) -> Result<Option<Renewal>, LvmError> {
        let mut own = self.own.lock();
        if self.lost.load(SeqCst) {
            return Ok(Some(Renewal::Lost));
        }
        // Who was fenced would only wait for its command to be let through.
        if (self.is_stale() || own.tried.is_some())
            && !own.is(&sector::read(&self.volume, self.offset)?)
        {
            return Ok(Some(self.lose()));
        }
        let now = self.clock.uptime();
        let mut new = own.block.clone();
        let (head, tail) = new.split_at_mut(HostNote::OFFSET);
        if let (Ok((slot, _)), Ok((note, _))) = (
            Heartbeat::mut_from_prefix(head),
            HostNote::mut_from_prefix(tail),
        ) {
            change(slot, note);
            // It must differ each time, however fast the calls.
            slot.stamp = self.stamp().max(slot.stamp.get() + 1).into();
        }
        match self.swap_slot(&own.block, &new, trust) {
            Ok(None) => {
                // The LUN may have sent it in time, and wanted to once more when there was no answer.
                own.tried = Some(new);
                Ok(None)
            }
            Ok(Some(false)) => Ok(Some(self.lose())),
            Ok(Some(true)) => {
                own.block = new;
                own.tried = None;
                self.renewed.store(now.as_millis() as u64, SeqCst);
                Ok(Some(Renewal::Renewed))
            }
            Err(error) => {
                own.tried = Some(new);
                Err(error)
            }
        }
    }

    /// Writes `new` where `old` is; `false` where it isn't, `None` when that needs a reservation by now.
    fn swap_slot(
        &self,
        old: &[u8],
        new: &[u8],
        trust: Trust<'_>,
    ) -> Result<Option<bool>, LvmError> {
        match self.method {
            LockMethod::Scsi2 => match trust {
                Trust::Reserved => {
                    sector::compare_then_write(&self.volume, self.offset, old, new).map(Some)
                }
                Trust::Seen(seen) if is_of(seen, old) => self.write_in_time(new),
                Trust::Seen(_) | Trust::Nothing => self.swap_in_time(old, new),
            },
            method => match sector::swap(&self.volume, method, self.offset, old, new) {
                // It isn't registered any more, so it may not even compare.
                Err(LvmError::Lun(LunError::ReservationConflict { .. }))
                    if sector::read(&self.volume, self.offset)? != old =>
                {
                    Ok(Some(false))
                }
                swapped => swapped.map(Some),
            },
        }
    }

    /// Whether another host has written to the slot. Not for who has `own` locked.
    fn is_changed(&self) -> Result<bool, LvmError> {
        // Locked while it is read: another thread may renew it.
        let mut own = self.own.lock();
        Ok(!own.is(&sector::read(&self.volume, self.offset)?))
    }

    /// Notes that the slot is another host's to clear, and says so once.
    fn lose(&self) -> Renewal {
        if !self.lost.swap(true, SeqCst) {
            tracing::error!(
                "another host took this one for dead and recovered the volume: open files fail; unmount and mount again"
            );
        }
        Renewal::Lost
    }

    /// While nobody can have taken the host for dead, a plain write does what a reservation would;
    /// `None` when that time is over.
    fn swap_in_time(&self, old: &[u8], new: &[u8]) -> Result<Option<bool>, LvmError> {
        if self.is_stale() {
            return Ok(None);
        }
        if sector::read(&self.volume, self.offset)? != old {
            return Ok(Some(false));
        }
        self.write_in_time(new)
    }

    /// The second half of that.
    fn write_in_time(&self, new: &[u8]) -> Result<Option<bool>, LvmError> {
        let (lun, place) = self.volume.place(self.offset)?;
        match lun.write_if(place, new, &|| self.may_write()) {
            Err(LunError::Fenced { .. }) => Ok(None),
            written => Ok(written.map(|()| Some(true))?),
        }
    }

    fn stamp(&self) -> u64 {
        self.clock.uptime().as_micros() as u64
    }

    /// Time since the last renewal.
    pub fn age(&self) -> Duration {
        let renewed = Duration::from_millis(self.renewed.load(SeqCst));
        self.clock.uptime().saturating_sub(renewed)
    }

    /// Waits for `time` and goes on renewing the heartbeat.
    pub(super) fn wait(&self, time: Duration) -> Result<(), LvmError> {
        let end = self.clock.uptime() + time;
        loop {
            let left = end.saturating_sub(self.clock.uptime());
            if left.is_zero() {
                return Ok(());
            }
            self.clock.sleep(left.min(self.lease / 16));
            if self.age() > self.lease / 4 {
                self.renew()?;
            }
        }
    }

    /// Whether others may take the host for dead soon: it stops writing before.
    fn is_stale(&self) -> bool {
        self.age() > self.lease * 3 / 4
    }

    /// Whether a write that is carried out now is one of a host that nobody takes for dead: see
    /// [`super::Watch::patience`].
    pub fn may_write(&self) -> bool {
        !self.is_lost() && self.age() <= self.lease * 25 / 32
    }

    /// Whether another host has taken the slot away.
    pub fn is_lost(&self) -> bool {
        self.lost.load(SeqCst)
    }

    /// What became of a command: one that the LUN refused because another host has taken this one's
    /// registration away failed for good.
    pub(super) fn heard<T>(&self, result: Result<T, LunError>) -> Result<T, LunError> {
        if let Err(LunError::ReservationConflict { lun, .. }) = &result
            && self.method == LockMethod::Ats
            && self.is_changed().unwrap_or(false)
        {
            self.lose();
            let lun = lun.clone();
            return Err(LunError::Fenced { lun });
        }
        result
    }

    /// Makes sure that the host may write, now and for a while.
    ///
    /// # Errors
    /// [`LunError::Fenced`] when it may not any more, or what kept it from renewing its lease.
    pub fn check(&self, lun: &str) -> Result<(), LunError> {
        let fenced = || LunError::Fenced {
            lun: lun.to_owned(),
        };
        if self.is_lost() {
            return Err(fenced());
        }
        if self.is_stale() {
            return match self.renew() {
                Ok(Renewal::Renewed) => Ok(()),
                Err(LvmError::Lun(error)) => Err(error),
                Ok(Renewal::Lost) | Err(_) => Err(fenced()),
            };
        }
        Ok(())
    }

    /// Notes that what `dead`, which this host takes over from, had in its journal is in place.
    pub(super) fn note_replayed(&self, dead: &Host) {
        self.replayed.lock().insert((dead.offset, dead.generation));
    }

    /// Forgets a host that this one is done with.
    pub(super) fn forget_replayed(&self, dead: &Host) {
        self.replayed.lock().remove(&(dead.offset, dead.generation));
    }

    /// Whether what a host locked is this one's by now: before its journal is replayed nobody may see
    /// or change what it was changing.
    pub(super) fn has_locks_of(&self, host: &Host) -> bool {
        let its = (host.offset, host.generation);
        let me = (self.offset, self.generation);
        let is_taken_over = host.taken_by == (self.offset.0, self.generation);
        its == me || is_taken_over && self.replayed.lock().contains(&its)
    }

    /// Gives the slot back; durable on return.
    pub fn release(&self) -> Result<(), LvmError> {
        let mut own = self.own.lock();
        if self.lost.swap(true, SeqCst) {
            return Ok(());
        }
        if own.tried.is_some() {
            own.is(&sector::read(&self.volume, self.offset)?);
        }
        let free = free_image(self.offset, self.generation, own.block.len());
        // If it isn't the host's any more it has nothing to give back.
        sector::swap(&self.volume, self.method, self.offset, &own.block, &free)?;
        self.volume.flush()?;
        self.unregister();
        Ok(())
    }

    /// Registers with every LUN that can keep out a host for good; the key, `None` if none can.
    fn register(&self) -> Result<Option<Key>, LvmError> {
        if self.method != LockMethod::Ats || !self.can_fence() {
            return Ok(None);
        }
        let key = self.key();
        for lun in self.volume.luns() {
            lun.persistent_reserve(PersistentReserve::Register { key: Some(key) })?;
            lun.persistent_reserve(PersistentReserve::Reserve { key, kind: FENCE })?;
        }
        Ok(Some(key))
    }

    fn unregister(&self) {
        if self.method != LockMethod::Ats || !self.can_fence() {
            return;
        }
        for lun in self.volume.luns() {
            let gone = lun.persistent_reserve(PersistentReserve::Register { key: None });
            if let Err(error) = gone {
                tracing::warn!("this host stays registered: {error}");
            }
        }
    }

    /// Whether all LUNs have persistent reservations.
    pub(super) fn can_fence(&self) -> bool {
        let luns = self.volume.luns();
        luns.iter().all(|lun| lun.capabilities().persistent_reserve)
    }

    /// What the host registers with: no other host or mount has it.
    pub(super) fn key(&self) -> Key {
        let host = self.host;
        let random = u64::from(host.time_hi.get()) << 32 | u64::from(host.time_lo.get());
        let mac = host
            .mac
            .iter()
            .fold(0, |mac, &byte| mac << 8 | u64::from(byte));
        let mixed = random
            ^ mac.rotate_left(16)
            ^ u64::from(host.random.get()).rotate_left(48)
            ^ self.generation.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Key(mixed.max(1))
    }
}
