//! Giving back what is allocated for a part of a file.

use std::ops::Range;

use super::descriptor::FileEdit;
use super::map::Slot;
use crate::file::error::FileError;
use crate::format::{BlockAddr, ResourceKind, ZeroLevel};
use crate::lvm::VolumeOffset;
use crate::resource::Wanted;

impl FileEdit<'_, '_> {
    /// Entries that the whole map can have.
    pub(super) fn entries(&self) -> u64 {
        let layout = self.layout();
        let depth = self.meta().zero_level().depth();
        layout.fd_address_count * layout.pointers_per_block.pow(depth)
    }

    /// The first entry from `first` to `last` that isn't a hole; skips what pointer blocks that
    /// aren't there would cover.
    pub(super) fn next_block(&self, first: u64, last: u64) -> Result<Option<u64>, FileError> {
        let layout = self.layout();
        let per_block = layout.pointers_per_block;
        let depth = self.meta().zero_level().depth();
        if self.meta().zero_level() == ZeroLevel::Resident {
            return Ok(None);
        }
        let last = last.min(self.entries().saturating_sub(1));
        let mut index = first;
        while index <= last {
            // Down the tree as far as it is there.
            let mut raw = self.image.address((index / per_block.pow(depth)) as usize);
            let mut covered = per_block.pow(depth);
            for level in (0..depth).rev() {
                if raw == 0 {
                    break;
                }
                let place = self.pointer_block(raw)?;
                covered = per_block.pow(level);
                raw = self.pointer(place, index / covered % per_block)?;
            }
            if raw != 0 {
                return Ok(Some(index));
            }
            index = (index / covered + 1) * covered;
        }
        Ok(None)
    }

    /// Gives back the blocks of the entries in `range`, from its end on, and pointer blocks that
    /// have nothing left, as far as one transaction may go; what is left of the range.
    pub fn clear(&mut self, range: Range<u64>) -> Result<Range<u64>, FileError> {
        let budget = self
            .changes
            .txn
            .reader()
            .journal()
            .map_or(0, crate::journal::Journal::limit)
            / 2;
        let end = range.end.min(self.entries());
        if self.meta().zero_level() == ZeroLevel::Resident || range.start >= end {
            return Ok(range.start..range.start);
        }
        let per_block = self.layout().pointers_per_block;
        let depth = self.meta().zero_level().depth();
        if depth == 0 {
            for index in (range.start..end).rev() {
                let raw = self.image.address(index as usize);
                if raw != 0 {
                    if self.changes.bytes() > budget {
                        return Ok(range.start..index + 1);
                    }
                    self.give_block(raw, index)?;
                    self.image.set_address(index as usize, 0);
                }
            }
            return Ok(range.start..range.start);
        }
        let covered = per_block.pow(depth);
        for top in (range.start / covered..=(end - 1) / covered).rev() {
            let raw = self.image.address(top as usize);
            if raw == 0 {
                continue;
            }
            let start = top * covered;
            let inside = range.start.max(start) - start..end.min(start + covered) - start;
            let (left, empty) = self.clear_below(raw, depth - 1, start, inside, budget)?;
            if empty {
                self.give_pointer_block(raw)?;
                self.image.set_address(top as usize, 0);
            }
            if let Some(left) = left {
                return Ok(range.start..start + left);
            }
        }
        Ok(range.start..range.start)
    }

