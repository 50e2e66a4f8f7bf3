//! The structure of a directory, checked without the code that changes it.

use std::collections::{BTreeMap, BTreeSet};

use zerocopy::FromBytes;

use super::memory::{Names, Subject};
use crate::format::{
    DIR_BLOCKS_START, DIR_VERSION, DirBlockHeader, DirEntry5, DirEntry6, DirHeader, DirLinkGroup,
    FdAddr, FileKind, HASH_SLOTS, Location, name_hash, system_file_hash,
};

/// Fails unless a VMFS5 directory has the names that it should, and no gap.
pub(super) fn flat(subject: &Subject) {
    let bytes = &subject.content.bytes;
    assert_eq!(bytes.len(), 140 * (subject.names.len() + 2));
    let mut found = Names::new();
    for (number, raw) in bytes.chunks(140).enumerate() {
        let entry = DirEntry5::ref_from_bytes(raw).expect("an entry");
        let name = entry.name();
        assert!(entry.name[name.len()..].iter().all(|&byte| byte == 0));
        let fields = (entry.kind.get(), entry.fd.get(), entry.generation.get());
        let target = (
            FdAddr::from_raw(fields.1).expect("a file"),
            FileKind::from_raw(fields.0).expect("a kind"),
            fields.2,
        );
        match number {
            0 => assert_eq!((name, target), (&b"."[..], dot(Subject::THIS))),
            1 => assert_eq!((name, target), (&b".."[..], dot(Subject::PARENT))),
            _ => assert_eq!(found.insert(name.to_vec(), target), None, "twice"),
        }
    }
    assert_eq!(found, subject.names);
}

fn dot((fd, generation): (FdAddr, u32)) -> (FdAddr, FileKind, u32) {
    (fd, FileKind::Directory, generation)
}

/// What a VMFS6 directory's blocks hold, by block and slot.
#[derive(Default)]
struct Found {
    entries: BTreeMap<(u32, u32), DirEntry6>,
    groups: BTreeMap<(u32, u32), DirLinkGroup>,
}

/// Fails unless a VMFS6 directory is whole and has the names that it should.
pub(super) fn hashed(subject: &Subject) {
    let bytes = &subject.content.bytes;
    let md = subject.layout.md_block as usize;
    let per_map = 2 * (md - 64);
    assert_eq!((bytes.len() - 0x1_0000) % md, 0);
    let blocks = (bytes.len() - 0x1_0000) / md;
    header(subject, blocks.div_ceil(per_map), per_map as u32);
    assert_eq!(bytes[0xfffc..0x1_0000], [0; 4]);
    let mut found = Found::default();
    for number in 0..blocks {
        let nibble = nibble(bytes, md, number);
        let raw = &bytes[0x1_0000 + number * md..][..md];
        if number % per_map == 0 {
            assert_eq!((nibble, raw[..64].to_vec()), (3, map_header()), "{number}");
            continue;
        }
        block(&mut found, number as u32, md, raw, nibble);
    }
    // What is behind the last block was never written.
    for number in blocks..blocks.next_multiple_of(per_map) {
        assert_eq!(nibble(bytes, md, number), 8, "{number} of {blocks}");
    }
    names(subject, &found);
    chains(subject, found);
}

fn header(subject: &Subject, maps: usize, per_map: u32) {
    let (header, _) = DirHeader::ref_from_prefix(&subject.content.bytes).expect("a header");
    let entries = subject.names.len() as u32 + 2;
    assert_eq!(header.version.get(), DIR_VERSION);
    assert_eq!(
        (header.entries.get(), header.allocated.get()),
        (entries, entries)
    );
    assert_eq!(header.map_block_count.get() as usize, maps);
    for (index, place) in (0_u32..).zip(&header.map_blocks) {
        let expected = if (index as usize) < maps {
            index * per_map
        } else {
            0
        };
        assert_eq!(place.get(), expected);
    }
    assert!(header.unknown.iter().all(|&byte| byte == 0));
    assert_eq!((header.checksum.get(), header.checksum_gen.get()), (0, 0));
    let dots = [
        (&header.this, 0x3b8, &b"."[..], Subject::THIS),
        (&header.parent, 0x4d8, b"..", Subject::PARENT),
    ];
    for (entry, offset, name, (fd, generation)) in dots {
        assert_eq!((entry.name(), entry.offset.get()), (name, offset));
        assert_eq!(entry.kind.get(), 2);
        assert_eq!((entry.hash_lo.get(), entry.hash_hi.get()), (0, 0));
        assert_eq!(
            (entry.fd.get(), entry.generation.get()),
            (fd.raw(), generation)
        );
    }
}

fn map_header() -> Vec<u8> {
    let mut header = vec![0; 64];
    header[2] = 3;
    header
}

/// What the allocation map says of a block.
fn nibble(bytes: &[u8], md: usize, number: usize) -> u8 {
    let per_map = 2 * (md - 64);
    let map = 0x1_0000 + number / per_map * per_map * md + 64;
    let byte = bytes[map + number % per_map / 2];
    if number.is_multiple_of(2) {
        byte >> 4
    } else {
        byte & 0xf
    }
}

