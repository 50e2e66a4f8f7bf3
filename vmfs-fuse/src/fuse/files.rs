//! Files by the kernel's numbers, and errors as the kernel wants them.

use std::sync::Arc;

use fuser::{Errno, INodeNo};
use vmfs_core::file::FileError;
use vmfs_core::format::FdAddr;
use vmfs_core::fs::{FileSystem, FsError, Inode, SeekTo};

use super::told::Told;
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
    pub(super) told: Arc<Told>,
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
        if self.told.is_gone(node, &inode) {
            return Err(Errno::ESTALE);
        }
        Ok(inode)
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
