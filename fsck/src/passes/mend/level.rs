//! What the address array of a descriptor holds: its zero level address type, and what else tells.
//!
//! Believed alone a wrong one would give away all that the file has.

use vmfs_core::format::{
    BlockAddr, Family, FdImage, FileKind, FileMetadata, Layout, ResourceKind, ZeroLevel,
};

use super::likely_shift;
use crate::passes::maps::little_endian;

/// What is in a pointer block, if it can be read.
pub(crate) type ReadPointers<'a> = &'a dyn Fn(BlockAddr) -> Option<Vec<u8>>;

/// In the order in which they are believed where nothing speaks for one more than for another.
const ALL: [ZeroLevel; 7] = [
    ZeroLevel::FileBlock,
    ZeroLevel::SubBlock,
    ZeroLevel::PointerBlock,
    ZeroLevel::PointerBlock2,
    ZeroLevel::DoublePointerBlock,
    ZeroLevel::Resident,
    ZeroLevel::None,
];
/// Pointer blocks that are looked at.
const LOOKED_AT: usize = 8;
/// What pointer blocks say counts as much as all else of a file that has one address.
const BY_POINTERS: u32 = 3;

/// What the array holds: what the descriptor says, unless more speaks for something else.
pub(super) fn of(
    layout: &Layout,
    kind: FileKind,
    image: &FdImage,
    read: ReadPointers<'_>,
) -> ZeroLevel {
    if kind == FileKind::Rdm {
        return ZeroLevel::None;
    }
    let said = ZeroLevel::from_raw(image.meta().zero_level.get());
    if let Some(said) = said
        && is_plain(layout, image, said)
    {
        return said;
    }
    let votes = Votes::new(layout, image, read);
    // The field is a witness as well.
    let mut best = said.map(|said| (said, votes.of(said) + 1));
    for level in ALL {
        let count = votes.of(level);
        if best.is_none_or(|(_, most)| count > most) {
            best = Some((level, count));
        }
    }
    best.map_or(ZeroLevel::None, |(level, _)| level)
}

/// Whether all that is seen at once speaks for `said`: no look at all addresses, or at pointer blocks, is needed.
fn is_plain(layout: &Layout, image: &FdImage, said: ZeroLevel) -> bool {
    let meta = image.meta();
    let first = image.address(0);
    match said {
        // Data may look like addresses; no other file that has any has no blocks.
        ZeroLevel::Resident => size_fits(layout, meta, said, false),
        ZeroLevel::FileBlock | ZeroLevel::SubBlock | ZeroLevel::PointerBlock2 => {
            first != 0
                && stands(layout, said, first)
                && shift_fits(layout, meta, said)
                && size_fits(layout, meta, said, false)
        }
        _ => false,
    }
}

/// What speaks for each kind of map.
struct Votes<'a> {
    layout: &'a Layout,
    meta: &'a FileMetadata,
    /// The addresses that aren't holes.
    raws: Vec<u64>,
    /// What most of them can be.
    mapped: Vec<ZeroLevel>,
    holds_data: bool,
    /// What the pointer blocks say.
    by_pointers: Option<ZeroLevel>,
}

impl<'a> Votes<'a> {
    fn new(layout: &'a Layout, image: &'a FdImage, read: ReadPointers<'_>) -> Self {
        let addresses = 0..layout.fd_address_count as usize;
        let raws: Vec<u64> = addresses
            .map(|index| image.address(index))
            .filter(|&raw| raw != 0)
            .collect();
        let fits = |level: &ZeroLevel| {
            let fitting = raws.iter().filter(|&&raw| stands(layout, *level, raw));
            fitting.count() * 2 > raws.len()
        };
        let mapped: Vec<ZeroLevel> = ALL.into_iter().filter(fits).collect();
        let has_pointers = mapped.contains(&ZeroLevel::PointerBlock);
        let by_pointers = has_pointers.then(|| by_pointers(layout, &raws, read));
        Self {
            layout,
            meta: image.meta(),
            mapped,
            holds_data: holds_data(layout, image),
            by_pointers: by_pointers.flatten(),
            raws,
        }
    }

    fn of(&self, level: ZeroLevel) -> u32 {
        // One address may be what is damaged, not most of several; and ESXi has a bitmap of clusters where data would
        // be, in descriptors with flags.
        let is_certain = match level {
            ZeroLevel::Resident if self.raws.is_empty() => self.meta.flags.get() == 0,
            _ => self.raws.len() > 1,
        };
        let by_addresses = if is_certain { 2 } else { 1 };
        let by_pointers = self.by_pointers == Some(level);
        u32::from(self.array_fits(level)) * by_addresses
            + u32::from(shift_fits(self.layout, self.meta, level))
            + u32::from(size_fits(
                self.layout,
                self.meta,
                level,
                self.raws.is_empty(),
            ))
            + u32::from(by_pointers) * BY_POINTERS
    }

