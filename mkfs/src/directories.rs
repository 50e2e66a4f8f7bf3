//! The directories of a fresh volume: the root and `.sdd.sf`.

use vmfs_core::format::{
    DIR_BLOCKS_START, DIR_VERSION, DirBlockHeader, DirBlockKind, DirEntry5, DirEntry6, DirHeader,
    Family, FdAddr, FileKind, Layout, Location, MAP_NIBBLE_FREE, MAP_NIBBLE_NOT_WRITTEN,
    SystemFile, name_hash,
};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

/// Where `..` stands in a VMFS6 directory.
const PARENT_OFFSET: usize = 0x4d8;
/// Entries of the root directory, in the order of a fresh volume's.
const SYSTEM_FILES: [SystemFile; 9] = [
    SystemFile::FileBlocks,
    SystemFile::FileDescriptors,
    SystemFile::PointerBlocks,
    SystemFile::SubBlocks,
    SystemFile::VolumeHeader,
    SystemFile::PointerBlocks2,
    SystemFile::SystemData,
    SystemFile::Journals,
    SystemFile::Unmap,
];

/// The system files that a volume of `family` has.
pub(crate) fn system_files(family: Family) -> &'static [SystemFile] {
    match family {
        Family::Vmfs3 => &SYSTEM_FILES[..5],
        Family::Vmfs5 => &SYSTEM_FILES[..7],
        Family::Vmfs6 => &SYSTEM_FILES,
    }
}

/// The root directory's pieces, as offsets in the directory and bytes.
pub(crate) fn root(layout: &Layout) -> Vec<(u64, Vec<u8>)> {
    let files = system_files(layout.family);
    if layout.family != Family::Vmfs6 {
        let dots = [
            (FileKind::Directory, FdAddr::ROOT, "."),
            (FileKind::Directory, FdAddr::ROOT, ".."),
        ];
        let entries = dots.into_iter().chain(
            files
                .iter()
                .map(|file| (FileKind::System, file.fd(), file.name())),
        );
        return vec![(
            0,
            entries
                .flat_map(|(kind, fd, name)| entry5(kind, fd, name))
                .collect(),
        )];
    }
    let md = layout.md_block;
    let mut header = header6(
        layout,
        FileKind::Directory,
        FdAddr::ROOT,
        2 + files.len() as u32,
    );
    let mut block = DirBlock::new(DirBlockKind::Entries, 14, md as usize);
    for (slot, file) in files.iter().enumerate() {
        let offset = DIR_BLOCKS_START + md + DirBlockHeader::SIZE + slot as u64 * DirEntry6::SIZE;
        let entry = entry6(
            FileKind::System,
            file.fd(),
            1,
            offset,
            file.name().as_bytes(),
        );
        block.put(slot as u32, entry.as_bytes());
        let location = Location::Entry {
            block: 1,
            slot: slot as u32,
        };
        let at =
            DirHeader::SIZE as usize + 4 * name_hash(file.name().as_bytes(), true).slot as usize;
        header[at..at + 4].copy_from_slice(&location.raw().to_le_bytes());
    }
    vec![
        (0, header),
        (
            DIR_BLOCKS_START,
            map_block(md as usize, Some(1 | MAP_NIBBLE_FREE)),
        ),
        (DIR_BLOCKS_START + md, block.bytes),
    ]
}

/// The pieces of the empty directory `.sdd.sf`.
pub(crate) fn system_data(layout: &Layout) -> Vec<(u64, Vec<u8>)> {
    let fd = SystemFile::SystemData.fd();
    if layout.family == Family::Vmfs6 {
        return vec![
            (0, header6(layout, FileKind::System, fd, 2)),
            (DIR_BLOCKS_START, map_block(layout.md_block as usize, None)),
        ];
    }
    let mut entries = entry5(FileKind::System, fd, ".");
    entries.extend(entry5(FileKind::Directory, FdAddr::ROOT, ".."));
    vec![(0, entries)]
}

