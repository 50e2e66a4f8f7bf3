use vmfs_core::format::{
    At, BlockAddr, Family, FileMetadata, Layout, ResourceHeader, ResourceKind, SystemFile,
    ZeroLevel,
};
use vmfs_core::fs::FileSystem;
use vmfs_core::lvm::{Volume, VolumeOffset};
use vmfs_core::resource::MetaError;
use zerocopy::IntoBytes;

use super::super::resources::ResourceFileLayout;
use super::{GrowError, Target, layout_of};
use vmfs_core::format::FdImage;

/// `.fbb.sf` of a volume, to be changed.
#[derive(Debug)]
pub(super) struct BlockFile<'a> {
    pub(super) layout: Layout,
    pub(super) volume: &'a Volume,
    /// The file blocks, small ones on VMFS6.
    pub(super) small: ResourceFileLayout,
    /// The large file blocks (VMFS6).
    pub(super) large: Option<ResourceFileLayout>,
    /// The file's own blocks, in its order.
    pub(super) blocks: Vec<u64>,
    fd: FdImage,
    fd_offset: VolumeOffset,
}

impl<'a> BlockFile<'a> {
    pub(super) fn open(fs: &'a FileSystem) -> Result<Self, GrowError> {
        let layout = fs.layout().clone();
        let volume = fs.volume();
        let resources = fs.store().resources();
        let file = resources
            .file_blocks
            .as_ref()
            .ok_or(GrowError::NoBlockFile)?;
        let large = match (&resources.large_file_blocks, layout.family) {
            (None, Family::Vmfs6) => return Err(GrowError::NoBlockFile),
            (large, _) => large.as_ref(),
        };
        let child = large.map_or(0, |large| large.header().child_meta_offset.get().into());
        let fd_offset = file.map().fd_offset();
        let mut bytes = vec![0; layout.fd_size as usize];
        volume.read(fd_offset, &mut bytes)?;
        let at = At::Volume(fd_offset.0);
        FileMetadata::parse(&bytes, SystemFile::FileBlocks.fd(), &layout, at)?;
        let mut blocks = Vec::new();
        let mut collect = |address, depth| {
            if let (BlockAddr::FileBlock { block, .. }, 0) = (address, depth) {
                blocks.push(block);
            }
            Ok::<_, MetaError>(())
        };
        file.map()
            .for_each_address(fs.store().reader(), file.sources(), &mut collect)?;
        Ok(Self {
            volume,
            small: layout_of(ResourceKind::FileBlock, child, file.header()),
            large: large.map(|large| layout_of(ResourceKind::LargeFileBlock, 0, large.header())),
            blocks,
            fd: FdImage::from_bytes(&layout, bytes),
            fd_offset,
            layout,
        })
    }

    /// Length of the file that begins with `outer`.
    pub(super) fn length(&self, outer: &ResourceHeader) -> u64 {
        outer.file_length(self.layout.family, self.layout.cluster_header_size())
    }

    /// Where byte `offset` of the file lies.
    pub(super) fn place(&self, offset: u64) -> Result<VolumeOffset, GrowError> {
        let size = self.layout.file_block_size();
        let block = self.blocks.get((offset / size) as usize);
        let block = block.ok_or(GrowError::MapFull {
            needed: offset / size + 1,
            room: self.blocks.len() as u64,
        })?;
        Ok(VolumeOffset(block * size + offset % size))
    }

