use zerocopy::FromBytes;

use crate::format::{DiskLock, FdAddr, FileKind, FileMetadata, Layout, RdmMapping};
use crate::lvm::VolumeOffset;
use crate::resource::{BlockMap, MetaError};

/// A file descriptor in memory: checked metadata and the block map.
#[derive(Debug, Clone)]
pub struct Inode {
    fd: FdAddr,
    offset: VolumeOffset,
    lock: DiskLock,
    meta: FileMetadata,
    map: BlockMap,
    rdm: Option<RdmMapping>,
}

impl Inode {
    /// Reads the file descriptor `fd` from its `bytes`, which lie at `offset`.
    pub fn parse(
        bytes: &[u8],
        fd: FdAddr,
        offset: VolumeOffset,
        layout: &Layout,
    ) -> Result<Self, MetaError> {
        let at = crate::format::At::Volume(offset.0);
        let meta = FileMetadata::parse(bytes, fd, layout, at)?;
        let lock: &DiskLock = crate::format::view(bytes, "disk lock", at)?;
        let data = bytes.get(layout.fd_data as usize..).unwrap_or_default();
        let rdm = (meta.kind() == FileKind::Rdm)
            .then(|| {
                RdmMapping::read_from_prefix(data)
                    .ok()
                    .map(|(mapping, _)| mapping)
            })
            .flatten();
        let map = BlockMap::new(meta, bytes, offset, layout);
        Ok(Self {
            fd,
            offset,
            lock: lock.clone(),
            meta: meta.clone(),
            map,
            rdm,
        })
    }

    /// The file descriptor's address.
    pub fn fd(&self) -> FdAddr {
        self.fd
    }

    /// Where the file descriptor lies.
    pub fn offset(&self) -> VolumeOffset {
        self.offset
    }

    /// The file descriptor's disk lock as it was when read.
    pub fn lock(&self) -> &DiskLock {
        &self.lock
    }

    /// The metadata as it stands on disk.
    pub fn meta(&self) -> &FileMetadata {
        &self.meta
    }

    /// The block map.
    pub fn map(&self) -> &BlockMap {
        &self.map
    }

    /// What the file is.
    pub fn kind(&self) -> FileKind {
        self.meta.kind()
    }

    /// Whether the file is a directory; `.sdd.sf`, a system file, is one too.
    pub fn is_directory(&self) -> bool {
        self.meta.is_directory()
    }

    /// Length in bytes; of an RDM pointer, the size of the raw disk.
    pub fn length(&self) -> u64 {
        self.meta.length.get()
    }

    /// The raw disk that an RDM pointer names.
    pub fn rdm(&self) -> Option<&RdmMapping> {
        self.rdm.as_ref()
    }

    /// Mode with the file type bits, which the disk has only for directories.
    ///
    /// An RDM pointer is a regular file to the outside: there is no device to give a node for.
    pub fn mode(&self) -> u32 {
        const TYPE: u32 = 0o170_000;
        let stored = self.meta.mode.get();
        let kind = if self.is_directory() {
            0o040_000
        } else if self.kind() == FileKind::Symlink {
            0o120_000
        } else {
            0o100_000
        };
        stored & !TYPE & 0o7777 | kind
    }

    /// Bytes that the file takes on the volume.
    pub fn allocated(&self) -> u64 {
        self.meta
            .blocks
            .get()
            .saturating_mul(self.meta.block_size.get())
    }
}
