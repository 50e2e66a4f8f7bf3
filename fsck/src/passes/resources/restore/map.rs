use std::collections::BTreeMap;

use vmfs_core::format::{
    At, BlockAddr, FdAddr, FdImage, Layout, ResourceHeader, ResourceKind, ZeroLevel,
};
use vmfs_core::lvm::{Volume, VolumeOffset};

use super::super::{clusters::is_cluster, geometry};
use crate::passes::mend;

/// Where the first cluster of every resource file starts in it.
pub(super) const FIRST_CLUSTER: u64 = 65536;
/// File blocks that a resource file has at most: 64 TiB of them.
const MOST_BLOCKS: u64 = 1 << 26;

/// Where each file block of a resource file lies, as far as its descriptor tells and as its clusters
/// bear it out.
pub(super) struct Map {
    place: VolumeOffset,
    /// The descriptor as it stands, with the fields mended that follow from others; `None` if that
    /// isn't enough.
    pub(super) image: Option<FdImage>,
    /// Places of the addresses, by block number, for a map without pointer blocks or one whose pointer
    /// blocks are all there; else empty.
    pub(super) slots: Vec<VolumeOffset>,
    /// Addresses of the pointer blocks, if the map has any.
    pub(super) pointers: Vec<u64>,
    /// Blocks of the volume by blocks of the file.
    pub(super) known: BTreeMap<u64, u64>,
    /// Blocks that the file should have.
    pub(super) needed: u64,
    wrong: Vec<String>,
    /// File descriptors in use aren't where the map says.
    pub(super) hides_files: bool,
    /// Blocks of `.fdc.sf` in which descriptors may be in use and none is, and where the map says that they lie.
    pub(super) bare: BTreeMap<u64, u64>,
}

impl Map {
    /// The map of the resource file `fd`.
    pub(super) fn read(volume: &Volume, layout: &Layout, fd: FdAddr, kind: ResourceKind) -> Self {
        let place = VolumeOffset(layout.first_fd + u64::from(fd.resource()) * layout.fd_size);
        let mut map = Self {
            place,
            image: None,
            slots: Vec::new(),
            pointers: Vec::new(),
            known: BTreeMap::new(),
            needed: 0,
            wrong: Vec::new(),
            hides_files: false,
            bare: BTreeMap::new(),
        };
        let mut bytes = vec![0; layout.fd_size as usize];
        if volume.read(place, &mut bytes).is_err() {
            map.wrong.push("its descriptor can't be read".to_owned());
            return map;
        }
        let mut image = FdImage::from_bytes(layout, bytes);
        let sound = mend::system_descriptor(layout, fd, place, &mut image);
        let addresses: Vec<u64> = (0..layout.fd_address_count as usize)
            .map(|index| image.address(index))
            .collect();
        let damage = match sound {
            Ok(_) if image.meta().length.get() > 0 => None,
            Ok(_) => Some("its length is 0".to_owned()),
            Err(damage) => Some(damage.to_string()),
        };
        let level = if let Some(damage) = damage {
            map.wrong.push(format!("its descriptor is lost: {damage}"));
            // Its addresses may be there all the same.
            match BlockAddr::decode(addresses.first().copied().unwrap_or(0), layout) {
                BlockAddr::Resource { .. } => ZeroLevel::PointerBlock,
                _ => ZeroLevel::FileBlock,
            }
        } else {
            let length = image.meta().length.get();
            map.needed = length.div_ceil(layout.file_block_size());
            let level = image.meta().zero_level();
            map.image = Some(image);
            level
        };
        if map.needed > MOST_BLOCKS {
            map.wrong.push(format!("it has {} blocks", map.needed));
            return map;
        }
        map.walk(volume, layout, (kind, level), &addresses);
        map.compare(volume, layout, kind);
        map
    }

