//! Incompressible bytes that are a function of their offset, so that any process can make or check
//! any part of a file without sharing it.

/// Names the stream; another value gives other bytes.
const SEED: u64 = 0x6f70_656e_766d_6673;

/// The eight bytes at `offset`, which must be a multiple of eight.
pub const fn word(offset: u64) -> u64 {
    // splitmix64's output function over a counter.
    let mut value = (offset / 8)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .wrapping_add(SEED);
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// Fills `buf` with the bytes from `offset` on, which must be a multiple of eight.
pub fn fill(offset: u64, buf: &mut [u8]) {
    debug_assert!(offset.is_multiple_of(8), "words don't straddle");
    let mut at = offset;
    for chunk in buf.chunks_mut(8) {
        chunk.copy_from_slice(&word(at).to_le_bytes()[..chunk.len()]);
        at += 8;
    }
}

/// Whether `buf` starts with the bytes at `offset`; looks at eight of them, which costs nothing
/// beside a read.
pub fn starts_right(offset: u64, buf: &[u8]) -> bool {
    buf.starts_with(&word(offset).to_le_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_part_equals_the_same_part_of_the_whole() {
        let mut whole = [0; 4096];
        fill(1 << 30, &mut whole);
        let mut part = [0; 101];
        fill((1 << 30) + 1024, &mut part);
        assert_eq!(part, whole[1024..1125]);
        assert!(starts_right((1 << 30) + 2048, &whole[2048..]));
        assert!(!starts_right((1 << 30) + 2048, &whole[2056..]));
    }
}
