//! The hash of a VMFS6 directory's names (FORMAT.md, "Name hash").
//!
//! The mixing is Bob Jenkins' public-domain 64-bit hash of 1997 ("lookup8"), over a 256-byte key
//! made of the name and a constant. It departs from his in one place: what goes into the last
//! round is the key's length in 64-bit words, not in bytes.

use super::directory6::HASH_SLOTS;

/// Fills the key behind the name.
const SALT: u64 = 0x739a_75c2_8e61_b017;
/// The hash function's third argument in every directory seen.
const LEVEL: u64 = 42;
/// Slots at the end of the root directory's table that are kept for system files.
const ROOT_RESERVED: u32 = 28;
/// The golden ratio, the arbitrary constant that the function starts from.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c13;

/// Where a name belongs in a directory's hash table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NameHash {
    /// Slot in the hash table.
    pub slot: u32,
    /// Bits 0 to 15, kept in the entry.
    pub lo: u16,
    /// Bits 16 to 31, kept in the entry and in links to it.
    pub hi: u16,
}

/// The fixed hash slot of a system file in the root directory.
pub fn system_file_hash(name: &[u8]) -> Option<u32> {
    const FIRST: u32 = HASH_SLOTS - ROOT_RESERVED + 1;
    const NAMES: [&[u8]; 10] = [
        b".fbb.sf",
        b".fdc.sf",
        b".pbc.sf",
        b".sbc.sf",
        b".vh.sf",
        b".pb2.sf",
        b".sdd.sf",
        b".jbc.sf",
        b".unmap.sf",
        b".dfd.sf",
    ];
    NAMES
        .iter()
        .position(|&known| known == name)
        .map(|index| FIRST + index as u32)
}

/// Hashes `name` for the root directory or any other; names over 255 bytes are cut there.
pub fn name_hash(name: &[u8], in_root: bool) -> NameHash {
    if let Some(slot) = system_file_hash(name).filter(|_| in_root) {
        return NameHash {
            slot,
            lo: slot as u16,
            hi: slot as u16,
        };
    }
    let mut key = [0_u8; 256];
    let used = name.len().min(255);
    key[..used].copy_from_slice(&name[..used]);
    // At least one zero byte ends the name; salt starts at the next multiple of eight and stops
    // before byte 127, the longest name of older versions.
    let mut at = (used + 8) & !7;
    while at < 127 {
        key[at..at + 8].copy_from_slice(&SALT.to_le_bytes());
        at += 8;
    }
    let hash = lookup8(&key);
    let slots = if in_root {
        HASH_SLOTS - ROOT_RESERVED
    } else {
        HASH_SLOTS
    };
    NameHash {
        slot: (hash % u64::from(slots)) as u32,
        lo: hash as u16,
        hi: (hash >> 16) as u16,
    }
}

/// Jenkins' hash over a key whose length is a whole number of 64-bit words.
fn lookup8(key: &[u8; 256]) -> u64 {
    let (mut a, mut b, mut c) = (LEVEL, LEVEL, GOLDEN);
    let mut words = key.chunks_exact(8).map(|word| {
        word.iter()
            .rev()
            .fold(0_u64, |value, &byte| value << 8 | u64::from(byte))
    });
    let count = key.len() as u64 / 8;
    for _ in 0..count / 3 {
        a = a.wrapping_add(words.next().unwrap_or(0));
        b = b.wrapping_add(words.next().unwrap_or(0));
        c = c.wrapping_add(words.next().unwrap_or(0));
        (a, b, c) = mix(a, b, c);
    }
    // The tail: two words, and the key's length goes into c.
    c = c.wrapping_add(count);
    a = a.wrapping_add(words.next().unwrap_or(0));
    b = b.wrapping_add(words.next().unwrap_or(0));
    mix(a, b, c).2
}

/// Mixes three words reversibly.
fn mix(mut a: u64, mut b: u64, mut c: u64) -> (u64, u64, u64) {
    for [sa, sb, sc] in [[43, 9, 8], [38, 23, 5], [35, 49, 11], [12, 18, 22]] {
        a = a.wrapping_sub(b).wrapping_sub(c) ^ (c >> sa);
        b = b.wrapping_sub(c).wrapping_sub(a) ^ (a << sb);
        c = c.wrapping_sub(a).wrapping_sub(b) ^ (b >> sc);
    }
    (a, b, c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_files_have_the_slots_seen_on_real_volumes() {
        assert_eq!(name_hash(b".fbb.sf", true).slot, 15974);
        assert_eq!(name_hash(b".unmap.sf", true).slot, 15982);
        assert_eq!(system_file_hash(b"small"), None);
    }

    #[test]
    fn names_have_the_hashes_that_esxi_stored_with_them() {
        assert_eq!(
            name_hash(b"small", true),
            NameHash {
                slot: 0x11b7,
                lo: 0x776d,
                hi: 0xa46b
            }
        );
        // Names that an ESXi volume has as hash collisions of one directory.
        for name in [
            "As",
            "e8K",
            "aa0s",
            "avSb",
            "En groetjes aan je tante🤤🫰🍆💦😍",
        ] {
            assert_eq!(name_hash(name.as_bytes(), false).slot, 0x26f7, "{name}");
        }
    }
}
