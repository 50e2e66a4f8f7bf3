//! Directories of VMFS6: blocks of entries and of link groups under an allocation map, found
//! through a hash table.

use std::mem::offset_of;

use zerocopy::{FromZeros, IntoBytes};

use super::content::{self, DirContent, NewEntry, entry_of, number};
use super::flat::DirHint;
use crate::file::directory::{DirEntry, MAX_DIRECTORY};
use crate::file::error::FileError;
use crate::format::{
    At, DIR_BLOCKS_START, DIR_VERSION, Damage, DirBlockHeader, DirBlockKind, DirEntry6, DirHeader,
    DirLinkGroup, FdAddr, FileKind, Layout, Location, MAP_NIBBLE_FREE, MAP_NIBBLE_NOT_WRITTEN,
    MAX_MAP_BLOCKS, name_hash, system_file_hash,
};

/// Where the header's numbers are.
const ENTRIES: u64 = offset_of!(DirHeader, entries) as u64;
const MAP_BLOCK_COUNT: u64 = offset_of!(DirHeader, map_block_count) as u64;
const MAP_BLOCKS: u64 = offset_of!(DirHeader, map_blocks) as u64;
const THIS: u64 = offset_of!(DirHeader, this) as u64;
const PARENT: u64 = offset_of!(DirHeader, parent) as u64;

/// How a directory is divided into blocks.
pub(super) struct Blocks<'a> {
    layout: &'a Layout,
}

/// Where the hash table has the location of what has hash slot `slot`.
pub(super) fn table_offset(slot: u32) -> u64 {
    DirHeader::SIZE + u64::from(slot) * 4
}

fn entry(kind: FileKind, fd: FdAddr, generation: u32, offset: u64, name: &[u8]) -> DirEntry6 {
    let mut entry = DirEntry6::new_zeroed();
    entry.kind = (kind as u32).into();
    entry.fd = fd.raw().into();
    entry.generation = generation.into();
    entry.offset = offset.into();
    let used = name.len().min(entry.name.len() - 1);
    entry.name[..used].copy_from_slice(&name[..used]);
    entry
}

pub(super) fn initialise(
    content: &mut dyn DirContent,
    layout: &Layout,
    this: (FdAddr, u32),
    parent: (FdAddr, u32),
) -> Result<(), FileError> {
    let blocks = Blocks { layout };
    content.set_length(DIR_BLOCKS_START + layout.md_block)?;
    let mut header = DirHeader::new_zeroed();
    header.version = DIR_VERSION.into();
    header.entries = 2.into();
    header.allocated = 2.into();
    header.map_block_count = 1.into();
    let kind = FileKind::Directory;
    header.this = entry(kind, this.0, this.1, THIS, b".");
    header.parent = entry(kind, parent.0, parent.1, PARENT, b"..");
    content.write(0, header.as_bytes())?;
    blocks.write_map_block(content, 0)
}

pub(super) fn set_parent(
    content: &mut dyn DirContent,
    parent: (FdAddr, u32),
) -> Result<(), FileError> {
    let kind = FileKind::Directory;
    let dots = entry(kind, parent.0, parent.1, PARENT, b"..");
    content.write(PARENT, dots.as_bytes())
}

pub(super) fn add(
    content: &mut dyn DirContent,
    layout: &Layout,
    in_root: bool,
    new: &NewEntry<'_>,
    hint: &mut DirHint,
) -> Result<(), FileError> {
    let blocks = Blocks { layout };
    let hash = name_hash(new.name, in_root);
    let (block, slot) = blocks.take_slot(content, DirBlockKind::Entries, hint)?;
    let offset = blocks.slot_offset(block, slot, DirEntry6::SIZE);
    let mut raw = entry(new.kind, new.fd, new.generation, offset, new.name);
    if !in_root || system_file_hash(new.name).is_none() {
        raw.hash_lo = hash.lo.into();
        raw.hash_hi = hash.hi.into();
    }
    content.write(offset, raw.as_bytes())?;
    blocks.link(content, hash, Location::Entry { block, slot }, hint)?;
    Blocks::count_entries(content, 1)
}