    /// The file's header, if it is where the map says.
    pub(super) fn header(
        &self,
        volume: &Volume,
        layout: &Layout,
        kind: ResourceKind,
    ) -> Option<ResourceHeader> {
        let start = *self.known.get(&0)? << layout.file_block_shift;
        header(volume, layout, kind, (start, self.length()))
    }

    /// Bytes that the file has by its descriptor.
    pub(super) fn length(&self) -> Option<u64> {
        Some(self.image.as_ref()?.meta().length.get())
    }

    /// Whether nothing speaks against it.
    pub(super) fn is_whole(&self) -> bool {
        self.wrong.is_empty()
    }

    /// Whether the descriptor is lost, not only a part of the map.
    pub(super) fn is_lost(&self) -> bool {
        self.image.is_none()
    }

    /// Where the descriptor lies.
    pub(super) fn place(&self) -> VolumeOffset {
        self.place
    }

    /// What is wrong, in words.
    pub(super) fn wrong(&self) -> String {
        let more = match self.wrong.len() {
            0 | 1 => String::new(),
            count => format!("; {} more", count - 1),
        };
        format!("{}{more}", self.wrong.first().map_or("", String::as_str))
    }

    /// Takes in every address of the map.
    fn walk(
        &mut self,
        volume: &Volume,
        layout: &Layout,
        (kind, level): (ResourceKind, ZeroLevel),
        array: &[u64],
    ) {
        let start = self.place + layout.fd_addresses;
        let slots =
            |start: VolumeOffset| (0..).map(move |index| start + index * layout.address_size);
        let by_pointers = matches!(level, ZeroLevel::PointerBlock | ZeroLevel::PointerBlock2);
        // Where pointer blocks lie mustn't depend on themselves.
        let of_pointers = matches!(
            kind,
            ResourceKind::PointerBlock | ResourceKind::PointerBlock2
        );
        if level == ZeroLevel::FileBlock {
            let addresses: Vec<_> = slots(start).zip(array.iter().copied()).collect();
            return self.take_in(volume, layout, &addresses);
        }
        if !by_pointers || of_pointers {
            return;
        }
        let count = self.needed.div_ceil(layout.pointers_per_block);
        let used = array.iter().take_while(|&&raw| raw != 0).count();
        let count = if self.is_lost() { used } else { count as usize };
        let mut addresses = Vec::new();
        for &raw in array.iter().take(count) {
            let read = super::pointers::read(volume, layout, raw);
            let Some((place, raws)) = read else {
                self.wrong.push(format!(
                    "{raw:#x} stands in its map, expected a pointer block that can be read"
                ));
                return;
            };
            self.pointers.push(raw);
            addresses.extend(slots(place).zip(raws));
        }
        self.take_in(volume, layout, &addresses);
    }

    fn take_in(&mut self, volume: &Volume, layout: &Layout, addresses: &[(VolumeOffset, u64)]) {
        let blocks = volume.size() >> layout.file_block_shift;
        let mut missing = 0;
        let mut first = None;
        let count = if self.is_lost() {
            addresses.len() as u64
        } else {
            self.needed
        };
        for (number, &(slot, raw)) in (0..count).zip(addresses) {
            self.slots.push(slot);
            let addr = BlockAddr::decode(raw, layout);
            match addr {
                // A block of a resource file is neither to be zeroed nor shared.
                BlockAddr::FileBlock {
                    block,
                    tbz: 0,
                    cow: false,
                } if block < blocks && addr.encode(layout) == raw => {
                    self.known.insert(number, block);
                }
                _ => {
                    missing += 1;
                    first.get_or_insert((number, slot, raw));
                }
            }
        }
        if self.is_lost() {
            return;
        }
        if let Some((number, slot, raw)) = first {
            self.wrong.push(format!(
                "{missing} of {} addresses of its block map are holes or can't be right, the first that of block {number}: {raw:#x} at {slot}, expected a file block below {blocks:#x}",
                self.needed
            ));
        } else if (self.slots.len() as u64) < self.needed {
            self.wrong.push(format!(
                "its block map has {} addresses, expected {} for its length",
                self.slots.len(),
                self.needed
            ));
        }
    }

