//! How a map grows with its file: from data in the descriptor over a sub-block and file blocks to
//! pointer blocks and pointer blocks of pointer blocks.

use super::descriptor::FileEdit;
use super::map::Slot;
use crate::file::error::FileError;
use crate::format::{BlockAddr, Family, FileKind, ResourceKind, ZeroLevel};
use crate::resource::{AllocError, Wanted};

/// Flags that ESXi gives regular files with file blocks on VMFS6.
const LARGE_FILE_FLAGS: u32 = 9;
/// Bytes copied at a time when content moves.
const COPY: u64 = 1 << 20;

/// Whether something failed because there is no sub-block left, nor room for more.
fn is_used_up<T>(result: &Result<T, FileError>) -> bool {
    let kind = ResourceKind::SubBlock;
    matches!(result, Err(FileError::Alloc(AllocError::NoSpace { kind: of })) if *of == kind)
}

impl FileEdit<'_, '_> {
    /// The longest that the file can get with the map that it has.
    fn capacity(&self) -> u64 {
        let layout = self.layout();
        let (count, per_block) = (layout.fd_address_count, layout.pointers_per_block);
        let unit = 1_u64 << self.block_shift();
        match self.meta().zero_level() {
            ZeroLevel::None => 0,
            // ESXi keeps directories in blocks; vmfs-tools' check takes resident data for addresses.
            ZeroLevel::Resident if self.is_metadata() => 0,
            ZeroLevel::Resident => layout.fd_data_size,
            // Of sub-blocks only VMFS6's directories have more than one.
            ZeroLevel::SubBlock if self.is_metadata() && layout.family == Family::Vmfs6 => {
                count * unit
            }
            ZeroLevel::SubBlock => unit,
            ZeroLevel::FileBlock => count * unit,
            ZeroLevel::PointerBlock | ZeroLevel::PointerBlock2 => {
                (count * per_block).saturating_mul(unit)
            }
            ZeroLevel::DoublePointerBlock => (count * per_block * per_block).saturating_mul(unit),
        }
    }

    /// Gives the file a map with room for `length` bytes; the content stays.
    pub(super) fn fit(&mut self, length: u64) -> Result<(), FileError> {
        while length > self.capacity() {
            match self.meta().zero_level() {
                ZeroLevel::None => self.make_empty(),
                // A directory is never small for long.
                ZeroLevel::Resident
                    if self.is_metadata() || length <= self.layout().sub_block_size() =>
                {
                    let moved = self.move_content(ZeroLevel::SubBlock);
                    if is_used_up(&moved) {
                        self.move_content(ZeroLevel::FileBlock)?;
                    } else {
                        moved?;
                    }
                }
                ZeroLevel::Resident | ZeroLevel::SubBlock => {
                    self.move_content(ZeroLevel::FileBlock)?;
                }
                ZeroLevel::FileBlock => self.add_level(ZeroLevel::PointerBlock)?,
                ZeroLevel::PointerBlock => self.add_level(ZeroLevel::DoublePointerBlock)?,
                ZeroLevel::PointerBlock2 | ZeroLevel::DoublePointerBlock => {
                    let (fd, max) = (self.fd, self.capacity());
                    return Err(FileError::TooLarge { fd, max });
                }
            }
        }
        self.keep_sub_blocks(length)
    }

    /// Takes the sub-blocks that `length` bytes may need beforehand: if none is left, file blocks
    /// must do.
    fn keep_sub_blocks(&mut self, length: u64) -> Result<(), FileError> {
        if self.meta().zero_level() != ZeroLevel::SubBlock {
            return Ok(());
        }
        let needed = length.div_ceil(1 << self.block_shift());
        while self.meta().blocks.get() + (self.spare.len() as u64) < needed {
            let taken = self.take_resource(ResourceKind::SubBlock);
            if is_used_up(&taken) {
                self.give_spare();
                return self.move_content(ZeroLevel::FileBlock);
            }
            self.spare.push(taken?);
        }
        Ok(())
    }

