//! Directories of VMFS6.

use std::collections::{BTreeMap, HashMap};

use super::check;
use super::memory::{Random, Subject, Target};
use crate::file::FileError;
use crate::file::entries::{self, DirHint, NewEntry};
use crate::format::{Family, FdAddr, FileKind, Layout, name_hash};

pub(super) fn layout() -> Layout {
    Layout::usual(Family::Vmfs6).expect("layout")
}

const TARGET: Target = (FdAddr::new(1, 2), FileKind::Regular, 3);

/// Names that share hash slots, some thirty each, pairs that agree in both parts of the hash, and
/// others, of all lengths.
pub(super) fn pool(in_root: bool) -> Vec<Vec<u8>> {
    let mut by_slot: BTreeMap<u32, Vec<Vec<u8>>> = BTreeMap::new();
    let mut by_hash: HashMap<(u32, u16), Vec<u8>> = HashMap::new();
    let mut pool = Vec::new();
    for number in 0..200_000_u32 {
        let name = format!("n{number}").into_bytes();
        let hash = name_hash(&name, in_root);
        by_slot.entry(hash.slot).or_default().push(name.clone());
        if let Some(other) = by_hash.insert((hash.slot, hash.hi), name.clone()) {
            pool.extend([other, name]);
        }
    }
    assert!(pool.len() >= 4, "names with the same hash");
    let mut slots: Vec<_> = by_slot.into_values().collect();
    slots.sort_by_key(|names| std::cmp::Reverse(names.len()));
    assert!(slots[0].len() > 24, "three groups");
    pool.extend(slots.into_iter().take(12).flatten());
    let mut random = Random(1);
    pool.extend((0..400).map(|_| random.name(255)));
    pool.extend([vec![b'x'; 255], vec![0xff; 254], b"y".to_vec()]);
    pool.sort();
    pool.dedup();
    pool
}

fn random_changes(layout: &Layout, in_root: bool, steps: u64) {
    let pool = pool(in_root);
    let mut kept = Subject::new(layout, in_root);
    let mut forgetful = Subject::new(layout, in_root);
    let mut random = Random(2);
    let mut same = Random(2);
    for step in 0..steps {
        let shrink = if step / 4000 % 2 == 0 { 2 } else { 5 };
        kept.change(&mut random, &pool, shrink);
        forgetful.hint = DirHint::default();
        forgetful.change(&mut same, &pool, shrink);
        if step % 200 == 0 {
            check::hashed(&kept);
            assert!(kept.content.bytes == forgetful.content.bytes);
        }
    }
    for name in &pool {
        if kept.names.contains_key(name) {
            kept.remove(name);
        }
    }
    check::hashed(&kept);
    let table = &kept.content.bytes[0x5f8..0x1_0000];
    assert!(table.iter().all(|&byte| byte == 0), "nothing is left");
}

#[test]
fn random_changes_leave_the_names_that_a_model_has() {
    random_changes(&layout(), false, 20_000);
}

#[test]
fn random_changes_of_the_root_do_too() {
    random_changes(&layout(), true, 5_000);
}

#[test]
fn a_new_directory_is_as_esxi_makes_it() {
    let subject = Subject::new(&layout(), false);
    assert_eq!(subject.content.bytes.len(), 0x1_1000);
    check::hashed(&subject);
}

