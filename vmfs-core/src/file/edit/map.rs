//! The address tree of a file being changed.

use super::descriptor::FileEdit;
use crate::file::error::FileError;
use crate::format::{At, BlockAddr, Damage, Family, ResourceKind};
use crate::lvm::VolumeOffset;
use crate::resource::ResourcePlace;

/// What an entry at the bottom of the tree says of its block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Slot {
    /// Nothing is allocated.
    Hole,
    /// The block lies there; marked: it is to be zeroed.
    Block {
        /// Where the part for this entry starts.
        place: VolumeOffset,
        marked: bool,
        /// It is a part of a large block.
        large: bool,
    },
}

impl FileEdit<'_, '_> {
    /// log2 of the bytes that an entry covers.
    pub(super) fn block_shift(&self) -> u32 {
        self.meta().block_shift()
    }

    /// Entry `index` as it stands.
    pub(super) fn entry(&self, index: u64) -> Result<u64, FileError> {
        let per_block = self.layout().pointers_per_block;
        let depth = self.meta().zero_level().depth();
        let top = index / per_block.pow(depth);
        if top >= self.layout().fd_address_count {
            return Ok(0);
        }
        let mut raw = self.image.address(top as usize);
        for level in (0..depth).rev() {
            if raw == 0 {
                break;
            }
            let place = self.pointer_block(raw)?;
            raw = self.pointer(place, index / per_block.pow(level) % per_block)?;
        }
        Ok(raw)
    }

    /// What entry `index` says of its block.
    pub(super) fn slot(&self, index: u64) -> Result<Slot, FileError> {
        self.decode(self.entry(index)?, index)
    }

    pub(super) fn decode(&self, raw: u64, index: u64) -> Result<Slot, FileError> {
        let layout = self.layout();
        let shift = self.block_shift();
        let (place, marked, large) = match BlockAddr::decode(raw, layout) {
            BlockAddr::Hole => return Ok(Slot::Hole),
            BlockAddr::FileBlock { block, tbz, .. } => {
                (block << layout.file_block_shift, tbz != 0, false)
            }
            BlockAddr::LargeFileBlock { block, tbz, .. } => {
                let inside = index << shift & (layout.large_block_size() - 1);
                ((block << layout.large_block_shift) + inside, tbz != 0, true)
            }
            BlockAddr::Resource {
                kind: ResourceKind::SubBlock,
                cluster,
                resource,
                ..
            } => {
                let place = (cluster, resource);
                let place = self.changes.locate(ResourceKind::SubBlock, place)?;
                (place.0, false, false)
            }
            _ => return Err(self.damage(raw, "a block of data").into()),
        };
        let size = self.changes.txn.reader().volume().size();
        if place.saturating_add(1 << shift) > size {
            return Err(self.damage(raw, "a block inside the volume").into());
        }
        Ok(Slot::Block {
            place: VolumeOffset(place),
            marked,
            large,
        })
    }

    /// Makes entry `index` be `raw`; pointer blocks on the way are made.
    pub(super) fn set_entry(&mut self, index: u64, raw: u64) -> Result<(), FileError> {
        let per_block = self.layout().pointers_per_block;
        let depth = self.meta().zero_level().depth();
        let top = (index / per_block.pow(depth)) as usize;
        if depth == 0 {
            self.image.set_address(top, raw);
            return Ok(());
        }
        let mut pointer = self.image.address(top);
        if pointer == 0 {
            if raw == 0 {
                return Ok(());
            }
            pointer = self.new_pointer_block()?;
            self.image.set_address(top, pointer);
        }
        for level in (0..depth).rev() {
            let place = self.pointer_block(pointer)?;
            let inside = index / per_block.pow(level) % per_block;
            if level == 0 {
                return self.set_pointer(place, inside, raw);
            }
            pointer = self.pointer(place, inside)?;
            if pointer == 0 {
                if raw == 0 {
                    return Ok(());
                }
                pointer = self.new_pointer_block()?;
                self.set_pointer(place, inside, pointer)?;
            }
        }
        Ok(())
    }

