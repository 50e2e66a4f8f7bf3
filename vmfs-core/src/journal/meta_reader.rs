use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use super::commit::Journal;
use super::error::JournalError;
use super::overlay::{Overlay, Publisher};
use super::patch::{PIECE, PatchMap};
use super::txn::Txn;
use crate::format::{FdAddr, Layout};
use crate::lvm::{LvmError, Volume, VolumeOffset};

/// Bytes read at once where neighbours are wanted too.
const NEIGHBOURHOOD: u64 = 64 << 10;
/// Pieces kept: 16 MiB in all, whatever the size of the volume.
const CACHED_PIECES: usize = 4096;

/// A volume with its layout, and a bounded cache for metadata that shows what was published.
#[derive(Debug)]
pub struct MetaReader {
    volume: Volume,
    layout: Layout,
    overlay: Overlay,
    journal: OnceLock<Journal>,
    layered: AtomicBool,
}

impl MetaReader {
    /// A reader with an empty cache.
    pub fn new(volume: Volume, layout: Layout) -> Self {
        Self {
            volume,
            layout,
            overlay: Overlay::new(CACHED_PIECES),
            journal: OnceLock::new(),
            layered: AtomicBool::new(false),
        }
    }

    /// The volume below.
    pub fn volume(&self) -> &Volume {
        &self.volume
    }

    /// The volume's geometry.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Makes changes possible: they go through `journal` from now on.
    pub fn start_journal(&self, journal: Journal) {
        // A second journal would be a second mount of the same reader; the first stays.
        let _ = self.journal.set(journal);
    }

    /// Where changes go; `None` when there can be none.
    pub fn journal(&self) -> Option<&Journal> {
        self.journal.get()
    }

    /// Whether metadata can be newer than what is in place: then it must be read through here.
    pub fn is_layered(&self) -> bool {
        self.journal().is_some() || self.layered.load(Relaxed)
    }

    /// Shows `patches` over what is on the volume.
    pub(super) fn show(&self, patches: &PatchMap) {
        self.layered.store(true, Relaxed);
        self.overlay.show(patches);
    }

    /// Files whose blocks are being given back, by what is published.
    pub fn pending(&self) -> Vec<FdAddr> {
        self.overlay.state().pending()
    }

    pub(super) fn overlay(&self) -> &Overlay {
        &self.overlay
    }

    /// Empties the cache, and forgets journals that were looked through: what is read from now on
    /// is what is on the volume now.
    pub fn forget(&self) {
        if self.journal().is_none() && self.layered.swap(false, Relaxed) {
            self.overlay.hide();
        } else {
            self.overlay.clear();
        }
    }

    /// Forgets what is cached of a range, because it was written to directly.
    pub fn drop_cached(&self, range: Range<u64>) {
        self.overlay.drop_cached(&range);
    }

    /// Fills `buf` from `offset`, through the cache.
    pub fn read(&self, offset: VolumeOffset, buf: &mut [u8]) -> Result<(), LvmError> {
        let mut done = 0;
        while done < buf.len() {
            let at = offset + done as u64;
            let (piece, inside) = self.block(at)?;
            let available = piece.get(inside..).unwrap_or_default();
            if available.is_empty() {
                let size = self.volume.size();
                return Err(LvmError::PastEnd {
                    offset,
                    length: buf.len(),
                    size,
                });
            }
            let length = available.len().min(buf.len() - done);
            buf[done..done + length].copy_from_slice(&available[..length]);
            done += length;
        }
        Ok(())
    }

    /// Fills `buf` from `offset`, through the cache; on a miss what lies around is read as well.
    ///
    /// For structures that are mostly wanted together, such as the descriptors of the files in a
    /// directory.
    pub fn read_with_neighbours(
        &self,
        offset: VolumeOffset,
        buf: &mut [u8],
    ) -> Result<(), LvmError> {
        let last = offset.0.saturating_add(buf.len() as u64).saturating_sub(1) / PIECE;
        if (offset.0 / PIECE..=last).any(|number| !self.overlay.is_cached(number)) {
            // What can't be read is left to whoever wants it.
            let start = offset.0 / NEIGHBOURHOOD * NEIGHBOURHOOD;
            let _ = self.fetch(start / PIECE, NEIGHBOURHOOD);
        }
        self.read(offset, buf)
    }

    /// The cached piece that holds `offset`, and where in it that is.
    pub fn block(&self, offset: VolumeOffset) -> Result<(Arc<[u8]>, usize), LvmError> {
        let number = offset.0 / PIECE;
        let inside = (offset.0 % PIECE) as usize;
        let piece = match self.overlay.cached(number) {
            Some(piece) => piece,
            None => self.fetch(number, PIECE)?,
        };
        Ok((piece, inside))
    }

    /// Like [`MetaReader::block`], for structures that are walked through in their order: if
    /// `offset` is where a piece starts, what follows is read along.
    pub fn block_in_sequence(&self, offset: VolumeOffset) -> Result<(Arc<[u8]>, usize), LvmError> {
        let number = offset.0 / PIECE;
        if offset.0.is_multiple_of(PIECE) && !self.overlay.is_cached(number) {
            let end = offset.0 / NEIGHBOURHOOD * NEIGHBOURHOOD + NEIGHBOURHOOD;
            return Ok((self.fetch(number, end - offset.0)?, 0));
        }
        self.block(offset)
    }

    /// Reads `length` bytes from piece `first` on into the cache; returns that piece.
    fn fetch(&self, first: u64, length: u64) -> Result<Arc<[u8]>, LvmError> {
        loop {
            let epoch = self.overlay.epoch();
            let start = first * PIECE;
            let left = self.volume.size().saturating_sub(start);
            let mut bytes = vec![0; length.min(left) as usize];
            self.volume.read(VolumeOffset(start), &mut bytes)?;
            let pieces: Vec<Vec<u8>> = bytes.chunks(PIECE as usize).map(<[u8]>::to_vec).collect();
            if pieces.is_empty() {
                return Ok(Arc::from([]));
            }
            if let Some(piece) = self.overlay.take_in(epoch, first, pieces) {
                return Ok(piece);
            }
        }
    }

    /// Makes `txn` visible and part of the running compound transaction, all of it or, on an
    /// error, nothing. `edited` are the ranges that `apply` edits besides, `bytes` what it changes
    /// of them at most; it must not fail.
    ///
    /// Returns the number of the compound transaction; see [`Journal::durable`].
    pub fn publish(
        &self,
        txn: &Txn<'_>,
        edited: &[Range<u64>],
        bytes: u64,
        mut apply: impl FnMut(&mut Publisher<'_>),
    ) -> Result<u64, JournalError> {
        let journal = self.journal().ok_or(JournalError::ReadOnly)?;
        journal.make_room(self, txn.bytes() + bytes)?;
        loop {
            let epoch = self.overlay.epoch();
            let mut pinned = HashMap::new();
            for range in edited {
                for number in range.start / PIECE..range.end.div_ceil(PIECE) {
                    if let std::collections::hash_map::Entry::Vacant(entry) = pinned.entry(number) {
                        entry.insert(self.block(VolumeOffset(number * PIECE))?.0);
                    }
                }
            }
            let writes = journal.writes();
            if let Some(sequence) = self
                .overlay
                .publish(txn, epoch, &pinned, writes, &mut apply)
            {
                return Ok(sequence);
            }
        }
    }
}