    /// Takes out blocks that must have headers of clusters and have none.
    fn compare(&mut self, volume: &Volume, layout: &Layout, kind: ResourceKind) {
        if self.slots.is_empty() {
            return;
        }
        let Some(header) = self.header(volume, layout, kind) else {
            if self.known.remove(&0).is_some() {
                self.wrong
                    .push("its header isn't where its map says".to_owned());
            }
            return;
        };
        let mut elsewhere = Vec::new();
        for (block, clusters) in headers_by_block(layout, &header) {
            let Some(&place) = self.known.get(&block) else {
                continue;
            };
            let inside = layout.file_block_size() - 1;
            let start = place << layout.file_block_shift;
            let there = clusters.iter().any(|&(number, offset)| {
                let at = start + (offset & inside);
                is_cluster(volume, layout, kind, (number, Some(&header)), at)
            });
            if !there {
                elsewhere.push(block);
            }
        }
        if kind == ResourceKind::FileDescriptor {
            let bare = super::hidden::bare(&self.known, volume, layout, &header);
            let marked = bare.iter().filter(|(_, certain)| **certain);
            let marked: Vec<u64> = marked.map(|(&block, _)| block).collect();
            self.hides_files = !marked.is_empty();
            let doubtful = bare.keys().chain(&elsewhere);
            self.bare = doubtful
                .filter_map(|block| Some((*block, *self.known.get(block)?)))
                .collect();
            elsewhere.extend(marked);
        }
        for block in elsewhere {
            self.lose(block, BARE);
        }
    }

    /// Believes the address of a block no longer: the block that it names, in words, `is` none of it.
    pub(super) fn lose(&mut self, block: u64, is: &str) {
        if let Some(place) = self.known.remove(&block) {
            self.wrong.push(format!(
                "block {block} of it isn't where its map says: file block {place:#x} {is}"
            ));
        }
    }
}

/// Why a block isn't one of a file, in words.
pub(super) const BARE: &str = "has none of its clusters or descriptors";

/// The header of the resource file of `kind` that begins at `start`: if it is as every volume's, or as it must be where
/// the first cluster is behind it and the `length` of the file is known.
pub(super) fn header(
    volume: &Volume,
    layout: &Layout,
    kind: ResourceKind,
    (start, length): (u64, Option<u64>),
) -> Option<ResourceHeader> {
    let mut raw = [0; size_of::<ResourceHeader>()];
    volume.read(VolumeOffset(start), &mut raw).ok()?;
    let parsed = ResourceHeader::parse(&raw, layout, At::Volume(start));
    let differences = |length| {
        let size = geometry::Size {
            length,
            volume: volume.size(),
            clusters: &|_, _| None,
        };
        geometry::differences(&raw, &parsed, kind, layout, &size)
    };
    if let Ok(header) = &parsed {
        let length = header.file_length(layout.family, layout.cluster_header_size());
        if differences(length).is_none() {
            return Some(header.clone());
        }
    }
    let is_there = is_cluster(volume, layout, kind, (0, None), start + FIRST_CLUSTER);
    let (_, expected) = differences(length.filter(|_| is_there)?)?;
    Some(expected)
}

/// The clusters of a file and the offsets of their headers, by the block that these lie in.
pub(super) fn headers_by_block(
    layout: &Layout,
    header: &ResourceHeader,
) -> BTreeMap<u64, Vec<(u64, u64)>> {
    let mut blocks: BTreeMap<u64, Vec<(u64, u64)>> = BTreeMap::new();
    for number in 0..header.clusters() {
        let offset = header.cluster_header_offset(number, layout.cluster_header_size());
        let block = offset >> layout.file_block_shift;
        blocks.entry(block).or_default().push((number, offset));
    }
    blocks
}
