use super::error::MetaError;
use super::meta_reader::MetaReader;
use super::system::PointerSources;
use crate::format::{At, BlockAddr, Damage, FileMetadata, Layout, ResourceKind, ZeroLevel};
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
    addresses: Box<[u64]>,
}

/// The entry for an offset, and the range of the file that it speaks of.
struct Entry {
    raw: u64,
    start: u64,
    length: u64,
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
            .map(little_endian)
            .collect();
        Self {
            fd_offset,
            zero_level,
            block_shift: meta.block_shift(),
            length: meta.length.get(),
            addresses,
        }
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

    /// The address array as it stands on disk.
    pub fn addresses(&self) -> &[u64] {
        &self.addresses
    }

    /// The run that starts at `offset`, merged with what follows it in one piece up to `limit`.
    ///
    /// `offset` must lie before the end of the file. The run ends at the end of the file at the
    /// latest and has at least one byte.
    pub fn run_at(
        &self,
        reader: &MetaReader,
        sources: &PointerSources,
        offset: u64,
        limit: u64,
    ) -> Result<Run, MetaError> {
        let end = self.length.min(limit.max(offset + 1));
        let mut run = self.unit_at(reader, sources, offset)?;
        while run.end() < end {
            let next = self.unit_at(reader, sources, run.end())?;
            if next.place != run.place.advanced(run.length) {
                break;
            }
            run.length += next.length;
        }
        run.length = run.length.min(self.length - offset);
        Ok(run)
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

    /// The piece of one address that holds `offset`, from there on.
    fn unit_at(
        &self,
        reader: &MetaReader,
        sources: &PointerSources,
        offset: u64,
    ) -> Result<Run, MetaError> {
        let layout = reader.layout();
        if self.zero_level == ZeroLevel::Resident {
            return self.resident_at(layout, offset);
        }
        let entry = self.entry_at(reader, sources, offset)?;
        let slot_left = entry.length - (offset - entry.start);
        let hole = Run {
            offset,
            length: slot_left,
            place: Place::Hole,
        };
        let (unit, start, tbz) = match BlockAddr::decode(entry.raw, layout) {
            BlockAddr::Hole => return Ok(hole),
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
                let place = sources
                    .sub_blocks
                    .as_ref()
                    .ok_or_else(|| {
                        self.damage("sub-block address", entry.raw, "a readable .sbc.sf")
                    })?
                    .locate(reader, cluster, resource)?;
                (layout.sub_block_size(), place.0, 0)
            }
            _ => {
                return Err(self
                    .damage("block address", entry.raw, "a block of data")
                    .into());
            }
        };
        if entry.length > unit {
            let expected = "a block as large as the map's entries";
            return Err(self.damage("block address", entry.raw, expected).into());
        }
        let inside = offset & (unit - 1);
        let place = VolumeOffset(start) + inside;
        if start.saturating_add(unit) > reader.volume().size() {
            let expected = format!(
                "a block inside the volume of {:#x} bytes",
                reader.volume().size()
            );
            return Err(self.damage("block address", entry.raw, &expected).into());
        }
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

    /// Walks down the tree to the entry that covers `offset`.
    fn entry_at(
        &self,
        reader: &MetaReader,
        sources: &PointerSources,
        offset: u64,
    ) -> Result<Entry, MetaError> {
        let layout = reader.layout();
        let pointer_shift = layout.pointers_per_block.trailing_zeros();
        let mut shift = self.block_shift + self.zero_level.depth() * pointer_shift;
        let index = offset >> shift;
        let Some(&raw) = self.addresses.get(index as usize) else {
            let expected = format!("at most {} entries of the map", self.addresses.len());
            return Err(self.damage("length", self.length, &expected).into());
        };
        let mut raw = raw;
        for _ in 0..self.zero_level.depth() {
            if raw == 0 {
                break;
            }
            let base = self.pointer_block(reader, sources, BlockAddr::decode(raw, layout))?;
            shift -= pointer_shift;
            let index = offset >> shift & (layout.pointers_per_block - 1);
            let (block, inside) = reader
                .block(base + index * layout.address_size)
                .map_err(MetaError::from)?;
            let bytes = block.get(inside..inside + layout.address_size as usize);
            raw = bytes.map_or(0, little_endian);
        }
        let start = offset >> shift << shift;
        Ok(Entry {
            raw,
            start,
            length: 1 << shift,
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

/// Reads a little-endian number of up to eight bytes.
fn little_endian(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .rev()
        .fold(0, |value, &byte| value << 8 | u64::from(byte))
}
