//! What the blocks of a directory hold, against their headers and the allocation map.

use std::collections::HashMap;

use vmfs_core::format::{
    DIR_BLOCKS_START, DIR_VERSION, DIR_VERSION_DEBUG, DirBlockHeader, DirBlockKind, DirEntry6,
    DirLinkGroup, FdAddr,
};
use zerocopy::FromBytes;

use super::{Scan, entries, header_of};
use crate::content::Content;
use crate::passes::directories::entry::Names;
use crate::round::Round;

/// Blocks read at a time.
const AT_ONCE: u64 = 16;

/// Looks at every block.
pub(super) fn run(round: &mut Round<'_, '_>, content: &mut Content) -> Result<Scan, String> {
    let md = round.layout.md_block;
    let mut head = vec![0; DIR_BLOCKS_START as usize];
    content
        .read(round, 0, &mut head)
        .map_err(|error| error.to_string())?;
    let blocks = content.length().saturating_sub(DIR_BLOCKS_START) / md;
    let mut scan = Scan {
        head,
        kinds: vec![0; blocks as usize],
        entries: Vec::new(),
        groups: HashMap::new(),
        cleared: Vec::new(),
        problems: Vec::new(),
        in_root: content.fd == FdAddr::ROOT,
        md,
    };
    check_header(&mut scan, blocks)?;
    let mut names = Names::new();
    let per_map = scan.nibbles_per_map();
    let mut map = vec![0; md as usize];
    for first in (0..blocks).step_by(AT_ONCE as usize) {
        let count = AT_ONCE.min(blocks - first);
        let offset = DIR_BLOCKS_START + first * md;
        if first % per_map != 0 && content.is_hole(round, offset, count * md) {
            scan.problem(|| format!("block {first} and others were never written"));
            continue;
        }
        let mut bytes = vec![0; (count * md) as usize];
        content
            .read(round, DIR_BLOCKS_START + first * md, &mut bytes)
            .map_err(|error| error.to_string())?;
        for (number, raw) in (first..).zip(bytes.chunks_exact(md as usize)) {
            if number % per_map == 0 {
                map.copy_from_slice(raw);
                check_map(&mut scan, number, &map, blocks);
                scan.kinds[number as usize] = DirBlockKind::Map as u8;
                continue;
            }
            let inside = (number % per_map) as usize;
            let byte = map[DirBlockHeader::SIZE as usize + inside / 2];
            let nibble = byte >> (if inside.is_multiple_of(2) { 4 } else { 0 }) & 0xf;
            block(
                round,
                content,
                &mut scan,
                (number as u32, raw, nibble),
                &mut names,
            )?;
        }
    }
    Ok(scan)
}

fn check_header(scan: &mut Scan, blocks: u64) -> Result<(), String> {
    let header = header_of(&scan.head)?;
    let version = header.version.get();
    if !matches!(version, DIR_VERSION | DIR_VERSION_DEBUG) {
        scan.problem(|| format!("version is {version:#x}, expected {DIR_VERSION:#x}"));
    }
    let per_map = scan.nibbles_per_map();
    let maps = blocks.div_ceil(per_map);
    let count = header.map_block_count.get();
    if u64::from(count) != maps {
        scan.problem(|| format!("it has {count} allocation map blocks, expected {maps}"));
    }
    for (index, place) in (0..maps).zip(&header.map_blocks) {
        let expected = index * per_map;
        if u64::from(place.get()) != expected {
            scan.problem(|| {
                format!("allocation map block {index} is block {place}, expected {expected}")
            });
        }
    }
    Ok(())
}

