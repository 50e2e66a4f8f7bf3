use super::error::MetaError;
use super::resource_file::ResourceFile;
use super::system::Resources;
use crate::journal::MetaReader;

/// How much of a volume is free.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct Space {
    /// Bytes of a file block.
    pub block_size: u64,
    /// File blocks of the volume.
    pub blocks: u64,
    /// File blocks that are free.
    pub free_blocks: u64,
    /// File descriptors that `.fdc.sf` has.
    pub file_descriptors: u64,
    /// File descriptors that are free.
    pub free_file_descriptors: u64,
}

/// State bits of a large file block: free, and broken up into small ones.
const LARGE_FREE: u32 = 0x1;
const LARGE_CONVERTED: u32 = 0x4;

impl Space {
    /// Adds up the free counts of all clusters.
    ///
    /// Clusters that can't be read count as full, so that the sum is never too good.
    pub fn count(reader: &MetaReader, resources: &Resources) -> Self {
        let blocks = resources.file_blocks.as_ref();
        let free_blocks = match (&resources.large_file_blocks, blocks) {
            (Some(large), Some(small)) => free_nested(reader, large, small),
            (_, Some(blocks)) => free_plain(reader, blocks),
            _ => 0,
        };
        Self {
            block_size: reader.layout().file_block_size(),
            blocks: blocks.map_or(0, |file| file.header().resources()),
            free_blocks,
            file_descriptors: resources.file_descriptors.header().resources(),
            free_file_descriptors: free_plain(reader, &resources.file_descriptors),
        }
    }
}

fn free_in(result: Result<u32, MetaError>, cluster: u64, file: &ResourceFile) -> u64 {
    match result {
        Ok(free) => free.into(),
        Err(error) => {
            tracing::debug!(cluster, kind = %file.kind(), %error, "cluster counted as full");
            0
        }
    }
}

fn free_plain(reader: &MetaReader, file: &ResourceFile) -> u64 {
    (0..file.header().clusters())
        .map(|cluster| {
            let free = file.cluster(reader, cluster).map(|(header, _)| header.free);
            free_in(free, cluster, file)
        })
        .sum()
}

/// Free small blocks on VMFS6: those of large blocks that are free as a whole, and those of
/// large blocks that are broken up, whose clusters only then have headers.
fn free_nested(reader: &MetaReader, large: &ResourceFile, small: &ResourceFile) -> u64 {
    let per_large = u64::from(small.header().resources_per_cluster.get());
    let mut free = 0;
    let mut small_cluster = 0;
    for cluster in 0..large.header().clusters() {
        let Ok((header, _)) = large.cluster(reader, cluster) else {
            small_cluster += u64::from(large.header().resources_per_cluster.get());
            continue;
        };
        for resource in 0..header.total {
            let state = header.state(resource);
            if state & LARGE_FREE != 0 {
                free += per_large;
            } else if state & LARGE_CONVERTED != 0 {
                let result = small
                    .cluster(reader, small_cluster)
                    .map(|(header, _)| header.free);
                free += free_in(result, small_cluster, small);
            }
            small_cluster += 1;
        }
    }
    free
}
