//! Directories of VMFS6: blocks of entries and of link groups, found through a hash table.

mod chains;
mod entries;
mod scan;

use std::collections::HashMap;

use vmfs_core::format::{
    DIR_BLOCKS_START, DirBlockHeader, DirBlockKind, DirEntry6, DirHeader, DirLinkGroup, FdAddr,
    Location,
};
use zerocopy::FromBytes;

use super::{dots, rebuild};
use crate::code::Code;
use crate::content::Content;
use crate::finding::Finding;
use crate::plan::Stage;
use crate::round::Round;

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
    let mut scan = scan::run(round, content)?;
    let unreachable = chains::run(&mut scan);
    let counts = scan.entries.len() as u32 + 2;
    let header = header_of(&scan.head)?;
    for (field, found) in [("entries", header.entries), ("allocated", header.allocated)] {
        if found.get() != counts && scan.cleared.is_empty() {
            scan.problem(|| format!("{field} is {found}, expected {counts}"));
        }
    }
    let mut rebuild = !scan.cleared.is_empty();
    if let Some(first) = unreachable.first() {
        let name = entries::at(round, content, &scan, first).map_or_else(String::new, |entry| {
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
    dots::hashed(round, content)
}

pub(super) fn header_of(head: &[u8]) -> Result<DirHeader, String> {
    let (header, _) = DirHeader::read_from_prefix(head).map_err(|_| "no header".to_owned())?;
    Ok(header)
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
            let entry = entries::in_block(&raw, slot)?;
            if entry.fd.get() == fd.raw() {
                return Some(entry.name().to_vec());
            }
        }
    }
    None
}
