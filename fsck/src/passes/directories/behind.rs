//! What a directory has behind its end: entries that say that its length is wrong.

use std::collections::HashSet;

use vmfs_core::format::{
    DIR_BLOCKS_START, DirBlockHeader, DirBlockKind, DirEntry5, DirHeader, Family, FdAddr,
};
use zerocopy::FromBytes;

use super::flat;
use crate::content::Content;
use crate::round::Round;

/// The length that what lies behind the end tells; `None` if nothing there is the directory's.
pub(super) fn length(round: &mut Round<'_, '_>, content: &Content, most: u64) -> Option<u64> {
    if content.length() >= most {
        return None;
    }
    let mut image = content.image.clone();
    image.metadata().length = most.into();
    let whole = Content::of(round, content.fd, content.place, image);
    match round.layout.family {
        Family::Vmfs6 => hashed(round, content.length(), &whole),
        Family::Vmfs3 | Family::Vmfs5 => flat(round, content.length(), &whole),
    }
}

/// The directory's header counts its entries: with those of all blocks that stand they are as many.
fn hashed(round: &Round<'_, '_>, length: u64, whole: &Content) -> Option<u64> {
    let md = round.layout.md_block;
    let block = |number: u64| {
        let mut bytes = [0; DirBlockHeader::SIZE as usize];
        let offset = DIR_BLOCKS_START + number * md;
        whole.read(round, offset, &mut bytes).ok()?;
        DirBlockHeader::read_from_bytes(&bytes)
            .ok()
            .filter(is_sound)
    };
    let first = length.saturating_sub(DIR_BLOCKS_START) / md;
    let blocks = whole.length().checked_sub(DIR_BLOCKS_START)? / md;
    if first >= blocks {
        return None;
    }
    block(first)?;
    let mut bytes = [0; DirHeader::SIZE as usize];
    whole.read(round, 0, &mut bytes).ok()?;
    let header = DirHeader::read_from_bytes(&bytes).ok()?;
    let mut entries = 2_u64;
    let mut end = 0;
    let mut counted_before = false;
    for number in 0..blocks {
        counted_before |= number == first && entries == u64::from(header.entries.get());
        let Some(block) = block(number) else {
            if number < first {
                continue;
            }
            break;
        };
        if block.kind.get() == DirBlockKind::Entries as u16 {
            entries += u64::from(block.slots.get() - block.free.get());
        }
        end = number + 1;
    }
    let counts = entries == u64::from(header.entries.get());
    (counts && !counted_before).then_some(DIR_BLOCKS_START + end * md)
}

fn is_sound(block: &DirBlockHeader) -> bool {
    let of_kind = |kind: DirBlockKind| block.kind.get() == kind as u16;
    let has_slots = of_kind(DirBlockKind::Entries) || of_kind(DirBlockKind::Links);
    let slots = block.slots.get();
    has_slots && block.version.get() == 1 && slots > 0 && block.free.get() <= slots
        || of_kind(DirBlockKind::Map) && block.version.get() == 0
}

/// Each entry behind the end is that of a file which has no other name: what was taken out of the directory is gone,
/// or has one elsewhere.
fn flat(round: &mut Round<'_, '_>, length: u64, whole: &Content) -> Option<u64> {
    let first = length / DirEntry5::SIZE;
    let count = whole.length() / DirEntry5::SIZE;
    let mut end = first;
    for number in first..count {
        let mut bytes = [0; DirEntry5::SIZE as usize];
        whole
            .read(round, number * DirEntry5::SIZE, &mut bytes)
            .ok()?;
        let entry = DirEntry5::read_from_bytes(&bytes).ok()?;
        if !is_its_own(round, whole.fd, number, &entry) {
            break;
        }
        end = number + 1;
    }
    (end > first && end > 2).then_some(end * DirEntry5::SIZE)
}

/// Whether an entry with this number is the directory's, although behind its end.
fn is_its_own(
    round: &mut Round<'_, '_>,
    directory: FdAddr,
    number: u64,
    entry: &DirEntry5,
) -> bool {
    let Some(fd) = FdAddr::from_raw(entry.fd.get()) else {
        return false;
    };
    match number {
        0 => return fd == directory && entry.name() == b".",
        1 => return entry.name() == b"..",
        _ => {}
    }
    let same = round.files.get(&fd).is_some_and(|seen| {
        entry.generation.get() == seen.generation && entry.kind.get() == seen.kind as u32
    });
    if !same || entry.name().is_empty() {
        return false;
    }
    if round.named_by_entries.is_none() {
        let named = named(round);
        round.named_by_entries = Some(named);
    }
    let named = round.named_by_entries.as_ref();
    named.is_some_and(|named| !named.contains(&fd))
}

/// All files that a directory has an entry for before its end.
fn named(round: &mut Round<'_, '_>) -> HashSet<FdAddr> {
    let mut named = HashSet::new();
    for fd in round.directories.clone() {
        let Ok(mut content) = Content::open(round, fd) else {
            continue;
        };
        let length = content.length().min(super::mapped(round, &content));
        content.image.metadata().length = length.min(super::MAX_DIRECTORY).into();
        // What can't be read names nothing.
        let _ = flat::for_each(round, &mut content, &mut |_, _, index, raw| {
            let fd = FdAddr::from_raw(raw.fd.get()).filter(|_| index >= 2);
            named.extend(fd);
            true
        });
    }
    named
}
