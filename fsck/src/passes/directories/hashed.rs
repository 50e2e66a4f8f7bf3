//! Directories of VMFS6: blocks of entries and of link groups, found through a hash table.

use std::collections::HashMap;

use vmfs_core::format::{
    At, DIR_BLOCKS_START, DIR_VERSION, DIR_VERSION_DEBUG, DirBlockHeader, DirBlockKind, DirEntry6,
    DirHeader, DirLinkGroup, FdAddr, FileKind, HASH_SLOTS, LINKS_PER_GROUP, Location, NameHash,
    name_hash, system_file_hash,
};
use zerocopy::{FromBytes, IntoBytes};

use super::entry::{Entry, Names, Verdict, judge};
use super::rebuild;
use crate::code::Code;
use crate::content::Content;
use crate::finding::Finding;
use crate::plan::Stage;
use crate::round::Round;

/// Blocks read at a time.
const AT_ONCE: u64 = 16;

/// An entry that stays.
#[derive(Debug, Clone, Copy)]
pub(super) struct Placed {
    pub(super) block: u32,
    pub(super) slot: u32,
    pub(super) hash_slot: u32,
    pub(super) hash_hi: u16,
}

impl Placed {
    pub(super) fn location(&self) -> Location {
        Location::Entry {
            block: self.block,
            slot: self.slot,
        }
    }
}

/// A directory as it stands.
pub(super) struct Scan {
    /// The header, the hash table and what is behind it.
    pub(super) head: Vec<u8>,
    /// What each block holds: 1 entries, 2 links, 3 a map, 0 nothing.
    pub(super) kinds: Vec<u8>,
    pub(super) entries: Vec<Placed>,
    pub(super) groups: HashMap<(u32, u32), DirLinkGroup>,
    /// Slots to be cleared.
    pub(super) cleared: Vec<(u32, u32)>,
    /// What is wrong with the structure around the entries.
    problems: Vec<String>,
    pub(super) in_root: bool,
    pub(super) md: u64,
}

impl Scan {
    pub(super) fn nibbles_per_map(&self) -> u64 {
        (self.md - DirBlockHeader::SIZE) * 2
    }

    fn problem(&mut self, problem: impl FnOnce() -> String) {
        if self.problems.len() < 1000 {
            self.problems.push(problem());
        }
    }
}

/// Where slot `slot` of block `block` lies in a directory with blocks of `md` bytes.
pub(super) fn slot_offset(md: u64, block: u32, slot: u32, size: u64) -> u64 {
    DIR_BLOCKS_START + u64::from(block) * md + DirBlockHeader::SIZE + u64::from(slot) * size
}

pub(super) fn run(round: &mut Round<'_, '_>, content: &mut Content) -> Result<(), String> {
    let mut scan = scan(round, content)?;
    let unreachable = chains(&mut scan);
    let counts = scan.entries.len() as u32 + 2;
    let header = header_of(&scan.head)?;
    for (field, found) in [("entries", header.entries), ("allocated", header.allocated)] {
        if found.get() != counts && scan.cleared.is_empty() {
            scan.problem(|| format!("{field} is {found}, expected {counts}"));
        }
    }
    let mut rebuild = !scan.cleared.is_empty();
    if let Some(first) = unreachable.first() {
        let name = entry_at(round, content, &scan, first).map_or_else(String::new, |entry| {
            String::from_utf8_lossy(entry.name()).into_owned()
        });
        let finding = Finding::new(
            Code::EntryNotFoundByHash,
            format!("directory {}", content.fd),
            format!(
                "{} of {} names can't be found by their hash, the first {name:?}",
                unreachable.len(),
                scan.entries.len()
            ),
        )
        .at_volume(content.place.0)
        .repair("build the hash table anew from the entries");
        rebuild |= round.found(finding);
    }
    if let Some(first) = scan.problems.first() {
        let more = match scan.problems.len() {
            1 => String::new(),
            count => format!("; {} more", count - 1),
        };
        let finding = Finding::new(
            Code::DirectoryStructure,
            format!("directory {}", content.fd),
            format!("{first}{more}"),
        )
        .at_volume(content.place.0)
        .repair("build header, hash table, links and allocation map anew from the entries");
        rebuild |= round.found(finding);
    }
    if rebuild {
        let stage = if scan.cleared.is_empty() {
            Stage::Refer
        } else {
            Stage::Remove
        };
        rebuild::run(round, content, &scan, stage)?;
    }
    dot(round, content)
}

