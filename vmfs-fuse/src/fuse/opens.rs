//! Opening and closing files.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use dashmap::{DashMap, DashSet};
use fuser::{Errno, FileHandle, FopenFlags, INodeNo, OpenAccMode, OpenFlags};
use rustix::fs::OFlags;
use vmfs_core::format::{FdAddr, FileKind};
use vmfs_core::fs::OpenMode;

use super::Mounted;
use super::files::Files;

/// The handle of a file whose reads and writes pass the kernel's cache by.
pub(super) const DIRECT: FileHandle = FileHandle(1);
/// The handle of a file that other hosts may write to meanwhile, so that nothing of it is cached.
pub(super) const SHARED: FileHandle = FileHandle(2);
/// The handle of any other file.
const CACHED: FileHandle = FileHandle(0);
/// Added to the number of an open that passed the kernel's cache by: the handle of who has the cache dropped after
/// that.
const DROPS: u64 = 1 << 32;

/// Files that are open.
#[derive(Debug, Default)]
pub(super) struct Opens {
    /// How often each file is open for writing.
    writers: DashMap<FdAddr, u64>,
    /// How often each file is open, for whatever.
    all: DashMap<FdAddr, u64>,
    /// How many write past the kernel's cache; files that it may still hold old pages of.
    ///
    /// A read through the cache while such a write is on the way may bring the old bytes there,
    /// and the kernel doesn't look for them when an asynchronous write has ended.
    passed_by: DashMap<FdAddr, PassedBy>,
    /// Numbers them, of all files.
    passes: AtomicU32,
    /// Files that were made and not written to yet.
    new: DashSet<FdAddr>,
}

/// Opens of a file that write past the kernel's cache.
#[derive(Debug, Default)]
struct PassedBy {
    /// Those there are.
    now: u64,
    /// The number of the last.
    last: u32,
}

impl Opens {
    /// Whether the kernel may hold changes of a file that haven't come here yet.
    pub(super) fn is_being_written(&self, fd: FdAddr) -> bool {
        self.writers.contains_key(&fd)
    }

    /// Whether a file is open, so that no other host changes it.
    pub(super) fn is_open(&self, fd: FdAddr) -> bool {
        self.all.contains_key(&fd)
    }

    /// Counts one more who has a file open.
    fn open(&self, fd: FdAddr) {
        *self.all.entry(fd).or_default() += 1;
    }

    /// Counts one less.
    fn close(&self, fd: FdAddr) {
        self.all.remove_if_mut(&fd, |_, count| {
            *count = count.saturating_sub(1);
            *count == 0
        });
    }

    /// Notes that a file was just made.
    pub(super) fn note_new(&self, fd: FdAddr) {
        self.new.insert(fd);
    }

    /// Whether nothing was written to a file since it was made, up to now.
    pub(super) fn starts_writing(&self, fd: FdAddr) -> bool {
        self.new.remove(&fd).is_some()
    }

    /// Notes one more, or one less, who writes past the kernel's cache.
    fn pass_by(&self, fd: FdAddr, opened: bool) {
        let mut passed_by = self.passed_by.entry(fd).or_default();
        if opened {
            passed_by.now += 1;
            passed_by.last = self.passes.fetch_add(1, Relaxed);
        } else {
            passed_by.now = passed_by.now.saturating_sub(1);
        }
    }

    /// Whether what the kernel has of a file is good for another who opens it, and that one's handle. If it isn't
    /// good, the kernel drops it: after the open is answered, so the next may come before that.
    fn keeps_cache(&self, fd: FdAddr) -> (bool, FileHandle) {
        match self.passed_by.get(&fd) {
            None => (true, CACHED),
            Some(passed_by) if passed_by.now > 0 => (false, CACHED),
            Some(passed_by) => (false, FileHandle(DROPS | u64::from(passed_by.last))),
        }
    }

    /// Notes that a handle is closed: if the kernel dropped its cache for that one, when the last write past it
    /// had ended, what it has by now is good.
    fn has_dropped(&self, fd: FdAddr, handle: FileHandle) {
        if handle.0 & DROPS != 0 {
            self.passed_by.remove_if(&fd, |_, passed_by| {
                passed_by.now == 0 && passed_by.last == handle.0 as u32
            });
        }
    }

    /// Counts one more writer; true for the first.
    fn add(&self, fd: FdAddr) -> bool {
        let mut count = self.writers.entry(fd).or_default();
        *count += 1;
        *count == 1
    }

    /// Counts one writer less; whether it was the last.
    fn remove(&self, fd: FdAddr) -> bool {
        let last = self.writers.remove_if_mut(&fd, |_, count| {
            *count = count.saturating_sub(1);
            *count == 0
        });
        if last.is_some() {
            self.new.remove(&fd);
        }
        last.is_some()
    }
}

fn writes(flags: OpenFlags) -> bool {
    flags.acc_mode() != OpenAccMode::O_RDONLY
}

/// How the file is locked against other hosts.
pub(super) fn open_mode(flags: OpenFlags, is_shared: bool) -> OpenMode {
    if is_shared {
        OpenMode::MultiWriter
    } else if writes(flags) {
        OpenMode::Write
    } else {
        OpenMode::Read
    }
}