    pub(super) fn pointer(&self, block: VolumeOffset, index: u64) -> Result<u64, FileError> {
        let size = self.layout().address_size;
        let mut bytes = [0; 8];
        let read = &mut bytes[..size as usize];
        self.changes.txn.read(block + index * size, read)?;
        Ok(u64::from_le_bytes(bytes))
    }

    pub(super) fn set_pointer(
        &mut self,
        block: VolumeOffset,
        index: u64,
        raw: u64,
    ) -> Result<(), FileError> {
        let size = self.layout().address_size;
        let bytes = &raw.to_le_bytes()[..size as usize];
        Ok(self.changes.txn.write(block + index * size, bytes)?)
    }

    /// All entries of a pointer block.
    pub(super) fn pointers(&self, block: VolumeOffset) -> Result<Vec<u64>, FileError> {
        let layout = self.layout();
        let mut bytes = vec![0; layout.pointer_block_size() as usize];
        self.changes.txn.read(block, &mut bytes)?;
        let entries = bytes.chunks_exact(layout.address_size as usize);
        let number = |entry: &[u8]| {
            let bytes = entry.iter().rev();
            bytes.fold(0, |value, &byte| value << 8 | u64::from(byte))
        };
        Ok(entries.map(number).collect())
    }

    /// Where the pointer block with this address lies.
    pub(super) fn pointer_block(&self, raw: u64) -> Result<VolumeOffset, FileError> {
        let (kind, place) = self.pointer_block_resource(raw)?;
        Ok(self.changes.locate(kind, place)?)
    }

    pub(super) fn pointer_block_resource(
        &self,
        raw: u64,
    ) -> Result<(ResourceKind, ResourcePlace), FileError> {
        match BlockAddr::decode(raw, self.layout()) {
            BlockAddr::Resource {
                kind:
                    kind @ (ResourceKind::SubBlock
                    | ResourceKind::PointerBlock
                    | ResourceKind::PointerBlock2),
                cluster,
                resource,
                ..
            } => Ok((kind, (cluster, resource))),
            _ => Err(self.damage(raw, "a pointer block").into()),
        }
    }

    /// Takes a pointer block and makes it empty; its address.
    pub(super) fn new_pointer_block(&mut self) -> Result<u64, FileError> {
        let layout = self.layout();
        // VMFS6 has no others.
        let kind = if layout.family == Family::Vmfs6 {
            ResourceKind::SubBlock
        } else {
            ResourceKind::PointerBlock
        };
        let (place, raw) = self.take_resource(kind)?;
        let size = layout.pointer_block_size();
        self.changes.txn.zero_fresh(place, size)?;
        if layout.family == Family::Vmfs6 {
            let meta = self.meta_mut();
            meta.pointer_blocks = (meta.pointer_blocks.get() + 1).into();
        }
        Ok(raw)
    }

    /// Gives back the pointer block with this address.
    pub(super) fn give_pointer_block(&mut self, raw: u64) -> Result<(), FileError> {
        let (kind, resource) = self.pointer_block_resource(raw)?;
        let place = self.changes.locate(kind, resource)?;
        let layout = self.layout();
        self.changes.txn.revoke(place, layout.pointer_block_size());
        self.changes.give(kind, resource, self.fd);
        if layout.family == Family::Vmfs6 {
            let meta = self.meta_mut();
            meta.pointer_blocks = meta.pointer_blocks.get().saturating_sub(1).into();
        }
        Ok(())
    }

    /// Takes a sub-block or pointer block: where it lies and its address.
    pub(super) fn take_resource(
        &mut self,
        kind: ResourceKind,
    ) -> Result<(VolumeOffset, u64), FileError> {
        let near = u64::from(self.fd.cluster());
        let (place, _) = self.changes.take(kind, near, self.fd)?;
        let address = BlockAddr::Resource {
            kind,
            cluster: place.0,
            resource: place.1,
            cow: false,
        };
        let raw = address.encode(self.layout());
        Ok((self.changes.locate(kind, place)?, raw))
    }

    pub(super) fn damage(&self, raw: u64, expected: &str) -> Damage {
        let at = At::Volume(self.place.0);
        Damage::hex("block map", at, "block address", raw, expected)
    }
}
