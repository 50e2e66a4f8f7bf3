use vmfs_core::format::SystemFile;
use vmfs_core::lvm::VolumeOffset;

use super::super::resources::{MAX_CONVERTED, ResourceFileLayout};
use super::block_file::BlockFile;
use super::{GrowError, Target};
use vmfs_core::format::ClusterImage;

/// Bytes written at once, at most.
const AT_ONCE: usize = 1 << 20;

/// Writes the headers of all clusters that `target` has more, or larger, than `file`; returns how
/// many large file blocks are broken up that weren't.
pub(super) fn write(file: &BlockFile<'_>, target: &Target) -> Result<u64, GrowError> {
    clear(file, target)?;
    let mut out = Writer::new(file);
    let (Some(old_large), Some(large)) = (&file.large, &target.large) else {
        let per_cluster = u64::from(target.small.header.resources_per_cluster.get());
        let first = file.small.header.resources() / per_cluster;
        for cluster in first..target.small.header.clusters() {
            out.small_cluster(target, cluster)?;
        }
        out.finish()?;
        return Ok(0);
    };

    let per_cluster = u64::from(large.header.resources_per_cluster.get());
    let (first, end) = (old_large.header.resources(), large.header.resources());
    let mut broken_up = u64::from(file.small.header.converted_clusters.get());
    let before = broken_up;
    if !file
        .small
        .header
        .resources()
        .is_multiple_of(out.per_large())
        && let Some(last) = first.checked_sub(1)
        && out
            .large_cluster(old_large, last / per_cluster)?
            .is_converted((last % per_cluster) as u32)
    {
        out.small_cluster(target, last)?;
    }
    for cluster in first / per_cluster..large.header.clusters() {
        let mut image = out.large_cluster(old_large, cluster)?;
        let total = large.total_in(cluster);
        image.grow_to(total);
        let start = cluster * per_cluster;
        for number in start.max(first)..(start + per_cluster).min(end) {
            let resource = (number - start) as u32;
            let needed = out.must_be_small(target, number);
            if !image.is_converted(resource) {
                if !needed && broken_up >= MAX_CONVERTED {
                    continue;
                }
                if !image.convert(resource) {
                    return Err(GrowError::Unannounced { block: number });
                }
            }
            broken_up += 1;
            out.small_cluster(target, number)?;
        }
        let is_new = start >= first;
        out.put(large, cluster, &mut image, is_new)?;
    }
    out.finish()?;
    Ok(broken_up - before)
}

/// Zeros what the file gets behind its old end.
fn clear(file: &BlockFile<'_>, target: &Target) -> Result<(), GrowError> {
    let outer = &file.large.as_ref().unwrap_or(&file.small).header;
    let (mut offset, end) = (file.length(outer), file.length(target.outer()));
    let block = file.layout.file_block_size();
    while offset < end {
        let length = (block - offset % block).min(AT_ONCE as u64);
        let zeros = vec![0; length as usize];
        file.volume.write(file.place(offset)?, &zeros)?;
        offset += length;
    }
    Ok(())
}

/// Writes cluster headers, adjacent ones at once.
struct Writer<'a, 'b> {
    file: &'a BlockFile<'b>,
    start: VolumeOffset,
    run: Vec<u8>,
}

impl<'a, 'b> Writer<'a, 'b> {
    fn new(file: &'a BlockFile<'b>) -> Self {
        Self {
            file,
            start: VolumeOffset(0),
            run: Vec::new(),
        }
    }

    fn per_large(&self) -> u64 {
        self.file.small.header.resources_per_cluster.get().into()
    }

    /// Whether large block `number` can't be used in one piece: it is cut off by the volume's end
    /// or holds a block of `.fbb.sf`.
    fn must_be_small(&self, target: &Target, number: u64) -> bool {
        let range = number * self.per_large()..(number + 1) * self.per_large();
        range.end > target.small.header.resources()
            || self.file.blocks.iter().any(|block| range.contains(block))
    }

    /// Cluster `cluster` of large blocks as it is on the volume, or an empty new one.
    fn large_cluster(
        &self,
        old: &ResourceFileLayout,
        cluster: u64,
    ) -> Result<ClusterImage, GrowError> {
        let mut image = self.existing_or_new(old, cluster)?;
        image.grow_to(old.total_in(cluster));
        Ok(image)
    }

    fn existing_or_new(
        &self,
        old: &ResourceFileLayout,
        cluster: u64,
    ) -> Result<ClusterImage, GrowError> {
        let layout = &self.file.layout;
        let size = layout.cluster_header_size();
        let place = self
            .file
            .place(old.header.cluster_header_offset(cluster, size))?;
        if cluster >= old.header.clusters() {
            return Ok(ClusterImage::new(
                layout,
                old.shape(cluster),
                cluster,
                place.0,
            ));
        }
        let mut bytes = vec![0; size as usize];
        self.file.volume.read(place, &mut bytes)?;
        Ok(ClusterImage::from_bytes(layout, old.shape(cluster), bytes))
    }

    /// Writes the header of file block cluster `cluster` as `target` has it.
    fn small_cluster(&mut self, target: &Target, cluster: u64) -> Result<(), GrowError> {
        let old = &self.file.small;
        let is_new = cluster >= old.header.clusters();
        let mut image = self.existing_or_new(old, cluster)?;
        image.grow_to(target.small.total_in(cluster));
        if is_new {
            let start = cluster * self.per_large();
            let range = start..start + self.per_large();
            let own = self
                .file
                .blocks
                .iter()
                .filter(|block| range.contains(block));
            let mut taken = 0;
            for block in own {
                taken += u32::from(image.take((block - start) as u32));
            }
            if taken > 0 && self.file.large.is_some() {
                image.add_affinity(SystemFile::FileBlocks.fd(), taken);
            }
        }
        self.put(&target.small, cluster, &mut image, is_new)
    }

    /// Writes a header; of one that isn't new the lock stays as it is.
    fn put(
        &mut self,
        of: &ResourceFileLayout,
        cluster: u64,
        image: &mut ClusterImage,
        is_new: bool,
    ) -> Result<(), GrowError> {
        let layout = &self.file.layout;
        let size = layout.cluster_header_size();
        let place = self
            .file
            .place(of.header.cluster_header_offset(cluster, size))?;
        let bytes = image.bytes();
        if !is_new {
            let meta = &bytes[layout.md_block as usize..];
            return Ok(self.file.volume.write(place + layout.md_block, meta)?);
        }
        if place != self.start + self.run.len() as u64 || self.run.len() >= AT_ONCE {
            self.flush()?;
            self.start = place;
        }
        self.run.extend_from_slice(bytes);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), GrowError> {
        if !self.run.is_empty() {
            self.file.volume.write(self.start, &self.run)?;
            self.run.clear();
        }
        Ok(())
    }

    fn finish(mut self) -> Result<(), GrowError> {
        self.flush()
    }
}
