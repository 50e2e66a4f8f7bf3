//! Block maps: every address in range, of the right type, claimed once.

mod address;
mod release;
mod wrong;

pub(crate) use address::{little_endian, place_of, shown};
pub(crate) use release::release;
pub(crate) use wrong::late_claims;

use vmfs_core::format::{BlockAddr, Family, FdAddr, FdImage, ResourceKind, ZeroLevel};
use vmfs_core::lvm::VolumeOffset;

use self::address::expected;
use self::wrong::Invalid;
use super::{named, resources};
use crate::code::Code;
use crate::finding::Finding;
use crate::round::{Claim, Round};
use crate::usage::Marked;

/// Claims kept for a round; more wait for the next one.
const MAX_CLAIMS: usize = 65_536;

/// What a map has.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counts {
    /// Blocks of data; a large one in each slot that it covers.
    pub(crate) blocks: u64,
    /// Pointer blocks of all levels.
    pub(crate) pointer_blocks: u64,
    /// Blocks to be zeroed.
    pub(crate) to_be_zeroed: u64,
    /// A part of the map could not be followed.
    incomplete: bool,
}

/// The walk down one file's map.
struct Walk {
    fd: FdAddr,
    /// What stands at the bottom.
    data: ResourceKind,
    /// Levels of pointer blocks.
    depth: u32,
    counts: Counts,
    last_large: Option<u64>,
    /// Blocks that must be there: those of a resource file up to its end.
    whole: u64,
    /// The first block that the file can't have: its length and its header, if it is a resource file, say
    /// that it ends before.
    end: u64,
}

/// Marks everything that the file's block map names; what it has, or `None` if a part of it can't
/// be followed.
pub(crate) fn follow(
    round: &mut Round<'_, '_>,
    fd: FdAddr,
    place: VolumeOffset,
    image: &mut FdImage,
) -> Option<Counts> {
    let layout = std::sync::Arc::clone(&round.layout);
    let level = image.meta().zero_level();
    let mut walk = Walk {
        fd,
        data: match level {
            ZeroLevel::SubBlock => ResourceKind::SubBlock,
            _ => ResourceKind::FileBlock,
        },
        depth: level.depth(),
        counts: Counts::default(),
        last_large: None,
        whole: 0,
        end: u64::MAX,
    };
    if resources::is_resource_file(fd, &layout) {
        let block = 1_u64.checked_shl(image.meta().block_shift());
        let block = block.unwrap_or(u64::MAX);
        walk.whole = image.meta().length.get().div_ceil(block);
        if let Some(length) = resources::length_by_header(&round.resources, fd, &layout) {
            walk.end = length.div_ceil(block).max(walk.whole);
        }
    }
    if matches!(level, ZeroLevel::None | ZeroLevel::Resident) {
        return Some(walk.counts);
    }
    let array = place + layout.fd_addresses;
    let size = layout.address_size as usize;
    let start = layout.fd_addresses as usize;
    let end = start + layout.fd_address_count as usize * size;
    let bytes = image.bytes().get(start..end)?.to_vec();
    let cleared = walk.entries(round, (array, 0), &bytes, level.depth());
    for index in cleared {
        image.set_address(index, 0);
    }
    (!walk.counts.incomplete).then_some(walk.counts)
}