fn header_of(head: &[u8]) -> Result<DirHeader, String> {
    let (header, _) = DirHeader::read_from_prefix(head).map_err(|_| "no header".to_owned())?;
    Ok(header)
}

/// `.` must lead to the directory itself, `..` to some directory; where it must lead is known when
/// all were looked at.
fn dot(round: &mut Round<'_, '_>, content: &Content) -> Result<(), String> {
    let text = |error: vmfs_core::resource::MetaError| error.to_string();
    let mut head = vec![0; DirHeader::SIZE as usize];
    content.read(round, 0, &mut head).map_err(text)?;
    let header = header_of(&head)?;
    let generation = round
        .files
        .get(&content.fd)
        .map_or(0, |seen| seen.generation);
    let this_at = std::mem::offset_of!(DirHeader, this) as u64;
    let parent_at = std::mem::offset_of!(DirHeader, parent) as u64;
    let mut this = header.this.clone();
    let expected = (content.fd.raw(), generation, this_at);
    let found = (this.fd.get(), this.generation.get(), this.offset.get());
    // The system file that is a directory is called one here or a system file.
    let kind = this.kind.get();
    let right = kind == FileKind::Directory as u32 || kind == content.image.meta().kind.get();
    if found != expected || !right || this.name() != b"." {
        let finding = Finding::new(
            Code::DotsWrong,
            format!("directory {}", content.fd),
            format!(
                ". is {:?} naming {:#x} of generation {}, expected {:#x} of generation {generation}",
                String::from_utf8_lossy(this.name()),
                this.fd,
                this.generation,
                content.fd.raw()
            ),
        )
        .at_volume(content.place.0)
        .repair("write it anew");
        if round.found(finding) {
            this = dots(".", content.fd, generation, this_at);
            content
                .write(round, Stage::Refer, this_at, this.as_bytes())
                .map_err(text)?;
        }
    }
    let parent = &header.parent;
    if FdAddr::from_raw(parent.fd.get()).is_none() || parent.name() != b".." {
        let finding = Finding::new(
            Code::DotsWrong,
            format!("directory {}", content.fd),
            format!(
                ".. is {:?} naming {:#x}",
                String::from_utf8_lossy(parent.name()),
                parent.fd
            ),
        )
        .at_volume(content.place.0)
        .repair("write it anew");
        if round.found(finding) {
            // The pass over connectivity has it lead to where it must.
            let parent = dots("..", FdAddr::ROOT, 1, parent_at);
            content
                .write(round, Stage::Refer, parent_at, parent.as_bytes())
                .map_err(text)?;
        }
    }
    Ok(())
}

fn dots(name: &str, fd: FdAddr, generation: u32, offset: u64) -> DirEntry6 {
    let mut entry: DirEntry6 = zerocopy::FromZeros::new_zeroed();
    entry.kind = (FileKind::Directory as u32).into();
    entry.fd = fd.raw().into();
    entry.generation = generation.into();
    entry.offset = offset.into();
    entry.name[..name.len()].copy_from_slice(name.as_bytes());
    entry
}

fn scan(round: &mut Round<'_, '_>, content: &mut Content) -> Result<Scan, String> {
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
                entry_in(raw, slot).is_some_and(|entry| knows_itself(&entry, scan, number, slot))
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
        let Some(entry) = entry_in(raw, slot) else {
            continue;
        };
        if used && sound {
            take_in(round, content, scan, (number, slot, &entry), names);
        } else if knows_itself(&entry, scan, number, slot) && is_lost(round, &entry, names) {
            let name = String::from_utf8_lossy(entry.name()).into_owned();
            scan.problem(|| format!("the entry {name:?} is marked free"));
            take_in(round, content, scan, (number, slot, &entry), names);
        }
    }
    Ok(())
}

