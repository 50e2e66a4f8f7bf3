//! A resource cluster's header as something to change.

use zerocopy::{FromBytes, IntoBytes};

use super::address::{FdAddr, ResourceKind};
use super::cluster::{ClusterMeta5, ClusterMeta6, RCMD_SIGNATURE};
use super::disk_lock::{DiskLock, LockKind};
use super::layout::{Family, Layout};
use super::resource_header::ResourceHeader;

/// Where affinity entries start in a small file block cluster's metadata block.
const SMALL_BLOCK_AFFINITY: usize = 0x948;
/// Where they start in a second pointer block cluster's.
const POINTER_BLOCK2_AFFINITY: usize = 0x2e0;
/// Where they start in a file descriptor or sub-block cluster's, one for each resource.
const RESOURCE_AFFINITY: usize = 0x8e0;
/// Where a large file block cluster's eight bytes for each resource start.
const LARGE_BLOCK_AFFINITY: usize = 0xe0;
/// Where the hint for the second half of a bitmap lies, behind the first (VMFS6).
const NEXT_FREE1: usize = 0x100;
/// Where the second half lies, and where it and the metadata end (VMFS6).
const BITMAP1: usize = 0x180;
const METADATA: usize = 0x200;
/// State of a large file block that is broken up into small ones.
const CONVERTED: u32 = 4;

/// What a cluster holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClusterShape {
    /// What its resources are.
    pub kind: ResourceKind,
    /// Bits of a resource in the bitmap.
    pub bits: u32,
    /// Resources in it.
    pub total: u32,
}

impl ClusterShape {
    /// Cluster `cluster` of the resource file of `kind` that `header` begins.
    pub fn of(header: &ResourceHeader, kind: ResourceKind, cluster: u64) -> Self {
        let per_cluster = u64::from(header.resources_per_cluster.get());
        let before = cluster.saturating_mul(per_cluster);
        let left = header.resources().saturating_sub(before);
        Self {
            kind,
            bits: header.bits_per_resource(),
            total: left.min(per_cluster) as u32,
        }
    }
}

/// A resource cluster's header, in memory, its bitmap and counts kept in step.
#[derive(Debug, Clone)]
pub struct ClusterImage {
    family: Family,
    kind: ResourceKind,
    md: usize,
    bits: u32,
    total: u32,
    bytes: Vec<u8>,
}

impl ClusterImage {
    /// The header of cluster `cluster`, all resources free, which will lie at volume offset
    /// `address`.
    pub fn new(layout: &Layout, shape: ClusterShape, cluster: u64, address: u64) -> Self {
        let md = layout.md_block as usize;
        let mut image = Self {
            family: layout.family,
            kind: shape.kind,
            md,
            bits: shape.bits,
            total: shape.total,
            bytes: vec![0; 2 * md],
        };
        let lock = DiskLock::fresh(LockKind::of_cluster(shape.kind), address);
        image.bytes[..size_of::<DiskLock>()].copy_from_slice(lock.as_bytes());
        let total = image.total;
        if image.family == Family::Vmfs6 {
            let kind = image.kind;
            let meta = image.meta6();
            meta.signature = RCMD_SIGNATURE.into();
            meta.cluster = cluster.into();
            meta.total = (total as u16).into();
            meta.free = (total as u16).into();
            // Two words of unknown meaning that real volumes have.
            let unknown: u32 = match kind {
                ResourceKind::FileBlock => 0x0100_0000,
                ResourceKind::LargeFileBlock => 0x0007_0000,
                _ => 0,
            };
            meta.unknown2[..4].copy_from_slice(&unknown.to_le_bytes());
            meta.unknown2[8] = 1;
            if kind == ResourceKind::LargeFileBlock {
                for resource in 0..total as usize {
                    image.bytes[md + LARGE_BLOCK_AFFINITY + 8 * resource] = 0xff;
                }
            }
        } else {
            let meta = image.meta5();
            meta.cluster = (cluster as u32).into();
            meta.total = total.into();
            meta.free = total.into();
        }
        image.free_all();
        image
    }

    /// A header that was read back from the volume, [`Layout::cluster_header_size`] bytes; missing
    /// ones are zeros.
    pub fn from_bytes(layout: &Layout, shape: ClusterShape, mut bytes: Vec<u8>) -> Self {
        bytes.resize(layout.cluster_header_size() as usize, 0);
        Self {
            family: layout.family,
            kind: shape.kind,
            md: layout.md_block as usize,
            bits: shape.bits,
            total: shape.total,
            bytes,
        }
    }