impl Walk {
    /// Follows the entries that `bytes` hold, which lie at `start` and begin with what leads to the
    /// file's block `first`; the numbers of those that were cleared.
    fn entries(
        &mut self,
        round: &mut Round<'_, '_>,
        (start, first): (VolumeOffset, u64),
        bytes: &[u8],
        depth: u32,
    ) -> Vec<usize> {
        let layout = std::sync::Arc::clone(&round.layout);
        let size = layout.address_size as usize;
        let mut invalid = Vec::new();
        let mut behind = Vec::new();
        let mut all = 0;
        let mut holes = 0_u64;
        let mut first_hole = None;
        let span = 1_u64.checked_shl(depth * layout.pointers_per_block.trailing_zeros());
        let span = span.unwrap_or(u64::MAX);
        let block = |index: usize| first.saturating_add(span.saturating_mul(index as u64));
        // Most files are small. Where zeros need no look the last of them get none.
        let bytes = if self.whole == 0 {
            without_zeros_behind(bytes, size)
        } else {
            bytes
        };
        for (index, raw) in bytes.chunks_exact(size).enumerate() {
            let raw = little_endian(raw);
            let slot = start + (index * size) as u64;
            if raw == 0 {
                if block(index) < self.whole {
                    holes += 1;
                    first_hole.get_or_insert((slot, block(index)));
                }
                continue;
            }
            all += 1;
            if let Err((code, reason)) = self.entry(round, (slot, block(index)), raw, depth) {
                let part = if block(index) < self.end {
                    &mut invalid
                } else {
                    &mut behind
                };
                part.push(Invalid {
                    index,
                    code,
                    slot,
                    reason,
                });
            }
        }
        if let Some(first) = first_hole {
            self.holes(round, first, holes, depth);
        }
        let mut cleared = self.invalid(round, (&invalid, all), depth);
        cleared.extend(self.behind(round, &behind));
        cleared
    }

    /// One address, that of the file's block `first` or of what leads to it; why it can't be one.
    fn entry(
        &mut self,
        round: &mut Round<'_, '_>,
        (slot, first): (VolumeOffset, u64),
        raw: u64,
        depth: u32,
    ) -> Result<(), (Code, String)> {
        let layout = &*round.layout;
        let addr = BlockAddr::decode(raw, layout);
        if !self.may_stand(addr, depth, layout.family) || addr.encode(layout) != raw {
            return Err((
                Code::AddressWrongType,
                format!("{raw:#x} at {slot}, expected {}", expected(depth)),
            ));
        }
        round.check.report.addresses += 1;
        let large = match addr {
            BlockAddr::LargeFileBlock { block, .. } => Some(block),
            _ => None,
        };
        // A large block's address stands in every slot that it covers.
        let again = large.is_some() && self.last_large == large;
        if depth == 0 {
            self.last_large = large;
        }
        if again {
            self.count(addr);
            return Ok(());
        }
        if depth == 0 && first >= self.end && round.usage.exists(addr) {
            // Whoever else has it needs it more.
            self.count(addr);
            round.late_claims.push(Claim {
                fd: self.fd,
                slot,
                addr,
                depth,
            });
            return Ok(());
        }
        let pointers = match depth {
            0 => None,
            _ => self.pointers(round, slot, addr, depth)?,
        };
        let marked = round.usage.mark(addr);
        let is_resource_file = resources::is_resource_file(self.fd, &round.layout);
        match marked {
            Marked::First if is_resource_file => round.usage.own(addr, self.fd),
            Marked::Again => {
                let own = Some(self.fd).filter(|_| is_resource_file);
                round.contested.extend(own);
                round.contested.extend(round.usage.owner(addr));
            }
            _ => {}
        }
        match marked {
            Marked::OutOfRange => Err((
                Code::OutOfRange,
                format!("{} at {slot}, which doesn't exist", shown(addr)),
            )),
            Marked::Again => {
                if depth == 0 {
                    self.count(addr);
                } else {
                    self.counts.incomplete = true;
                }
                let claim = Claim {
                    fd: self.fd,
                    slot,
                    addr,
                    depth,
                };
                if round.claims.len() < MAX_CLAIMS {
                    round.claims.push(claim);
                } else {
                    round.more_claims += 1;
                }
                Ok(())
            }
            Marked::First if depth == 0 => {
                self.count(addr);
                Ok(())
            }
            Marked::First => {
                self.counts.pointer_blocks += 1;
                let read = pointers.unwrap_or_else(|| read_pointers(round, addr));
                self.pointer_block(round, (slot, first), read, depth);
                Ok(())
            }
        }
    }