fn entry_in(raw: &[u8], slot: u32) -> Option<DirEntry6> {
    let start = (DirBlockHeader::SIZE + u64::from(slot) * DirEntry6::SIZE) as usize;
    let (entry, _) = DirEntry6::read_from_prefix(raw.get(start..)?).ok()?;
    Some(entry)
}

fn entry_at(
    round: &Round<'_, '_>,
    content: &Content,
    scan: &Scan,
    place: &Placed,
) -> Option<DirEntry6> {
    let mut entry: DirEntry6 = zerocopy::FromZeros::new_zeroed();
    let offset = slot_offset(scan.md, place.block, place.slot, DirEntry6::SIZE);
    content.read(round, offset, entry.as_mut_bytes()).ok()?;
    Some(entry)
}

/// The hash fields that an entry of this name has.
fn stored_hash(name: &[u8], in_root: bool, hash: NameHash) -> (u16, u16) {
    if in_root && system_file_hash(name).is_some() {
        (0, 0)
    } else {
        (hash.lo, hash.hi)
    }
}

/// Whether an entry says that it lies where it does and has the hash of its name.
fn knows_itself(entry: &DirEntry6, scan: &Scan, block: u32, slot: u32) -> bool {
    let name = entry.name();
    let hash = name_hash(name, scan.in_root);
    !name.is_empty()
        && entry.offset.get() == slot_offset(scan.md, block, slot, DirEntry6::SIZE)
        && (entry.hash_lo.get(), entry.hash_hi.get()) == stored_hash(name, scan.in_root, hash)
}

/// Whether an entry that is marked free is the only name of a file that is in use.
fn is_lost(round: &Round<'_, '_>, entry: &DirEntry6, _: &Names) -> bool {
    let Some(fd) = FdAddr::from_raw(entry.fd.get()) else {
        return false;
    };
    let Some(seen) = round.files.get(&fd) else {
        return false;
    };
    seen.generation == entry.generation.get()
        && seen.kind as u32 == entry.kind.get()
        && seen.names < seen.links
        && !(seen.is_directory && seen.found_in.is_some())
}

/// Judges an entry in use and does what was decided.
fn take_in(
    round: &mut Round<'_, '_>,
    content: &mut Content,
    scan: &mut Scan,
    (block, slot, raw): (u32, u32, &DirEntry6),
    names: &mut Names,
) {
    let offset = slot_offset(scan.md, block, slot, DirEntry6::SIZE);
    let name = raw.name();
    let entry = Entry {
        name,
        kind: raw.kind.get(),
        fd: raw.fd.get(),
        generation: raw.generation.get(),
        offset,
        damage: (name.len() >= raw.name.len()).then(|| "its name doesn't end".to_owned()),
    };
    let verdict = judge(round, content, &entry, names);
    if verdict == Verdict::Remove {
        if let Some(fd) = FdAddr::from_raw(entry.fd) {
            round.remember_name(fd, name);
        }
        scan.cleared.push((block, slot));
        return;
    }
    let hash = name_hash(name, scan.in_root);
    let mut fixed = raw.clone();
    let stored = stored_hash(name, scan.in_root, hash);
    let own = (raw.offset.get(), (raw.hash_lo.get(), raw.hash_hi.get()));
    if own != (offset, stored) {
        let finding = Finding::new(
            Code::EntryDamaged,
            format!(
                "entry {:?} of directory {}",
                String::from_utf8_lossy(name),
                content.fd
            ),
            format!(
                "its own offset is {:#x} and its hash {:#x}, {:#x}, expected {offset:#x} and {:#x}, {:#x}",
                raw.offset, raw.hash_lo, raw.hash_hi, stored.0, stored.1
            ),
        )
        .at(At::File {
            fd: content.fd.raw(),
            offset,
        })
        .repair("write offset and hash of the name")
        .loses("the right name, if it is the name that was damaged");
        if round.found(finding) {
            fixed.offset = offset.into();
            fixed.hash_lo = stored.0.into();
            fixed.hash_hi = stored.1.into();
        }
    }
    if let Verdict::Fix(kind, generation) = verdict {
        fixed.kind = (kind as u32).into();
        fixed.generation = generation.into();
    }
    if fixed.as_bytes() != raw.as_bytes() {
        // It was read from there.
        let _ = content.write(round, Stage::Refer, offset, fixed.as_bytes());
    }
    scan.entries.push(Placed {
        block,
        slot,
        hash_slot: hash.slot,
        hash_hi: hash.hi,
    });
}

