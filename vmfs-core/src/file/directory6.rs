//! Directories of VMFS6: blocks of entries under an allocation map, found by hash.

use zerocopy::FromBytes;

use super::directory::{DirEntry, MAX_DIRECTORY, entry_of};
use super::error::FileError;
use super::inode::Inode;
use super::store::FileStore;
use crate::format::{
    At, DIR_BLOCKS_START, DIR_VERSION, DIR_VERSION_DEBUG, Damage, DirBlockHeader, DirBlockKind,
    DirEntry6, DirHeader, DirLinkGroup, FdAddr, HASH_SLOTS, Location, MAP_NIBBLE_NOT_WRITTEN,
    MAX_MAP_BLOCKS, name_hash,
};

/// Link groups that a lookup follows; 100,000 names need some twenty for the fullest hash slot.
const MAX_LINK_GROUPS: u32 = 65_536;

/// Calls `visit` with the entries from position `from` on until it returns false.
///
/// A position is the block number times 256 plus the slot, plus one.
pub(super) fn for_each(
    store: &FileStore,
    inode: &Inode,
    from: u64,
    visit: &mut dyn FnMut(DirEntry) -> bool,
) -> Result<(), FileError> {
    let header = read_header(store, inode)?;
    let block_size = store.reader().layout().md_block;
    let blocks = inode.length().saturating_sub(DIR_BLOCKS_START) / block_size;
    let nibbles_per_map = (block_size - DirBlockHeader::SIZE) * 2;
    let first = from.saturating_sub(1) / 256;
    let mut map = vec![0; block_size as usize];
    let mut bytes = vec![0; block_size as usize];
    let map_blocks = header
        .map_blocks
        .iter()
        .take(header.map_block_count.get() as usize);
    for (index, map_block) in map_blocks.enumerate() {
        let map_start = index as u64 * nibbles_per_map;
        if map_start + nibbles_per_map <= first {
            continue;
        }
        read_block(store, inode, map_block.get(), DirBlockKind::Map, &mut map)?;
        let nibbles = &map[DirBlockHeader::SIZE as usize..];
        for number in map_start.max(first)..(map_start + nibbles_per_map).min(blocks) {
            let inside = (number - map_start) as usize;
            // The high nibble of a byte is the lower-numbered block.
            let nibble =
                nibbles[inside / 2] >> (if inside.is_multiple_of(2) { 4 } else { 0 }) & 0xf;
            let is_entries = u16::from(nibble & 3) == DirBlockKind::Entries as u16;
            if !is_entries || nibble & MAP_NIBBLE_NOT_WRITTEN != 0 {
                continue;
            }
            let number = number as u32;
            let block = read_block(store, inode, number, DirBlockKind::Entries, &mut bytes)?;
            for slot in 0..u32::from(block.slots.get()) {
                let position = u64::from(number) * 256 + u64::from(slot) + 1;
                if position <= from || !block.is_used(slot) {
                    continue;
                }
                let start = (DirBlockHeader::SIZE + u64::from(slot) * DirEntry6::SIZE) as usize;
                let entry = bytes
                    .get(start..)
                    .and_then(|b| DirEntry6::ref_from_prefix(b).ok());
                let Some(entry) = entry.and_then(|(entry, _)| checked(entry, inode, position))
                else {
                    continue;
                };
                if !visit(entry) {
                    return Ok(());
                }
            }
        }
    }
    Ok(())
}