    /// Takes blocks of the new part of the volume for the file if it needs more; returns how
    /// many, those of an earlier run included.
    pub(super) fn add_blocks(&mut self, target: &Target) -> Result<u64, GrowError> {
        let size = self.layout.file_block_size();
        let old = self.small.header.resources();
        let needed = self.length(target.outer()).div_ceil(size);
        let have = self.blocks.len() as u64;
        let direct = self.fd.metadata().zero_level() == ZeroLevel::FileBlock;
        let room = if direct {
            self.layout.fd_address_count
        } else {
            have
        };
        if needed > room {
            return Err(GrowError::MapFull { needed, room });
        }
        // A cluster of their own: nobody allocates from it before the header counts it.
        let taken = self.blocks.iter().filter(|&&block| block >= old);
        let after_taken = taken.max().map_or(0, |last| last + 1);
        let start = (self.small.header.clusters()
            * u64::from(self.small.header.resources_per_cluster.get()))
        .max(after_taken);
        let end = start + needed.saturating_sub(have);
        if end > target.small.header.resources() {
            let room = have;
            return Err(GrowError::MapFull { needed, room });
        }
        for block in start..end {
            let address = BlockAddr::FileBlock {
                block,
                tbz: 0,
                cow: false,
            };
            self.fd
                .set_address(self.blocks.len(), address.encode(&self.layout));
            self.blocks.push(block);
        }
        Ok(self.blocks.iter().filter(|&&block| block >= old).count() as u64)
    }

    /// Writes the file's new length and blocks.
    pub(super) fn write_descriptor(&mut self, target: &Target) -> Result<(), GrowError> {
        let length = self.length(target.outer());
        let blocks = self.blocks.len() as u64;
        let family = self.layout.family;
        let meta = self.fd.metadata();
        meta.length = meta.length.get().max(length).into();
        let more = blocks.saturating_sub(meta.blocks.get());
        meta.blocks = (meta.blocks.get() + more).into();
        if family != Family::Vmfs3 {
            let since = u64::from(meta.new_since_epoch_hi.get()) << 32
                | u64::from(meta.new_since_epoch_lo.get());
            meta.new_since_epoch_lo = ((since + more) as u32).into();
            meta.new_since_epoch_hi = ((since + more) >> 32).to_le_bytes()[..4]
                .try_into()
                .map_or(0, u32::from_le_bytes)
                .into();
        }
        let (meta, md) = (self.layout.fd_meta, self.layout.md_block);
        let addresses = self.layout.fd_addresses;
        if addresses >= meta + md {
            // Addresses behind the file's length mean nothing yet.
            self.write_part_of_descriptor(addresses, self.layout.fd_size)?;
            self.volume.flush()?;
        }
        self.write_part_of_descriptor(meta, meta + md)
    }

    fn write_part_of_descriptor(&self, from: u64, to: u64) -> Result<(), GrowError> {
        let bytes = &self.fd.bytes()[from as usize..to as usize];
        Ok(self.volume.write(self.fd_offset + from, bytes)?)
    }

    /// Makes the file's header count the target's file blocks; `converted` more large ones are
    /// broken up.
    pub(super) fn count_small_blocks(
        &mut self,
        target: &Target,
        converted: u64,
    ) -> Result<(), GrowError> {
        let mut small = target.small.clone();
        let before = small.header.converted_clusters.get();
        small.header.converted_clusters = (before + converted as u32).into();
        self.write_header(&small)?;
        self.small = small;
        Ok(())
    }

    /// Makes the header of the large blocks (VMFS6) count those that the small ones are in;
    /// whether it didn't.
    pub(super) fn count_large_blocks(&mut self) -> Result<bool, GrowError> {
        let target = Target::new(self, self.small.header.resources());
        let Some(large) = target.large else {
            return Ok(false);
        };
        let before = self.large.as_ref().map(|large| large.header.resources());
        if before >= Some(large.header.resources()) {
            return Ok(false);
        }
        self.write_header(&large)?;
        self.volume.flush()?;
        self.large = Some(large);
        Ok(true)
    }

    fn write_header(&self, file: &ResourceFileLayout) -> Result<(), GrowError> {
        let place = self.place(file.header_offset)?;
        let mut block = vec![0; self.layout.md_block as usize];
        self.volume.read(place, &mut block)?;
        let header = file.header.as_bytes();
        block[..header.len()].copy_from_slice(header);
        Ok(self.volume.write(place, &block)?)
    }
}
