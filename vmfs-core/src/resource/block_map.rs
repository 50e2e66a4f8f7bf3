use std::sync::Arc;

use super::error::MetaError;
use super::system::PointerSources;
use crate::format::{At, BlockAddr, Damage, FileMetadata, Layout, ResourceKind, ZeroLevel};
use crate::journal::MetaReader;
use crate::lvm::VolumeOffset;

/// Where a run of a file's bytes is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    /// On the volume.
    Data(VolumeOffset),
    /// Allocated at this place but to be zeroed: reads as zeros.
    ToBeZeroed(VolumeOffset),
    /// Nowhere: reads as zeros.
    Hole,
}

impl Place {
    /// The place `bytes` further on.
    fn advanced(self, bytes: u64) -> Self {
        match self {
            Self::Data(offset) => Self::Data(offset + bytes),
            Self::ToBeZeroed(offset) => Self::ToBeZeroed(offset + bytes),
            Self::Hole => Self::Hole,
        }
    }
}

/// A run of a file that lies in one piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Run {
    /// Offset in the file.
    pub offset: u64,
    /// Bytes of the run.
    pub length: u64,
    /// Where it is.
    pub place: Place,
}

impl Run {
    /// Offset in the file behind the run.
    pub const fn end(&self) -> u64 {
        self.offset + self.length
    }
}

/// A file's address tree: what turns an offset in the file into a place on the volume
/// (FORMAT.md, "Block maps").
#[derive(Debug, Clone)]
pub struct BlockMap {
    /// Volume offset of the file descriptor, for messages and resident data.
    fd_offset: VolumeOffset,
    zero_level: ZeroLevel,
    /// log2 of the bytes that an entry at the bottom of the tree covers.
    block_shift: u32,
    length: u64,
    /// Entries that the array has room for.
    capacity: u64,
    /// The entries up to the last that isn't zero.
    addresses: Box<[u64]>,
}

/// The entry for an offset, and the range of the file that it speaks of.
#[derive(Clone, Copy)]
struct Entry {
    raw: u64,
    start: u64,
    length: u64,
}

/// Consecutive entries of one pointer block that are in memory.
struct Page {
    bytes: Arc<[u8]>,
    /// Where in `bytes` the first of them is.
    first: usize,
    /// Offset in the file that the first of them covers.
    start: u64,
    /// log2 of the bytes that each covers.
    shift: u32,
    /// How many there are.
    count: u64,
}

/// Looks at a file's entries one after the other, keeping hold of the pointers read last.
struct Walker<'a> {
    map: &'a BlockMap,
    reader: &'a MetaReader,
    sources: &'a PointerSources,
    page: Option<Page>,
}

impl BlockMap {
    /// The map in a file descriptor's `bytes`, whose metadata has been checked.
    pub fn new(
        meta: &FileMetadata,
        bytes: &[u8],
        fd_offset: VolumeOffset,
        layout: &Layout,
    ) -> Self {
        let zero_level = meta.zero_level();
        let holds_addresses = !matches!(zero_level, ZeroLevel::Resident | ZeroLevel::None);
        let array = bytes
            .get(layout.fd_addresses as usize..)
            .filter(|_| holds_addresses);
        let addresses = array
            .unwrap_or_default()
            .chunks_exact(layout.address_size as usize)
            .take(layout.fd_address_count as usize)
            .map(little_endian);
        // Most maps are short: what is behind the last address needn't be kept.
        let mut addresses: Vec<u64> = addresses.collect();
        let capacity = addresses.len() as u64;
        let used = addresses
            .iter()
            .rposition(|&raw| raw != 0)
            .map_or(0, |last| last + 1);
        addresses.truncate(used);
        Self {
            fd_offset,
            zero_level,
            block_shift: meta.block_shift(),
            length: meta.length.get(),
            capacity,
            addresses: addresses.into_boxed_slice(),
        }
    }

    /// A map that no descriptor holds; see the fields.
    pub(super) fn of_addresses(
        zero_level: ZeroLevel,
        block_shift: u32,
        length: u64,
        addresses: Vec<u64>,
        fd_offset: VolumeOffset,
    ) -> Self {
        Self {
            fd_offset,
            zero_level,
            block_shift,
            length,
            capacity: addresses.len() as u64,
            addresses: addresses.into_boxed_slice(),
        }
    }

    /// log2 of the bytes that an entry at the bottom of the tree covers.
    pub fn block_shift(&self) -> u32 {
        self.block_shift
    }

    /// Length of the file in bytes.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Where the file descriptor lies that the map belongs to.
    pub fn fd_offset(&self) -> VolumeOffset {
        self.fd_offset
    }

    /// What the address array holds.
    pub fn zero_level(&self) -> ZeroLevel {
        self.zero_level
    }

    /// The address array as it stands on disk, up to the last entry that isn't zero.
    pub fn addresses(&self) -> &[u64] {
        &self.addresses
    }

