//! What a descriptor refers to, given back.

use vmfs_core::format::{BlockAddr, FdImage, ZeroLevel};

use super::address::little_endian;
use super::read_pointers;
use crate::round::Round;

/// Takes back every reference that a descriptor makes.
pub(crate) fn release(round: &mut Round<'_, '_>, image: &FdImage) {
    let layout = std::sync::Arc::clone(&round.layout);
    let level = image.meta().zero_level();
    if matches!(level, ZeroLevel::None | ZeroLevel::Resident) {
        return;
    }
    let addresses = 0..layout.fd_address_count as usize;
    let raws: Vec<u64> = addresses.map(|index| image.address(index)).collect();
    release_all(round, &raws, level.depth());
}

fn release_all(round: &mut Round<'_, '_>, raws: &[u64], depth: u32) {
    let layout = std::sync::Arc::clone(&round.layout);
    for &raw in raws.iter().filter(|&&raw| raw != 0) {
        let addr = BlockAddr::decode(raw, &layout);
        let Some((kind, number)) = round.usage.number(addr) else {
            continue;
        };
        // A pointer block that was given back already isn't followed again.
        if depth > 0 && round.usage.is_used(kind, number) {
            round.usage.give(addr);
            if let Ok((_, bytes)) = read_pointers(round, addr) {
                let size = layout.address_size as usize;
                let below: Vec<u64> = bytes.chunks_exact(size).map(little_endian).collect();
                release_all(round, &below, depth - 1);
            }
        }
        round.usage.give(addr);
    }
}