/// The entry called `name`, through the hash table and the links of its slot.
pub(super) fn lookup(
    store: &FileStore,
    inode: &Inode,
    name: &[u8],
) -> Result<Option<DirEntry>, FileError> {
    if name.len() > store.reader().layout().max_name() {
        return Ok(None);
    }
    let hash = name_hash(name, inode.fd() == FdAddr::ROOT);
    debug_assert!(hash.slot < HASH_SLOTS);
    let mut slot = [0; 4];
    read_exact(
        store,
        inode,
        DirHeader::SIZE + u64::from(hash.slot) * 4,
        &mut slot,
    )?;
    let mut location = Location::from_raw(u32::from_le_bytes(slot));
    for _ in 0..MAX_LINK_GROUPS {
        match location {
            Location::Empty => return Ok(None),
            Location::Entry { block, slot } => {
                return entry_named(store, inode, block, slot, name);
            }
            Location::Links { block, slot } => {
                let group: DirLinkGroup = read_slot(
                    store,
                    inode,
                    block,
                    slot,
                    DirLinkGroup::SIZE,
                    DirBlockKind::Links,
                )?;
                if u32::from(group.hash_slot.get()) != hash.slot {
                    let at = slot_address(store, inode, block, slot, DirLinkGroup::SIZE);
                    let (found, expected) = (group.hash_slot.get(), hash.slot.to_string());
                    return Err(Damage::new("link group", at, "hash slot", found, expected).into());
                }
                let matching = group
                    .links
                    .iter()
                    .filter(|link| link.hash_hi.get() == hash.hi);
                for link in matching {
                    let Location::Entry { block, slot } = Location::from_raw(link.location.get())
                    else {
                        continue;
                    };
                    // Names can agree in both parts of the hash, so a match may be another's.
                    if let Some(entry) = entry_named(store, inode, block, slot, name)? {
                        return Ok(Some(entry));
                    }
                }
                location = Location::from_raw(group.next.get());
            }
            Location::Invalid(raw) => {
                let at = At::File {
                    fd: inode.fd().raw(),
                    offset: DirHeader::SIZE,
                };
                let expected = "an entry or a link group";
                return Err(Damage::hex("directory", at, "hash slot", raw.into(), expected).into());
            }
        }
    }
    let at = At::File {
        fd: inode.fd().raw(),
        offset: DirHeader::SIZE,
    };
    let expected = format!("at most {MAX_LINK_GROUPS}");
    Err(Damage::new(
        "directory",
        at,
        "link groups of a hash slot",
        "an endless chain",
        expected,
    )
    .into())
}

/// The directory that the header's `..` names.
pub(super) fn parent(store: &FileStore, inode: &Inode) -> Result<FdAddr, FileError> {
    let header = read_header(store, inode)?;
    let raw = header.parent.fd.get();
    // Zero: the system data directory has no way up but the root.
    if raw == 0 {
        return Ok(FdAddr::ROOT);
    }
    FdAddr::from_raw(raw).ok_or_else(|| {
        let at = At::File {
            fd: inode.fd().raw(),
            offset: 0,
        };
        Damage::hex(
            "directory header",
            at,
            "..",
            raw.into(),
            "a file descriptor address",
        )
        .into()
    })
}

fn read_header(store: &FileStore, inode: &Inode) -> Result<DirHeader, FileError> {
    const NAME: &str = "directory header";
    let at = At::File {
        fd: inode.fd().raw(),
        offset: 0,
    };
    if !(DIR_BLOCKS_START..=MAX_DIRECTORY).contains(&inode.length()) {
        let found = inode.length();
        return Err(Damage::new("directory", at, "length", found, "64 KiB to 1 GiB").into());
    }
    let mut bytes = [0; size_of::<DirHeader>()];
    read_exact(store, inode, 0, &mut bytes)?;
    let header: &DirHeader = crate::format::view(&bytes, NAME, at)?;
    if !matches!(header.version.get(), DIR_VERSION | DIR_VERSION_DEBUG) {
        let found = header.version.get().into();
        return Err(Damage::hex(NAME, at, "version", found, "0xf50001").into());
    }
    if header.map_block_count.get() as usize > MAX_MAP_BLOCKS {
        let found = header.map_block_count.get();
        return Err(Damage::new(NAME, at, "allocation map blocks", found, "at most 128").into());
    }
    Ok(header.clone())
}

/// Reads block `number` into `bytes` and checks that it is of `kind`.
fn read_block(
    store: &FileStore,
    inode: &Inode,
    number: u32,
    kind: DirBlockKind,
    bytes: &mut [u8],
) -> Result<DirBlockHeader, FileError> {
    let offset = block_offset(store, number);
    let read = store.read(inode, offset, bytes)?;
    // The last block may be cut by the length; what isn't there counts as zeros.
    bytes[read..].fill(0);
    let at = At::File {
        fd: inode.fd().raw(),
        offset,
    };
    checked_block(bytes, kind, at)
}