fn entry5(kind: FileKind, fd: FdAddr, name: &str) -> Vec<u8> {
    let mut entry = DirEntry5::new_zeroed();
    entry.kind = (kind as u32).into();
    entry.fd = fd.raw().into();
    entry.generation = 1.into();
    entry.name[..name.len()].copy_from_slice(name.as_bytes());
    entry.as_bytes().to_vec()
}

/// A VMFS6 directory entry at `offset` of its directory, hash fields zero; names are cut at 255
/// bytes.
pub fn entry6(kind: FileKind, fd: FdAddr, generation: u32, offset: u64, name: &[u8]) -> DirEntry6 {
    let mut entry = DirEntry6::new_zeroed();
    entry.kind = (kind as u32).into();
    entry.fd = fd.raw().into();
    entry.generation = generation.into();
    entry.offset = offset.into();
    let used = name.len().min(255);
    entry.name[..used].copy_from_slice(&name[..used]);
    entry
}

/// Header and hash table of a VMFS6 directory right below the root (or the root itself).
fn header6(layout: &Layout, kind: FileKind, fd: FdAddr, entries: u32) -> Vec<u8> {
    debug_assert_eq!(layout.family, Family::Vmfs6);
    let mut bytes = vec![0; DIR_BLOCKS_START as usize];
    let (header, _) = DirHeader::mut_from_prefix(&mut bytes).expect("larger than a header");
    header.version = DIR_VERSION.into();
    header.entries = entries.into();
    header.allocated = entries.into();
    header.map_block_count = 1.into();
    let this = std::mem::offset_of!(DirHeader, this) as u64;
    header.this = entry6(kind, fd, 1, this, b".");
    header.parent = entry6(
        FileKind::Directory,
        FdAddr::ROOT,
        1,
        PARENT_OFFSET as u64,
        b"..",
    );
    bytes
}

/// The first allocation map block of a directory: itself, perhaps block 1, nothing else.
fn map_block(md: usize, block1: Option<u8>) -> Vec<u8> {
    let mut bytes = vec![0; md];
    let (header, nibbles) = DirBlockHeader::mut_from_prefix(&mut bytes).expect("larger");
    header.kind = (DirBlockKind::Map as u16).into();
    nibbles.fill(MAP_NIBBLE_NOT_WRITTEN << 4 | MAP_NIBBLE_NOT_WRITTEN);
    // The high nibble is the lower-numbered block's.
    nibbles[0] = (DirBlockKind::Map as u8) << 4 | block1.unwrap_or(MAP_NIBBLE_NOT_WRITTEN);
    bytes
}

/// A block of entries or links of a VMFS6 directory, in memory.
#[derive(Debug, Clone)]
pub struct DirBlock {
    bytes: Vec<u8>,
    slot_size: usize,
}

impl DirBlock {
    /// An empty block of `size` bytes with `slots` slots.
    ///
    /// # Panics
    /// When `size` has no room for the block's header.
    pub fn new(kind: DirBlockKind, slots: u16, size: usize) -> Self {
        let mut bytes = vec![0; size];
        let (header, room) = DirBlockHeader::mut_from_prefix(&mut bytes).expect("larger");
        header.version = 1.into();
        header.kind = (kind as u16).into();
        header.slots = slots.into();
        header.free = slots.into();
        for slot in 0..usize::from(slots) {
            header.bitmap[slot / 8] |= 1 << (slot % 8);
        }
        let slot_size = match kind {
            DirBlockKind::Links => vmfs_core::format::DirLinkGroup::SIZE as usize,
            _ => DirEntry6::SIZE as usize,
        };
        debug_assert!(usize::from(slots) * slot_size <= room.len());
        Self { bytes, slot_size }
    }

    /// Puts `content` into `slot` and marks it used.
    ///
    /// # Panics
    /// When the block has no such slot.
    pub fn put(&mut self, slot: u32, content: &[u8]) {
        let size = self.slot_size;
        let (header, slots) = DirBlockHeader::mut_from_prefix(&mut self.bytes).expect("larger");
        if !header.is_used(slot) {
            header.bitmap[slot as usize / 8] &= !(1 << (slot % 8));
            header.free -= 1;
        }
        let at = slot as usize * size;
        slots[at..at + content.len()].copy_from_slice(content);
    }

    /// The bytes as they stand in the directory.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}
