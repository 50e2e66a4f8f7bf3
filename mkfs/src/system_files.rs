//! Where the system files and the root directory lie.

use vmfs_core::format::{
    BlockAddr, DIR_BLOCKS_START, DirEntry5, Family, FdAddr, Layout, ResourceKind, SystemFile,
    ZeroLevel,
};

use super::options::Options;
use super::resources::{ResourceFileLayout, SMALL_PER_LARGE};

/// A system file, or the root directory, of a planned volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SystemFileLayout {
    /// Its file descriptor.
    pub fd: FdAddr,
    /// Its length in bytes.
    pub length: u64,
    /// Its file blocks: first block on the volume and number of blocks, in file order.
    pub runs: Vec<(u64, u64)>,
    /// How its descriptor maps it.
    pub zero_level: ZeroLevel,
    /// The pointer blocks of its map, in order: cluster and resource of each.
    pub pointer_blocks: Vec<(u64, u32)>,
    pub(crate) block_size: u64,
}

impl SystemFileLayout {
    /// File blocks that it has.
    pub fn blocks(&self) -> u64 {
        self.runs.iter().map(|run| run.1).sum()
    }

    /// Volume offset of byte `offset` of the file; `None` past its blocks.
    pub fn volume_offset(&self, offset: u64) -> Option<u64> {
        let mut block = offset / self.block_size;
        for &(start, count) in &self.runs {
            if block < count {
                return Some((start + block) * self.block_size + offset % self.block_size);
            }
            block -= count;
        }
        None
    }

    /// The addresses of its file blocks, in file order.
    pub(crate) fn addresses<'a>(&'a self, layout: &'a Layout) -> impl Iterator<Item = u64> + 'a {
        let blocks = self
            .runs
            .iter()
            .flat_map(|&(start, count)| start..start + count);
        blocks.map(|block| {
            let address = BlockAddr::FileBlock {
                block,
                tbz: 0,
                cow: false,
            };
            address.encode(layout)
        })
    }
}

/// Hands out file blocks from the start of the volume.
struct Allocator {
    next: u64,
    end: u64,
}

impl Allocator {
    fn take(&mut self, count: u64) -> Option<(u64, u64)> {
        let start = self.next;
        self.next = start.checked_add(count).filter(|&next| next <= self.end)?;
        Some((start, count))
    }

    /// Goes on at a large block's start, `first` or later, if `count` blocks are left there.
    fn skip_to_large_block(&mut self, count: u64, first: u64) {
        let start = self
            .next
            .next_multiple_of(SMALL_PER_LARGE)
            .max(first * SMALL_PER_LARGE);
        if count > 0 && start + count <= self.end {
            self.next = start;
        }
    }
}