    /// The bytes as they stand on the volume: lock block and metadata block.
    pub fn bytes(&mut self) -> &[u8] {
        self.refresh_hints();
        &self.bytes
    }

    /// Resources in the cluster.
    pub fn total(&self) -> u32 {
        self.total
    }

    /// Whether `resource` is free.
    pub fn is_free(&self, resource: u32) -> bool {
        resource < self.total && self.state(resource) & 1 != 0
    }

    /// Marks `resource` used; whether it was free.
    pub fn take(&mut self, resource: u32) -> bool {
        let free = self.is_free(resource);
        if free {
            self.set_state(resource, 0);
            self.count_taken();
        }
        free
    }

    /// Marks the large file block `resource` as broken up into small ones.
    pub fn convert(&mut self, resource: u32) -> bool {
        let taken = self.take(resource);
        if taken {
            self.set_state(resource, CONVERTED);
        }
        taken
    }

    /// Marks the large file block `resource`, broken up or free, as used in one piece.
    pub fn take_whole(&mut self, resource: u32) {
        if !self.take(resource) {
            self.set_state(resource, 0);
        }
    }

    /// Writes down that file `fd` has `blocks` more small file blocks here (VMFS6). Entries that
    /// don't fit are left out: they only guide allocation.
    pub fn add_affinity(&mut self, fd: FdAddr, blocks: u32) {
        let Some(room) = self.bytes.get_mut(self.md + SMALL_BLOCK_AFFINITY..) else {
            return;
        };
        for entry in room.chunks_exact_mut(8) {
            let (address, count) = entry.split_at_mut(4);
            if address == fd.raw().to_le_bytes() || address == [0; 4] && count == [0; 4] {
                address.copy_from_slice(&fd.raw().to_le_bytes());
                let old = u32::from_le_bytes([count[0], count[1], count[2], count[3]]);
                count.copy_from_slice(&(old + blocks).to_le_bytes());
                break;
            }
        }
        self.count_affinity();
    }

    /// Counts the affinity entries up to the last one in use.
    fn count_affinity(&mut self) {
        let entries = self.bytes[self.md + SMALL_BLOCK_AFFINITY..].chunks_exact(8);
        let used = entries
            .enumerate()
            .rfind(|(_, entry)| entry.iter().any(|&byte| byte != 0))
            .map_or(0, |(index, _)| index as u16 + 1);
        // Entry 0, which is kept free, counts as well; none at all counts nothing.
        self.meta6().affinity_count = if used == 0 { 0 } else { used + 1 }.into();
    }

    /// Marks `resource` free again; whether it was used. With it goes who it was for.
    pub fn give_back(&mut self, resource: u32) -> bool {
        let used = resource < self.total && !self.is_free(resource);
        if used {
            self.set_state(resource, 1);
            if self.family == Family::Vmfs6 {
                let meta = self.meta6();
                meta.free = meta.free.get().saturating_add(1).into();
            } else {
                let meta = self.meta5();
                meta.free = meta.free.get().saturating_add(1).into();
            }
        }
        used
    }

    /// Writes down that file `fd` has `blocks` fewer small file blocks here (VMFS6).
    pub fn remove_affinity(&mut self, fd: FdAddr, blocks: u32) {
        let Some(room) = self.bytes.get_mut(self.md + SMALL_BLOCK_AFFINITY..) else {
            return;
        };
        let mut entries = room.chunks_exact_mut(8);
        if let Some(entry) = entries.find(|entry| entry[..4] == fd.raw().to_le_bytes()) {
            let (address, count) = entry.split_at_mut(4);
            let left = u16::from_le_bytes([count[0], count[1]]).saturating_sub(blocks as u16);
            count[..2].copy_from_slice(&left.to_le_bytes());
            if left == 0 {
                address.fill(0);
                count.fill(0);
            }
        }
        self.count_affinity();
    }

    /// Writes down who changed the cluster last and when (VMFS6).
    pub fn note_change(&mut self, mac: [u8; 6], time: u32) {
        if self.family == Family::Vmfs6 {
            let meta = self.meta6();
            meta.change_count = meta.change_count.get().wrapping_add(1).into();
            meta.last_mac = mac;
            meta.last_change = time.into();
        }
    }