fn block(found: &mut Found, number: u32, md: usize, raw: &[u8], nibble: u8) {
    let (header, slots) = DirBlockHeader::ref_from_prefix(raw).expect("a block");
    let size = match header.kind.get() {
        1 => 288,
        2 => 84,
        other => panic!("block {number} of type {other}"),
    };
    // A location has eight bits for the slot.
    let expected = ((md - 64) / size).min(256) as u32;
    assert_eq!(
        (header.version.get(), u32::from(header.slots.get())),
        (1, expected)
    );
    let bits: u32 = header.bitmap.iter().map(|byte| byte.count_ones()).sum();
    let free = (0..expected).filter(|&slot| !header.is_used(slot)).count() as u32;
    assert_eq!(bits, free, "bits behind the last slot");
    assert_eq!(u32::from(header.free.get()), free);
    assert_eq!(
        nibble,
        header.kind.get() as u8 | if free > 0 { 4 } else { 0 },
        "{number}"
    );
    for slot in 0..expected {
        let raw = &slots[slot as usize * size..][..size];
        if !header.is_used(slot) {
            // Not all readers look at the bitmap.
            assert!(
                raw.iter().all(|&byte| byte == 0),
                "{number}, {slot} is free"
            );
        } else if size == 288 {
            let entry = DirEntry6::read_from_bytes(raw).expect("an entry");
            let place = DIR_BLOCKS_START as usize + number as usize * md + 64;
            assert_eq!(
                entry.offset.get(),
                (place + slot as usize * size) as u64,
                "{number}, {slot}"
            );
            found.entries.insert((number, slot), entry);
        } else {
            let group = DirLinkGroup::read_from_bytes(raw).expect("a group");
            found.groups.insert((number, slot), group);
        }
    }
}

fn names(subject: &Subject, found: &Found) {
    let mut names = Names::new();
    for entry in found.entries.values() {
        let name = entry.name();
        assert!(entry.name[name.len()..].iter().all(|&byte| byte == 0));
        assert_eq!(entry.unknown.get(), 0);
        let hash = name_hash(name, subject.in_root);
        let kept = if subject.in_root && system_file_hash(name).is_some() {
            (0, 0)
        } else {
            (hash.lo, hash.hi)
        };
        assert_eq!((entry.hash_lo.get(), entry.hash_hi.get()), kept);
        let target = (
            FdAddr::from_raw(entry.fd.get()).expect("a file"),
            FileKind::from_raw(entry.kind.get()).expect("a kind"),
            entry.generation.get(),
        );
        assert_eq!(names.insert(name.to_vec(), target), None, "twice: {name:?}");
    }
    assert!(names == subject.names);
}

/// Every entry is reached through its own hash slot, once; every group is part of one chain.
fn chains(subject: &Subject, mut found: Found) {
    for slot in 0..HASH_SLOTS {
        let at = 0x5f8 + 4 * slot as usize;
        let raw: [u8; 4] = subject.content.bytes[at..at + 4]
            .try_into()
            .expect("a slot");
        let mut links = Vec::new();
        let mut next = Location::from_raw(u32::from_le_bytes(raw));
        let mut groups = 0;
        while let Location::Links { block, slot: place } = next {
            let group = found
                .groups
                .remove(&(block, place))
                .expect("a group in use");
            groups += 1;
            assert_eq!(u32::from(group.hash_slot.get()), slot);
            assert_eq!((group.total, group.pad1, group.pad2.get()), (12, 0, 0));
            let used = usize::from(12 - group.free);
            assert!(used > 0, "an empty group");
            assert_eq!(usize::from(group.next_free), used);
            let (taken, free) = group.links.split_at(used);
            links.extend(
                taken
                    .iter()
                    .map(|link| (link.location.get(), link.hash_hi.get())),
            );
            let free = free
                .iter()
                .map(|link| (link.location.get(), link.hash_hi.get()));
            assert!({ free }.all(|link| link == (0, 0)), "a free link");
            next = Location::from_raw(group.next.get());
        }
        match next {
            Location::Empty => {}
            Location::Entry { block, slot: place } if groups == 0 => {
                let entry = &found.entries[&(block, place)];
                links.push((next.raw(), entry.hash_hi.get()));
            }
            other => panic!("hash slot {slot} leads to {other:?}"),
        }
        let mut seen = BTreeSet::new();
        for (raw, hash_hi) in links {
            let Location::Entry { block, slot: place } = Location::from_raw(raw) else {
                panic!("a link of hash slot {slot} is {raw:#x}");
            };
            let entry = found.entries.remove(&(block, place)).expect("an entry");
            let hash = name_hash(entry.name(), subject.in_root);
            assert_eq!((hash.slot, hash.hi), (slot, hash_hi));
            assert!(seen.insert(raw), "linked twice");
        }
    }
    assert!(
        found.entries.is_empty(),
        "{} entries out of reach",
        found.entries.len()
    );
    assert!(
        found.groups.is_empty(),
        "{} groups out of reach",
        found.groups.len()
    );
}
