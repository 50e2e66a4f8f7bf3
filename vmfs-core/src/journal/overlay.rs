use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use quick_cache::sync::Cache;

use super::patch::{PIECE, PatchMap, SECTOR};
use super::txn::Txn;
use super::zeroed::Zeroed;
use crate::format::FdAddr;
use crate::sync::{Mutex, MutexGuard};

/// A compound transaction on its way into the journal.
#[derive(Debug, Clone)]
pub(super) struct Compound {
    pub(super) sequence: u64,
    pub(super) patches: Arc<PatchMap>,
    pub(super) revoked: Vec<Range<u64>>,
    pub(super) pending: Vec<u32>,
    pub(super) locks: Vec<(u64, u64)>,
    /// Number of the last data write that must be durable before it.
    pub(super) after_write: u64,
    pub(super) zeroed: Zeroed,
}

/// What is newer than the volume, from the oldest to the newest.
#[derive(Debug, Default)]
pub(super) struct State {
    /// In the journal, not yet in place.
    pub(super) committed: PatchMap,
    /// Being written to the journal.
    pub(super) committing: Option<Compound>,
    /// Published, not yet on its way.
    running: PatchMap,
    revoked: Vec<Range<u64>>,
    pending: BTreeSet<FdAddr>,
    pending_changed: bool,
    locks: BTreeSet<(u64, u64)>,
    after_write: u64,
    zeroed: Zeroed,
    /// Number of the running compound transaction.
    sequence: u64,
    /// Number of the last one that is durable.
    pub(super) durable: u64,
    /// Number of the last one that is in place as well.
    pub(super) settled: u64,
}

impl State {
    fn apply(&self, number: u64, piece: &mut [u8]) {
        self.committed.apply(number, piece);
        if let Some(compound) = &self.committing {
            compound.zeroed.apply(number * PIECE, piece);
            compound.patches.apply(number, piece);
        }
        self.zeroed.apply(number * PIECE, piece);
        self.running.apply(number, piece);
    }

    /// Files whose blocks are being given back.
    pub(super) fn pending(&self) -> Vec<FdAddr> {
        self.pending.iter().copied().collect()
    }

    /// Bytes that are published and not on their way.
    pub(super) fn running_bytes(&self) -> u64 {
        self.running.bytes()
    }

    fn has_running(&self) -> bool {
        !self.running.is_empty() || !self.revoked.is_empty() || self.pending_changed
    }

    /// Whether anything is published and not durable.
    pub(super) fn has_unfinished(&self) -> bool {
        self.committing.is_some() || self.has_running()
    }

    /// Has the next compound transaction be made even if there is nothing to put into it.
    pub(super) fn mark(&mut self) {
        self.pending_changed = true;
    }

    /// Number of the newest compound transaction with anything in it.
    pub(super) fn newest(&self) -> u64 {
        if self.has_running() {
            self.sequence
        } else {
            self.committing
                .as_ref()
                .map_or(self.durable, |compound| compound.sequence)
        }
    }

    /// Sends the running compound transaction on its way, unless one is already.
    pub(super) fn start_commit(&mut self) -> Option<Compound> {
        if self.committing.is_none() && self.has_running() {
            self.committing = Some(Compound {
                sequence: self.sequence,
                patches: Arc::new(std::mem::take(&mut self.running)),
                revoked: std::mem::take(&mut self.revoked),
                pending: self.pending.iter().map(|fd| fd.raw()).collect(),
                locks: std::mem::take(&mut self.locks).into_iter().collect(),
                after_write: self.after_write,
                zeroed: std::mem::take(&mut self.zeroed),
            });
            self.pending_changed = false;
            self.sequence += 1;
        }
        self.committing.clone()
    }

    /// The compound transaction on its way is durable.
    pub(super) fn finish_commit(&mut self) {
        if let Some(compound) = self.committing.take() {
            for range in &compound.revoked {
                self.committed.forget(range);
            }
            self.committed.merge(&compound.patches);
            self.durable = compound.sequence;
        }
    }
}

/// Everything that is newer than the volume, over a cache of pieces of it.
///
/// The cache always has the newest state: pieces enter it, and are changed in it, only under the
/// state's lock.
#[derive(Debug)]
pub(super) struct Overlay {
    state: Mutex<State>,
    cache: Cache<u64, Arc<[u8]>>,
    /// Counts the times that changes left the overlay for the volume, or pieces were dropped: what
    /// was read before from the volume may be old.
    epoch: AtomicU64,
}

