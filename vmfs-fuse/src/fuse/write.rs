//! Writing, allocating, copying, attributes, and making all that durable.

use std::time::Duration;

use fuser::{Errno, FileAttr, FileHandle, INodeNo, OpenFlags, Request, WriteFlags};
use rustix::fs::{FallocateFlags, OFlags};
use vmfs_core::format::FdAddr;
use vmfs_core::fs::{Allocate, Changes, FsError};

use super::files::Files;
use super::opens::{DIRECT, SHARED};
use super::{Changing, Mounted};

/// What one request copies at most, so that it ends in reasonable time; the caller goes on.
const MAX_COPY: u64 = 256 << 20;

const SET_USER_ID: u32 = 0o4000;
const SET_GROUP_ID: u32 = 0o2000;
const GROUP_EXECUTE: u32 = 0o010;

/// A write as it comes from the kernel.
#[derive(Debug, Clone, Copy)]
pub(super) struct Write<'a> {
    pub(super) handle: FileHandle,
    pub(super) offset: u64,
    pub(super) data: &'a [u8],
    pub(super) flags: WriteFlags,
    pub(super) opened_with: OpenFlags,
}

impl Mounted {
    /// Writes; returns how many bytes.
    pub(super) fn write_file(
        &self,
        request: &Request,
        node: INodeNo,
        write: &Write<'_>,
    ) -> Result<u32, Errno> {
        let changing = self.changing.as_ref().ok_or(Errno::EROFS)?;
        let fd = Files::fd(node)?;
        if (write.handle == DIRECT || write.handle == SHARED) && request.uid() != 0 {
            self.drop_privileges(fd)?;
        }
        let (fs, from_cache) = (&self.files.fs, WriteFlags::FUSE_WRITE_CACHE);
        // The kernel keeps the times of what it caches itself, and sends them when they changed: at
        // the turn of a second ours would be another one.
        let written = if changing.is_cached && write.flags.contains(from_cache) {
            fs.write_back(fd, write.offset, write.data)
        } else {
            fs.write(fd, write.offset, write.data)
        };
        self.files.heard(fd, written)?;
        Self::takes_blocks(changing, node, fd);
        if changing.sync || syncs(write) {
            self.files.heard(fd, self.files.fs.sync_file(fd))?;
        }
        u32::try_from(write.data.len()).map_err(|_| Errno::EINVAL)
    }

    /// Lets the kernel ask again how many blocks a new file has.
    fn takes_blocks(changing: &Changing, node: INodeNo, fd: FdAddr) {
        if changing.opens.starts_writing(fd) {
            changing.kernel.forget_attributes(node);
        }
    }

    /// Takes away what a program gets by its file's mode, as any write of somebody else's must;
    /// the kernel does so itself but for direct writes.
    fn drop_privileges(&self, fd: FdAddr) -> Result<(), Errno> {
        let inode = self.files.heard(fd, self.files.fs.inode(fd))?;
        let left = without_privileges(inode.mode());
        if left == inode.mode() {
            return Ok(());
        }
        let changes = Changes {
            mode: Some(left & 0o7777),
            ..Changes::default()
        };
        let changed = self.files.fs.set_attributes(fd, &changes);
        self.files.heard(fd, changed).map(drop)
    }

    /// Allocates, zeroes or gives back a range, as fallocate(2) does.
    pub(super) fn allocate(
        &self,
        node: INodeNo,
        offset: u64,
        length: u64,
        mode: i32,
    ) -> Result<(), Errno> {
        let (how, keep_size) = allocation(mode).ok_or(Errno::EOPNOTSUPP)?;
        self.change(node, |fs, fd| {
            fs.allocate(fd, offset, length, how, keep_size)
        })
    }

    /// Copies bytes from a place in one file to a place in another; returns how many.
    pub(super) fn copy(
        &self,
        (from, from_offset): (INodeNo, u64),
        (to, to_offset): (INodeNo, u64),
        length: u64,
    ) -> Result<u32, Errno> {
        let from = Files::fd(from)?;
        let length = length.min(MAX_COPY);
        let copied = self.change(to, |fs, to| {
            fs.copy_range(from, from_offset, to, to_offset, length)
        })?;
        u32::try_from(copied).map_err(|_| Errno::EIO)
    }

