//! Blocks that several files claim: docs/fsck/duplicates.md.

use std::sync::Arc;

use vmfs_core::format::{BlockAddr, FdAddr, Layout, ResourceKind};
use vmfs_core::lvm::VolumeOffset;

use super::maps::{self, little_endian, shown};
use crate::alloc;
use crate::code::Code;
use crate::finding::Finding;
use crate::plan::{Copy, Stage};
use crate::round::{Claim, Round};

/// File blocks of directories that are kept in memory at most.
const MAX_DIRECTORY_BLOCKS: u32 = 64;

/// Gives every claimant but the first a copy of its own.
pub(crate) fn run(round: &mut Round<'_, '_>) {
    let claims = std::mem::take(&mut round.claims);
    for claim in claims {
        round.contested(claim.addr);
        let owner = round.usage.owner(claim.addr);
        if let Some(owner) = owner.filter(|&owner| claim.depth > 0 && owner != claim.fd) {
            not_shared(round, claim, owner);
            continue;
        }
        let finding = Finding::new(
            Code::Duplicate,
            format!("block map of file {}", claim.fd),
            format!("{} is another file's, or there twice", shown(claim.addr)),
        )
        .at_volume(claim.slot.0)
        .repair("copy it apart, so that each has its own");
        if !round.found(finding) {
            round.broken.insert(claim.fd);
            continue;
        }
        if let Some(addr) = copy(round, claim.fd, claim.addr, claim.depth) {
            put_address(round, claim.slot, addr, Stage::Refer);
        } else {
            let file = claim.fd;
            tracing::warn!(%file, "no room for a copy of {}", shown(claim.addr));
        }
    }
}

/// A pointer block of a resource file leads to what all files have: a copy of that would be nobody's.
fn not_shared(round: &mut Round<'_, '_>, claim: Claim, owner: FdAddr) {
    let finding = Finding::new(
        Code::Duplicate,
        format!("block map of file {}", claim.fd),
        format!("{} is that of resource file {owner}", shown(claim.addr)),
    )
    .at_volume(claim.slot.0)
    .repair("make it a hole");
    if round.found(finding) {
        let zeros = vec![0; round.layout.address_size as usize];
        round.put(Stage::Remove, claim.slot, &zeros);
    } else {
        round.broken.insert(claim.fd);
    }
}

fn put_address(round: &mut Round<'_, '_>, slot: VolumeOffset, addr: BlockAddr, stage: Stage) {
    let layout = Arc::clone(&round.layout);
    let raw = addr.encode(&layout).to_le_bytes();
    let size = layout.address_size as usize;
    let large = matches!(addr, BlockAddr::LargeFileBlock { .. });
    let count = if large {
        slots_of_large(round, slot, &layout)
    } else {
        1
    };
    for index in 0..count {
        round.put(stage, slot + index * size as u64, &raw[..size]);
    }
}

/// In how many slots from `slot` on the same large block stands.
fn slots_of_large(round: &Round<'_, '_>, slot: VolumeOffset, layout: &Layout) -> u64 {
    let most = 1_u64 << (layout.large_block_shift - layout.file_block_shift);
    let size = layout.address_size;
    let mut bytes = vec![0; (most * size) as usize];
    let left = round.volume.size().saturating_sub(slot.0);
    let read = (most * size).min(left) as usize;
    if round.volume.read(slot, &mut bytes[..read]).is_err() {
        return 1;
    }
    let number = |raw: &[u8]| match BlockAddr::decode(little_endian(raw), layout) {
        BlockAddr::LargeFileBlock { block, .. } => Some(block),
        _ => None,
    };
    let mut slots = bytes[..read].chunks_exact(size as usize);
    let first = slots.clone().next().and_then(number);
    let differs = slots.position(|raw| number(raw) != first);
    differs.map_or(most, |count| count as u64)
}

/// A copy for `fd` of what `addr` names `depth` levels above the data, which nothing refers to yet.
fn copy(round: &mut Round<'_, '_>, fd: FdAddr, addr: BlockAddr, depth: u32) -> Option<BlockAddr> {
    let (kind, _) = round.usage.number(addr)?;
    let from = maps::place_of(round, addr).ok()?;
    let (new, to) = alloc::resource(round, kind)?;
    let length = alloc::size_of(round, kind);
    if depth == 0 {
        // Later rounds read what a directory has, and may change it.
        let seen = round.files.get(&fd);
        let read_again = seen.is_some_and(|seen| seen.is_directory)
            && kind == ResourceKind::FileBlock
            && round.check.directory_blocks < MAX_DIRECTORY_BLOCKS;
        round.check.directory_blocks += u32::from(read_again);
        if kind == ResourceKind::SubBlock || read_again {
            let mut bytes = vec![0; length as usize];
            round.volume.read(from, &mut bytes).ok()?;
            round.put(Stage::New, to, &bytes);
        } else {
            round.check.plan.copy(Copy { from, to, length });
        }
        return Some(keep_marks(addr, new));
    }
    // A pointer block's blocks are shared as well.
    let layout = Arc::clone(&round.layout);
    let mut bytes = vec![0; layout.pointer_block_size() as usize];
    round.volume.read(from, &mut bytes).ok()?;
    let size = layout.address_size as usize;
    let mut last_large: Option<(u64, BlockAddr)> = None;
    for raw in bytes.chunks_exact_mut(size) {
        let child = BlockAddr::decode(little_endian(raw), &layout);
        if matches!(child, BlockAddr::Hole) {
            continue;
        }
        let new = match (child, last_large) {
            (BlockAddr::LargeFileBlock { block, .. }, Some((last, copied))) if block == last => {
                copied
            }
            // What can't stand there, or isn't there, would be made a hole afterwards.
            _ if !may_stand(child, depth - 1) || !round.usage.exists(child) => BlockAddr::Hole,
            _ => copy(round, fd, child, depth - 1)?,
        };
        if let BlockAddr::LargeFileBlock { block, .. } = child {
            last_large = Some((block, new));
        }
        raw.copy_from_slice(&new.encode(&layout).to_le_bytes()[..size]);
    }
    round.put(Stage::New, to, &bytes);
    Some(new)
}

/// Whether an address may stand in a pointer block, `depth` levels above the data.
fn may_stand(addr: BlockAddr, depth: u32) -> bool {
    match addr {
        BlockAddr::FileBlock { .. } | BlockAddr::LargeFileBlock { .. } => depth == 0,
        BlockAddr::Resource { kind, .. } => {
            use ResourceKind::{PointerBlock, PointerBlock2, SubBlock};
            depth > 0 && matches!(kind, PointerBlock | PointerBlock2 | SubBlock)
        }
        BlockAddr::Hole | BlockAddr::Invalid(_) => false,
    }
}

/// The new address with the marks of the old one.
fn keep_marks(old: BlockAddr, new: BlockAddr) -> BlockAddr {
    match (old, new) {
        (BlockAddr::FileBlock { tbz, .. }, BlockAddr::FileBlock { block, cow, .. }) => {
            BlockAddr::FileBlock { block, tbz, cow }
        }
        (BlockAddr::LargeFileBlock { tbz, .. }, BlockAddr::LargeFileBlock { block, cow, .. }) => {
            BlockAddr::LargeFileBlock { block, tbz, cow }
        }
        (_, new) => new,
    }
}