fn checked_block(bytes: &[u8], kind: DirBlockKind, at: At) -> Result<DirBlockHeader, FileError> {
    const NAME: &str = "directory block";
    let header: &DirBlockHeader = crate::format::view(bytes, NAME, at)?;
    if header.kind.get() != kind as u16 {
        let expected = format!("{} ({kind:?})", kind as u16);
        return Err(Damage::new(NAME, at, "type", header.kind.get(), expected).into());
    }
    Ok(header.clone())
}

/// Reads one slot of a block, an entry or a link group of `size` bytes, through the cache.
fn read_slot<T: FromBytes>(
    store: &FileStore,
    inode: &Inode,
    block: u32,
    slot: u32,
    size: u64,
    kind: DirBlockKind,
) -> Result<T, FileError> {
    let block_start = block_offset(store, block);
    let at = slot_address(store, inode, block, slot, size);
    let mut header = [0; size_of::<DirBlockHeader>()];
    read_exact(store, inode, block_start, &mut header)?;
    let header = checked_block(
        &header,
        kind,
        At::File {
            fd: inode.fd().raw(),
            offset: block_start,
        },
    )?;
    let slots = (store.reader().layout().md_block - DirBlockHeader::SIZE) / size;
    if u64::from(slot) >= slots.min(header.slots.get().into()) {
        let expected = format!("less than {}", slots.min(header.slots.get().into()));
        return Err(Damage::new("directory block", at, "slot", slot, expected).into());
    }
    let mut bytes = vec![0; size as usize];
    let offset = block_start + DirBlockHeader::SIZE + u64::from(slot) * size;
    read_exact(store, inode, offset, &mut bytes)?;
    T::read_from_bytes(&bytes).map_err(|_| {
        Damage::new(
            "directory block",
            at,
            "slot size",
            size,
            size_of::<T>().to_string(),
        )
        .into()
    })
}

/// The entry in a slot if it has this name.
fn entry_named(
    store: &FileStore,
    inode: &Inode,
    block: u32,
    slot: u32,
    name: &[u8],
) -> Result<Option<DirEntry>, FileError> {
    let entry: DirEntry6 = read_slot(
        store,
        inode,
        block,
        slot,
        DirEntry6::SIZE,
        DirBlockKind::Entries,
    )?;
    let position = u64::from(block) * 256 + u64::from(slot) + 1;
    Ok(checked(&entry, inode, position).filter(|entry| entry.name == name))
}

fn block_offset(store: &FileStore, block: u32) -> u64 {
    DIR_BLOCKS_START + u64::from(block) * store.reader().layout().md_block
}

fn slot_address(store: &FileStore, inode: &Inode, block: u32, slot: u32, size: u64) -> At {
    let offset = block_offset(store, block) + DirBlockHeader::SIZE + u64::from(slot) * size;
    At::File {
        fd: inode.fd().raw(),
        offset,
    }
}

/// Reads a piece of the directory through the metadata cache; zeros in holes.
fn read_exact(
    store: &FileStore,
    inode: &Inode,
    offset: u64,
    buf: &mut [u8],
) -> Result<(), FileError> {
    let mut done = 0;
    while done < buf.len() {
        let at = offset + done as u64;
        if at >= inode.length() {
            let place = At::File {
                fd: inode.fd().raw(),
                offset: at,
            };
            let (found, expected) = (inode.length(), format!("more than {at:#x}"));
            return Err(Damage::hex("directory", place, "length", found, expected).into());
        }
        let run = store.run_at(inode, at, at + (buf.len() - done) as u64)?;
        let length = (buf.len() - done).min(run.length as usize);
        let part = &mut buf[done..done + length];
        match run.place {
            crate::resource::Place::Data(place) => store.reader().read(place, part)?,
            _ => part.fill(0),
        }
        done += length;
    }
    Ok(())
}

fn checked(entry: &DirEntry6, inode: &Inode, next: u64) -> Option<DirEntry> {
    let fields = (entry.kind.get(), entry.fd.get(), entry.generation.get());
    entry_of(inode, next, entry.name(), fields)
}
