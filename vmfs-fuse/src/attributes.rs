//! What the kernel is told of a file.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{FileAttr, FileType, INodeNo, TimeOrNow};
use vmfs_core::format::{FdAddr, FileKind};
use vmfs_core::fs::{DirEntry, Stat};

use crate::options::Options;

/// Owner and permissions that replace the stored ones.
#[derive(Debug, Default)]
pub(crate) struct Overrides {
    uid: Option<u32>,
    gid: Option<u32>,
    file: Option<u16>,
    directory: Option<u16>,
}

impl From<&Options> for Overrides {
    fn from(options: &Options) -> Self {
        Self {
            uid: options.uid,
            gid: options.gid,
            file: options.file_permissions,
            directory: options.directory_permissions,
        }
    }
}

/// The kernel's number for a file: its descriptor's raw address, except that the root is 1.
///
/// No address is 1, because the type bits of all are 4.
pub(crate) fn number(fd: FdAddr) -> INodeNo {
    number_of(fd, 0)
}

/// The kernel's number for an edition of a file, which is in the upper half.
pub(crate) fn number_of(fd: FdAddr, edition: u32) -> INodeNo {
    if fd == FdAddr::ROOT {
        INodeNo::ROOT
    } else {
        INodeNo(u64::from(edition) << 32 | u64::from(fd.raw()))
    }
}

/// The edition that the kernel means by `number`.
pub(crate) fn edition_of(number: INodeNo) -> u32 {
    (number.0 >> 32) as u32
}

/// The address of the file that the kernel calls `number`; `None` if no file can be called that.
pub(crate) fn address(number: INodeNo) -> Option<FdAddr> {
    if number == INodeNo::ROOT {
        return Some(FdAddr::ROOT);
    }
    FdAddr::from_raw(number.0 as u32)
}

impl Overrides {
    /// The attributes of the file `fd`.
    pub(crate) fn attributes(&self, fd: FdAddr, stat: &Stat) -> FileAttr {
        let kind = file_type(stat.mode);
        let permissions = match kind {
            FileType::Directory => self.directory,
            FileType::Symlink => None,
            _ => self.file,
        };
        FileAttr {
            ino: number(fd),
            size: stat.size,
            blocks: stat.allocated / 512,
            atime: time(stat.atime),
            mtime: time(stat.mtime),
            ctime: time(stat.ctime),
            crtime: UNIX_EPOCH,
            kind,
            perm: permissions.unwrap_or((stat.mode & 0o7777) as u16),
            // A link count of zero would make the kernel think that the file is deleted.
            nlink: stat.nlink.max(1),
            uid: self.uid.unwrap_or(stat.uid),
            gid: self.gid.unwrap_or(stat.gid),
            rdev: 0,
            blksize: stat.block_size.clamp(4096, 1 << 20) as u32,
            flags: 0,
        }
    }
}

/// Number 0 in answer to a look-up: there is no such name, and the kernel may remember that.
pub(crate) const NOBODY: FileAttr = FileAttr {
    ino: INodeNo(0),
    size: 0,
    blocks: 0,
    atime: UNIX_EPOCH,
    mtime: UNIX_EPOCH,
    ctime: UNIX_EPOCH,
    crtime: UNIX_EPOCH,
    kind: FileType::RegularFile,
    perm: 0,
    nlink: 1,
    uid: 0,
    gid: 0,
    rdev: 0,
    blksize: 4096,
    flags: 0,
};

/// Attributes for a name whose file can't be read, so that it is listed all the same.
pub(crate) fn unreadable(entry: &DirEntry) -> FileAttr {
    FileAttr {
        ino: number(entry.fd),
        kind: entry_type(entry),
        ..NOBODY
    }
}

/// The type of a file by its directory entry.
pub(crate) fn entry_type(entry: &DirEntry) -> FileType {
    match entry.kind {
        FileKind::Directory => FileType::Directory,
        FileKind::Symlink => FileType::Symlink,
        FileKind::Regular | FileKind::System | FileKind::Rdm => FileType::RegularFile,
    }
}

fn file_type(mode: u32) -> FileType {
    match mode & 0o170_000 {
        0o040_000 => FileType::Directory,
        0o120_000 => FileType::Symlink,
        _ => FileType::RegularFile,
    }
}

fn time(seconds: u32) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds.into())
}

/// A time that was asked for as the format has it.
pub(crate) fn new_time(wanted: TimeOrNow) -> u32 {
    seconds(match wanted {
        TimeOrNow::SpecificTime(time) => time,
        TimeOrNow::Now => SystemTime::now(),
    })
}

/// Whole seconds since 1970, the nearest that 32 bits hold, as Linux does it for times that a file
/// system can't hold.
pub(crate) fn seconds(time: SystemTime) -> u32 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u32::try_from(since.as_secs()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_becomes_the_nearest_that_the_format_holds() {
        let after = |nanos| UNIX_EPOCH + Duration::from_nanos(nanos);
        assert_eq!(seconds(after(1_999_999_999)), 1);
        assert_eq!(seconds(UNIX_EPOCH - Duration::from_secs(5)), 0);
        let last = Duration::from_secs(u32::MAX.into());
        assert_eq!(seconds(UNIX_EPOCH + last), u32::MAX);
        assert_eq!(seconds(UNIX_EPOCH + 2 * last), u32::MAX);
    }
}
