use std::collections::BTreeMap;

use vmfs_core::format::{
    BlockAddr, DiskLock, Family, FdImage, FileKind, Layout, LockKind, ResourceHeader, ResourceKind,
    SystemFile, ZeroLevel,
};
use vmfs_core::lvm::Volume;
use vmfs_core::resource::rescue::Evidence;
use zerocopy::FromBytes;

use super::map::{FIRST_CLUSTER, Map, header};
use super::{Patches, Side, Trust, pointers};

/// Permissions of every resource file.
const MODE: u32 = 0o400;

/// A map that would be whole.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) patches: Patches,
    /// The file's blocks on the volume.
    pub(super) blocks: Vec<u64>,
    /// Those of them on which the parts around a gap don't agree.
    pub(super) guessed: Vec<u64>,
    /// Blocks that stand in the map and aren't believed, and those in their places on which the parts agree.
    pub(super) doubted: Vec<(u64, u64)>,
}

/// What makes the map of a resource file whole; `None` if that isn't clear.
pub(super) fn of(
    volume: &Volume,
    layout: &Layout,
    (file, kind): (SystemFile, ResourceKind),
    map: &Map,
    (evidence, side, trust): (&Evidence, &Side, Trust),
) -> Option<Candidate> {
    let shift = layout.file_block_shift;
    let mut found = Found::default();
    let first = map.known.get(&0).copied().or_else(|| {
        let (_, at) = evidence.clusters(kind).find(|&(number, _)| number == 0)?;
        Some(at.checked_sub(FIRST_CLUSTER)? >> shift)
    })?;
    let header = header(volume, layout, kind, (first << shift, map.length()))?;
    let length = header.file_length(layout.family, layout.cluster_header_size());
    let needed = length.div_ceil(layout.file_block_size());
    if map.image.is_some() && map.needed < needed {
        return None;
    }
    found.note(0, first);
    evident(layout, kind, &header, evidence, &mut found)?;
    if found.contradicts {
        return None;
    }
    let mut blocks = found.blocks;
    let needed = needed.max(map.needed);
    let mut doubtful = Vec::new();
    for (&block, &place) in &map.known {
        if trust == Trust::Adjoining && block > 0 && is_lonely(&map.known, block, needed) {
            doubtful.push(block);
        } else {
            blocks.entry(block).or_insert(place);
        }
    }
    if has_pointers(layout, file, needed) && map.pointers.is_empty() {
        // The pointer block that agrees with what is known of the file knows the rest.
        let raws = pointers::agreeing(volume, layout, &blocks, needed);
        for (block, raw) in (0..needed).zip(raws.into_iter().flatten()) {
            if let BlockAddr::FileBlock { block: place, .. } = BlockAddr::decode(raw, layout) {
                blocks.entry(block).or_insert(place);
            }
        }
    }
    let guessed = fill(&mut blocks, needed, (file, side))?;
    let doubted = doubtful.iter().filter_map(|block| {
        let pair = (*map.known.get(block)?, *blocks.get(block)?);
        (!guessed.contains(&pair.1)).then_some(pair)
    });
    let doubted = doubted.collect();
    let patches = write(volume, layout, file, map, (&blocks, needed, length))?;
    Some(Candidate {
        patches,
        blocks: blocks.into_values().take(needed as usize).collect(),
        guessed,
        doubted,
    })
}

/// Whether an address stands beside one that is lost, and leads to where no other of the file does: what damaged
/// its neighbour may have damaged it too.
fn is_lonely(known: &BTreeMap<u64, u64>, block: u64, needed: u64) -> bool {
    let Some(&place) = known.get(&block) else {
        return false;
    };
    let before = known.get(&(block - 1)).copied();
    let behind = known.get(&(block + 1)).copied();
    let beside_lost = before.is_none() || behind.is_none() && block + 1 < needed;
    let adjoins = before.is_some_and(|before| before + 1 == place)
        || behind.is_some_and(|behind| place + 1 == behind);
    beside_lost && !adjoins
}

/// Whether a file of so many blocks has pointer blocks; `.sbc.sf` of VMFS6 has in any case.
fn has_pointers(layout: &Layout, file: SystemFile, needed: u64) -> bool {
    needed > layout.fd_address_count
        || layout.family == Family::Vmfs6 && file == SystemFile::SubBlocks
}

/// Blocks of the volume by blocks of a file.
#[derive(Default)]
struct Found {
    blocks: BTreeMap<u64, u64>,
    /// One of them was found in two places.
    contradicts: bool,
}

impl Found {
    fn note(&mut self, block: u64, place: u64) {
        let first = *self.blocks.entry(block).or_insert(place);
        self.contradicts |= first != place;
    }
}

