use std::sync::Arc;

use super::error::FsError;
use super::file_system::FileSystem;
use crate::file::Inode;
use crate::format::FdAddr;

/// Who makes a file, and with which permissions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Creator {
    /// Permission bits, set-user-ID, set-group-ID and sticky bit.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// Attributes to change; `None` leaves one as it is. Times are seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(missing_docs, reason = "the fields are those of stat(2)")]
pub struct Changes {
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub size: Option<u64>,
    pub atime: Option<u32>,
    pub mtime: Option<u32>,
    pub ctime: Option<u32>,
}

/// What happens to a name that a rename finds in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rename {
    /// It is replaced.
    Replace,
    /// The rename fails.
    NoReplace,
    /// The two change places.
    Exchange,
}

/// What fallocate(2) does to a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allocate {
    /// Holes get blocks, which read as zeros.
    Reserve,
    /// The range reads as zeros and has blocks.
    Zero,
    /// The range reads as zeros, its blocks are given back.
    PunchHole,
}

impl FileSystem {
    /// Whether calls that change the volume can work.
    pub fn is_writable(&self) -> bool {
        false
    }

    /// Makes an empty regular file called `name`.
    pub fn create(
        &self,
        _directory: FdAddr,
        _name: &[u8],
        _creator: Creator,
    ) -> Result<Arc<Inode>, FsError> {
        Err(FsError::ReadOnly)
    }

    /// Makes a directory called `name`.
    pub fn make_directory(
        &self,
        _directory: FdAddr,
        _name: &[u8],
        _creator: Creator,
    ) -> Result<Arc<Inode>, FsError> {
        Err(FsError::ReadOnly)
    }

    /// Makes a symbolic link called `name` to `target`.
    pub fn make_symlink(
        &self,
        _directory: FdAddr,
        _name: &[u8],
        _target: &[u8],
        _creator: Creator,
    ) -> Result<Arc<Inode>, FsError> {
        Err(FsError::ReadOnly)
    }

    /// Gives `file` one more name.
    pub fn link(
        &self,
        _file: FdAddr,
        _directory: FdAddr,
        _name: &[u8],
    ) -> Result<Arc<Inode>, FsError> {
        Err(FsError::ReadOnly)
    }

    /// Removes a name that isn't a directory's; with the last name and the last hold goes the file.
    pub fn unlink(&self, _directory: FdAddr, _name: &[u8]) -> Result<(), FsError> {
        Err(FsError::ReadOnly)
    }

    /// Removes an empty directory.
    pub fn remove_directory(&self, _directory: FdAddr, _name: &[u8]) -> Result<(), FsError> {
        Err(FsError::ReadOnly)
    }

    /// Gives what is called `name` in `directory` the name `new_name` in `new_directory`, in one step.
    pub fn rename(
        &self,
        _directory: FdAddr,
        _name: &[u8],
        _new_directory: FdAddr,
        _new_name: &[u8],
        _how: Rename,
    ) -> Result<(), FsError> {
        Err(FsError::ReadOnly)
    }

    /// Changes attributes, the length included; ctime is now unless it is given.
    pub fn set_attributes(&self, _file: FdAddr, _changes: &Changes) -> Result<Arc<Inode>, FsError> {
        Err(FsError::ReadOnly)
    }

    /// Writes all of `data` at `offset`.
    pub fn write(&self, _file: FdAddr, _offset: u64, _data: &[u8]) -> Result<(), FsError> {
        Err(FsError::ReadOnly)
    }

    /// Changes what is allocated for a range; the length grows to the range's end unless
    /// `keep_size`. Punching holes never changes the length.
    pub fn allocate(
        &self,
        _file: FdAddr,
        _offset: u64,
        _length: u64,
        _how: Allocate,
        _keep_size: bool,
    ) -> Result<(), FsError> {
        Err(FsError::ReadOnly)
    }

    /// Copies bytes from one file to another or itself; how many, fewer at the end of the source.
    pub fn copy_range(
        &self,
        _from: FdAddr,
        _from_offset: u64,
        _to: FdAddr,
        _to_offset: u64,
        _length: u64,
    ) -> Result<u64, FsError> {
        Err(FsError::ReadOnly)
    }

    /// Returns once the file's content and metadata are durable.
    pub fn sync_file(&self, _file: FdAddr) -> Result<(), FsError> {
        Ok(())
    }

    /// Returns once everything is durable.
    pub fn sync(&self) -> Result<(), FsError> {
        Ok(())
    }

    /// Keeps a file alive after its last name goes, until as many [`FileSystem::release`]s.
    pub fn hold(&self, _file: FdAddr) {}

    /// Gives up `count` holds; a file without names or holds is deleted.
    pub fn release(&self, _file: FdAddr, _count: u64) {}

    /// Writes everything in place, gives back the journal and the heartbeat slot. Calls that
    /// change the volume fail from now on.
    pub fn close(&self) -> Result<(), FsError> {
        Ok(())
    }
}