pub(super) fn remove(
    content: &mut dyn DirContent,
    layout: &Layout,
    in_root: bool,
    name: &[u8],
    hint: &mut DirHint,
) -> Result<(), FileError> {
    let blocks = Blocks { layout };
    let Some(((block, slot), _)) = blocks.find(content, in_root, name)? else {
        return Ok(());
    };
    let hash = name_hash(name, in_root);
    blocks.unlink(content, hash.slot, Location::Entry { block, slot }, hint)?;
    blocks.free_slot(content, DirBlockKind::Entries, (block, slot), hint)?;
    Blocks::count_entries(content, -1)
}

pub(super) fn replace(
    content: &mut dyn DirContent,
    layout: &Layout,
    in_root: bool,
    name: &[u8],
    (fd, kind, generation): (FdAddr, FileKind, u32),
) -> Result<(), FileError> {
    let blocks = Blocks { layout };
    let Some(((block, slot), mut raw)) = blocks.find(content, in_root, name)? else {
        return Ok(());
    };
    raw.kind = (kind as u32).into();
    raw.fd = fd.raw().into();
    raw.generation = generation.into();
    let offset = blocks.slot_offset(block, slot, DirEntry6::SIZE);
    content.write(offset, raw.as_bytes())
}

pub(super) fn lookup(
    content: &dyn DirContent,
    layout: &Layout,
    in_root: bool,
    name: &[u8],
) -> Result<Option<DirEntry>, FileError> {
    let found = Blocks { layout }.find(content, in_root, name)?;
    Ok(found.and_then(|(_, entry)| {
        let fields = (entry.kind.get(), entry.fd.get(), entry.generation.get());
        entry_of(entry.name(), fields.0, fields.1, fields.2)
    }))
}

/// Block and slot of an entry, and the entry.
type Found = ((u32, u32), DirEntry6);