    /// Gives back the sub-blocks that weren't needed.
    pub(super) fn give_spare(&mut self) {
        for (_, raw) in std::mem::take(&mut self.spare) {
            if let BlockAddr::Resource {
                kind,
                cluster,
                resource,
                ..
            } = BlockAddr::decode(raw, self.layout())
            {
                self.changes.give(kind, (cluster, resource), self.fd);
            }
        }
    }

    /// Gives the file a map of file blocks at least, for blocks that are allocated ahead.
    pub(super) fn fit_blocks(&mut self, length: u64) -> Result<(), FileError> {
        if self.meta().zero_level() == ZeroLevel::None {
            self.make_empty();
        }
        if matches!(
            self.meta().zero_level(),
            ZeroLevel::Resident | ZeroLevel::SubBlock
        ) {
            self.move_content(ZeroLevel::FileBlock)?;
        }
        self.fit(length)
    }

    /// Puts a pointer block above the array's entries.
    fn add_level(&mut self, level: ZeroLevel) -> Result<(), FileError> {
        let count = self.layout().fd_address_count as usize;
        let entries: Vec<u64> = (0..count).map(|index| self.image.address(index)).collect();
        if entries.iter().any(|&raw| raw != 0) {
            let block = self.new_pointer_block()?;
            let place = self.pointer_block(block)?;
            let size = self.layout().address_size as usize;
            let bytes: Vec<u8> = entries
                .iter()
                .flat_map(|raw| raw.to_le_bytes()[..size].to_vec())
                .collect();
            self.changes.txn.write(place, &bytes)?;
            for index in 0..count {
                self.image.set_address(index, 0);
            }
            self.image.set_address(0, block);
        }
        self.meta_mut().zero_level = level.raw().into();
        Ok(())
    }

    /// Moves the content to blocks of another size: few, for it is the content of a small file or
    /// of a directory.
    fn move_content(&mut self, level: ZeroLevel) -> Result<(), FileError> {
        let layout = self.layout();
        let shift = if level == ZeroLevel::SubBlock {
            layout.sub_block_shift
        } else {
            layout.file_block_shift
        };
        let length = self.length();
        let old_level = self.meta().zero_level();
        let count = layout.fd_address_count as usize;
        let old: Vec<u64> = (0..count)
            .map(|index| self.image.address(index))
            .filter(|&raw| old_level == ZeroLevel::SubBlock && raw != 0)
            .collect();
        let has_content = match old_level {
            ZeroLevel::Resident => length > 0,
            _ => !old.is_empty(),
        };
        let mut blocks = Vec::new();
        if has_content {
            for index in 0..length.max(1).div_ceil(1 << shift) {
                let (place, raw) = self.take_for_move(level, index)?;
                let start = index << shift;
                let used = length.saturating_sub(start).min(1 << shift);
                for from in (start..start + used).step_by(COPY as usize) {
                    let mut part = vec![0; COPY.min(start + used - from) as usize];
                    self.read_content(from, &mut part)?;
                    self.write_data(place + (from - start), &part)?;
                }
                if self.is_metadata() {
                    // What is behind the content must read as zeros when the directory grows.
                    let (from, to) = (place + used, place.0 + (1 << shift));
                    let reader = self.changes.txn.reader();
                    reader.volume().write_zeros(from, to - from.0)?;
                    reader.drop_cached(place.0..to);
                }
                blocks.push(raw);
            }
        }
        for &raw in &old {
            self.give_sub_block(raw)?;
        }
        self.image.data_mut(layout).fill(0);
        for index in 0..count {
            let raw = blocks.get(index).copied().unwrap_or(0);
            self.image.set_address(index, raw);
        }
        self.image.set_block_shift(shift);
        self.image.set_blocks(blocks.len() as u64);
        let regular = self.meta().kind() == FileKind::Regular;
        let meta = self.meta_mut();
        meta.zero_level = level.raw().into();
        if layout.family == Family::Vmfs6 && level == ZeroLevel::FileBlock && regular {
            meta.flags = LARGE_FILE_FLAGS.into();
            meta.unknown5 = 1.into();
        }
        for &raw in &blocks {
            self.note_cluster(raw);
        }
        Ok(())
    }

