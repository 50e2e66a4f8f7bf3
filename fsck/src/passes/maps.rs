//! Block maps: every address in range, of the right type, claimed once.

use vmfs_core::format::{BlockAddr, Family, FdAddr, FdImage, ResourceKind, ZeroLevel};
use vmfs_core::lvm::VolumeOffset;

use super::{named, resources};
use crate::code::Code;
use crate::finding::Finding;
use crate::plan::Stage;
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

/// An address that can't be one, and why.
struct Invalid {
    /// Its number in the array or pointer block.
    index: usize,
    code: Code,
    slot: VolumeOffset,
    reason: String,
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

    /// Addresses that can't be right, among `all` in one place; the numbers of those that were cleared.
    fn invalid(
        &mut self,
        round: &mut Round<'_, '_>,
        (invalid, all): (&[Invalid], u64),
        depth: u32,
    ) -> Vec<usize> {
        let Some(first) = invalid.first() else {
            return Vec::new();
        };
        round.check.lost_map = true;
        let structure = format!("block map of file {}", self.fd);
        let detail = format!(
            "{} of {all} addresses of this {} can't be right, the first {}",
            invalid.len(),
            if depth < self.depth {
                "pointer block"
            } else {
                "address array"
            },
            first.reason
        );
        let mut finding =
            Finding::new(first.code, structure.as_str(), detail).at_volume(first.slot.0);
        if resources::is_resource_file(self.fd, &round.layout) {
            // A hole here would take clusters, and all that files have in them, out of the volume.
            round
                .check
                .refuse(&format!("{structure} is damaged: {}", first.reason));
        } else {
            finding = finding
                .repair("make them holes")
                .loses("what the blocks held, unless it turns up in /lost+found");
        }
        if !round.found(finding) {
            self.counts.incomplete = true;
            return Vec::new();
        }
        clear(round, invalid)
    }

    /// Addresses that can't be right behind the end of a resource file: it has no use for them.
    fn behind(&mut self, round: &mut Round<'_, '_>, behind: &[Invalid]) -> Vec<usize> {
        let Some(first) = behind.first() else {
            return Vec::new();
        };
        let finding = Finding::new(
            first.code,
            format!("block map of file {}", self.fd),
            format!(
                "{} addresses behind its end, block {}, can't be right, the first {}",
                behind.len(),
                self.end,
                first.reason
            ),
        )
        .at_volume(first.slot.0)
        .repair("clear them");
        if !round.found(finding) {
            self.counts.incomplete = true;
            return Vec::new();
        }
        clear(round, behind)
    }

    /// Holes in the map of a resource file, which has none: what lies there can't be told.
    fn holes(
        &mut self,
        round: &mut Round<'_, '_>,
        (slot, block): (VolumeOffset, u64),
        count: u64,
        depth: u32,
    ) {
        round.check.lost_map = true;
        self.counts.incomplete = true;
        let structure = format!("block map of file {}", self.fd);
        let expected = expected(depth);
        round.check.refuse(&format!(
            "{structure} has a hole at {slot}, expected {expected} for block {block} of {}",
            self.whole
        ));
        let detail = format!(
            "{count} addresses are holes, the first that of block {block} of {}, expected {expected}: a resource file has none up to its end",
            self.whole
        );
        round.found(Finding::new(Code::AddressWrongType, structure, detail).at_volume(slot.0));
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

/// What resource files say that they have behind their ends: it is theirs unless somebody else has it.
pub(crate) fn late_claims(round: &mut Round<'_, '_>) {
    for claim in std::mem::take(&mut round.late_claims) {
        if round.usage.mark(claim.addr) == Marked::First {
            round.usage.own(claim.addr, claim.fd);
            continue;
        }
        round.contested(claim.addr);
        let finding = Finding::new(
            Code::Duplicate,
            format!("block map of file {}", claim.fd),
            format!(
                "behind its end is {}, which is another file's, or there twice",
                shown(claim.addr)
            ),
        )
        .at_volume(claim.slot.0)
        .repair("clear it");
        if round.found(finding) {
            let zeros = vec![0; round.layout.address_size as usize];
            round.put(Stage::Remove, claim.slot, &zeros);
        }
    }
}

/// A pointer block: where it lies and what is in it, or why it can't be read.
type Pointers = Result<(VolumeOffset, Vec<u8>), String>;

fn read_pointers(round: &Round<'_, '_>, addr: BlockAddr) -> Pointers {
    let place = place_of(round, addr)?;
    let mut bytes = vec![0; round.layout.pointer_block_size() as usize];
    let read = round.volume.read(place, &mut bytes);
    read.map_err(|error| error.to_string())?;
    Ok((place, bytes))
}

/// What an address leads to, in words.
fn expected(depth: u32) -> &'static str {
    if depth > 0 {
        "a pointer block"
    } else {
        "a block of data"
    }
}

/// Makes these addresses holes; their numbers.
fn clear(round: &mut Round<'_, '_>, invalid: &[Invalid]) -> Vec<usize> {
    let zeros = vec![0; round.layout.address_size as usize];
    for invalid in invalid {
        round.put(Stage::Remove, invalid.slot, &zeros);
    }
    invalid.iter().map(|invalid| invalid.index).collect()
}

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
            let mut bytes = vec![0; layout.pointer_block_size() as usize];
            let place = place_of(round, addr);
            let read = place.map(|place| round.volume.read(place, &mut bytes));
            if matches!(read, Ok(Ok(()))) {
                let size = layout.address_size as usize;
                let below: Vec<u64> = bytes.chunks_exact(size).map(little_endian).collect();
                release_all(round, &below, depth - 1);
            }
        }
        round.usage.give(addr);
    }
}

/// Where the resource that an address names lies.
pub(crate) fn place_of(round: &Round<'_, '_>, addr: BlockAddr) -> Result<VolumeOffset, String> {
    let layout = &round.layout;
    match addr {
        BlockAddr::FileBlock { block, .. } => Ok(VolumeOffset(block << layout.file_block_shift)),
        BlockAddr::LargeFileBlock { block, .. } => {
            Ok(VolumeOffset(block << layout.large_block_shift))
        }
        BlockAddr::Resource {
            kind,
            cluster,
            resource,
            ..
        } => {
            let file = round.resources.file(kind);
            let file = file.ok_or_else(|| format!("there are no {kind}s to be read"))?;
            let place = file.locate(&round.reader, cluster, resource);
            place.map_err(|error| error.to_string())
        }
        BlockAddr::Hole | BlockAddr::Invalid(_) => Err("no address".to_owned()),
    }
}

/// An address in words.
pub(crate) fn shown(addr: BlockAddr) -> String {
    match addr {
        BlockAddr::Hole => "a hole".to_owned(),
        BlockAddr::FileBlock { block, .. } => format!("file block {block}"),
        BlockAddr::LargeFileBlock { block, .. } => format!("large file block {block}"),
        BlockAddr::Resource {
            kind,
            cluster,
            resource,
            ..
        } => format!("{kind} {resource} of cluster {cluster}"),
        BlockAddr::Invalid(raw) => format!("{raw:#x}"),
    }
}

/// Reads a little-endian number of up to eight bytes.
pub(crate) fn little_endian(bytes: &[u8]) -> u64 {
    let bytes = bytes.iter().rev();
    bytes.fold(0, |value, &byte| value << 8 | u64::from(byte))
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