impl Blocks<'_> {
    /// The entry called `name` and its block and slot.
    fn find(
        &self,
        content: &dyn DirContent,
        in_root: bool,
        name: &[u8],
    ) -> Result<Option<Found>, FileError> {
        let hash = name_hash(name, in_root);
        let named = |block, slot| -> Result<Option<DirEntry6>, FileError> {
            self.check_slot(content, DirBlockKind::Entries, block, slot)?;
            let offset = self.slot_offset(block, slot, DirEntry6::SIZE);
            let entry: DirEntry6 = content::read(content, offset)?;
            Ok(Some(entry).filter(|entry| entry.name() == name))
        };
        let first = Location::from_raw(number(content, table_offset(hash.slot))?);
        if let Location::Entry { block, slot } = first {
            return Ok(named(block, slot)?.map(|entry| ((block, slot), entry)));
        }
        for group in self.groups(content, hash.slot)? {
            for link in &group.links.links {
                if link.hash_hi.get() != hash.hi {
                    continue;
                }
                if let Location::Entry { block, slot } = Location::from_raw(link.location.get())
                    && let Some(entry) = named(block, slot)?
                {
                    return Ok(Some(((block, slot), entry)));
                }
            }
        }
        Ok(None)
    }

    fn block_offset(&self, block: u32) -> u64 {
        DIR_BLOCKS_START + u64::from(block) * self.layout.md_block
    }

    pub(super) fn slot_offset(&self, block: u32, slot: u32, size: u64) -> u64 {
        self.block_offset(block) + DirBlockHeader::SIZE + u64::from(slot) * size
    }

    /// Blocks that one allocation map block describes.
    fn per_map(&self) -> u32 {
        ((self.layout.md_block - DirBlockHeader::SIZE) * 2) as u32
    }

    fn slots(&self, kind: DirBlockKind) -> u32 {
        let size = match kind {
            DirBlockKind::Links => DirLinkGroup::SIZE,
            _ => DirEntry6::SIZE,
        };
        ((self.layout.md_block - DirBlockHeader::SIZE) / size) as u32
    }

    /// Fails when there is no such slot.
    pub(super) fn check_slot(
        &self,
        content: &dyn DirContent,
        kind: DirBlockKind,
        block: u32,
        slot: u32,
    ) -> Result<(), FileError> {
        let offset = self.block_offset(block);
        let header: DirBlockHeader = content::read(content, offset)?;
        if offset < content.length() && header.kind.get() == kind as u16 && slot < self.slots(kind)
        {
            return Ok(());
        }
        let at = At::File { fd: 0, offset };
        let found = format!("type {}, slot {slot}", header.kind);
        let expected = format!("a slot of a block of {kind:?}");
        Err(Damage::new("directory block", at, "type", found, expected).into())
    }

    fn count_entries(content: &mut dyn DirContent, more: i32) -> Result<(), FileError> {
        let entries = number(content, ENTRIES)?.saturating_add_signed(more);
        let twice = [entries.to_le_bytes(), entries.to_le_bytes()];
        content.write(ENTRIES, twice.as_flattened())
    }

    /// Takes a free slot for an entry or a link group: its block and number.
    pub(super) fn take_slot(
        &self,
        content: &mut dyn DirContent,
        kind: DirBlockKind,
        hint: &mut DirHint,
    ) -> Result<(u32, u32), FileError> {
        let block = self.block_with_room(content, kind, hint)?;
        let offset = self.block_offset(block);
        let mut header: DirBlockHeader = content::read(content, offset)?;
        let slot = (0..self.slots(kind)).find(|&slot| !header.is_used(slot));
        let (Some(slot), true) = (slot, header.kind.get() == kind as u16) else {
            let at = At::File { fd: 0, offset };
            let expected = "a free slot, as the allocation map says";
            return Err(Damage::new("directory block", at, "bitmap", "full", expected).into());
        };
        header.bitmap[slot as usize / 8] &= !(1 << (slot % 8));
        header.free = header.free.get().saturating_sub(1).into();
        content.write(offset, header.as_bytes())?;
        if header.free.get() == 0 {
            self.set_nibble(content, block, kind as u8)?;
        }
        Ok((block, slot))
    }

    /// Makes a slot free and zero.
    pub(super) fn free_slot(
        &self,
        content: &mut dyn DirContent,
        kind: DirBlockKind,
        (block, slot): (u32, u32),
        hint: &mut DirHint,
    ) -> Result<(), FileError> {
        let offset = self.block_offset(block);
        let mut header: DirBlockHeader = content::read(content, offset)?;
        if let Some(byte) = header.bitmap.get_mut(slot as usize / 8) {
            *byte |= 1 << (slot % 8);
        }
        header.free = header.free.get().saturating_add(1).into();
        content.write(offset, header.as_bytes())?;
        let size = match kind {
            DirBlockKind::Links => DirLinkGroup::SIZE,
            _ => DirEntry6::SIZE,
        };
        content.write(self.slot_offset(block, slot, size), &vec![0; size as usize])?;
        self.set_nibble(content, block, kind as u8 | MAP_NIBBLE_FREE)?;
        let first = &mut hint.first_free[usize::from(kind == DirBlockKind::Links)];
        *first = (*first).min(block);
        Ok(())
    }

    /// A block of `kind` with a free slot: the first, or a new one at the end.
    fn block_with_room(
        &self,
        content: &mut dyn DirContent,
        kind: DirBlockKind,
        hint: &mut DirHint,
    ) -> Result<u32, FileError> {
        let wanted = kind as u8 | MAP_NIBBLE_FREE;
        let first = &mut hint.first_free[usize::from(kind == DirBlockKind::Links)];
        let blocks =
            (content.length().saturating_sub(DIR_BLOCKS_START) / self.layout.md_block) as u32;
        let mut nibbles = vec![0; (self.layout.md_block - DirBlockHeader::SIZE) as usize];
        let mut loaded = None;
        while *first < blocks {
            let index = *first / self.per_map();
            if loaded != Some(index) {
                let map = self.map_block(content, index)?;
                content.read(self.block_offset(map) + DirBlockHeader::SIZE, &mut nibbles)?;
                loaded = Some(index);
            }
            let inside = (*first % self.per_map()) as usize;
            if nibble(nibbles[inside / 2], inside) == wanted {
                return Ok(*first);
            }
            *first += 1;
        }
        let block = self.append(content, kind, blocks)?;
        *first = block;
        Ok(block)
    }

    /// Adds an empty block, behind a new map block if it is the first of a stretch.
    fn append(
        &self,
        content: &mut dyn DirContent,
        kind: DirBlockKind,
        mut block: u32,
    ) -> Result<u32, FileError> {
        if block.is_multiple_of(self.per_map()) {
            let index = number(content, MAP_BLOCK_COUNT)?;
            if index as usize >= MAX_MAP_BLOCKS {
                return Err(FileError::DirectoryFull);
            }
            content.set_length(self.block_offset(block + 1))?;
            content.write(MAP_BLOCK_COUNT, &(index + 1).to_le_bytes())?;
            content.write(MAP_BLOCKS + 4 * u64::from(index), &block.to_le_bytes())?;
            self.write_map_block(content, block)?;
            block += 1;
        }
        let length = self.block_offset(block + 1);
        if length > MAX_DIRECTORY {
            return Err(FileError::DirectoryFull);
        }
        content.set_length(length)?;
        let mut header = DirBlockHeader::new_zeroed();
        let slots = self.slots(kind);
        header.version = 1.into();
        header.kind = (kind as u16).into();
        header.slots = (slots as u16).into();
        header.free = (slots as u16).into();
        for slot in 0..slots as usize {
            header.bitmap[slot / 8] |= 1 << (slot % 8);
        }
        content.write(self.block_offset(block), header.as_bytes())?;
        self.set_nibble(content, block, kind as u8 | MAP_NIBBLE_FREE)?;
        Ok(block)
    }

    /// The number of the map block that describes the stretch `index`.
    fn map_block(&self, content: &dyn DirContent, index: u32) -> Result<u32, FileError> {
        let count = number(content, MAP_BLOCK_COUNT)?;
        let map = number(content, MAP_BLOCKS + 4 * u64::from(index))?;
        let offset = self.block_offset(map);
        if index < count && (index as usize) < MAX_MAP_BLOCKS && offset < content.length() {
            let header: DirBlockHeader = content::read(content, offset)?;
            if header.kind.get() == DirBlockKind::Map as u16 {
                return Ok(map);
            }
        }
        let at = At::File { fd: 0, offset };
        let expected = "an allocation map block";
        Err(Damage::new("directory block", at, "map block", index, expected).into())
    }

    fn set_nibble(
        &self,
        content: &mut dyn DirContent,
        block: u32,
        value: u8,
    ) -> Result<(), FileError> {
        let map = self.map_block(content, block / self.per_map())?;
        let inside = (block % self.per_map()) as usize;
        let offset = self.block_offset(map) + DirBlockHeader::SIZE + inside as u64 / 2;
        let mut byte = [0];
        content.read(offset, &mut byte)?;
        // The high nibble is the lower-numbered block's.
        byte[0] = if inside.is_multiple_of(2) {
            byte[0] & 0x0f | value << 4
        } else {
            byte[0] & 0xf0 | value
        };
        content.write(offset, &byte)
    }

    /// Makes `block`, the first of a stretch, the allocation map of it: all but itself unwritten.
    fn write_map_block(&self, content: &mut dyn DirContent, block: u32) -> Result<(), FileError> {
        let mut bytes = vec![0; self.layout.md_block as usize];
        let mut header = DirBlockHeader::new_zeroed();
        header.kind = (DirBlockKind::Map as u16).into();
        bytes[..size_of::<DirBlockHeader>()].copy_from_slice(header.as_bytes());
        let nibbles = &mut bytes[size_of::<DirBlockHeader>()..];
        nibbles.fill(MAP_NIBBLE_NOT_WRITTEN << 4 | MAP_NIBBLE_NOT_WRITTEN);
        nibbles[0] = (DirBlockKind::Map as u8) << 4 | MAP_NIBBLE_NOT_WRITTEN;
        content.write(self.block_offset(block), &bytes)
    }
}

/// Nibble number `inside` of a map, which is in `byte`.
fn nibble(byte: u8, inside: usize) -> u8 {
    byte >> (if inside.is_multiple_of(2) { 4 } else { 0 }) & 0xf
}
