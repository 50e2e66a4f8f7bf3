use std::sync::Arc;

use super::block_map::BlockMap;
use super::error::MetaError;
use super::resource_file::ResourceFile;
use crate::format::{
    At, Damage, Family, FdAddr, FileMetadata, FsDescriptor, ResourceKind, SystemFile,
};
use crate::journal::MetaReader;
use crate::lvm::VolumeOffset;

/// The resource files that pointer blocks and sub-blocks lie in.
#[derive(Debug, Clone, Default)]
pub struct PointerSources {
    /// `.pb2.sf`.
    pub pointer_blocks2: Option<Arc<ResourceFile>>,
    /// `.pbc.sf`.
    pub pointer_blocks: Option<Arc<ResourceFile>>,
    /// `.sbc.sf`.
    pub sub_blocks: Option<Arc<ResourceFile>>,
}

/// All resource files of a volume.
///
/// A damaged one other than `.fdc.sf` doesn't keep the volume from opening: what needs it fails,
/// the rest works, and `problems` says why.
#[derive(Debug)]
pub struct Resources {
    /// Where pointer blocks and sub-blocks lie.
    pub sources: PointerSources,
    /// `.fdc.sf`.
    pub file_descriptors: ResourceFile,
    /// The file blocks of `.fbb.sf`, small ones on VMFS6.
    pub file_blocks: Option<ResourceFile>,
    /// The large file blocks of `.fbb.sf` (VMFS6).
    pub large_file_blocks: Option<ResourceFile>,
    /// `.jbc.sf` (VMFS6).
    pub journal_blocks: Option<ResourceFile>,
    /// What kept resource files from opening.
    pub problems: Vec<(SystemFile, MetaError)>,
}

impl Resources {
    /// Opens the resource files of the volume that `fsd` describes.
    ///
    /// # Errors
    /// [`MetaError`] when `.fdc.sf` can't be opened: without it there are no files.
    pub fn open(reader: &MetaReader, fsd: &FsDescriptor) -> Result<Self, MetaError> {
        let mut problems = Vec::new();
        let mut keep = |file, result: Result<ResourceFile, MetaError>| {
            result.map_err(|error| problems.push((file, error))).ok()
        };
        let family = reader.layout().family;
        let mut sources = PointerSources::default();
        let open = |file, kind, sources: &PointerSources| {
            open_resource_file(reader, fsd, file, kind, sources, 0)
        };

        // The order is that of need: the map of each file goes only through those before it.
        if family != Family::Vmfs3 && fsd.pb2_fd_addr.get() != 0 {
            let file = SystemFile::PointerBlocks2;
            let opened = keep(file, open(file, ResourceKind::PointerBlock2, &sources));
            sources.pointer_blocks2 = opened.map(Arc::new);
        }
        let file = SystemFile::PointerBlocks;
        let opened = keep(file, open(file, ResourceKind::PointerBlock, &sources));
        sources.pointer_blocks = opened.map(Arc::new);
        let file = SystemFile::SubBlocks;
        let opened = keep(file, open(file, ResourceKind::SubBlock, &sources));
        sources.sub_blocks = opened.map(Arc::new);

        let file_descriptors = open(
            SystemFile::FileDescriptors,
            ResourceKind::FileDescriptor,
            &sources,
        )?;
        let file = SystemFile::FileBlocks;
        let (mut large_file_blocks, mut journal_blocks) = (None, None);
        let file_blocks = if family == Family::Vmfs6 {
            large_file_blocks = keep(file, open(file, ResourceKind::LargeFileBlock, &sources));
            let child = large_file_blocks
                .as_ref()
                .map_or(0, |large| large.header().child_meta_offset.get().into());
            let small =
                open_resource_file(reader, fsd, file, ResourceKind::FileBlock, &sources, child);
            let journals = SystemFile::Journals;
            journal_blocks = keep(
                journals,
                open(journals, ResourceKind::JournalBlock, &sources),
            );
            keep(
                file,
                small.and_then(|small| check_small_blocks(reader, small)),
            )
        } else {
            keep(file, open(file, ResourceKind::FileBlock, &sources))
        };
        Ok(Self {
            sources,
            file_descriptors,
            file_blocks,
            large_file_blocks,
            journal_blocks,
            problems,
        })
    }

