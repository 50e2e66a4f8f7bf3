//! Everything of a VMFS6 directory that follows from its entries, written anew. Entries stay where
//! they are, so a cut leaves a directory that can be rebuilt again.

use std::collections::BTreeMap;

use vmfs_core::format::{
    DIR_BLOCKS_START, DIR_VERSION, DIR_VERSION_DEBUG, DirBlockHeader, DirBlockKind, DirEntry6,
    DirHeader, DirLinkGroup, LINKS_PER_GROUP, Location, MAX_MAP_BLOCKS,
};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use super::hashed::{Placed, Scan, slot_offset};
use crate::content::Content;
use crate::plan::Stage;
use crate::round::Round;

/// Plans the new structures.
pub(super) fn run(
    round: &mut Round<'_, '_>,
    content: &mut Content,
    scan: &Scan,
    stage: Stage,
) -> Result<(), String> {
    let text = |error: vmfs_core::resource::MetaError| error.to_string();
    content.fill_holes(round, stage).map_err(text)?;
    for &(block, slot) in &scan.cleared {
        let offset = slot_offset(scan.md, block, slot, DirEntry6::SIZE);
        let zeros = vec![0; DirEntry6::SIZE as usize];
        content.write(round, stage, offset, &zeros).map_err(text)?;
    }
    let mut slots: BTreeMap<u32, Vec<Placed>> = BTreeMap::new();
    for entry in &scan.entries {
        slots.entry(entry.hash_slot).or_default().push(*entry);
    }
    let groups: usize = slots
        .values()
        .filter(|entries| entries.len() > 1)
        .map(|entries| entries.len().div_ceil(LINKS_PER_GROUP))
        .sum();
    let per_block = ((scan.md - DirBlockHeader::SIZE) / DirLinkGroup::SIZE) as usize;
    let mut kinds = scan.kinds.clone();
    add_link_blocks(
        round,
        content,
        &mut kinds,
        groups.div_ceil(per_block),
        scan,
        stage,
    )?;
    let link_blocks: Vec<u32> = (0..kinds.len() as u32)
        .filter(|&block| kinds[block as usize] == DirBlockKind::Links as u8)
        .collect();

    let mut table = scan.head.clone();
    table[DirHeader::SIZE as usize..].fill(0);
    let mut links = link_contents(scan.md, &link_blocks);
    let mut places = link_blocks
        .iter()
        .flat_map(|&block| (0..per_block as u32).map(move |slot| (block, slot)));
    for (slot, entries) in &slots {
        let first = if let [entry] = entries.as_slice() {
            entry.location()
        } else {
            chain(*slot, entries, &mut places, &mut links)?
        };
        let at = DirHeader::SIZE as usize + *slot as usize * 4;
        table[at..at + 4].copy_from_slice(&first.raw().to_le_bytes());
    }
    let mut free = entry_blocks(round, content, scan, &kinds, stage)?;
    for (&block, bytes) in &links {
        let offset = DIR_BLOCKS_START + u64::from(block) * scan.md;
        content.write(round, stage, offset, bytes).map_err(text)?;
        let (header, _) = DirBlockHeader::ref_from_prefix(bytes).map_err(|_| "no block")?;
        free.insert(block, header.free.get() > 0);
    }
    maps(round, content, &mut kinds, &free, scan, stage)?;
    header(&mut table, scan, kinds.len() as u64)?;
    content.write(round, stage, 0, &table).map_err(text)
}

/// Makes the directory longer until it has as many link blocks.
fn add_link_blocks(
    round: &mut Round<'_, '_>,
    content: &mut Content,
    kinds: &mut Vec<u8>,
    wanted: usize,
    scan: &Scan,
    stage: Stage,
) -> Result<(), String> {
    let is_links = |kind: &&u8| **kind == DirBlockKind::Links as u8;
    while kinds.iter().filter(is_links).count() < wanted || kinds.is_empty() {
        let unused = (0..kinds.len() as u64).find(|&number| {
            kinds[number as usize] == 0 && !number.is_multiple_of(scan.nibbles_per_map())
        });
        if let Some(unused) = unused {
            kinds[unused as usize] = DirBlockKind::Links as u8;
            continue;
        }
        let number = kinds.len() as u64;
        let length = DIR_BLOCKS_START + (number + 1) * scan.md;
        content
            .set_length(round, stage, length)
            .map_err(|error| error.to_string())?;
        kinds.push(if number.is_multiple_of(scan.nibbles_per_map()) {
            DirBlockKind::Map as u8
        } else {
            DirBlockKind::Links as u8
        });
    }
    Ok(())
}

/// Link blocks with all slots free.
fn link_contents(md: u64, blocks: &[u32]) -> BTreeMap<u32, Vec<u8>> {
    let slots = ((md - DirBlockHeader::SIZE) / DirLinkGroup::SIZE) as u32;
    let empty = |_: &u32| {
        let mut bytes = vec![0; md as usize];
        let header = block_header(DirBlockKind::Links, slots, &[]);
        bytes[..DirBlockHeader::SIZE as usize].copy_from_slice(header.as_bytes());
        bytes
    };
    blocks.iter().map(|block| (*block, empty(block))).collect()
}