    /// Clears a range of what a pointer block covers, `start` being its first entry in the file:
    /// where it stopped early, and whether the block has nothing left.
    fn clear_below(
        &mut self,
        raw: u64,
        level: u32,
        start: u64,
        range: Range<u64>,
        budget: u64,
    ) -> Result<(Option<u64>, bool), FileError> {
        let per_block = self.layout().pointers_per_block;
        let place = self.pointer_block(raw)?;
        let mut pointers = self.pointers(place)?;
        let covered = per_block.pow(level);
        let mut changed = Vec::new();
        let mut stopped = None;
        for slot in (range.start / covered..=(range.end - 1) / covered).rev() {
            let pointer = pointers.get(slot as usize).copied().unwrap_or(0);
            if pointer == 0 {
                continue;
            }
            if self.changes.bytes() + changed.len() as u64 > budget {
                stopped = Some((slot + 1) * covered);
                break;
            }
            let first = start + slot * covered;
            if level == 0 {
                self.give_block(pointer, first)?;
            } else {
                let from = range.start.max(slot * covered) - slot * covered;
                let to = range.end.min((slot + 1) * covered) - slot * covered;
                let (left, empty) =
                    self.clear_below(pointer, level - 1, first, from..to, budget)?;
                if !empty {
                    if let Some(left) = left {
                        stopped = Some(slot * covered + left);
                        break;
                    }
                    continue;
                }
                self.give_pointer_block(pointer)?;
            }
            changed.push(slot);
            if let Some(pointer) = pointers.get_mut(slot as usize) {
                *pointer = 0;
            }
        }
        let empty = pointers.iter().all(|&pointer| pointer == 0);
        if !empty {
            for slot in changed {
                self.set_pointer(place, slot, 0)?;
            }
        }
        Ok((stopped, empty))
    }

    /// Gives back the block that entry `index` had.
    fn give_block(&mut self, raw: u64, index: u64) -> Result<(), FileError> {
        let layout = self.layout();
        match BlockAddr::decode(raw, layout) {
            BlockAddr::Hole => return Ok(()),
            BlockAddr::FileBlock { block, tbz, .. } => {
                if tbz != 0 {
                    self.add_tbz_blocks(-1);
                }
                let (place, size) = (block << layout.file_block_shift, layout.file_block_size());
                if self.is_metadata() {
                    self.changes.txn.revoke(VolumeOffset(place), size);
                }
                self.changes.give_block(block, self.fd);
            }
            BlockAddr::LargeFileBlock { block, tbz, .. } => {
                if tbz != 0 {
                    self.add_tbz_blocks(-1);
                }
                // Its first part goes last.
                let parts = layout.large_block_size() >> self.block_shift();
                if index.is_multiple_of(parts) {
                    let file = self.changes.resources().file(ResourceKind::LargeFileBlock);
                    let per_cluster = file.map_or(1, |file| {
                        u64::from(file.header().resources_per_cluster.get()).max(1)
                    });
                    let place = (block / per_cluster, (block % per_cluster) as u32);
                    self.changes
                        .give(ResourceKind::LargeFileBlock, place, self.fd);
                }
            }
            BlockAddr::Resource {
                kind: ResourceKind::SubBlock,
                ..
            } => self.give_sub_block(raw)?,
            _ => return Err(self.damage(raw, "a block of data").into()),
        }
        self.add_blocks(-1);
        Ok(())
    }

    /// Makes the file shorter: the length, and the rest of data in the descriptor. The blocks
    /// behind stay for [`FileEdit::trim`].
    pub fn cut(&mut self, length: u64) {
        if self.meta().zero_level() == ZeroLevel::Resident {
            let layout = self.layout();
            self.image.data_mut(layout)[length as usize..].fill(0);
        }
        self.meta_mut().length = length.into();
    }

    /// Gives back blocks behind the end; whether there may be more, for another transaction.
    pub fn trim(&mut self) -> Result<bool, FileError> {
        if matches!(
            self.meta().zero_level(),
            ZeroLevel::Resident | ZeroLevel::None
        ) {
            return Ok(false);
        }
        let shift = self.block_shift();
        let mut first = self.length().div_ceil(1 << shift);
        // A large block goes as a whole or stays as a whole.
        let parts = (self.layout().large_block_size() >> shift).max(1);
        if first > 0
            && !first.is_multiple_of(parts)
            && self.has_large_blocks()
            && matches!(self.slot(first)?, Slot::Block { large: true, .. })
        {
            first = first.next_multiple_of(parts);
        }
        let left = self.clear(first..self.entries())?;
        if left.is_empty() && self.length() == 0 {
            self.make_empty();
        }
        Ok(!left.is_empty())
    }

    fn has_large_blocks(&self) -> bool {
        let layout = self.layout();
        layout.large_block_shift > self.block_shift()
            && self.meta().zero_level() != ZeroLevel::SubBlock
    }