/// Places the system files; `None` when the volume is too small for them.
pub(crate) fn place(
    options: &Options,
    layout: &Layout,
    volume: u64,
    resources: &[ResourceFileLayout],
) -> Option<Vec<SystemFileLayout>> {
    let block = layout.file_block_size();
    let blocks_of = |length: u64| length.div_ceil(block).max(1);
    let mut space = Allocator {
        next: 0,
        end: volume / block,
    };
    let heartbeats_end = layout.heartbeats + layout.heartbeat_slots * layout.heartbeat_size;
    let resource_length = |file| {
        let layout_of = resources.iter().find(|resource| resource.file == file)?;
        let header_size = layout.cluster_header_size();
        Some(layout_of.header.file_length(layout.family, header_size))
    };
    let mut files = Vec::new();
    let mut add = |fd, length, runs: Vec<(u64, u64)>| {
        let runs: Vec<_> = runs.into_iter().filter(|run| run.1 > 0).collect();
        files.push(SystemFileLayout {
            fd,
            length,
            runs: merge(runs),
            zero_level: ZeroLevel::FileBlock,
            pointer_blocks: Vec::new(),
            block_size: block,
        });
    };

    // The first block of `.fdc.sf` must follow the heartbeats: there its descriptor is found.
    let header_end = heartbeats_end.next_multiple_of(block);
    add(
        SystemFile::VolumeHeader.fd(),
        header_end,
        vec![space.take(blocks_of(header_end))?],
    );
    let fdc_length = resource_length(SystemFile::FileDescriptors)?;
    let fdc_first = space.take(1)?;
    add(
        FdAddr::ROOT,
        root_length(layout.family),
        vec![space.take(1)?],
    );
    let length = resource_length(SystemFile::FileBlocks)?;
    add(
        SystemFile::FileBlocks.fd(),
        length,
        vec![space.take(blocks_of(length))?],
    );
    let fdc_rest = space.take(blocks_of(fdc_length) - 1)?;
    add(
        SystemFile::FileDescriptors.fd(),
        fdc_length,
        vec![fdc_first, fdc_rest],
    );
    let length = resource_length(SystemFile::PointerBlocks)?;
    add(
        SystemFile::PointerBlocks.fd(),
        length,
        vec![space.take(blocks_of(length))?],
    );

    // ESXi makes `.sbc.sf` of VMFS6 as large as its descriptor can map and grows it later, in
    // another large block.
    let sub_length = resource_length(SystemFile::SubBlocks)?;
    let direct = match layout.family {
        Family::Vmfs6 => blocks_of(sub_length).min(layout.fd_address_count),
        _ => blocks_of(sub_length),
    };
    let sub_first = space.take(direct)?;
    if let Some(length) = resource_length(SystemFile::PointerBlocks2) {
        add(
            SystemFile::PointerBlocks2.fd(),
            length,
            vec![space.take(blocks_of(length))?],
        );
    }
    if layout.family != Family::Vmfs3 {
        let length = empty_directory_length(layout.family);
        add(SystemFile::SystemData.fd(), length, vec![space.take(1)?]);
    }
    if let Some(length) = resource_length(SystemFile::Journals) {
        add(
            SystemFile::Journals.fd(),
            length,
            vec![space.take(blocks_of(length))?],
        );
        let (length, blocks) = if options.local {
            (0, 0)
        } else {
            (UNMAP_LENGTH, blocks_of(UNMAP_LENGTH))
        };
        add(SystemFile::Unmap.fd(), length, vec![space.take(blocks)?]);
    }
    let rest = blocks_of(sub_length) - direct;
    space.skip_to_large_block(rest, if options.local { 1 } else { 2 });
    add(
        SystemFile::SubBlocks.fd(),
        sub_length,
        vec![sub_first, space.take(rest)?],
    );

    map_through_pointer_blocks(layout, resources, &mut files);
    files.sort_by_key(|file| file.fd);
    Some(files)
}

/// Length of `.unmap.sf`: a header of 64 KiB and 1024 locks.
const UNMAP_LENGTH: u64 = (64 << 10) + 1024 * 4096;

fn empty_directory_length(family: Family) -> u64 {
    match family {
        Family::Vmfs6 => DIR_BLOCKS_START + 4096,
        _ => 2 * DirEntry5::SIZE,
    }
}

fn root_length(family: Family) -> u64 {
    match family {
        Family::Vmfs6 => DIR_BLOCKS_START + 2 * 4096,
        Family::Vmfs5 => 9 * DirEntry5::SIZE,
        Family::Vmfs3 => 7 * DirEntry5::SIZE,
    }
}

/// Runs in file order, adjacent ones joined.
fn merge(runs: Vec<(u64, u64)>) -> Vec<(u64, u64)> {
    let mut merged: Vec<(u64, u64)> = Vec::new();
    for (start, count) in runs {
        match merged.last_mut() {
            Some(last) if last.0 + last.1 == start => last.1 += count,
            _ => merged.push((start, count)),
        }
    }
    merged
}

/// Gives the files that their descriptors can't map pointer blocks, from the start of
/// `.pb2.sf` on VMFS6, of `.pbc.sf` elsewhere.
fn map_through_pointer_blocks(
    layout: &Layout,
    resources: &[ResourceFileLayout],
    files: &mut [SystemFileLayout],
) {
    let (kind, zero_level) = match layout.family {
        Family::Vmfs6 => (ResourceKind::PointerBlock2, ZeroLevel::PointerBlock2),
        _ => (ResourceKind::PointerBlock, ZeroLevel::PointerBlock),
    };
    let per_cluster = resources
        .iter()
        .find(|file| file.kind == kind)
        .map_or(1, |file| u64::from(file.header.resources_per_cluster.get()));
    let mut next = 0;
    for file in files.iter_mut() {
        if file.blocks() <= layout.fd_address_count {
            continue;
        }
        let needed = file.blocks().div_ceil(layout.pointers_per_block);
        file.pointer_blocks = (next..next + needed)
            .map(|index| (index / per_cluster, (index % per_cluster) as u32))
            .collect();
        file.zero_level = zero_level;
        next += needed;
    }
}