fn is_direct(flags: OpenFlags) -> bool {
    flags.0 & OFlags::DIRECT.bits().cast_signed() != 0
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
        if writes(flags) && inode.kind() == FileKind::System {
            return Err(Errno::EPERM);
        }
        let is_shared = changing.shared.has(&self.files.fs, inode.fd());
        let alone = self.files.fs.alone();
        let is_trusted = self.files.told.is_trusted_as(node, inode.fd(), alone);
        let opened = self
            .files
            .fs
            .open_file(inode.fd(), open_mode(flags, is_shared));
        self.files.heard(inode.fd(), opened)?;
        if !is_trusted {
            self.check_edition(node, open_mode(flags, is_shared))?;
            if let Some(alone) = alone {
                self.files.told.trust(inode.fd(), alone);
            }
        }
        changing.opens.open(inode.fd());
        if writes(flags) && changing.opens.add(inode.fd()) {
            changing.kernel.forget_attributes(node);
        }
        self.files.fs.hold(inode.fd());
        Ok(self.handle(inode.fd(), flags, is_shared, is_trusted))
    }

    /// Closes a file again that was just opened under the number `node`, if another host has changed it since
    /// the kernel was told of it. The kernel then looks it up again and opens what it finds.
    fn check_edition(&self, node: INodeNo, mode: OpenMode) -> Result<(), Errno> {
        let fd = Files::fd(node)?;
        let is_open = |changing: &super::Changing| changing.opens.is_open(fd);
        if self.changing.as_ref().is_some_and(is_open) {
            return Ok(());
        }
        // From here on it stays as it is.
        let current = self.files.inode(node);
        if current.is_ok_and(|inode| {
            inode.kind() != FileKind::Regular || self.files.told.is_current(node, &inode)
        }) {
            return Ok(());
        }
        self.files.fs.close_file(fd, mode);
        Err(Errno::ESTALE)
    }

    /// Opens a file that was just made.
    pub(super) fn open_new(
        &self,
        fd: FdAddr,
        flags: OpenFlags,
    ) -> Result<(FileHandle, FopenFlags), Errno> {
        let changing = self.changing.as_ref();
        let is_shared = changing.is_some_and(|changing| changing.shared.has(&self.files.fs, fd));
        let opened = self.files.fs.open_file(fd, open_mode(flags, is_shared));
        self.files.heard(fd, opened)?;
        Ok(self.count_new(fd, flags, is_shared))
    }

    /// Counts what a file was opened for that was just made.
    pub(super) fn count_new(
        &self,
        fd: FdAddr,
        flags: OpenFlags,
        is_shared: bool,
    ) -> (FileHandle, FopenFlags) {
        if let Some(changing) = &self.changing {
            changing.opens.open(fd);
            if writes(flags) {
                changing.opens.add(fd);
            }
        }
        self.files.fs.hold(fd);
        // The kernel holds nothing of it yet.
        self.handle(fd, flags, is_shared, true)
    }

    /// Closes a file for good.
    pub(super) fn close_file(&self, node: INodeNo, handle: FileHandle, flags: OpenFlags) {
        let is_shared = handle == SHARED;
        let (Some(changing), Ok(fd)) = (&self.changing, Files::fd(node)) else {
            return;
        };
        if writes(flags) {
            if changing.opens.remove(fd)
                && let Ok(inode) = self.files.fs.inode(fd)
            {
                // No other host has it yet.
                self.files.told.settle(&inode);
            }
            if is_direct(flags) && !is_shared {
                changing.opens.pass_by(fd, false);
            }
        }
        changing.opens.close(fd);
        changing.opens.has_dropped(fd, handle);
        self.files.fs.close_file(fd, open_mode(flags, is_shared));
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

    /// How the kernel is to treat an open file; `keeps` what it holds of it.
    fn handle(
        &self,
        fd: FdAddr,
        flags: OpenFlags,
        is_shared: bool,
        keeps: bool,
    ) -> (FileHandle, FopenFlags) {
        if is_shared {
            return (SHARED, FopenFlags::FOPEN_DIRECT_IO);
        }
        // What another host has written since is not in the cache.
        let keep = if keeps {
            FopenFlags::FOPEN_KEEP_CACHE
        } else {
            FopenFlags::empty()
        };
        let opens = self.changing.as_ref().map(|changing| &changing.opens);
        if is_direct(flags) {
            if let Some(opens) = opens
                && writes(flags)
            {
                opens.pass_by(fd, true);
            }
            if self.parallel_direct {
                let direct = FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES;
                return (DIRECT, keep | direct);
            }
        } else if let Some(opens) = opens
            && let (false, handle) = opens.keeps_cache(fd)
        {
            return (handle, FopenFlags::empty());
        }
        (CACHED, keep)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_is_dropped_until_one_has_who_came_after_the_last_write_past_it() {
        let opens = Opens::default();
        let fd = FdAddr::from_raw(0x0040_0004).expect("an address");
        let keeps = || opens.keeps_cache(fd).0;
        assert!(keeps());
        opens.pass_by(fd, true);
        let (kept, early) = opens.keeps_cache(fd);
        assert!(!kept);
        opens.pass_by(fd, false);
        opens.has_dropped(fd, early);
        assert!(!keeps(), "the early one may have read old bytes");
        let (kept, late) = opens.keeps_cache(fd);
        assert!(!kept && !keeps(), "the kernel may not have dropped it yet");
        opens.pass_by(fd, true);
        opens.pass_by(fd, false);
        opens.has_dropped(fd, late);
        assert!(!keeps(), "there was another write");
        let (_, last) = opens.keeps_cache(fd);
        opens.has_dropped(fd, last);
        assert!(keeps());
    }
}
