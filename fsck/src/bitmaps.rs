//! The bitmaps on disk against those that the references make.

use vmfs_core::format::{ClusterHeader, ResourceKind};
use vmfs_core::resource::ResourceFile;

use crate::finding::ResourceCount;
use crate::{Check, Code};

/// State bit of a large file block: broken up into small ones.
const CONVERTED: u32 = 0x4;

/// Compares every cluster of every resource file.
pub fn run(check: &mut Check<'_>) {
    let resources = check.fs.store().resources();
    for file in resources.iter() {
        let mut count = ResourceCount {
            kind: file.kind(),
            compared: 0,
            used: 0,
            differing: 0,
            unconverted_clusters: 0,
        };
        let parent = resources
            .large_file_blocks
            .as_ref()
            .filter(|_| file.header().is_nested());
        let mut parent_cluster: Option<(u64, ClusterHeader)> = None;
        for cluster in 0..file.header().clusters() {
            if let Some(parent) = parent
                && !is_converted(check, parent, &mut parent_cluster, cluster)
            {
                count.unconverted_clusters += 1;
                continue;
            }
            compare_cluster(check, file, cluster, &mut count);
        }
        check.report.resources.push(count);
    }
}

/// Whether the large block that holds the header of small cluster `cluster` is broken up.
fn is_converted(
    check: &Check<'_>,
    parent: &ResourceFile,
    cached: &mut Option<(u64, ClusterHeader)>,
    cluster: u64,
) -> bool {
    let per_cluster = u64::from(parent.header().resources_per_cluster.get());
    let number = cluster / per_cluster;
    if cached.as_ref().is_none_or(|(have, _)| *have != number) {
        let header = parent.cluster(check.fs.store().reader(), number);
        *cached = header.ok().map(|(header, _)| (number, header));
    }
    cached
        .as_ref()
        .is_some_and(|(_, header)| header.state((cluster % per_cluster) as u32) & CONVERTED != 0)
}

fn compare_cluster(
    check: &mut Check<'_>,
    file: &ResourceFile,
    cluster: u64,
    count: &mut ResourceCount,
) {
    let kind = file.kind();
    let (header, place) = match file.cluster(check.fs.store().reader(), cluster) {
        Ok(found) => found,
        Err(error) => {
            let detail = format!("{kind} cluster {cluster}: {error}");
            return check.report.add(Code::ClusterUnreadable, detail);
        }
    };
    let counted = header.count_free();
    if counted != header.free {
        let detail = format!(
            "{kind} cluster {cluster} at {place} says {} are free, its bitmap {counted}",
            header.free
        );
        check.report.add(Code::FreeCountWrong, detail);
    }
    let first = cluster * u64::from(file.header().resources_per_cluster.get());
    for resource in 0..header.total {
        let referenced = check.usage.is_used(kind, first + u64::from(resource));
        let free = header.is_free(resource);
        // A large block that is broken up is in use by its small ones.
        let converted =
            kind == ResourceKind::LargeFileBlock && header.state(resource) & CONVERTED != 0;
        count.compared += 1;
        let code = match (referenced || converted, free) {
            (true, false) => {
                count.used += 1;
                continue;
            }
            (false, true) => continue,
            (true, true) => Code::ReferencedButFree,
            (false, false) => Code::Unreferenced,
        };
        count.differing += 1;
        let detail = format!("{kind} {resource} of cluster {cluster} at {place}");
        check.report.add(code, detail);
    }
}
