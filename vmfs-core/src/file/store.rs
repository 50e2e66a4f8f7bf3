use std::sync::Arc;
use std::time::Duration;

use quick_cache::sync::{Cache, GuardResult};

use super::error::FileError;
use super::inode::Inode;
use crate::format::FdAddr;
use crate::journal::MetaReader;
use crate::lvm::VolumeOffset;
use crate::resource::{Resources, read_fd};
use crate::sync::{give_way, has_waiter};

/// File descriptors kept in memory, about 1 KiB each but for those with many addresses.
const CACHED_INODES: usize = 12_288;

/// The files of a volume by file descriptor address.
#[derive(Debug)]
pub struct FileStore {
    reader: MetaReader,
    resources: Resources,
    inodes: Cache<FdAddr, Arc<Inode>>,
}

impl FileStore {
    /// The files that `resources` hold.
    pub fn new(reader: MetaReader, resources: Resources) -> Self {
        Self {
            reader,
            resources,
            inodes: Cache::new(CACHED_INODES),
        }
    }

    /// The volume's metadata reader.
    pub fn reader(&self) -> &MetaReader {
        &self.reader
    }

    /// The volume's resource files.
    pub fn resources(&self) -> &Resources {
        &self.resources
    }

    /// Empties the caches.
    pub fn forget(&self) {
        self.reader.forget();
        self.inodes.clear();
    }

    /// Reads a file's descriptor again after a change of it; nobody else may change it meanwhile.
    pub fn refresh(&self, fd: FdAddr) -> Result<Arc<Inode>, FileError> {
        self.inodes.remove(&fd);
        self.inode(fd)
    }

    /// The file with this address, if it is in the cache.
    pub fn cached_inode(&self, fd: FdAddr) -> Option<Arc<Inode>> {
        self.inodes.get(&fd)
    }

    /// Forgets a file that is gone.
    pub fn drop_inode(&self, fd: FdAddr) {
        self.inodes.remove(&fd);
    }

    /// Where a file's descriptor lies.
    pub fn place_of(&self, fd: FdAddr) -> Result<VolumeOffset, FileError> {
        let descriptors = &self.resources.file_descriptors;
        Ok(descriptors.locate(&self.reader, fd.cluster().into(), fd.resource())?)
    }

    /// The file with this descriptor address, from the cache if it is there.
    pub fn inode(&self, fd: FdAddr) -> Result<Arc<Inode>, FileError> {
        let patience = has_waiter().then_some(Duration::ZERO);
        let mut in_vain = false;
        let room = loop {
            match self.inodes.get_value_or_guard(&fd, patience) {
                GuardResult::Value(inode) => return Ok(inode),
                GuardResult::Guard(room) => break room,
                // Another thread reads it.
                GuardResult::Timeout => give_way(std::mem::replace(&mut in_vain, true)),
            }
        };
        let place = self.place_of(fd)?;
        let bytes = read_fd(&self.reader, place)?;
        let inode = Inode::parse(&bytes, fd, place, self.reader.layout())?;
        let inode = Arc::new(inode);
        // If it was forgotten meanwhile it doesn't enter the cache.
        let _ = room.insert(Arc::clone(&inode));
        Ok(inode)
    }
}