#[test]
fn links_stand_in_the_order_of_adding() {
    let mut by_slot: BTreeMap<u32, Vec<Vec<u8>>> = BTreeMap::new();
    for number in 0..200_000_u32 {
        let name = format!("{number}").into_bytes();
        by_slot
            .entry(name_hash(&name, false).slot)
            .or_default()
            .push(name);
    }
    let names = by_slot
        .into_values()
        .find(|names| names.len() > 20)
        .expect("names");
    let mut subject = Subject::new(&layout(), false);
    for name in &names[..20] {
        subject.add(name, TARGET);
        check::hashed(&subject);
    }
    // Map, entries, then the links that the second name needed, then entries again.
    let kinds: Vec<u8> = (0..4)
        .map(|number| subject.content.bytes[0x1_0002 + 4096 * number])
        .collect();
    assert_eq!(kinds, [3, 1, 2, 1]);
    let links = &subject.content.bytes[0x1_2040..][..168];
    assert_eq!(links[2..5], [12, 0, 12]);
    assert_eq!(links[86..89], [12, 4, 8]);
    for (index, name) in names[..20].iter().enumerate() {
        let at = 6 + index % 12 * 6 + index / 12 * 84;
        let block = if index < 14 { 1 } else { 3 };
        let location = (index as u32 % 14) << 24 | block << 2 | 1;
        assert_eq!(
            links[at..at + 4],
            location.to_le_bytes(),
            "{index} {name:?}"
        );
    }
    // What follows a name that goes moves up in its group.
    let places = |links: &[u8]| -> Vec<Vec<u8>> {
        links[6..78]
            .chunks(6)
            .map(|link| link[..4].to_vec())
            .collect()
    };
    let mut expected = places(links);
    expected.remove(3);
    expected.push(vec![0; 4]);
    subject.remove(&names[3]);
    check::hashed(&subject);
    assert_eq!(places(&subject.content.bytes[0x1_2040..]), expected);
}

#[test]
fn one_name_changes_few_sectors() {
    let mut subject = Subject::new(&layout(), false);
    for number in 0..5 {
        subject.add(format!("before {number}").as_bytes(), TARGET);
    }
    let before = subject.content.bytes.clone();
    subject.add(b"name", TARGET);
    let changed = before
        .chunks(512)
        .zip(subject.content.bytes.chunks(512))
        .filter(|(old, new)| old != new)
        .count();
    // The header, a hash slot, the block's header, and the entry, which may lie in two.
    assert!(changed <= 5, "{changed}");
}

#[test]
fn directories_go_on_behind_the_first_allocation_map() {
    let mut subject = Subject::new(&layout(), false);
    let name = |number: u32| format!("file {number}").into_bytes();
    let count = 8064 * 14 + 100;
    for number in 0..count {
        subject.add(&name(number), TARGET);
    }
    check::hashed(&subject);
    assert!(subject.content.bytes.len() > 0x1_0000 + 8065 * 4096);
    for number in (0..count).step_by(3) {
        subject.remove(&name(number));
    }
    check::hashed(&subject);
    let length = subject.content.bytes.len();
    for number in (0..count).step_by(3) {
        subject.look_up(&name(number));
        subject.add(&name(number), TARGET);
    }
    check::hashed(&subject);
    assert_eq!(
        subject.content.bytes.len(),
        length,
        "what was free is used again"
    );
}

#[test]
fn a_full_directory_says_so() {
    let mut subject = Subject::new(&layout(), false);
    let blocks = ((1 << 30) - 0x1_0000) / 4096;
    subject.content.bytes.resize(0x1_0000 + blocks * 4096, 0);
    let maps = blocks.div_ceil(8064);
    subject.content.bytes[0xc] = maps as u8;
    for map in 0..maps {
        // Every block in use and without a free slot.
        let place = &mut subject.content.bytes[0x1_0000 + map * 8064 * 4096..][..4096];
        place.fill(0x11);
        place[..64].fill(0);
        (place[2], place[64]) = (3, 0x31);
        let number = (map as u32 * 8064).to_le_bytes();
        subject.content.bytes[0x10 + 4 * map..][..4].copy_from_slice(&number);
    }
    let entry = NewEntry {
        name: b"one too many",
        kind: FileKind::Regular,
        fd: FdAddr::new(1, 1),
        generation: 1,
    };
    let mut hint = DirHint::default();
    let added = entries::add(&mut subject.content, &layout(), false, &entry, &mut hint);
    assert!(matches!(added, Err(FileError::DirectoryFull)), "{added:?}");
}
