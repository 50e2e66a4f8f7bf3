//! Files by the kernel's numbers, and errors as the kernel wants them.

use std::sync::Arc;

use dashmap::DashMap;
use fuser::{Errno, INodeNo};
use vmfs_core::file::FileError;
use vmfs_core::format::FdAddr;
use vmfs_core::fs::{FileSystem, FsError, Inode, SeekTo};

use crate::attributes::address;
use crate::complaints::Complaints;

/// lseek(2)'s numbers, the same on every Linux.
const SEEK_DATA: i32 = 3;
const SEEK_HOLE: i32 = 4;

/// The file system, as all parts of a mount share it.
#[derive(Debug, Clone)]
pub(super) struct Files {
    pub(super) fs: Arc<FileSystem>,
    complaints: Arc<Complaints>,
    /// Files that the kernel knows, how often it was told of them, and their generations.
    told: Arc<DashMap<FdAddr, (u64, u32)>>,
}

impl Files {
    pub(super) fn new(fs: Arc<FileSystem>) -> Self {
        Self {
            fs,
            complaints: Arc::default(),
            told: Arc::default(),
        }
    }

    /// The address of the file that the kernel calls `node`.
    pub(super) fn fd(node: INodeNo) -> Result<FdAddr, Errno> {
        address(node).ok_or(Errno::ESTALE)
    }

    /// The file that the kernel calls `node`, as it is now.
    ///
    /// # Errors
    /// ESTALE when another host has deleted it.
    pub(super) fn inode(&self, node: INodeNo) -> Result<Arc<Inode>, Errno> {
        let fd = Self::fd(node)?;
        let inode = self.heard(fd, self.fs.inode(fd))?;
        let told = self.told.get(&fd).map(|told| told.1);
        if told.is_some_and(|generation| generation != inode.meta().generation.get()) {
            return Err(Errno::ESTALE);
        }
        Ok(inode)
    }

    /// Notes that the kernel is told of a file.
    pub(super) fn note(&self, inode: &Inode) {
        let mut told = self.told.entry(inode.fd()).or_default();
        *told = (told.0 + 1, inode.meta().generation.get());
    }

    /// Notes that the kernel forgets `count` times that it was told of a file.
    pub(super) fn forget(&self, fd: FdAddr, count: u64) {
        self.told.remove_if_mut(&fd, |_, told| {
            told.0 = told.0.saturating_sub(count);
            told.0 == 0
        });
    }

    /// Turns an error met at the file `fd` into its number, and logs it if it is worth that.
    pub(super) fn heard<T>(&self, fd: FdAddr, result: Result<T, FsError>) -> Result<T, Errno> {
        result.map_err(|error| {
            self.complaints.hear(fd, &error);
            Errno::from_i32(error.errno().raw_os_error())
        })
    }

    /// Does what lseek(2) does for `SEEK_DATA` and `SEEK_HOLE`.
    pub(super) fn seek(&self, node: INodeNo, offset: i64, whence: i32) -> Result<i64, Errno> {
        let to = match whence {
            SEEK_DATA => SeekTo::Data,
            SEEK_HOLE => SeekTo::Hole,
            _ => return Err(Errno::EINVAL),
        };
        let offset = u64::try_from(offset).map_err(|_| Errno::ENXIO)?;
        let inode = self.inode(node)?;
        let found = self.fs.seek(&inode, offset, to);
        if let Err(FsError::File(FileError::RawDisk { .. })) = found {
            // ENXIO would say "nothing but a hole" and make copies of zeros; not being able to
            // tell makes programs read, which fails as it should.
            return Err(Errno::EINVAL);
        }
        let found = self.heard(inode.fd(), found)?.ok_or(Errno::ENXIO)?;
        i64::try_from(found).map_err(|_| Errno::EOVERFLOW)
    }
}