    /// Makes `range` of bytes a hole as far as whole blocks go, and zeros in the others; what is
    /// left for another transaction.
    pub fn punch(&mut self, range: Range<u64>) -> Result<Range<u64>, FileError> {
        let end = self.zero_edges(&range)?;
        let shift = self.block_shift();
        let (first, last) = (range.start.div_ceil(1 << shift), end >> shift);
        if self.meta().zero_level() == ZeroLevel::Resident || first >= last {
            return Ok(range.start..range.start);
        }
        self.break_up_partly_cleared(first..last)?;
        let left = self.clear(first..last)?;
        Ok(range.start..if left.is_empty() {
            range.start
        } else {
            left.end << shift
        })
    }

    /// Zeros what the range has of blocks that it doesn't cover; where it ends in whole blocks.
    pub(super) fn zero_edges(&mut self, range: &Range<u64>) -> Result<u64, FileError> {
        let layout = self.layout();
        let length = self.length();
        if self.meta().zero_level() == ZeroLevel::Resident {
            let room = self.image.data_mut(layout);
            let end = (range.end.min(length) as usize).min(room.len());
            let start = (range.start as usize).min(end);
            room[start..end].fill(0);
            return Ok(range.end);
        }
        let shift = self.block_shift();
        let unit = 1_u64 << shift;
        // A range that reaches the end of the file covers the last block.
        let end = if range.end >= length && range.end < length.next_multiple_of(unit) {
            length.next_multiple_of(unit)
        } else {
            range.end
        };
        let mut at = range.start;
        while at < end {
            let index = at >> shift;
            let (start, stop) = (index << shift, ((index + 1) << shift).min(end));
            let whole = at == start && stop == start + unit;
            if !whole
                && let Slot::Block {
                    place,
                    marked: false,
                    ..
                } = self.slot(index)?
            {
                self.zero_data(place + (at - start), stop - at)?;
            }
            at = if whole { end >> shift << shift } else { stop };
        }
        Ok(end)
    }

    /// Large blocks that a range of entries covers in part are broken up into small ones.
    pub(super) fn break_up_partly_cleared(&mut self, range: Range<u64>) -> Result<(), FileError> {
        if !self.has_large_blocks() {
            return Ok(());
        }
        let parts = self.layout().large_block_size() >> self.block_shift();
        for edge in [range.start, range.end] {
            if edge.is_multiple_of(parts) {
                continue;
            }
            if let Slot::Block { large: true, .. } = self.slot(edge)? {
                self.replace_large(edge / parts * parts)?;
            }
        }
        Ok(())
    }

    /// Copies a large block into small ones, one after the other, and gives it back.
    fn replace_large(&mut self, first: u64) -> Result<(), FileError> {
        let layout = self.layout();
        let parts = layout.large_block_size() >> self.block_shift();
        let raw = self.entry(first)?;
        let mut index = first;
        let mut content = vec![0; layout.file_block_size() as usize];
        let mut fresh = Vec::new();
        while index < first + parts {
            let (block, count) = self.changes.take_blocks(Wanted {
                owner: self.fd,
                index,
                count: first + parts - index,
                behind: fresh.last().map(|&(_, block)| block + 1),
                small: false,
            })?;
            for number in 0..count {
                let Slot::Block { place, marked, .. } = self.decode(raw, index + number)? else {
                    break;
                };
                let target = VolumeOffset((block + number) << layout.file_block_shift);
                if marked {
                    self.zero_data(target, layout.file_block_size())?;
                } else {
                    let reader = self.changes.txn.reader();
                    reader.volume().read(place, &mut content)?;
                    self.write_data(target, &content)?;
                }
                fresh.push((index + number, block + number));
            }
            index += count;
        }
        for index in (first..first + parts).rev() {
            self.give_block(raw, index)?;
        }
        for &(index, block) in &fresh {
            let address = BlockAddr::FileBlock {
                block,
                tbz: 0,
                cow: false,
            };
            let raw = address.encode(layout);
            self.set_entry(index, raw)?;
            self.note_cluster(raw);
        }
        self.add_blocks(parts.cast_signed());
        Ok(())
    }
}