    /// The last generation that a cluster of file descriptors has given out.
    pub fn last_generation(&mut self) -> u32 {
        if self.family == Family::Vmfs6 {
            self.meta6().last_generation.get()
        } else {
            self.meta5().last_generation.get()
        }
    }

    /// Sets the last generation given out.
    pub fn set_last_generation(&mut self, generation: u32) {
        if self.family == Family::Vmfs6 {
            self.meta6().last_generation = generation.into();
        } else {
            self.meta5().last_generation = generation.into();
        }
    }

    /// Writes down which file or directory `resource` is for, or that it is for none (VMFS6).
    pub fn set_owner(&mut self, resource: u32, fd: Option<FdAddr>) {
        let base = match (self.family, self.kind) {
            (Family::Vmfs6, ResourceKind::PointerBlock2) => POINTER_BLOCK2_AFFINITY,
            (Family::Vmfs6, ResourceKind::FileDescriptor | ResourceKind::SubBlock) => {
                RESOURCE_AFFINITY
            }
            _ => return,
        };
        let at = self.md + base + 4 * resource as usize;
        if let Some(entry) = self.bytes.get_mut(at..at + 4) {
            entry.copy_from_slice(&fd.map_or(0, FdAddr::raw).to_le_bytes());
        }
    }

    /// Marks the large file block `resource`, whatever it was, as broken up into small ones.
    pub fn set_converted(&mut self, resource: u32) {
        if resource < self.total {
            self.set_state(resource, CONVERTED);
        }
    }

    /// Makes number, count of resources and free count what they must be, and clears the bits
    /// behind the last resource: for a header that was damaged.
    pub fn mend(&mut self, cluster: u64) {
        let total = self.total;
        for resource in total..self.room() {
            self.set_state(resource, 0);
        }
        for range in self.unused() {
            self.bytes[range].fill(0);
        }
        let free = (0..total)
            .filter(|&resource| self.is_free(resource))
            .count() as u32;
        if self.family == Family::Vmfs6 {
            let meta = self.meta6();
            meta.signature = RCMD_SIGNATURE.into();
            meta.cluster = cluster.into();
            meta.total = (total as u16).into();
            meta.free = (free as u16).into();
        } else {
            let meta = self.meta5();
            meta.cluster = (cluster as u32).into();
            meta.total = total.into();
            meta.free = free.into();
        }
    }

    /// Resources that the bitmap has room for.
    fn room(&self) -> u32 {
        if self.family == Family::Vmfs6 && self.kind != ResourceKind::FileBlock {
            256
        } else {
            512
        }
    }

    /// The bytes of the bitmap behind the room for resources.
    fn unused(&self) -> impl Iterator<Item = std::ops::Range<usize>> + use<> {
        let end = self.position(self.room().min(256) - 1, self.bits - 1).0 + 1;
        let ranges = match (self.family, self.kind) {
            (Family::Vmfs6, ResourceKind::LargeFileBlock) => {
                [end..self.md + LARGE_BLOCK_AFFINITY, 0..0]
            }
            (Family::Vmfs6, ResourceKind::FileBlock) => {
                let last = self.position(self.room() - 1, self.bits - 1).0 + 1;
                [end..self.md + NEXT_FREE1, last..self.md + METADATA]
            }
            (Family::Vmfs6, _) => [
                end..self.md + NEXT_FREE1,
                self.md + BITMAP1..self.md + METADATA,
            ],
            _ => [0..0, 0..0],
        };
        ranges.into_iter().filter(|range| !range.is_empty())
    }

    /// Whether bits behind the last resource are set.
    pub fn has_tail(&self) -> bool {
        if self
            .unused()
            .any(|range| self.bytes[range].iter().any(|&byte| byte != 0))
        {
            return true;
        }
        let room = self.room();
        let whole = self.total.next_multiple_of(8).min(room);
        if (self.total..whole).any(|resource| self.state(resource) != 0) {
            return true;
        }
        // From there on whole bytes, in one piece or two.
        let halves = [
            (whole.min(256), room.min(256)),
            (whole.max(256), room.max(256)),
        ];
        let pieces = if self.family == Family::Vmfs6 {
            &halves[..]
        } else {
            &[(whole, room)]
        };
        pieces.iter().any(|&(from, to)| {
            from < to && {
                let (start, _) = self.position(from, 0);
                let (last, _) = self.position(to - 1, self.bits - 1);
                self.bytes[start..=last].iter().any(|&byte| byte != 0)
            }
        })
    }