    /// The run that starts at `offset`, merged with what follows it in one piece up to `limit`.
    ///
    /// The run ends at the end of the file at the latest and has at least one byte.
    ///
    /// # Errors
    /// When `offset` doesn't lie before the end of the file, or what leads there can't be right or be read.
    pub fn run_at(
        &self,
        reader: &MetaReader,
        sources: &PointerSources,
        offset: u64,
        limit: u64,
    ) -> Result<Run, MetaError> {
        let left = self.length.saturating_sub(offset);
        if left == 0 {
            let expected = format!("an offset before the file's end at {:#x}", self.length);
            return Err(self.damage("offset", offset, &expected).into());
        }
        let end = self.length.min(limit.max(offset + 1));
        let mut walker = Walker {
            map: self,
            reader,
            sources,
            page: None,
        };
        let mut run = walker.unit_at(offset)?;
        while run.end() < end {
            let next = walker.unit_at(run.end())?;
            if next.place != run.place.advanced(run.length) {
                break;
            }
            run.length += next.length;
        }
        run.length = run.length.min(left);
        Ok(run)
    }

    /// The first offset from `offset` on whose place `wanted` accepts; `None` when none before
    /// the end is.
    pub fn find(
        &self,
        reader: &MetaReader,
        sources: &PointerSources,
        offset: u64,
        wanted: impl Fn(Place) -> bool,
    ) -> Result<Option<u64>, MetaError> {
        let mut walker = Walker {
            map: self,
            reader,
            sources,
            page: None,
        };
        let mut at = offset;
        while at < self.length {
            let unit = walker.unit_at(at)?;
            if wanted(unit.place) {
                return Ok(Some(at));
            }
            at = unit.end();
        }
        Ok(None)
    }

    /// Calls `visit` with every entry of the tree that isn't zero, pointer blocks included: the
    /// decoded address and how many levels above the data it is.
    ///
    /// # Errors
    /// What `visit` returns, or that a pointer block can't be read.
    pub fn for_each_address<E: From<MetaError>>(
        &self,
        reader: &MetaReader,
        sources: &PointerSources,
        visit: &mut dyn FnMut(BlockAddr, u32) -> Result<(), E>,
    ) -> Result<(), E> {
        let layout = reader.layout();
        let depth = self.zero_level.depth();
        for &raw in self.addresses.iter().filter(|&&raw| raw != 0) {
            let addr = BlockAddr::decode(raw, layout);
            visit(addr, depth)?;
            if depth > 0 {
                self.visit_pointer_block(reader, sources, addr, depth - 1, visit)?;
            }
        }
        Ok(())
    }

    fn visit_pointer_block<E: From<MetaError>>(
        &self,
        reader: &MetaReader,
        sources: &PointerSources,
        block: BlockAddr,
        depth: u32,
        visit: &mut dyn FnMut(BlockAddr, u32) -> Result<(), E>,
    ) -> Result<(), E> {
        let layout = reader.layout();
        let base = self.pointer_block(reader, sources, block)?;
        let mut bytes = vec![0; layout.pointer_block_size() as usize];
        reader.read(base, &mut bytes).map_err(MetaError::from)?;
        for raw in bytes
            .chunks_exact(layout.address_size as usize)
            .map(little_endian)
        {
            if raw != 0 {
                let addr = BlockAddr::decode(raw, layout);
                visit(addr, depth)?;
                if depth > 0 {
                    self.visit_pointer_block(reader, sources, addr, depth - 1, visit)?;
                }
            }
        }
        Ok(())
    }

    fn resident_at(&self, layout: &Layout, offset: u64) -> Result<Run, MetaError> {
        if self.length > layout.fd_data_size {
            let expected = format!("at most {} bytes for resident data", layout.fd_data_size);
            return Err(self.damage("length", self.length, &expected).into());
        }
        let place = Place::Data(self.fd_offset + layout.fd_data + offset);
        Ok(Run {
            offset,
            length: self.length - offset,
            place,
        })
    }

    /// Where a pointer block lies.
    fn pointer_block(
        &self,
        reader: &MetaReader,
        sources: &PointerSources,
        addr: BlockAddr,
    ) -> Result<VolumeOffset, MetaError> {
        let raw = addr.encode(reader.layout());
        let BlockAddr::Resource {
            kind,
            cluster,
            resource,
            ..
        } = addr
        else {
            return Err(self
                .damage("pointer block address", raw, "a pointer block")
                .into());
        };
        let file = match kind {
            ResourceKind::PointerBlock => &sources.pointer_blocks,
            ResourceKind::PointerBlock2 => &sources.pointer_blocks2,
            ResourceKind::SubBlock => &sources.sub_blocks,
            _ => &None,
        };
        let Some(file) = file else {
            let expected = "an address in a readable resource file of pointer blocks";
            return Err(self.damage("pointer block address", raw, expected).into());
        };
        if u64::from(file.header().resource_size.get()) < reader.layout().pointer_block_size() {
            return Err(self
                .damage("pointer block address", raw, "a whole pointer block")
                .into());
        }
        file.locate(reader, cluster, resource)
    }

    fn damage(&self, field: &'static str, found: u64, expected: &str) -> Damage {
        const NAME: &str = "block map";
        Damage::hex(NAME, At::Volume(self.fd_offset.0), field, found, expected)
    }
}