/// Follows every hash slot; the entries that aren't reached through theirs.
fn chains(scan: &mut Scan) -> Vec<Placed> {
    let mut by_location: HashMap<u32, usize> = HashMap::with_capacity(scan.entries.len());
    for (index, entry) in scan.entries.iter().enumerate() {
        by_location.insert(entry.location().raw(), index);
    }
    let mut reached = vec![false; scan.entries.len()];
    let mut groups = std::mem::take(&mut scan.groups);
    for slot in 0..HASH_SLOTS {
        let at = (DirHeader::SIZE + u64::from(slot) * 4) as usize;
        let raw = super::super::maps::little_endian(&scan.head[at..at + 4]) as u32;
        let mut links = Vec::new();
        let mut next = Location::from_raw(raw);
        let mut chained = 0;
        while let Location::Links { block, slot: place } = next {
            let Some(group) = groups.remove(&(block, place)) else {
                scan.problem(|| {
                    format!("hash slot {slot} leads to a group in block {block} that isn't there")
                });
                next = Location::Empty;
                break;
            };
            chained += 1;
            let used = usize::from(12_u8.saturating_sub(group.free));
            if u32::from(group.hash_slot.get()) != slot
                || group.total != LINKS_PER_GROUP as u8
                || group.free > 11
                || usize::from(group.next_free) != used
            {
                scan.problem(|| format!("a link group of hash slot {slot} has wrong counts"));
            }
            for link in group.links.iter().take(used.min(LINKS_PER_GROUP)) {
                links.push((link.location.get(), Some(link.hash_hi.get())));
            }
            next = Location::from_raw(group.next.get());
        }
        match next {
            Location::Empty => {}
            Location::Entry { .. } if chained == 0 => links.push((next.raw(), None)),
            other => scan.problem(|| format!("hash slot {slot} leads to {other:?}")),
        }
        for (raw, hash_hi) in links {
            let index = by_location.get(&raw).copied();
            let entry = index.and_then(|index| scan.entries.get(index).copied());
            let right = entry.is_some_and(|entry| {
                entry.hash_slot == slot && hash_hi.is_none_or(|hi| hi == entry.hash_hi)
            });
            match index.and_then(|index| reached.get_mut(index)) {
                Some(reached) if right && !*reached => *reached = true,
                // The slot of an entry that goes is taken out along with it.
                _ if scan.cleared.is_empty() => scan.problem(|| {
                    format!("hash slot {slot} leads to {raw:#x}, which isn't one of its names")
                }),
                _ => {}
            }
        }
    }
    if !groups.is_empty() && scan.cleared.is_empty() {
        scan.problem(|| format!("{} link groups belong to no hash slot", groups.len()));
    }
    let entries = scan.entries.iter().zip(reached);
    entries
        .filter(|(_, reached)| !reached)
        .map(|(entry, _)| *entry)
        .collect()
}

/// The name that a directory has for `fd`.
pub(super) fn name_of(round: &mut Round<'_, '_>, content: &Content, fd: FdAddr) -> Option<Vec<u8>> {
    let md = round.layout.md_block;
    let blocks = content.length().saturating_sub(DIR_BLOCKS_START) / md;
    let mut raw = vec![0; md as usize];
    for number in 0..blocks {
        content
            .read(round, DIR_BLOCKS_START + number * md, &mut raw)
            .ok()?;
        let (header, _) = DirBlockHeader::read_from_prefix(&raw).ok()?;
        if header.kind.get() != DirBlockKind::Entries as u16 {
            continue;
        }
        let slots = ((md - DirBlockHeader::SIZE) / DirEntry6::SIZE) as u32;
        for slot in (0..slots).filter(|&slot| header.is_used(slot)) {
            let entry = entry_in(&raw, slot)?;
            if entry.fd.get() == fd.raw() {
                return Some(entry.name().to_vec());
            }
        }
    }
    None
}