    fn take_for_move(
        &mut self,
        level: ZeroLevel,
        index: u64,
    ) -> Result<(crate::lvm::VolumeOffset, u64), FileError> {
        if level == ZeroLevel::SubBlock {
            return self.take_resource(ResourceKind::SubBlock);
        }
        let (block, _) = self.changes.take_blocks(Wanted {
            owner: self.fd,
            index,
            count: 1,
            behind: None,
            small: true,
        })?;
        let address = BlockAddr::FileBlock {
            block,
            tbz: 0,
            cow: false,
        };
        let place = block << self.layout().file_block_shift;
        Ok((
            crate::lvm::VolumeOffset(place),
            address.encode(self.layout()),
        ))
    }

    /// Reads content as the transaction has it, wherever it is.
    pub(super) fn read_content(&self, offset: u64, buf: &mut [u8]) -> Result<(), FileError> {
        let layout = self.layout();
        if self.meta().zero_level() == ZeroLevel::Resident {
            let start = (layout.fd_data + offset) as usize;
            let bytes = self.image.bytes().get(start..start + buf.len());
            buf.copy_from_slice(bytes.unwrap_or(&vec![0; buf.len()]));
            return Ok(());
        }
        let shift = self.block_shift();
        let mut done = 0;
        while done < buf.len() {
            let at = offset + done as u64;
            let inside = at & ((1 << shift) - 1);
            let length = (buf.len() - done).min(((1 << shift) - inside) as usize);
            let part = &mut buf[done..done + length];
            match self.slot(at >> shift)? {
                Slot::Block {
                    place,
                    marked: false,
                    ..
                } if self.is_metadata() => self.changes.txn.read(place + inside, part)?,
                Slot::Block {
                    place,
                    marked: false,
                    ..
                } => {
                    let volume = self.changes.txn.reader().volume();
                    volume.read(place + inside, part)?;
                }
                _ => part.fill(0),
            }
            done += length;
        }
        Ok(())
    }

    /// Gives back a sub-block of the file.
    pub(super) fn give_sub_block(&mut self, raw: u64) -> Result<(), FileError> {
        let BlockAddr::Resource {
            kind: ResourceKind::SubBlock,
            cluster,
            resource,
            ..
        } = BlockAddr::decode(raw, self.layout())
        else {
            return Err(self.damage(raw, "a sub-block").into());
        };
        let kind = ResourceKind::SubBlock;
        let place = self.changes.locate(kind, (cluster, resource))?;
        let size = self.layout().sub_block_size();
        // Also where it held data: a directory may have had it earlier in this journal.
        self.changes.txn.revoke(place, size);
        self.changes.give(kind, (cluster, resource), self.fd);
        Ok(())
    }

    /// Notes on VMFS6 that the file has blocks in the cluster of the small file block `raw`.
    pub(super) fn note_cluster(&mut self, raw: u64) {
        let layout = self.layout();
        if let BlockAddr::FileBlock { block, .. } = BlockAddr::decode(raw, layout) {
            self.image.note_cluster(layout, block);
        }
    }

    /// Writes data straight to the volume.
    pub(super) fn write_data(
        &mut self,
        place: crate::lvm::VolumeOffset,
        data: &[u8],
    ) -> Result<(), FileError> {
        let reader = self.changes.txn.reader();
        reader.volume().write(place, data)?;
        if let Some(journal) = reader.journal() {
            journal.data_written();
        }
        self.changes.txn.order_data();
        Ok(())
    }

    /// Makes bytes of the volume zeros.
    pub(super) fn zero_data(
        &mut self,
        place: crate::lvm::VolumeOffset,
        length: u64,
    ) -> Result<(), FileError> {
        if length == 0 {
            return Ok(());
        }
        let reader = self.changes.txn.reader();
        reader.volume().write_zeros(place, length)?;
        if let Some(journal) = reader.journal() {
            journal.data_written();
        }
        self.changes.txn.order_data();
        Ok(())
    }
}
