//! The disk locks that a host holds.
//!
//! - [`LockTable`]: what is open, and calls that need locks.
//! - `take`: taking them, on disk as well. `give`: giving them back.
//! - `known`: how locks were that this host hasn't, so that it notices what others did.
//! - `entry`, `held`, `queue`: what is known of one lock, those of one call, waiting for one.

mod entry;
mod error;
mod give;
mod held;
mod known;
mod queue;
mod take;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::disk::Wish;
use super::host::HostConfig;
use super::membership::Membership;
use super::watch::Watch;
use crate::format::Layout;
use crate::lvm::{Volume, VolumeOffset};
use crate::scsi::Tries;
use crate::sync::{Condvar, Mutex};

use entry::Entry;
pub use error::{LockError, OpenMode};
pub use held::Held;
use known::Listener;
pub use known::Version;

/// First wait for a lock that another host has, at least.
const FIRST_WAIT: Duration = Duration::from_micros(100);
/// Longest wait between two looks at it, at least.
const LONGEST_WAIT: Duration = Duration::from_millis(5);
/// Locks that are remembered, of a kind.
const REMEMBERED: usize = 65_536;

/// The disk locks that this host holds.
///
/// Calls of this host share a lock: they keep out of each other's way by other means. Whoever
/// needs several takes them in the order of their places, so that no two hosts wait for each other.
#[derive(Debug)]
pub struct LockTable {
    volume: Arc<Volume>,
    layout: Layout,
    membership: Arc<Membership>,
    watch: Arc<Watch>,
    host: HostConfig,
    entries: Mutex<HashMap<VolumeOffset, Entry>>,
    changed: Condvar,
    /// How each lock was when this host last knew what it protects.
    known: Mutex<HashMap<VolumeOffset, Vec<u8>>>,
    /// Those that another host had when this one last wanted them.
    contended: Mutex<HashSet<VolumeOffset>>,
    listener: OnceLock<Listener>,
    /// Looks at locks that others had.
    looks: Mutex<Tries>,
    random: AtomicU64,
}

impl LockTable {
    /// No lock is held yet. `volume` is the one that checks whether the host may write.
    pub fn new(
        volume: Arc<Volume>,
        layout: Layout,
        membership: Arc<Membership>,
        watch: Arc<Watch>,
        host: HostConfig,
    ) -> Self {
        let seed = membership.key().0;
        Self {
            volume,
            layout,
            membership,
            watch,
            host,
            entries: Mutex::default(),
            changed: Condvar::new(),
            known: Mutex::default(),
            contended: Mutex::default(),
            listener: OnceLock::new(),
            looks: Mutex::default(),
            random: AtomicU64::new(seed | 1),
        }
    }

    /// Has `listener` called with each place that another host may have changed, after its lock is
    /// taken and before anyone uses it.
    pub fn on_change(&self, listener: impl Fn(VolumeOffset) + Send + Sync + 'static) {
        let _ = self.listener.set(Listener(Box::new(listener)));
    }

    /// Takes all locks at `places`, waiting for each as long as no host keeps it for `patience`. Only with
    /// none may the caller have other locks.
    pub fn lock(
        &self,
        places: &BTreeSet<VolumeOffset>,
        patience: Duration,
    ) -> Result<Held<'_>, LockError> {
        let mut held = Held {
            table: self,
            places: Vec::with_capacity(places.len()),
        };
        let mut reserved = None;
        for &place in places {
            self.take(place, patience, &mut reserved)?;
            held.places.push(place);
        }
        Ok(held)
    }

    /// Has a file opened that this host doesn't have open in this mode or a stronger one.
    pub fn open(&self, place: VolumeOffset, mode: OpenMode) -> Result<(), LockError> {
        loop {
            let mut entries = self.entries.lock();
            let entry = entries.entry(place).or_default();
            if entry.busy {
                self.changed.wait(&mut entries);
                continue;
            }
            if entry.open >= Some(mode) {
                return Ok(());
            }
            let wish = Wish::from(mode);
            if entry.users > 0 {
                // The last of them leaves it as it is to be.
                entry.open = Some(mode);
                return Ok(());
            }
            entry.busy = true;
            let is_mine = entry.is_mine();
            drop(entries);
            let mut tried = None;
            let taken = self.take_on_disk(place, wish, is_mine, (&mut None, &mut tried));
            let mut entries = self.entries.lock();
            let entry = entries.entry(place).or_default();
            entry.busy = false;
            self.changed.notify_all();
            match taken {
                Ok(block) => {
                    entry.has(block, wish);
                    entry.open = Some(mode);
                    return Ok(());
                }
                Err(error) => {
                    entry.has_failed(tried);
                    Self::tidy(&mut entries, place);
                    return Err(error);
                }
            }
        }
    }

    /// The file is open in this mode only by now, or `None`, not at all.
    pub fn close(&self, place: VolumeOffset, left: Option<OpenMode>) {
        let mut entries = self.entries.lock();
        if let Some(entry) = entries.get_mut(&place) {
            entry.open = left;
            drop(entries);
            self.settle(place);
        }
    }

    /// Whether this host holds the lock so that no other one writes to what it protects.
    pub fn protects(&self, place: VolumeOffset) -> bool {
        let entries = self.entries.lock();
        entries.get(&place).is_some_and(|entry| {
            let protects = entry.mode.is_some_and(|mode| mode != Wish::MultiWriter);
            protects && !entry.busy && !entry.unsure
        })
    }

    /// How this host may write to what is in a file's blocks, if at all: alone, or beside other hosts.
    pub fn writes_as(&self, place: VolumeOffset) -> Option<OpenMode> {
        let entries = self.entries.lock();
        let entry = entries
            .get(&place)
            .filter(|entry| !entry.busy && !entry.unsure)?;
        match entry.mode? {
            Wish::Alone | Wish::Write => Some(OpenMode::Write),
            Wish::MultiWriter => Some(OpenMode::MultiWriter),
            Wish::Read => None,
        }
    }

    /// Gives up what [`Held::keep`] kept.
    pub fn leave_all(&self, places: impl IntoIterator<Item = VolumeOffset>) {
        for place in places {
            if let Some(entry) = self.entries.lock().get_mut(&place) {
                entry.kept = entry.kept.saturating_sub(1);
            }
            self.leave(place);
        }
    }

    /// Tries again to give back what could not be.
    pub fn settle_rest(&self) {
        let entries = self.entries.lock();
        let left = entries.iter().filter(|(_, entry)| {
            let settled = !entry.unsure && entry.mode == entry.open.map(Wish::from);
            entry.users == 0 && !entry.busy && !settled
        });
        let left: BTreeSet<VolumeOffset> = left.map(|(&place, _)| place).collect();
        drop(entries);
        for place in left {
            self.settle(place);
        }
    }
}
