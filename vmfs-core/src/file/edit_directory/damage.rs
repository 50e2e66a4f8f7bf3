//! Damaged directories: errors, but no panic, no write outside and no end of work.

use super::hashed;
use super::memory::{Random, Subject};
use crate::file::entries::{self, DirHint, NewEntry};
use crate::format::{Family, FdAddr, FileKind, Layout};

fn filled(layout: &Layout, pool: &[Vec<u8>]) -> Subject {
    let mut subject = Subject::new(layout, false);
    let target = (FdAddr::new(1, 2), FileKind::Regular, 3);
    for name in pool {
        subject.add(name, target);
    }
    subject
}

/// Every operation with one name; whether any of them found the directory to be damaged.
fn use_it(subject: &mut Subject, name: &[u8]) -> bool {
    let (layout, content) = (&subject.layout, &mut subject.content);
    let mut hint = DirHint::default();
    content.read.set(0);
    let target = (FdAddr::new(7, 7), FileKind::Regular, 7);
    let entry = NewEntry {
        name: b"a new name",
        kind: FileKind::Regular,
        fd: FdAddr::new(8, 8),
        generation: 8,
    };
    let results = [
        entries::lookup(content, layout, false, name, &mut hint).map(|_| ()),
        entries::replace(content, layout, false, name, target, &mut hint),
        entries::remove(content, layout, false, name, &mut hint),
        entries::add(content, layout, false, &entry, &mut hint),
    ];
    results.iter().any(Result::is_err)
}

#[test]
fn damaged_bytes_give_errors() {
    let pools = [
        (Family::Vmfs5, {
            let mut random = Random(4);
            (0..300).map(|_| random.name(127)).collect::<Vec<_>>()
        }),
        (Family::Vmfs6, hashed::pool(false)),
    ];
    for (family, pool) in pools {
        let layout = Layout::usual(family).expect("layout");
        let whole = filled(&layout, &pool);
        let length = whole.content.bytes.len() as u64;
        let mut random = Random(3);
        let mut errors = 0;
        for _ in 0..300 {
            let mut subject = filled(&layout, &[]);
            subject.content = whole.content.clone();
            for _ in 0..200 {
                // Where structure is dense: the header, block headers, anywhere.
                let at = match random.below(4) {
                    0 => random.below(0x600),
                    1 => 0x1_0000 + 4096 * random.below(20) + random.below(128),
                    2 => 0x5f8 + random.below(64_004),
                    _ => random.below(length),
                };
                if let Some(byte) = subject.content.bytes.get_mut(at as usize) {
                    *byte = random.bits() as u8;
                }
            }
            let name = &pool[random.below(pool.len() as u64) as usize];
            errors += u32::from(use_it(&mut subject, name));
        }
        assert!(family == Family::Vmfs5 || errors > 30, "{errors}");
    }
}

#[test]
fn a_chain_that_ends_in_itself_is_noticed() {
    let pool = hashed::pool(false);
    let layout = hashed::layout();
    let mut subject = filled(&layout, &pool);
    // Every group is followed by itself.
    let blocks = (subject.content.bytes.len() - 0x1_0000) / 4096;
    for block in (0..blocks as u32)
        .filter(|&block| subject.content.bytes[0x1_0002 + 4096 * block as usize] == 2)
        .collect::<Vec<_>>()
    {
        for slot in 0..48_u32 {
            let at = 0x1_0040 + 4096 * block as usize + 84 * slot as usize + 0x4e;
            let next = slot << 24 | block << 2 | 2;
            subject.content.bytes[at..at + 4].copy_from_slice(&next.to_le_bytes());
        }
    }
    // The fullest slot's names, the later of which are not in the first group.
    let errors = pool
        .iter()
        .filter(|name| {
            let mut hint = DirHint::default();
            subject.content.read.set(0);
            entries::lookup(&subject.content, &layout, false, name, &mut hint).is_err()
        })
        .count();
    assert!(errors > 12, "{errors}");
}
