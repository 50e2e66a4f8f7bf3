//! How entries are found: hash slots and link groups.

use std::collections::HashMap;

use vmfs_core::format::{DirHeader, HASH_SLOTS, LINKS_PER_GROUP, Location};

use super::{Placed, Scan};
use crate::passes::maps::little_endian;

/// Follows every hash slot; the entries that aren't reached through theirs.
pub(super) fn run(scan: &mut Scan) -> Vec<Placed> {
    let mut by_location: HashMap<u32, usize> = HashMap::with_capacity(scan.entries.len());
    for (index, entry) in scan.entries.iter().enumerate() {
        by_location.insert(entry.location().raw(), index);
    }
    let mut reached = vec![false; scan.entries.len()];
    let mut groups = std::mem::take(&mut scan.groups);
    for slot in 0..HASH_SLOTS {
        let at = (DirHeader::SIZE + u64::from(slot) * 4) as usize;
        let raw = little_endian(&scan.head[at..at + 4]) as u32;
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