    /// Changes attributes; returns what they are then, and for how long that may be believed.
    pub(super) fn set_attributes(
        &self,
        node: INodeNo,
        changes: &Changes,
    ) -> Result<(Duration, FileAttr), Errno> {
        let inode = if *changes == Changes::default() || self.is_for_nobody(node, changes)? {
            self.files.inode(node)?
        } else {
            let before = self.files.inode(node)?;
            let after = self.change(node, |fs, fd| fs.set_attributes(fd, changes))?;
            let told = &self.files.told;
            told.change(&before, &after, changes.size.is_some());
            after
        };
        let keep = self.keep_attributes(inode.fd());
        Ok((keep, self.attributes(&inode).0))
    }

    /// Whether the kernel only writes back what it knows of the times of a deleted file: it shows
    /// them itself as long as somebody has the file open.
    fn is_for_nobody(&self, node: INodeNo, changes: &Changes) -> Result<bool, Errno> {
        let times = Changes {
            mtime: changes.mtime,
            ctime: changes.ctime,
            ..Changes::default()
        };
        let cached = self.changing.as_ref().is_some_and(|c| c.is_cached);
        Ok(cached && *changes == times && self.files.inode(node)?.meta().links.get() == 0)
    }

    /// Makes a file durable.
    pub(super) fn sync_file(&self, node: INodeNo) -> Result<(), Errno> {
        let fd = Files::fd(node)?;
        self.files.heard(fd, self.files.fs.sync_file(fd))
    }

    /// Changes a file, and makes that durable if everything has to be.
    fn change<T>(
        &self,
        node: INodeNo,
        change: impl FnOnce(&vmfs_core::fs::FileSystem, FdAddr) -> Result<T, FsError>,
    ) -> Result<T, Errno> {
        let changing = self.changing.as_ref().ok_or(Errno::EROFS)?;
        let (fs, fd) = (&self.files.fs, Files::fd(node)?);
        let mut result = change(fs, fd);
        Self::takes_blocks(changing, node, fd);
        if changing.sync && result.is_ok() {
            result = result.and_then(|done| fs.sync_file(fd).map(|()| done));
        }
        self.files.heard(fd, result)
    }
}

/// Whether the file was opened with a wish that writes be durable. The kernel follows what it
/// writes from its cache with a request of its own.
fn syncs(write: &Write<'_>) -> bool {
    let wish = OFlags::DSYNC.bits().cast_signed();
    write.opened_with.0 & wish != 0 && !write.flags.contains(WriteFlags::FUSE_WRITE_CACHE)
}

/// What the flags of fallocate(2) ask for, and whether the length stays; `None` for what the
/// format can't do.
fn allocation(mode: i32) -> Option<(Allocate, bool)> {
    let keep = FallocateFlags::KEEP_SIZE;
    let mode = FallocateFlags::from_bits(mode.cast_unsigned())?;
    let how = match mode.difference(keep) {
        FallocateFlags::PUNCH_HOLE if mode.contains(keep) => Allocate::PunchHole,
        FallocateFlags::ZERO_RANGE => Allocate::Zero,
        none if none.is_empty() => Allocate::Reserve,
        _ => return None,
    };
    Some((how, mode.contains(keep)))
}

/// A mode without the bits that make a program run as its owner or group.
fn without_privileges(mode: u32) -> u32 {
    let mut left = mode & !SET_USER_ID;
    // Without the right to execute it the bit once meant mandatory locks.
    if mode & GROUP_EXECUTE != 0 {
        left &= !SET_GROUP_ID;
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_of_fallocate_mean_what_they_mean_on_linux() {
        for (mode, expected) in [
            (0, Some((Allocate::Reserve, false))),
            (1, Some((Allocate::Reserve, true))),
            (0x10, Some((Allocate::Zero, false))),
            (0x11, Some((Allocate::Zero, true))),
            (3, Some((Allocate::PunchHole, true))),
            // Punching needs to keep the size; collapsing, inserting and unsharing don't exist.
            (2, None),
            (8, None),
            (0x20, None),
            (0x40, None),
            (0x13, None),
        ] {
            assert_eq!(allocation(mode), expected, "{mode:#x}");
        }
    }

    #[test]
    fn privileges_go_but_the_mark_of_mandatory_locks_stays() {
        assert_eq!(without_privileges(0o106_755), 0o100_755);
        assert_eq!(without_privileges(0o102_644), 0o102_644);
        assert_eq!(without_privileges(0o100_644), 0o100_644);
    }
}