impl Overlay {
    pub(super) fn new(cached_pieces: usize) -> Self {
        let state = State {
            sequence: 1,
            ..State::default()
        };
        Self {
            state: Mutex::new(state),
            cache: Cache::new(cached_pieces),
            epoch: AtomicU64::new(0),
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    pub(super) fn cached(&self, number: u64) -> Option<Arc<[u8]>> {
        self.cache.get(&number)
    }

    pub(super) fn is_cached(&self, number: u64) -> bool {
        self.cache.peek(&number).is_some()
    }

    pub(super) fn epoch(&self) -> u64 {
        self.epoch.load(SeqCst)
    }

    /// Takes in `pieces` that were read from the volume since `epoch`, from number `first` on;
    /// `None` when that may be old by now.
    pub(super) fn take_in(
        &self,
        epoch: u64,
        first: u64,
        pieces: Vec<Vec<u8>>,
    ) -> Option<Arc<[u8]>> {
        let state = self.state();
        if self.epoch() != epoch {
            return None;
        }
        let mut result = None;
        for (number, mut piece) in (first..).zip(pieces) {
            state.apply(number, &mut piece);
            let piece: Arc<[u8]> = Arc::from(piece);
            result.get_or_insert_with(|| Arc::clone(&piece));
            self.cache.insert(number, piece);
        }
        result
    }

    /// Shows `patches` as if they had been committed.
    pub(super) fn show(&self, patches: &PatchMap) {
        self.state().committed.merge(patches);
        self.clear();
    }

    /// Shows the volume as it is again.
    pub(super) fn hide(&self) {
        self.state().committed = PatchMap::default();
        self.clear();
    }

    /// What was committed is in place.
    pub(super) fn checkpointed(&self) {
        let mut state = self.state();
        state.committed = PatchMap::default();
        state.settled = state.durable;
        self.epoch.fetch_add(1, SeqCst);
    }

    /// Forgets what is cached of a range.
    pub(super) fn drop_cached(&self, range: &Range<u64>) {
        let _state = self.state();
        self.epoch.fetch_add(1, SeqCst);
        for number in range.start / PIECE..range.end.div_ceil(PIECE) {
            self.cache.remove(&number);
        }
    }

    /// Forgets everything that is cached.
    pub(super) fn clear(&self) {
        let _state = self.state();
        self.epoch.fetch_add(1, SeqCst);
        self.cache.clear();
    }

    /// Makes `txn` part of the running compound transaction and visible. `pinned` are the pieces
    /// that `apply` edits besides, read since `epoch`; false when they may be old by now.
    pub(super) fn publish(
        &self,
        txn: &Txn<'_>,
        epoch: u64,
        pinned: &HashMap<u64, Arc<[u8]>>,
        write_count: u64,
        apply: &mut dyn FnMut(&mut Publisher<'_>),
    ) -> Option<u64> {
        let mut state = self.state();
        if self.epoch() != epoch {
            return None;
        }
        let state = &mut *state;
        for range in &txn.revoked {
            state.running.forget(range);
            state.revoked.push(range.clone());
            for number in range.start / PIECE..range.end.div_ceil(PIECE) {
                self.cache.remove(&number);
            }
        }
        if !txn.revoked.is_empty() {
            self.epoch.fetch_add(1, SeqCst);
        }
        state.running.merge(&txn.patches);
        for number in txn.patches.numbers() {
            self.refresh(number, |piece| txn.patches.apply(number, piece));
        }
        for &(fd, begun) in &txn.pending {
            let changed = if begun {
                state.pending.insert(fd)
            } else {
                state.pending.remove(&fd)
            };
            state.pending_changed |= changed;
        }
        state.locks.extend(txn.locks.iter().copied());
        state.zeroed.merge(&txn.zeroed);
        if txn.ordered {
            state.after_write = write_count;
        }
        let sequence = state.sequence;
        apply(&mut Publisher {
            overlay: self,
            state,
            pinned,
            sequence,
        });
        Some(sequence)
    }

    /// Changes a cached piece, if it is cached.
    fn refresh(&self, number: u64, change: impl FnOnce(&mut [u8])) {
        if let Some(old) = self.cache.peek(&number) {
            let mut piece = old.to_vec();
            change(&mut piece);
            self.cache.insert(number, Arc::from(piece));
        }
    }
}

/// Edits of structures that several transactions change side by side, such as the headers of
/// resource clusters: made on their newest state while a transaction is published.
pub struct Publisher<'a> {
    overlay: &'a Overlay,
    state: &'a mut State,
    pinned: &'a HashMap<u64, Arc<[u8]>>,
    /// Number of the compound transaction that the edits belong to.
    pub sequence: u64,
}

impl Publisher<'_> {
    /// Calls `change` with the newest `length` bytes at `offset`, which must be among what was
    /// named to be edited.
    pub fn edit(&mut self, offset: u64, length: usize, change: impl FnOnce(&mut [u8])) {
        let first = offset / PIECE;
        let last = (offset + length as u64).saturating_sub(1) / PIECE;
        let mut bytes = Vec::with_capacity(((last - first + 1) * PIECE) as usize);
        for number in first..=last {
            let start = bytes.len();
            if let Some(piece) = self.pinned.get(&number) {
                bytes.extend_from_slice(piece);
            }
            bytes.resize(start + PIECE as usize, 0);
            self.state.apply(number, &mut bytes[start..]);
        }
        let before = bytes.clone();
        let inside = (offset - first * PIECE) as usize;
        change(&mut bytes[inside..inside + length]);
        for (index, (old, new)) in before.chunks(SECTOR).zip(bytes.chunks(SECTOR)).enumerate() {
            if old == new {
                continue;
            }
            let per_piece = PIECE as usize / SECTOR;
            let (number, sector) = (first + (index / per_piece) as u64, index % per_piece);
            self.state.running.set(number, sector, new);
            self.overlay.refresh(number, |piece| {
                let range = sector * SECTOR..(sector + 1) * SECTOR;
                if let Some(target) = piece.get_mut(range) {
                    target.copy_from_slice(new);
                }
            });
        }
    }
}
