//! Allocating ahead: blocks that are there and read as zeros.

use std::ops::Range;

use super::descriptor::FileEdit;
use super::map::Slot;
use crate::file::error::FileError;
use crate::format::{BlockAddr, Family, ResourceKind};
use crate::lvm::VolumeOffset;
use crate::resource::AllocError;

impl FileEdit<'_, '_> {
    /// Allocates blocks for the holes in `range` of bytes, marked to be zeroed, as far as one
    /// transaction may go: what is left of the range, and the entries that got blocks.
    pub fn reserve(
        &mut self,
        range: Range<u64>,
    ) -> Result<(Range<u64>, Vec<Range<u64>>), FileError> {
        self.check_length(range.end)?;
        self.fit_blocks(range.end.max(self.length()))?;
        let budget = self
            .changes
            .txn
            .reader()
            .journal()
            .map_or(0, crate::journal::Journal::limit)
            / 2;
        let shift = self.block_shift();
        let (mut index, end) = (range.start >> shift, range.end.div_ceil(1 << shift));
        let mut added: Vec<Range<u64>> = Vec::new();
        while index < end {
            if self.changes.bytes() > budget {
                return Ok((index << shift..range.end, added));
            }
            if self.entry(index)? != 0 {
                index += 1;
                continue;
            }
            let count = self.holes_from(index, (end - index).min(1024))?;
            if let Some(parts) = self.reserve_large(index, end)? {
                added.push(index..index + parts);
                index += parts;
                continue;
            }
            let taken = self.allocate(index, count, true)?.len() as u64;
            match added.last_mut() {
                Some(last) if last.end == index => last.end += taken,
                _ => added.push(index..index + taken),
            }
            index += taken;
        }
        Ok((range.end..range.end, added))
    }

    /// Makes whole blocks in `range` of bytes to be zeroed and zeros the others: no hole is
    /// filled. Stops for another transaction like [`FileEdit::reserve`].
    pub fn mark_zeros(&mut self, range: Range<u64>) -> Result<Range<u64>, FileError> {
        let end = self.zero_edges(&range)?;
        let layout = self.layout();
        let shift = self.block_shift();
        if self.meta().zero_level() != crate::format::ZeroLevel::Resident {
            let (first, last) = (range.start.div_ceil(1 << shift), end >> shift);
            let budget = self
                .changes
                .txn
                .reader()
                .journal()
                .map_or(0, crate::journal::Journal::limit)
                / 2;
            let mut next = first;
            while next < last {
                let Some(index) = self.next_block(next, last - 1)? else {
                    break;
                };
                if self.changes.bytes() > budget {
                    return Ok(index << shift..range.end);
                }
                let raw = self.entry(index)?;
                match BlockAddr::decode(raw, layout) {
                    BlockAddr::FileBlock { block, tbz: 0, cow } => {
                        let marked = BlockAddr::FileBlock { block, tbz: 1, cow };
                        self.set_entry(index, marked.encode(layout))?;
                        self.add_tbz_blocks(1);
                    }
                    _ => {
                        if let Slot::Block {
                            place,
                            marked: false,
                            ..
                        } = self.decode(raw, index)?
                        {
                            self.zero_data(place, 1 << shift)?;
                        }
                    }
                }
                next = index + 1;
            }
        }
        Ok(range.end..range.end)
    }

    /// Takes a large file block for the entries from `index` on if they and the range allow it
    /// and there is one; how many entries it covers. It is zeroed at once.
    fn reserve_large(&mut self, index: u64, end: u64) -> Result<Option<u64>, FileError> {
        let layout = self.layout();
        if layout.family != Family::Vmfs6 {
            return Ok(None);
        }
        let parts = layout.large_block_size() >> self.block_shift();
        if parts < 2 || !index.is_multiple_of(parts) || end - index < parts {
            return Ok(None);
        }
        if self.holes_from(index, parts)? < parts {
            return Ok(None);
        }
        let kind = ResourceKind::LargeFileBlock;
        let start = self.changes.large_start();
        let ((cluster, resource), _) = match self.changes.take(kind, start, self.fd) {
            Ok(taken) => taken,
            Err(AllocError::Meta(error)) => return Err(error.into()),
            Err(_) => return Ok(None),
        };
        let block = self.changes.large_number((cluster, resource));
        let place = VolumeOffset(block << layout.large_block_shift);
        self.zero_data(place, layout.large_block_size())?;
        let address = BlockAddr::LargeFileBlock {
            block,
            tbz: 0,
            cow: false,
        };
        let raw = address.encode(layout);
        for index in index..index + parts {
            self.set_entry(index, raw)?;
        }
        self.add_blocks(parts.cast_signed());
        Ok(Some(parts))
    }
}