    /// Makes the cluster one of `total` resources, the new ones free, unless it has as many
    /// already.
    pub fn grow_to(&mut self, total: u32) {
        let before = if self.family == Family::Vmfs6 {
            u32::from(self.meta6().total.get())
        } else {
            self.meta5().total.get()
        };
        self.total = before.max(total);
        for resource in before..total {
            self.set_state(resource, 1);
            if self.kind == ResourceKind::LargeFileBlock {
                self.bytes[self.md + LARGE_BLOCK_AFFINITY + 8 * resource as usize] = 0xff;
            }
        }
        let more = total.saturating_sub(before);
        let total = self.total;
        if self.family == Family::Vmfs6 {
            let meta = self.meta6();
            meta.total = (total as u16).into();
            meta.free = (meta.free.get() + more as u16).into();
        } else {
            let meta = self.meta5();
            meta.total = total.into();
            meta.free = (meta.free.get() + more).into();
        }
    }

    /// Whether the large file block `resource` is broken up into small ones.
    pub fn is_converted(&self, resource: u32) -> bool {
        resource < self.total && self.state(resource) & CONVERTED != 0
    }

    /// Gives out the next generation of a file descriptor cluster (VMFS6).
    pub fn next_generation(&mut self) -> u32 {
        let meta = self.meta6();
        let next = meta.last_generation.get() + 1;
        meta.last_generation = next.into();
        next
    }

    /// Marks every resource free.
    fn free_all(&mut self) {
        // Whole bytes where a bit stands for a resource: large volumes have millions.
        let whole = if self.bits == 1 {
            self.total / 8 * 8
        } else {
            0
        };
        if whole > 0 {
            let (start, _) = self.position(0, 0);
            self.bytes[start..start + whole as usize / 8].fill(0xff);
        }
        for resource in whole..self.total {
            self.set_state(resource, 1);
        }
    }

    fn meta6(&mut self) -> &mut ClusterMeta6 {
        let (meta, _) = ClusterMeta6::mut_from_prefix(&mut self.bytes[self.md..])
            .expect("a cluster header has a whole metadata block");
        meta
    }

    fn meta5(&mut self) -> &mut ClusterMeta5 {
        let (meta, _) = ClusterMeta5::mut_from_prefix(&mut self.bytes[self.md..])
            .expect("a cluster header has a whole metadata block");
        meta
    }

    /// Where bit `bit` of `resource` lies: byte in the header and bit in it.
    fn position(&self, resource: u32, bit: u32) -> (usize, u32) {
        let (start, index) = match (self.family, resource) {
            (Family::Vmfs6, 0..256) => (0x80, resource),
            (Family::Vmfs6, _) => (0x180, resource - 256),
            _ => (0x10, resource),
        };
        let at = index * self.bits + bit;
        (self.md + start + at as usize / 8, at % 8)
    }

    fn state(&self, resource: u32) -> u32 {
        (0..self.bits).fold(0, |state, bit| {
            let (byte, shift) = self.position(resource, bit);
            state | u32::from(self.bytes[byte] >> shift & 1) << bit
        })
    }

    fn set_state(&mut self, resource: u32, state: u32) {
        for bit in 0..self.bits {
            let (byte, shift) = self.position(resource, bit);
            self.bytes[byte] &= !(1 << shift);
            self.bytes[byte] |= ((state >> bit & 1) as u8) << shift;
        }
    }

    /// Takes one off the free count.
    fn count_taken(&mut self) {
        if self.family == Family::Vmfs6 {
            let meta = self.meta6();
            meta.free = meta.free.get().saturating_sub(1).into();
        } else {
            let meta = self.meta5();
            meta.free = meta.free.get().saturating_sub(1).into();
        }
    }

    /// Points the hints to the first free resources.
    fn refresh_hints(&mut self) {
        let first_free = |range: std::ops::Range<u32>| {
            let start = range.start;
            range
                .into_iter()
                .find(|&resource| self.is_free(resource))
                .map_or(0, |r| r - start)
        };
        let total = self.total;
        if self.family == Family::Vmfs6 {
            let half = total.min(256);
            let (low, high) = (first_free(0..half), first_free(half..total));
            // Large file block clusters have no hint.
            if self.kind != ResourceKind::LargeFileBlock {
                let meta = self.meta6();
                meta.next_free = low.into();
                meta.next_free1 = high.into();
            }
        } else {
            let next = first_free(0..total);
            self.meta5().next_free = next.into();
        }
    }
}