fn block_header(kind: DirBlockKind, slots: u32, used: &[u32]) -> DirBlockHeader {
    let mut header = DirBlockHeader::new_zeroed();
    header.version = 1.into();
    header.kind = (kind as u16).into();
    header.slots = (slots as u16).into();
    for slot in (0..slots).filter(|slot| !used.contains(slot)) {
        header.bitmap[slot as usize / 8] |= 1 << (slot % 8);
    }
    header.free = (slots as u16 - used.len() as u16).into();
    header
}

/// Puts the links of one hash slot into free places; where the first group lies.
fn chain(
    hash_slot: u32,
    entries: &[Placed],
    places: &mut dyn Iterator<Item = (u32, u32)>,
    links: &mut BTreeMap<u32, Vec<u8>>,
) -> Result<Location, String> {
    let count = entries.len().div_ceil(LINKS_PER_GROUP);
    let own: Vec<(u32, u32)> = places.take(count).collect();
    for (index, part) in entries.chunks(LINKS_PER_GROUP).enumerate() {
        let &(block, slot) = own.get(index).ok_or("too few link blocks")?;
        let mut group = DirLinkGroup::new_zeroed();
        group.hash_slot = (hash_slot as u16).into();
        group.total = LINKS_PER_GROUP as u8;
        group.free = (LINKS_PER_GROUP - part.len()) as u8;
        group.next_free = part.len() as u8;
        for (link, entry) in group.links.iter_mut().zip(part) {
            link.location = entry.location().raw().into();
            link.hash_hi = entry.hash_hi.into();
        }
        if let Some(&(block, slot)) = own.get(index + 1) {
            group.next = Location::Links { block, slot }.raw().into();
        }
        let bytes = links.get_mut(&block).ok_or("no such link block")?;
        let start = (DirBlockHeader::SIZE + u64::from(slot) * DirLinkGroup::SIZE) as usize;
        bytes[start..start + DirLinkGroup::SIZE as usize].copy_from_slice(group.as_bytes());
        let (header, _) =
            DirBlockHeader::mut_from_prefix(bytes).map_err(|_| "no block header".to_owned())?;
        header.bitmap[slot as usize / 8] &= !(1 << (slot % 8));
        header.free = (header.free.get() - 1).into();
    }
    let &(block, slot) = own.first().ok_or("too few link blocks")?;
    Ok(Location::Links { block, slot })
}

/// Writes the headers of the entry blocks; which have a free slot.
fn entry_blocks(
    round: &mut Round<'_, '_>,
    content: &Content,
    scan: &Scan,
    kinds: &[u8],
    stage: Stage,
) -> Result<BTreeMap<u32, bool>, String> {
    let mut used: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for entry in &scan.entries {
        used.entry(entry.block).or_default().push(entry.slot);
    }
    let slots = ((scan.md - DirBlockHeader::SIZE) / DirEntry6::SIZE).min(256) as u32;
    let mut free = BTreeMap::new();
    for block in 0..kinds.len() as u32 {
        if kinds[block as usize] != DirBlockKind::Entries as u8 {
            continue;
        }
        let own = used.remove(&block).unwrap_or_default();
        let header = block_header(DirBlockKind::Entries, slots, &own);
        let offset = DIR_BLOCKS_START + u64::from(block) * scan.md;
        content
            .write(round, stage, offset, header.as_bytes())
            .map_err(|error| error.to_string())?;
        free.insert(block, (own.len() as u32) < slots);
    }
    Ok(free)
}

/// Writes the allocation map.
fn maps(
    round: &mut Round<'_, '_>,
    content: &Content,
    kinds: &mut [u8],
    free: &BTreeMap<u32, bool>,
    scan: &Scan,
    stage: Stage,
) -> Result<(), String> {
    let per_map = scan.nibbles_per_map() as usize;
    for first in (0..kinds.len()).step_by(per_map) {
        let mut bytes = vec![0x88; scan.md as usize];
        bytes[..DirBlockHeader::SIZE as usize].fill(0);
        bytes[2] = DirBlockKind::Map as u8;
        for (inside, &kind) in kinds[first..].iter().take(per_map).enumerate() {
            let has_free = free.get(&((first + inside) as u32)).copied();
            let nibble = match kind {
                0 => 8,
                kind if has_free == Some(true) => kind | 4,
                kind => kind,
            };
            let byte = &mut bytes[DirBlockHeader::SIZE as usize + inside / 2];
            *byte = if inside.is_multiple_of(2) {
                *byte & 0xf | nibble << 4
            } else {
                *byte & 0xf0 | nibble
            };
        }
        let offset = DIR_BLOCKS_START + first as u64 * scan.md;
        content
            .write(round, stage, offset, &bytes)
            .map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// Makes the header's numbers right.
fn header(bytes: &mut [u8], scan: &Scan, blocks: u64) -> Result<(), String> {
    let (header, _) =
        DirHeader::mut_from_prefix(bytes).map_err(|_| "no directory header".to_owned())?;
    if !matches!(header.version.get(), DIR_VERSION | DIR_VERSION_DEBUG) {
        header.version = DIR_VERSION.into();
    }
    let count = scan.entries.len() as u32 + 2;
    header.entries = count.into();
    header.allocated = count.into();
    let maps = blocks.div_ceil(scan.nibbles_per_map());
    header.map_block_count = (maps as u32).into();
    for index in 0..MAX_MAP_BLOCKS {
        let number = if (index as u64) < maps {
            index as u64 * scan.nibbles_per_map()
        } else {
            0
        };
        header.map_blocks[index] = (number as u32).into();
    }
    Ok(())
}
