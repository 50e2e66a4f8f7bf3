use crate::file::error::FileError;
use crate::format::{
    At, DiskLock, Family, FdAddr, FdImage, FileKind, FileMetadata, Layout, LockKind, ResourceKind,
    ZeroLevel,
};
use crate::lvm::VolumeOffset;
use crate::resource::Changes;

/// A file descriptor being changed inside a transaction. Nothing of it counts before
/// [`FileEdit::save`].
#[derive(Debug)]
pub struct FileEdit<'c, 'a> {
    pub(super) changes: &'c mut Changes<'a>,
    pub(super) fd: FdAddr,
    pub(super) place: VolumeOffset,
    pub(super) image: FdImage,
    /// Where in the descriptor what is changed begins: behind the lock, which is changed past the
    /// journal and never by a transaction, unless the descriptor has none yet.
    from: u64,
    /// Sub-blocks taken for what may be written: where they lie and their addresses.
    pub(super) spare: Vec<(VolumeOffset, u64)>,
}

/// What a new file starts with.
#[derive(Debug, Clone, Copy)]
pub struct NewFile {
    /// What it is.
    pub kind: FileKind,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// The directory that it is made in.
    pub parent: FdAddr,
}

impl<'c, 'a> FileEdit<'c, 'a> {
    /// The file `fd`, whose descriptor lies at `place`, as the transaction has it so far.
    ///
    /// # Errors
    /// When the descriptor can't be read or isn't one.
    pub fn load(
        changes: &'c mut Changes<'a>,
        fd: FdAddr,
        place: VolumeOffset,
    ) -> Result<Self, FileError> {
        changes.check_file(place)?;
        let layout = changes.txn.reader().layout();
        let mut bytes = vec![0; layout.fd_size as usize];
        changes.txn.read(place, &mut bytes)?;
        FileMetadata::parse(&bytes, fd, layout, At::Volume(place.0))?;
        let image = FdImage::from_bytes(layout, bytes);
        Ok(Self {
            changes,
            fd,
            place,
            image,
            from: layout.fd_meta,
            spare: Vec::new(),
        })
    }

    /// A new empty file in the descriptor `fd`, which the transaction has taken; its one name
    /// comes with its directory's entry. If the descriptor has a lock already the caller has that,
    /// where it is needed.
    pub fn create(
        changes: &'c mut Changes<'a>,
        fd: FdAddr,
        generation: u32,
        new: &NewFile,
    ) -> Result<Self, FileError> {
        let layout = changes.txn.reader().layout();
        let place = (u64::from(fd.cluster()), fd.resource());
        let place = changes.locate(ResourceKind::FileDescriptor, place)?;
        let now = changes.now();
        let mut image = FdImage::new(layout, fd, place.0, new.kind, now);
        let mut before = [0; size_of::<DiskLock>()];
        changes.txn.read(place, &mut before)?;
        let has_lock = DiskLock::lies_in(&before, LockKind::FileDescriptor, place.0);
        let meta = image.metadata();
        meta.generation = generation.into();
        meta.links = 1.into();
        meta.mode = (new.mode & 0o7777).into();
        meta.uid = new.uid.into();
        meta.gid = new.gid.into();
        if layout.family == Family::Vmfs6 {
            meta.parent_fd = new.parent.raw().into();
        }
        let mut edit = Self {
            changes,
            fd,
            place,
            image,
            from: if has_lock { layout.fd_meta } else { 0 },
            spare: Vec::new(),
        };
        edit.make_empty();
        Ok(edit)
    }

    /// The file's address.
    pub fn fd(&self) -> FdAddr {
        self.fd
    }

    /// Its metadata.
    pub fn meta(&self) -> &FileMetadata {
        self.image.meta()
    }

    /// Its metadata, to be changed.
    pub fn meta_mut(&mut self) -> &mut FileMetadata {
        self.image.metadata()
    }

    /// Its length in bytes.
    pub fn length(&self) -> u64 {
        self.meta().length.get()
    }

    /// Notes that content or names changed now.
    pub fn touch(&mut self) {
        let now = self.changes.now();
        self.meta_mut().mtime = now.into();
        self.meta_mut().ctime = now.into();
    }

    /// Makes the descriptor part of the transaction.
    pub fn save(mut self) -> Result<(), FileError> {
        self.give_spare();
        let bytes = &self.image.bytes()[self.from as usize..];
        Ok(self.changes.txn.write(self.place + self.from, bytes)?)
    }

    /// Gives back the descriptor itself, of a file that has no block and no name any more.
    pub fn discard(mut self) -> Result<(), FileError> {
        let layout = self.layout();
        let empty = vec![0; size_of::<FileMetadata>()];
        let meta = self.place + layout.fd_meta;
        // Address and type are zero then: no address leads to a file here any more.
        self.changes.txn.write(meta, &empty)?;
        let place = (u64::from(self.fd.cluster()), self.fd.resource());
        self.image = FdImage::from_bytes(layout, Vec::new());
        self.changes
            .give(ResourceKind::FileDescriptor, place, self.fd);
        self.changes.txn.finish(self.fd);
        Ok(())
    }

    pub(super) fn layout(&self) -> &'a Layout {
        self.changes.txn.reader().layout()
    }

    /// Whether the content is metadata: read through the cache, written through the journal.
    pub(super) fn is_metadata(&self) -> bool {
        self.meta().is_directory()
    }

    /// Makes the map that of an empty file: nothing in the array, the data in the descriptor.
    pub(super) fn make_empty(&mut self) {
        let layout = self.layout();
        let shift = layout.sub_block_shift;
        self.image.data_mut(layout).fill(0);
        for index in 0..layout.fd_address_count as usize {
            self.image.set_address(index, 0);
        }
        self.image.set_block_shift(shift);
        self.image.set_blocks(0);
        let meta = self.meta_mut();
        meta.zero_level = ZeroLevel::Resident.raw().into();
        meta.length = 0.into();
        meta.flags = 0.into();
        meta.pointer_blocks = 0.into();
        meta.large_blocks = 0.into();
        meta.tbz_blocks_lo = 0.into();
        meta.tbz_blocks_hi = 0.into();
        meta.unknown5 = 0.into();
        meta.affinity_bitmap = 0.into();
        meta.last_sfb_cluster = 0.into();
    }

    /// Adds to the number of blocks that the file has.
    pub(super) fn add_blocks(&mut self, more: i64) {
        let blocks = self.meta().blocks.get().saturating_add_signed(more);
        self.image.set_blocks(blocks);
    }

    /// Adds to the number of blocks to be zeroed.
    pub(super) fn add_tbz_blocks(&mut self, more: i64) {
        let blocks = self.meta().tbz_blocks().saturating_add_signed(more);
        let meta = self.meta_mut();
        meta.tbz_blocks_lo = (blocks as u32).into();
        meta.tbz_blocks_hi = ((blocks >> 32) as u32).into();
    }
}