impl Walker<'_> {
    /// The piece of one address that holds `offset`, from there on.
    fn unit_at(&mut self, offset: u64) -> Result<Run, MetaError> {
        let (map, layout) = (self.map, self.reader.layout());
        if map.zero_level == ZeroLevel::Resident {
            return map.resident_at(layout, offset);
        }
        let entry = self.entry_at(offset)?;
        let slot_left = entry.length - (offset - entry.start);
        let (unit, start, tbz) = match BlockAddr::decode(entry.raw, layout) {
            BlockAddr::Hole => {
                return Ok(Run {
                    offset,
                    length: slot_left,
                    place: Place::Hole,
                });
            }
            BlockAddr::FileBlock { block, tbz, .. } => (
                layout.file_block_size(),
                block.saturating_mul(layout.file_block_size()),
                tbz,
            ),
            BlockAddr::LargeFileBlock { block, tbz, .. } => (
                layout.large_block_size(),
                block.saturating_mul(layout.large_block_size()),
                tbz,
            ),
            BlockAddr::Resource {
                kind: ResourceKind::SubBlock,
                cluster,
                resource,
                ..
            } => {
                let expected = "a readable .sbc.sf";
                let sub_blocks = self.sources.sub_blocks.as_ref();
                let place = sub_blocks
                    .ok_or_else(|| map.damage("sub-block address", entry.raw, expected))?
                    .locate(self.reader, cluster, resource)?;
                (layout.sub_block_size(), place.0, 0)
            }
            _ => {
                return Err(map
                    .damage("block address", entry.raw, "a block of data")
                    .into());
            }
        };
        if entry.length > unit {
            let expected = "a block as large as the map's entries";
            return Err(map.damage("block address", entry.raw, expected).into());
        }
        let volume_size = self.reader.volume().size();
        if start.saturating_add(unit) > volume_size {
            let expected = format!("a block inside the volume of {volume_size:#x} bytes");
            return Err(map.damage("block address", entry.raw, &expected).into());
        }
        let inside = offset & (unit - 1);
        let place = VolumeOffset(start) + inside;
        let place = if tbz == 0 {
            Place::Data(place)
        } else {
            Place::ToBeZeroed(place)
        };
        Ok(Run {
            offset,
            length: slot_left.min(unit - inside),
            place,
        })
    }

    /// The entry that covers `offset`: from the page at hand, or down the tree to it.
    fn entry_at(&mut self, offset: u64) -> Result<Entry, MetaError> {
        let address_size = self.reader.layout().address_size as usize;
        let at_hand = self
            .page
            .as_ref()
            .and_then(|page| page.entry(offset, address_size));
        if let Some(entry) = at_hand {
            return Ok(entry);
        }
        let (map, layout) = (self.map, self.reader.layout());
        let pointer_shift = layout.pointers_per_block.trailing_zeros();
        let mut shift = map.block_shift + map.zero_level.depth() * pointer_shift;
        let index = offset >> shift;
        if index >= map.capacity {
            let expected = format!("at most {} entries of the map", map.capacity);
            return Err(map.damage("length", map.length, &expected).into());
        }
        let top = map.addresses.get(index as usize).copied().unwrap_or(0);
        let mut raw = top;
        for _ in 0..map.zero_level.depth() {
            if raw == 0 {
                break;
            }
            let addr = BlockAddr::decode(raw, layout);
            let base = map.pointer_block(self.reader, self.sources, addr)?;
            shift -= pointer_shift;
            let index = offset >> shift & (layout.pointers_per_block - 1);
            let place = base + index * layout.address_size;
            let (bytes, inside) = self.reader.block_in_sequence(place)?;
            // Go back to the first pointer that this piece of metadata has of the block.
            let before = index.min((inside / address_size) as u64);
            let first = inside - before as usize * address_size;
            let in_bytes = (bytes.len().saturating_sub(first) / address_size) as u64;
            let page = Page {
                first,
                start: ((offset >> shift) - before) << shift,
                shift,
                count: in_bytes.min(layout.pointers_per_block - (index - before)),
                bytes,
            };
            raw = page
                .entry(offset, address_size)
                .map_or(0, |entry| entry.raw);
            self.page = Some(page);
        }
        if raw == 0 && shift > map.block_shift {
            // A pointer block that isn't there: the page is of a level above the data.
            self.page = None;
        }
        let start = offset >> shift << shift;
        Ok(Entry {
            raw,
            start,
            length: 1 << shift,
        })
    }
}

impl Page {
    /// The entry that covers `offset`, if it is one of these.
    fn entry(&self, offset: u64, address_size: usize) -> Option<Entry> {
        let index = offset.checked_sub(self.start)? >> self.shift;
        if index >= self.count {
            return None;
        }
        let at = self.first + index as usize * address_size;
        let raw = little_endian(self.bytes.get(at..at + address_size)?);
        let start = offset >> self.shift << self.shift;
        Some(Entry {
            raw,
            start,
            length: 1 << self.shift,
        })
    }
}

/// Reads a little-endian number of up to eight bytes.
fn little_endian(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .rev()
        .fold(0, |value, &byte| value << 8 | u64::from(byte))
}