    /// Reads again how large the resource files are that a host makes larger when it needs to: for
    /// readers of a volume that another host has mounted.
    ///
    /// # Errors
    /// The first that can't be read; it stays as it was.
    pub fn reload(&self, reader: &MetaReader) -> Result<(), MetaError> {
        // Each goes through those before it only.
        let sources = &self.sources;
        let shared = [
            &sources.pointer_blocks2,
            &sources.pointer_blocks,
            &sources.sub_blocks,
        ];
        for file in shared.into_iter().flatten() {
            file.reload(reader)?;
        }
        self.file_descriptors.reload(reader)
    }

    /// Every resource file that is open.
    pub fn iter(&self) -> impl Iterator<Item = &ResourceFile> {
        let shared = [
            &self.sources.sub_blocks,
            &self.sources.pointer_blocks,
            &self.sources.pointer_blocks2,
        ];
        let owned = [
            &self.large_file_blocks,
            &self.file_blocks,
            &self.journal_blocks,
        ];
        std::iter::once(&self.file_descriptors)
            .chain(owned.into_iter().flatten())
            .chain(shared.into_iter().flatten().map(Arc::as_ref))
    }
}

/// The bytes of the file descriptor at `offset`, [`crate::format::Layout::fd_size`] of them.
pub fn read_fd(reader: &MetaReader, offset: VolumeOffset) -> Result<Vec<u8>, MetaError> {
    let mut bytes = vec![0; reader.layout().fd_size as usize];
    reader.read_with_neighbours(offset, &mut bytes)?;
    Ok(bytes)
}

/// Opens a system file before `.fdc.sf` can be asked where its descriptor lies.
pub(super) fn open_resource_file(
    reader: &MetaReader,
    fsd: &FsDescriptor,
    file: SystemFile,
    kind: ResourceKind,
    sources: &PointerSources,
    header_offset: u64,
) -> Result<ResourceFile, MetaError> {
    let layout = reader.layout();
    // VMFS5 volumes without dense sub-blocks were upgraded from VMFS3, which has no second
    // pointer block file in the fixed place; their descriptor says where it is.
    let (fd, offset) = if file == SystemFile::PointerBlocks2
        && layout.family == Family::Vmfs5
        && !layout.dense_sub_blocks
    {
        let raw = fsd.pb2_fd_addr.get();
        let fd = FdAddr::from_raw(raw).ok_or_else(|| {
            let at = At::Volume(crate::format::FS_DESCRIPTOR_OFFSET);
            let expected = "a file descriptor address";
            Damage::hex(
                "file system descriptor",
                at,
                "pb2FDAddr",
                raw.into(),
                expected,
            )
        })?;
        (fd, VolumeOffset(fsd.pb2_vol_addr.get()))
    } else {
        let fd = file.fd();
        (
            fd,
            VolumeOffset(layout.first_fd + u64::from(fd.resource()) * layout.fd_size),
        )
    };
    let bytes = read_fd(reader, offset)?;
    let meta = FileMetadata::parse(&bytes, fd, layout, At::Volume(offset.0))?;
    let map = BlockMap::new(meta, &bytes, offset, layout);
    ResourceFile::open(reader, kind, (fd, map), sources.clone(), header_offset)
}

/// VMFS6 addresses of small file blocks are decoded with a cluster size that follows from the
/// block size; the resource file must agree.
fn check_small_blocks(reader: &MetaReader, small: ResourceFile) -> Result<ResourceFile, MetaError> {
    let expected = reader.layout().file_blocks_per_cluster;
    let found = small.header().resources_per_cluster.get();
    if u64::from(found) != expected {
        return Err(Damage::new(
            "resource file header",
            At::File {
                fd: SystemFile::FileBlocks.fd().raw(),
                offset: 0,
            },
            "resourcesPerCluster of small file blocks",
            found,
            expected.to_string(),
        )
        .into());
    }
    Ok(small)
}
