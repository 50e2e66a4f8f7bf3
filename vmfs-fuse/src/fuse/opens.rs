//! Opening and closing files.

use dashmap::DashMap;
use fuser::{Errno, FileHandle, FopenFlags, INodeNo, OpenAccMode, OpenFlags};
use rustix::fs::OFlags;
use vmfs_core::format::{FdAddr, FileKind};

use super::Mounted;
use super::files::Files;

/// The handle of a file whose reads and writes pass the kernel's cache by.
pub(super) const DIRECT: FileHandle = FileHandle(1);
/// The handle of any other file.
const CACHED: FileHandle = FileHandle(0);

/// Files that are open for writing.
#[derive(Debug, Default)]
pub(super) struct Opens {
    writers: DashMap<FdAddr, u64>,
}

impl Opens {
    /// Whether the kernel may hold changes of a file that haven't come here yet.
    pub(super) fn is_being_written(&self, fd: FdAddr) -> bool {
        self.writers.contains_key(&fd)
    }

    /// Counts one more writer; true for the first.
    fn add(&self, fd: FdAddr) -> bool {
        let mut count = self.writers.entry(fd).or_default();
        *count += 1;
        *count == 1
    }

    fn remove(&self, fd: FdAddr) {
        self.writers.remove_if_mut(&fd, |_, count| {
            *count = count.saturating_sub(1);
            *count == 0
        });
    }
}

fn writes(flags: OpenFlags) -> bool {
    flags.acc_mode() != OpenAccMode::O_RDONLY
}

impl Mounted {
    /// Opens a file.
    pub(super) fn open_file(
        &self,
        node: INodeNo,
        flags: OpenFlags,
    ) -> Result<(FileHandle, FopenFlags), Errno> {
        let Some(changing) = &self.changing else {
            if writes(flags) {
                return Err(Errno::EROFS);
            }
            return self.open_unchanging().map(|flags| (CACHED, flags));
        };
        let inode = self.files.inode(node)?;
        if writes(flags) {
            if inode.kind() == FileKind::System {
                return Err(Errno::EPERM);
            }
            if changing.opens.add(inode.fd()) {
                changing.kernel.forget_attributes(node);
            }
        }
        self.files.fs.hold(inode.fd());
        Ok(self.handle(flags))
    }

    /// Counts what a file that was just made is opened for.
    pub(super) fn open_new(&self, fd: FdAddr, flags: OpenFlags) -> (FileHandle, FopenFlags) {
        if let Some(changing) = &self.changing
            && writes(flags)
        {
            changing.opens.add(fd);
        }
        self.files.fs.hold(fd);
        self.handle(flags)
    }

    /// Closes a file for good.
    pub(super) fn close_file(&self, node: INodeNo, flags: OpenFlags) {
        let (Some(changing), Ok(fd)) = (&self.changing, Files::fd(node)) else {
            return;
        };
        if writes(flags) {
            changing.opens.remove(fd);
        }
        self.files.fs.release(fd, 1);
    }

    /// How a file or directory of a volume is opened that only others may change.
    pub(super) fn open_unchanging(&self) -> Result<FopenFlags, Errno> {
        if self.caching.opens_are_free() {
            // Says that opens need no request: the kernel keeps what it has from then on.
            return Err(Errno::ENOSYS);
        }
        Ok(if self.caching.is_shared() {
            FopenFlags::empty()
        } else {
            FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_CACHE_DIR
        })
    }

    fn handle(&self, flags: OpenFlags) -> (FileHandle, FopenFlags) {
        let keep = FopenFlags::FOPEN_KEEP_CACHE;
        if self.parallel_direct && flags.0 & OFlags::DIRECT.bits().cast_signed() != 0 {
            let direct = FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES;
            return (DIRECT, keep | direct);
        }
        (CACHED, keep)
    }
}
