//! Content and length of a file being changed.

use std::ops::Range;

use super::descriptor::FileEdit;
use super::map::Slot;
use crate::file::error::FileError;
use crate::format::{BlockAddr, ResourceKind, ZeroLevel};
use crate::lvm::VolumeOffset;
use crate::resource::Wanted;

/// No file of any version is longer.
pub(super) const MAX_FILE: u64 = 64 << 40;

/// Commands to the volume that a write comes down to.
#[derive(Debug, Default)]
struct Plan {
    zeros: Vec<(VolumeOffset, u64)>,
    /// Where which bytes of the data go; what lies in one piece is one command.
    writes: Vec<(VolumeOffset, Range<usize>)>,
}

impl Plan {
    fn zero(&mut self, place: VolumeOffset, length: u64) {
        if length > 0 {
            self.zeros.push((place, length));
        }
    }

    fn write(&mut self, place: VolumeOffset, range: Range<usize>) {
        match self.writes.last_mut() {
            Some((start, last))
                if *start + last.len() as u64 == place && last.end == range.start =>
            {
                last.end = range.end;
            }
            _ => self.writes.push((place, range)),
        }
    }
}

impl FileEdit<'_, '_> {
    /// Writes `data` at `offset`; blocks are allocated as needed, the length grows.
    ///
    /// All blocks are allocated before the first byte is written.
    pub fn write(&mut self, offset: u64, data: &[u8]) -> Result<(), FileError> {
        let end = offset.saturating_add(data.len() as u64);
        self.check_length(end)?;
        let old = self.length();
        let new = old.max(end);
        self.fit(new)?;
        if self.meta().zero_level() == ZeroLevel::Resident {
            let layout = self.layout();
            let room = self.image.data_mut(layout);
            room[offset as usize..end as usize].copy_from_slice(data);
        } else {
            let mut plan = Plan::default();
            self.plan_gap(old, offset, &mut plan)?;
            self.plan_write(old, offset, data.len(), &mut plan)?;
            for (place, length) in plan.zeros {
                self.zero_data(place, length)?;
            }
            for (place, range) in plan.writes {
                self.write_data(place, &data[range])?;
            }
        }
        self.meta_mut().length = new.into();
        Ok(())
    }

    /// Makes the file longer; what is new reads as zeros.
    pub fn extend(&mut self, length: u64) -> Result<(), FileError> {
        self.check_length(length)?;
        let old = self.length();
        self.fit(length)?;
        if self.meta().zero_level() != ZeroLevel::Resident {
            let mut plan = Plan::default();
            self.plan_gap(old, length, &mut plan)?;
            for (place, length) in plan.zeros {
                self.zero_data(place, length)?;
            }
        }
        self.meta_mut().length = length.into();
        Ok(())
    }

    pub(super) fn check_length(&self, length: u64) -> Result<(), FileError> {
        if length > MAX_FILE {
            let (fd, max) = (self.fd, MAX_FILE);
            return Err(FileError::TooLarge { fd, max });
        }
        Ok(())
    }

    /// What was behind the end and comes inside must read as zeros, also where blocks are there.
    fn plan_gap(&mut self, old: u64, offset: u64, plan: &mut Plan) -> Result<(), FileError> {
        let shift = self.block_shift();
        let mut at = old;
        while at < offset {
            let Some(index) = self.next_block(at >> shift, (offset - 1) >> shift)? else {
                break;
            };
            let start = at.max(index << shift);
            let end = offset.min((index + 1) << shift);
            if let Slot::Block {
                place,
                marked: false,
                ..
            } = self.slot(index)?
            {
                plan.zero(place + (start - (index << shift)), end - start);
            }
            at = (index + 1) << shift;
        }
        Ok(())
    }

