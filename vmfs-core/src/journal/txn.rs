use std::ops::Range;

use super::commit::Journal;
use super::meta_reader::MetaReader;
use super::patch::{PIECE, PatchMap, SECTOR};
use super::zeroed::Zeroed;
use crate::format::FdAddr;
use crate::lvm::{LvmError, VolumeOffset};

/// Changes of metadata that become true together.
///
/// Reads see the changes. Nothing else does before [`MetaReader::publish`]; a transaction that is
/// dropped never was. Two transactions may be under way at a time as long as they don't change the
/// same sector.
#[derive(Debug)]
pub struct Txn<'a> {
    reader: &'a MetaReader,
    pub(super) patches: PatchMap,
    pub(super) revoked: Vec<Range<u64>>,
    pub(super) pending: Vec<(FdAddr, bool)>,
    pub(super) ordered: bool,
    pub(super) zeroed: Zeroed,
    pub(super) locks: Vec<(u64, u64)>,
}

impl<'a> Txn<'a> {
    /// An empty transaction on top of what `reader` reads.
    pub fn new(reader: &'a MetaReader) -> Self {
        Self {
            reader,
            patches: PatchMap::default(),
            revoked: Vec::new(),
            pending: Vec::new(),
            ordered: false,
            zeroed: Zeroed::default(),
            locks: Vec::new(),
        }
    }

    /// What the transaction reads from where it has changed nothing.
    pub fn reader(&self) -> &'a MetaReader {
        self.reader
    }

    /// Bytes of the sectors changed so far.
    pub fn bytes(&self) -> u64 {
        self.patches.bytes()
    }

    /// Fills `buf` from `offset`, as the transaction leaves it.
    pub fn read(&self, offset: VolumeOffset, buf: &mut [u8]) -> Result<(), LvmError> {
        self.reader.read(offset, buf)?;
        self.zeroed.apply(offset.0, buf);
        if self.patches.is_empty() || buf.is_empty() {
            return Ok(());
        }
        let end = offset.0 + buf.len() as u64;
        for number in offset.0 / PIECE..=(end - 1) / PIECE {
            let Some(patch) = self.patches.get(number) else {
                continue;
            };
            for index in 0..PIECE as usize / SECTOR {
                let Some(sector) = patch.sector(index) else {
                    continue;
                };
                let start = number * PIECE + (index * SECTOR) as u64;
                let (from, to) = (offset.0.max(start), end.min(start + SECTOR as u64));
                if from < to {
                    buf[(from - offset.0) as usize..(to - offset.0) as usize]
                        .copy_from_slice(&sector[(from - start) as usize..(to - start) as usize]);
                }
            }
        }
        Ok(())
    }

    /// Changes the bytes at `offset` to `bytes`. Sectors that stay the same cost nothing.
    pub fn write(&mut self, offset: VolumeOffset, bytes: &[u8]) -> Result<(), LvmError> {
        let mut done = 0;
        while done < bytes.len() {
            let at = offset.0 + done as u64;
            let start = at - at % SECTOR as u64;
            let inside = (at - start) as usize;
            let length = (SECTOR - inside).min(bytes.len() - done);
            let mut sector = [0; SECTOR];
            self.read(VolumeOffset(start), &mut sector)?;
            let part = &bytes[done..done + length];
            if sector[inside..inside + length] != *part {
                sector[inside..inside + length].copy_from_slice(part);
                let index = (start % PIECE) as usize / SECTOR;
                self.patches.set(start / PIECE, index, &sector);
            }
            done += length;
        }
        Ok(())
    }

    /// Makes `length` bytes at `offset`, which nothing refers to yet, zeros: straight on the
    /// volume, since nobody can see them before the transaction is durable. Both are multiples
    /// of the piece that the cache keeps, as all blocks are.
    pub fn zero_fresh(&mut self, offset: VolumeOffset, length: u64) -> Result<(), LvmError> {
        let failures = self.reader.journal().map_or(0, Journal::failures);
        self.reader.volume().write_zeros(offset, length)?;
        let range = offset.0..offset.0 + length;
        self.reader.drop_cached(range.clone());
        if let Some(journal) = self.reader.journal() {
            journal.data_written();
        }
        self.zeroed.add(range, failures);
        self.ordered = true;
        Ok(())
    }

    /// Says that the range holds no metadata any more; it must not be used before the transaction
    /// is durable.
    pub fn revoke(&mut self, offset: VolumeOffset, length: u64) {
        let range = offset.0..offset.0 + length;
        self.patches.forget(&range);
        self.revoked.push(range);
    }

    /// Notes that blocks of a file are still to be given back: if there is a cut before
    /// [`Txn::finish`] is durable, whoever replays the journal goes on with it.
    pub fn begin(&mut self, file: FdAddr) {
        self.pending.push((file, true));
    }

    /// Notes that what was begun is done.
    pub fn finish(&mut self, file: FdAddr) {
        self.pending.push((file, false));
    }

    /// Names the disk locks that the host holds for the transaction: place and number of each.
    pub fn set_locks(&mut self, locks: Vec<(u64, u64)>) {
        self.locks = locks;
    }

    /// Says that data was written which must be durable before the transaction is.
    pub fn order_data(&mut self) {
        self.ordered = true;
    }
}
