use std::collections::{BTreeMap, BTreeSet};

use zerocopy::FromBytes;

use crate::format::{
    ClusterMeta5, ClusterMeta6, DiskLock, Family, FdAddr, FileKind, FileMetadata, Layout, LockKind,
    RCMD_SIGNATURE, ResourceKind, ZeroLevel,
};
use crate::lvm::{Extent, Volume, VolumeOffset};

/// Bytes read at a time, in the order of the volume.
const CHUNK: u64 = 4 << 20;
/// Bytes given up when they can't be read.
const LOST_UNIT: usize = 64 << 10;
/// Structures remembered of a kind: far more than a volume has clusters, or file blocks full of
/// descriptors.
const MOST: usize = 4 << 20;

/// Structures that were found on a volume and that say themselves what they are.
#[derive(Debug, Default)]
pub struct Evidence {
    /// Volume offsets of resource clusters' headers, by kind and number.
    clusters: BTreeMap<(ResourceKind, u64), u64>,
    /// Volume offsets of file descriptors, the first of each neighbourhood of [`Evidence::NEAR`] bytes.
    descriptors: BTreeMap<u64, FdAddr>,
    /// Clusters that were found in more places than one.
    ambiguous: BTreeSet<(ResourceKind, u64)>,
    /// File descriptors seen.
    pub files: u64,
    /// Bytes that could not be read.
    pub unreadable: u64,
}

impl Evidence {
    /// Descriptors so near to each other lie in one file block of any version.
    const NEAR: u64 = 64 << 10;

    /// The clusters of `kind` by number, with the volume offsets of their headers.
    pub fn clusters(&self, kind: ResourceKind) -> impl Iterator<Item = (u64, u64)> {
        let all = (kind, 0)..=(kind, u64::MAX);
        self.clusters
            .range(all)
            .map(|(&(_, number), &at)| (number, at))
    }

    /// Whether a cluster of `kind` was found in more places than one, so that nothing tells which of
    /// them is in use.
    pub fn is_ambiguous(&self, kind: ResourceKind) -> bool {
        let mut all = self.ambiguous.range((kind, 0)..=(kind, u64::MAX));
        all.next().is_some()
    }

    /// Places of file descriptors, at least one for every file block that has any.
    pub fn descriptors(&self) -> impl Iterator<Item = (FdAddr, u64)> {
        self.descriptors.iter().map(|(&at, &fd)| (fd, at))
    }

    fn look(&mut self, at: u64, bytes: &[u8], layout: &Layout) {
        let Ok((lock, _)) = DiskLock::ref_from_prefix(bytes) else {
            return;
        };
        let kind = lock.kind.get();
        if kind & 0xffff_fff0 != 0x10c0_0000 || lock.address.get() != at {
            return;
        }
        if kind == LockKind::FileDescriptor as u32 {
            if let Some(fd) = descriptor(bytes, layout) {
                self.files += 1;
                if self.descriptors.len() < MOST {
                    let near = at / Self::NEAR * Self::NEAR;
                    if self.descriptors.range(near..=at).next().is_none() {
                        self.descriptors.insert(at, fd);
                    }
                }
            }
        } else if let Some(kind) = cluster_kind(kind)
            && let Some(number) = cluster_number(bytes, layout)
            && self.clusters.len() < MOST
        {
            let first = *self.clusters.entry((kind, number)).or_insert(at);
            if first != at {
                self.ambiguous.insert((kind, number));
            }
        }
    }
}

fn cluster_kind(lock: u32) -> Option<ResourceKind> {
    [
        ResourceKind::FileBlock,
        ResourceKind::SubBlock,
        ResourceKind::PointerBlock,
        ResourceKind::FileDescriptor,
        ResourceKind::PointerBlock2,
        ResourceKind::JournalBlock,
        ResourceKind::LargeFileBlock,
    ]
    .into_iter()
    .find(|&kind| LockKind::of_cluster(kind) as u32 == lock)
}

fn cluster_number(bytes: &[u8], layout: &Layout) -> Option<u64> {
    let meta = bytes.get(layout.md_block as usize..)?;
    if layout.family == Family::Vmfs6 {
        let (meta, _) = ClusterMeta6::ref_from_prefix(meta).ok()?;
        (meta.signature.get() == RCMD_SIGNATURE).then_some(meta.cluster.get())
    } else {
        let (meta, _) = ClusterMeta5::ref_from_prefix(meta).ok()?;
        (meta.free.get() <= meta.total.get() && meta.total.get() <= 512)
            .then_some(meta.cluster.get().into())
    }
}

/// The address of the file descriptor in `bytes`, if one that is in use is there.
fn descriptor(bytes: &[u8], layout: &Layout) -> Option<FdAddr> {
    let meta = bytes.get(layout.fd_meta as usize..)?;
    let (meta, _) = FileMetadata::ref_from_prefix(meta).ok()?;
    let sound = FileKind::from_raw(meta.kind.get()).is_some()
        && ZeroLevel::from_raw(meta.zero_level.get()).is_some();
    FdAddr::from_raw(meta.address.get()).filter(|_| sound)
}

/// Reads in order all of the volume that may hold something, and notes every structure that knows its
/// own place. `progress` is told how many bytes were looked at or passed over, and of how many.
pub fn scan(volume: &Volume, layout: &Layout, progress: &mut dyn FnMut(u64, u64)) -> Evidence {
    let mut evidence = Evidence::default();
    let step = layout.md_block;
    let mut bytes = vec![0; CHUNK as usize];
    let mut at = 0;
    while at < volume.size() {
        // What isn't known to be empty is read.
        let rest = at..volume.size();
        let Some(mapped) = volume.next_mapped(VolumeOffset(at)).unwrap_or(Some(rest)) else {
            break;
        };
        // Clusters and descriptors are aligned at least so.
        at = (mapped.start / step * step).max(at);
        while at < mapped.end {
            // A structure may be mapped in part, but not lie on two devices.
            let run = volume.locate(VolumeOffset(at)).map(Extent::end);
            let next = ((at / CHUNK + 1) * CHUNK).min(run.unwrap_or(volume.size()));
            let piece = &mut bytes[..(next - at) as usize];
            evidence.unreadable += read_what_can_be(volume, at, piece);
            for inside in (0..piece.len()).step_by(step as usize) {
                evidence.look(at + inside as u64, &piece[inside..], layout);
            }
            at = next;
            progress(at, volume.size());
        }
    }
    progress(volume.size(), volume.size());
    evidence
}

/// Fills `bytes` from `at`, with zeros where they can't be read; returns how many that are.
fn read_what_can_be(volume: &Volume, at: u64, bytes: &mut [u8]) -> u64 {
    if volume.read(VolumeOffset(at), bytes).is_ok() {
        return 0;
    }
    let mut lost = 0;
    for (index, piece) in bytes.chunks_mut(LOST_UNIT).enumerate() {
        let at = at + (index * LOST_UNIT) as u64;
        if volume.read(VolumeOffset(at), piece).is_err() {
            piece.fill(0);
            lost += piece.len() as u64;
        }
    }
    lost
}