    fn plan_write(
        &mut self,
        old: u64,
        offset: u64,
        length: usize,
        plan: &mut Plan,
    ) -> Result<(), FileError> {
        let shift = self.block_shift();
        let (unit, end) = (1_u64 << shift, offset + length as u64);
        let mut at = offset;
        while at < end {
            let index = at >> shift;
            let start = index << shift;
            let stop = end.min(start + unit);
            let range = (at - offset) as usize..(stop - offset) as usize;
            match self.slot(index)? {
                Slot::Hole => {
                    let count = (end - start).div_ceil(unit);
                    let count = self.holes_from(index, count)?;
                    let taken = self.allocate(index, count, false)?;
                    // The loop comes by again, and finds blocks: zero here what it won't write.
                    for (block, place) in taken {
                        let start = block << shift;
                        let head = offset.saturating_sub(start);
                        plan.zero(place, head);
                        let tail = end.clamp(start, start + unit);
                        let inside = old.max(end).clamp(start, start + unit);
                        plan.zero(place + (tail - start), inside.saturating_sub(tail));
                    }
                    continue;
                }
                Slot::Block {
                    place,
                    marked: false,
                    ..
                } => plan.write(place + (at - start), range),
                Slot::Block {
                    place,
                    marked: true,
                    large,
                } => {
                    self.unmark(index, large, plan)?;
                    plan.write(place + (at - start), range);
                }
            }
            at = stop;
        }
        Ok(())
    }

    /// A block to be zeroed is going to be written: zeros it and takes the mark off.
    fn unmark(&mut self, index: u64, large: bool, plan: &mut Plan) -> Result<(), FileError> {
        let layout = self.layout();
        let shift = self.block_shift();
        let parts = if large {
            layout.large_block_size() >> shift
        } else {
            1
        };
        let first = index / parts * parts;
        let raw = match BlockAddr::decode(self.entry(index)?, layout) {
            BlockAddr::FileBlock { block, cow, .. } => {
                let place = VolumeOffset(block << layout.file_block_shift);
                plan.zero(place, layout.file_block_size());
                BlockAddr::FileBlock { block, tbz: 0, cow }
            }
            BlockAddr::LargeFileBlock { block, cow, .. } => {
                let place = VolumeOffset(block << layout.large_block_shift);
                plan.zero(place, layout.large_block_size());
                BlockAddr::LargeFileBlock { block, tbz: 0, cow }
            }
            other => other,
        }
        .encode(layout);
        for index in first..first + parts {
            self.set_entry(index, raw)?;
        }
        self.add_tbz_blocks(-parts.cast_signed());
        Ok(())
    }

    /// How many entries from `index` on are holes, at most `most`.
    pub(super) fn holes_from(&self, index: u64, most: u64) -> Result<u64, FileError> {
        let mut count = 1;
        while count < most && self.entry(index + count)? == 0 {
            count += 1;
        }
        Ok(count)
    }

    /// Allocates blocks for `count` holes from `index` on: which entries, and where they lie.
    pub(super) fn allocate(
        &mut self,
        index: u64,
        count: u64,
        marked: bool,
    ) -> Result<Vec<(u64, VolumeOffset)>, FileError> {
        let layout = self.layout();
        if self.meta().zero_level() == ZeroLevel::SubBlock {
            let (place, raw) = match self.spare.pop() {
                Some(kept) => kept,
                None => self.take_resource(ResourceKind::SubBlock)?,
            };
            if self.is_metadata() {
                let size = layout.sub_block_size();
                self.changes.txn.zero_fresh(place, size)?;
            }
            self.set_entry(index, raw)?;
            self.add_blocks(1);
            return Ok(vec![(index, place)]);
        }
        let behind = match index.checked_sub(1).map(|before| self.entry(before)) {
            Some(raw) => match BlockAddr::decode(raw?, layout) {
                BlockAddr::FileBlock { block, .. } => Some(block + 1),
                _ => None,
            },
            None => None,
        };
        let (first, taken) = self.changes.take_blocks(Wanted {
            owner: self.fd,
            index,
            count,
            behind,
            small: index == 0 && count == 1 && self.length() <= layout.file_block_size(),
        })?;
        let mut blocks = Vec::with_capacity(taken as usize);
        for (index, block) in (index..).zip(first..first + taken) {
            let address = BlockAddr::FileBlock {
                block,
                tbz: u8::from(marked),
                cow: false,
            };
            let raw = address.encode(layout);
            let place = VolumeOffset(block << layout.file_block_shift);
            if self.is_metadata() {
                let size = layout.file_block_size();
                self.changes.txn.zero_fresh(place, size)?;
            }
            self.set_entry(index, raw)?;
            self.note_cluster(raw);
            blocks.push((index, place));
        }
        self.add_blocks(taken.cast_signed());
        if marked {
            self.add_tbz_blocks(taken.cast_signed());
        }
        Ok(blocks)
    }
}