    /// What is in a pointer block that nobody has yet. An error if it is what another file has: what can't be right in
    /// a pointer block is made holes, which would go through that.
    fn pointers(
        &self,
        round: &mut Round<'_, '_>,
        slot: VolumeOffset,
        addr: BlockAddr,
        depth: u32,
    ) -> Result<Option<Pointers>, (Code, String)> {
        let number = round.usage.number(addr);
        let number = number.filter(|&(kind, number)| {
            round.usage.exists(addr) && !round.usage.is_used(kind, number)
        });
        let Some(number) = number else {
            return Ok(None);
        };
        let read = read_pointers(round, addr);
        if let Ok((_, bytes)) = &read
            && named::is_something_else(round, bytes, depth - 1)
            && let Some(other) = named::other(round, self.fd, number)
        {
            let reason = format!(
                "{} at {slot}, which file {other} has, expected {}",
                shown(addr),
                expected(depth)
            );
            return Err((Code::AddressWrongType, reason));
        }
        Ok(Some(read))
    }

    fn count(&mut self, addr: BlockAddr) {
        self.counts.blocks += 1;
        let (BlockAddr::FileBlock { tbz, .. } | BlockAddr::LargeFileBlock { tbz, .. }) = addr
        else {
            return;
        };
        self.counts.to_be_zeroed += u64::from(tbz != 0);
    }

    fn may_stand(&self, addr: BlockAddr, depth: u32, family: Family) -> bool {
        match addr {
            BlockAddr::FileBlock { .. } => depth == 0 && self.data == ResourceKind::FileBlock,
            BlockAddr::LargeFileBlock { .. } => {
                depth == 0 && self.data == ResourceKind::FileBlock && family == Family::Vmfs6
            }
            BlockAddr::Resource { kind, .. } if depth > 0 => match kind {
                ResourceKind::PointerBlock | ResourceKind::PointerBlock2 => true,
                ResourceKind::SubBlock => family == Family::Vmfs6,
                _ => false,
            },
            BlockAddr::Resource { kind, .. } => kind == ResourceKind::SubBlock && self.data == kind,
            BlockAddr::Hole | BlockAddr::Invalid(_) => false,
        }
    }

    fn pointer_block(
        &mut self,
        round: &mut Round<'_, '_>,
        (slot, first): (VolumeOffset, u64),
        read: Pointers,
        depth: u32,
    ) {
        match read {
            Ok((place, bytes)) => {
                self.entries(round, (place, first), &bytes, depth - 1);
            }
            Err(error) => {
                self.counts.incomplete = true;
                round.check.lost_map = true;
                let structure = format!("block map of file {}", self.fd);
                let finding = Finding::new(Code::BlockMapUnreadable, structure, error);
                round.found(finding.at_volume(slot.0));
                if resources::is_resource_file(self.fd, &round.layout) {
                    let what = format!("block map of file {} is damaged at {slot}", self.fd);
                    round.check.refuse(&what);
                }
            }
        }
    }
}

/// A pointer block: where it lies and what is in it, or why it can't be read.
pub(crate) type Pointers = Result<(VolumeOffset, Vec<u8>), String>;

/// Reads the pointer block that an address names.
pub(crate) fn read_pointers(round: &Round<'_, '_>, addr: BlockAddr) -> Pointers {
    let place = place_of(round, addr)?;
    let mut bytes = vec![0; round.layout.pointer_block_size() as usize];
    let read = round.volume.read(place, &mut bytes);
    read.map_err(|error| error.to_string())?;
    Ok((place, bytes))
}

/// `bytes` without those behind the last unit that isn't all zeros, and maybe some more; units have `size` bytes.
fn without_zeros_behind(bytes: &[u8], size: usize) -> &[u8] {
    let step = size * 32;
    let zeros: usize = bytes
        .rchunks(step)
        .take_while(|chunk| chunk.iter().fold(0, |all, byte| all | byte) == 0)
        .map(<[u8]>::len)
        .sum();
    &bytes[..bytes.len() - zeros]
}