/// Takes in what says itself that it is a part of the file; `None` if something is in two places.
fn evident(
    layout: &Layout,
    kind: ResourceKind,
    header: &ResourceHeader,
    evidence: &Evidence,
    found: &mut Found,
) -> Option<()> {
    let (shift, size) = (layout.file_block_shift, layout.cluster_header_size());
    let inside = layout.file_block_size() - 1;
    let mut note = |offset: u64, at: u64| {
        found.contradicts |= offset & inside != at & inside;
        found.note(offset >> shift, at >> shift);
    };
    if evidence.is_ambiguous(kind) {
        return None;
    }
    for (number, at) in evidence.clusters(kind) {
        if number < header.clusters() {
            note(header.cluster_header_offset(number, size), at);
        }
    }
    let per_cluster = u64::from(header.resources_per_cluster.get().max(1));
    if kind == ResourceKind::LargeFileBlock {
        // The headers of small clusters are what the file has as its resources.
        if evidence.is_ambiguous(ResourceKind::FileBlock) {
            return None;
        }
        for (number, at) in evidence.clusters(ResourceKind::FileBlock) {
            let (cluster, resource) = (number / per_cluster, number % per_cluster);
            if let Some(offset) = header.resource_offset(cluster, resource as u32, size) {
                note(offset, at);
            }
        }
    }
    if kind == ResourceKind::FileDescriptor {
        for (fd, at) in evidence.descriptors() {
            let offset = header.resource_offset(fd.cluster().into(), fd.resource(), size);
            if let Some(offset) = offset {
                note(offset, at);
            }
        }
    }
    Some(())
}

/// Fills gaps as if what is on one side of each went on into it; `None` if that can't be. A wrong guess
/// doesn't account for all that is marked used. Returns the blocks on which the two sides of a gap don't agree.
fn fill(
    blocks: &mut BTreeMap<u64, u64>,
    needed: u64,
    (file, side): (SystemFile, &Side),
) -> Option<Vec<u64>> {
    let known: Vec<(u64, u64)> = blocks
        .iter()
        .map(|(&block, &place)| (block, place))
        .collect();
    let mut nobodys = match side {
        Side::Nobodys(of, places) if *of == file => Some(places.iter().copied()),
        _ => None,
    };
    let mut guessed = Vec::new();
    let ends = known.iter().skip(1).copied().map(Some).chain([None]);
    for (&(block, place), next) in known.iter().zip(ends) {
        let end = next.map_or(needed, |(next, _)| next);
        let agreed =
            next.is_some_and(|(next, there)| there.checked_sub(place) == Some(next - block));
        for missing in block + 1..end {
            let place = match (side, next, &mut nobodys) {
                _ if agreed => place + (missing - block),
                (.., Some(nobodys)) => nobodys.next()?,
                (Side::Behind, Some((next, there)), _) => there.checked_sub(next - missing)?,
                _ => place + (missing - block),
            };
            blocks.insert(missing, place);
            if !agreed {
                guessed.push(place);
            }
        }
    }
    // All of them must be needed.
    (nobodys.is_none_or(|mut rest| rest.next().is_none())).then_some(guessed)
}

/// The bytes that make the map one of these blocks.
fn write(
    volume: &Volume,
    layout: &Layout,
    file: SystemFile,
    map: &Map,
    (blocks, needed, length): (&BTreeMap<u64, u64>, u64, u64),
) -> Option<Patches> {
    let raw = |block: &u64| {
        let addr = BlockAddr::FileBlock {
            block: *block,
            tbz: 0,
            cow: false,
        };
        addr.encode(layout)
    };
    let size = layout.address_size as usize;
    let addresses: Vec<u64> = (0..needed)
        .map(|block| blocks.get(&block).map(raw))
        .collect::<Option<_>>()?;
    if let Some(image) = &map.image {
        if (map.slots.len() as u64) < needed {
            // Its pointer blocks were lost, or rather their addresses.
            if image.meta().zero_level() == ZeroLevel::FileBlock {
                return None;
            }
            let mut image = image.clone();
            let pointers = pointers::with(volume, layout, &[], &addresses)?;
            for index in 0..layout.fd_address_count as usize {
                image.set_address(index, pointers.get(index).copied().unwrap_or(0));
            }
            return Some(vec![(map.place(), image.bytes().to_vec())]);
        }
        // The fields that were mended, but for the addresses of a map without pointer blocks.
        let mut patches = vec![(map.place(), image.bytes().to_vec())];
        let slots = map.slots.iter().zip(&addresses);
        patches.extend(slots.map(|(slot, raw)| (*slot, raw.to_le_bytes()[..size].to_vec())));
        return Some(patches);
    }
    let place = map.place();
    let mut before = vec![0; layout.fd_size as usize];
    volume.read(place, &mut before).ok()?;
    let mut image = FdImage::new(layout, file.fd(), place.0, FileKind::System, 0);
    let pointers = if has_pointers(layout, file, needed) || !map.pointers.is_empty() {
        pointers::with(volume, layout, &map.pointers, &addresses)?
    } else {
        Vec::new()
    };
    let array = if pointers.is_empty() {
        &addresses
    } else {
        &pointers
    };
    for (index, &raw) in array.iter().enumerate() {
        image.set_address(index, raw);
    }
    image.set_blocks(needed);
    if let Some(&first) = pointers.first() {
        image.metadata().zero_level = pointers::level(layout, first).raw().into();
        if layout.family == Family::Vmfs6 {
            image.metadata().pointer_blocks = (pointers.len() as u32).into();
        }
    }
    let meta = image.metadata();
    meta.length = length.into();
    meta.mode = MODE.into();
    let mut bytes = image.bytes().to_vec();
    let lock = DiskLock::ref_from_prefix(&before)
        .ok()
        .map(|(lock, _)| lock);
    if lock.is_some_and(|lock| {
        lock.address.get() == place.0 && lock.kind.get() == LockKind::FileDescriptor as u32
    }) {
        let meta = layout.fd_meta as usize;
        bytes[..meta].copy_from_slice(&before[..meta]);
    }
    Some(vec![(place, bytes)])
}