fn check_map(scan: &mut Scan, number: u64, map: &[u8], blocks: u64) {
    let right = map[..4] == [0, 0, DirBlockKind::Map as u8, 0];
    let own = map[DirBlockHeader::SIZE as usize] >> 4;
    if !right || own != DirBlockKind::Map as u8 {
        scan.problem(|| format!("block {number} is no allocation map"));
    }
    let per_map = scan.nibbles_per_map();
    let last = (number + per_map).min(blocks);
    let behind = (last - number) as usize;
    let nibbles = (behind..per_map as usize).map(|inside| {
        let byte = map[DirBlockHeader::SIZE as usize + inside / 2];
        byte >> (if inside.is_multiple_of(2) { 4 } else { 0 }) & 0xf
    });
    if let Some(wrong) = nibbles.into_iter().find(|&nibble| nibble != 8) {
        scan.problem(|| {
            format!("the allocation map has {wrong} for a block behind the last, expected 8")
        });
    }
}

/// Takes in a block that isn't a map: its number, bytes, and what the map says of it.
fn block(
    round: &mut Round<'_, '_>,
    content: &mut Content,
    scan: &mut Scan,
    (number, raw, nibble): (u32, &[u8], u8),
    names: &mut Names,
) -> Result<(), String> {
    let (header, _) =
        DirBlockHeader::read_from_prefix(raw).map_err(|_| "no block header".to_owned())?;
    let kind = match header.kind.get() {
        1 => DirBlockKind::Entries,
        2 => DirBlockKind::Links,
        0 if nibble == 8 && raw.iter().all(|&byte| byte == 0) => return Ok(()),
        other => {
            scan.problem(|| format!("block {number} is of type {other}, expected 1 or 2"));
            let slots = (scan.md - DirBlockHeader::SIZE) / DirEntry6::SIZE;
            let holds = (0..slots as u32).any(|slot| {
                entries::in_block(raw, slot)
                    .is_some_and(|entry| entries::knows_itself(&entry, scan, number, slot))
            });
            if holds {
                DirBlockKind::Entries
            } else {
                DirBlockKind::Links
            }
        }
    };
    let sound = header.kind.get() == kind as u16;
    scan.kinds[number as usize] = kind as u8;
    let size = match kind {
        DirBlockKind::Entries => DirEntry6::SIZE,
        _ => DirLinkGroup::SIZE,
    };
    let slots = ((scan.md - DirBlockHeader::SIZE) / size).min(256) as u32;
    let free = (0..slots).filter(|&slot| !header.is_used(slot)).count() as u32;
    let all: u32 = header.bitmap.iter().map(|byte| byte.count_ones()).sum();
    let version = header.version.get();
    if sound
        && (
            version,
            u32::from(header.slots.get()),
            u32::from(header.free.get()),
        ) != (1, slots, free)
    {
        scan.problem(|| {
            format!(
                "block {number} has version {version}, {} slots, {} free, expected 1, {slots}, {free}",
                header.slots, header.free
            )
        });
    }
    if sound && all != free {
        scan.problem(|| format!("block {number} has bits behind its last slot"));
    }
    let expected = kind as u8 | if free > 0 { 4 } else { 0 };
    if sound && nibble != expected {
        scan.problem(|| {
            format!("the allocation map has {nibble} for block {number}, expected {expected}")
        });
    }
    for slot in 0..slots {
        let used = header.is_used(slot);
        if kind == DirBlockKind::Links {
            if used && sound {
                let start = (DirBlockHeader::SIZE + u64::from(slot) * size) as usize;
                let group = raw.get(start..).unwrap_or_default();
                if let Ok((group, _)) = DirLinkGroup::read_from_prefix(group) {
                    scan.groups.insert((number, slot), group);
                }
            }
            continue;
        }
        let Some(entry) = entries::in_block(raw, slot) else {
            continue;
        };
        if used && sound {
            entries::take_in(round, content, scan, (number, slot, &entry), names);
        } else if entries::knows_itself(&entry, scan, number, slot)
            && entries::is_lost(round, &entry)
        {
            let name = String::from_utf8_lossy(entry.name()).into_owned();
            scan.problem(|| format!("the entry {name:?} is marked free"));
            entries::take_in(round, content, scan, (number, slot, &entry), names);
        }
    }
    Ok(())
}