    /// Whether what stands in the array can be of this kind.
    fn array_fits(&self, level: ZeroLevel) -> bool {
        match level {
            ZeroLevel::None => self.raws.is_empty() && !self.holds_data,
            ZeroLevel::Resident => self.holds_data && self.mapped.is_empty(),
            _ if self.raws.is_empty() => !self.holds_data,
            level => self.mapped.contains(&level),
        }
    }
}

/// Whether a block of the file is as large as one of such a map.
fn shift_fits(layout: &Layout, meta: &FileMetadata, level: ZeroLevel) -> bool {
    meta.block_shift() == likely_shift(layout, FileKind::Regular, level)
}

/// Whether a file with such a map, which is `empty` if it has no addresses, has as many bytes, blocks and pointer
/// blocks.
fn size_fits(layout: &Layout, meta: &FileMetadata, level: ZeroLevel, empty: bool) -> bool {
    let (length, blocks) = (meta.length.get(), meta.blocks.get());
    let shift = likely_shift(layout, FileKind::Regular, level);
    let has_pointers = layout.family == Family::Vmfs6 && meta.pointer_blocks.get() > 0;
    let direct = layout.fd_address_count << shift;
    let has_blocks = blocks > 0 || empty;
    match level {
        ZeroLevel::None => length == 0 && blocks == 0,
        ZeroLevel::Resident => length <= layout.fd_data_size && blocks == 0,
        ZeroLevel::FileBlock | ZeroLevel::SubBlock => {
            has_blocks && length <= direct && !has_pointers
        }
        ZeroLevel::PointerBlock | ZeroLevel::PointerBlock2 => {
            has_blocks && (length > direct || has_pointers)
        }
        ZeroLevel::DoublePointerBlock => length > direct * layout.pointers_per_block,
    }
}

/// Whether anything is in the part of the descriptor where data may be.
pub(super) fn holds_data(layout: &Layout, image: &FdImage) -> bool {
    let bytes = image.bytes();
    let start = layout.fd_data as usize;
    let end = start.saturating_add(layout.fd_data_size as usize);
    let data = bytes.get(start..end.min(bytes.len())).unwrap_or_default();
    data.iter().any(|&byte| byte != 0)
}

/// Whether `raw` can be an address in such an array.
fn stands(layout: &Layout, level: ZeroLevel, raw: u64) -> bool {
    let addr = BlockAddr::decode(raw, layout);
    let fits = match (level, addr) {
        (ZeroLevel::FileBlock, BlockAddr::FileBlock { .. } | BlockAddr::LargeFileBlock { .. }) => {
            true
        }
        (ZeroLevel::SubBlock, BlockAddr::Resource { kind, .. }) => kind == ResourceKind::SubBlock,
        (ZeroLevel::PointerBlock2, BlockAddr::Resource { kind, .. }) => {
            kind == ResourceKind::PointerBlock2
        }
        (
            ZeroLevel::PointerBlock | ZeroLevel::DoublePointerBlock,
            BlockAddr::Resource { kind, .. },
        ) => {
            kind == ResourceKind::PointerBlock
                || kind == ResourceKind::SubBlock && layout.family == Family::Vmfs6
        }
        _ => false,
    };
    fits && addr.encode(layout) == raw
}

/// What an array holds by what is in the pointer blocks that it names: blocks, or more pointer blocks.
fn by_pointers(layout: &Layout, raws: &[u64], read: ReadPointers<'_>) -> Option<ZeroLevel> {
    let mut blocks = raws.iter().take(LOOKED_AT).filter_map(|&raw| {
        let bytes = read(BlockAddr::decode(raw, layout))?;
        let below = bytes
            .chunks_exact(layout.address_size as usize)
            .map(little_endian)
            .filter(|&raw| raw != 0);
        let (mut all, mut blocks, mut pointers) = (0, 0, 0);
        for raw in below {
            all += 1;
            blocks += usize::from(stands(layout, ZeroLevel::FileBlock, raw));
            pointers += usize::from(stands(layout, ZeroLevel::DoublePointerBlock, raw));
        }
        if blocks * 2 > all {
            Some(ZeroLevel::PointerBlock)
        } else {
            (pointers * 2 > all).then_some(ZeroLevel::DoublePointerBlock)
        }
    });
    blocks.next()
}
