//! What the clusters in a resource file tell of it.

use vmfs_core::format::{
    At, ClusterHeader, ClusterShape, DiskLock, Layout, LockKind, ResourceHeader, ResourceKind,
};
use vmfs_core::lvm::{Volume, VolumeOffset};
use zerocopy::FromBytes;

/// Clusters that are looked at, at most: more than any file that was seen has.
const MOST: u64 = 1 << 20;

/// Whether the header of cluster `number` is at `at`; without the file's header that isn't looked into.
pub(super) fn is_cluster(
    volume: &Volume,
    layout: &Layout,
    kind: ResourceKind,
    (number, header): (u64, Option<&ResourceHeader>),
    at: u64,
) -> bool {
    match header {
        Some(header) => cluster(volume, layout, kind, (number, header), at).is_some(),
        None => locked(volume, layout, kind, at).is_some(),
    }
}

/// The header of cluster `number` at `at`, if it is there.
fn cluster(
    volume: &Volume,
    layout: &Layout,
    kind: ResourceKind,
    (number, header): (u64, &ResourceHeader),
    at: u64,
) -> Option<ClusterHeader> {
    let bytes = locked(volume, layout, kind, at)?;
    ClusterHeader::parse(&bytes, number, header, layout, At::Volume(at)).ok()
}

/// What is at `at`, if that begins with the lock of a cluster there.
fn locked(volume: &Volume, layout: &Layout, kind: ResourceKind, at: u64) -> Option<Vec<u8>> {
    let mut bytes = vec![0; layout.cluster_header_size() as usize];
    volume.read(VolumeOffset(at), &mut bytes).ok()?;
    let (lock, _) = DiskLock::ref_from_prefix(&bytes).ok()?;
    let is_own = lock.kind.get() == LockKind::of_cluster(kind) as u32 && lock.address.get() == at;
    is_own.then_some(bytes)
}

/// Whether the last cluster that the `header` counts is there, with as many resources as it must have; `place` says
/// where an offset of the file lies.
pub(super) fn is_last_there(
    volume: &Volume,
    layout: &Layout,
    kind: ResourceKind,
    header: &ResourceHeader,
    place: &dyn Fn(u64) -> Option<u64>,
) -> bool {
    let Some(last) = header.clusters().checked_sub(1) else {
        return false;
    };
    let offset = header.cluster_header_offset(last, layout.cluster_header_size());
    let found = place(offset).and_then(|at| cluster(volume, layout, kind, (last, header), at));
    found.is_some_and(|found| found.total == ClusterShape::of(header, kind, last).total)
}

/// Resources by the clusters of a file of `length` bytes, whose header has this geometry and has `said` how many there
/// are, if it can be believed; `None` if the clusters don't speak against that. `place` says where an offset of the
/// file lies.
pub(super) fn count(
    volume: &Volume,
    layout: &Layout,
    (kind, length): (ResourceKind, u64),
    (header, said): (&ResourceHeader, Option<u64>),
    place: &dyn Fn(u64) -> Option<u64>,
) -> Option<u64> {
    let size = layout.cluster_header_size();
    let per_cluster = u64::from(header.resources_per_cluster.get());
    let offset = |number| header.cluster_header_offset(number, size);
    let is_inside = |number: u64| offset(number).saturating_add(size) <= length;
    let at = |number: u64| {
        let at = place(offset(number)).filter(|_| is_inside(number))?;
        cluster(volume, layout, kind, (number, header), at)
    };
    if let Some(said) = said {
        let header = header.with_resources(said);
        let is_full = |last| {
            let most = ClusterShape::of(&header, kind, last).total;
            at(last).is_none_or(|found| found.total <= most)
        };
        let clusters = header.clusters();
        if clusters.checked_sub(1).is_none_or(is_full) && at(clusters).is_none() {
            return None;
        }
    }
    let all = (0..MOST).take_while(|&number| is_inside(number));
    let there = all.filter_map(|number| Some(number * per_cluster + u64::from(at(number)?.total)));
    there.max()
}
