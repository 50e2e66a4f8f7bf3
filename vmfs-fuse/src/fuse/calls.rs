//! Each of FUSE's calls, and how it is answered.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, Generation,
    INodeNo, IoctlFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyBmap,
    ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl,
    ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use vmfs_core::fs::{Changes, Inode};

use super::Mounted;
use super::names::New;
use super::write::Write;
use crate::attributes::{NOBODY, new_time, seconds};

/// Calls that the kernel needn't repeat: it does without, or does it itself. In place of the
/// extended attributes that the format has no room for, programs get EOPNOTSUPP.
macro_rules! not_needed {
    ($($call:ident($($argument:ty),*) -> $reply:ty;)*) => {$(
        fn $call(&self, _: &Request, $(_: $argument,)* reply: $reply) {
            reply.error(Errno::ENOSYS);
        }
    )*};
}

fn answer(result: Result<(), Errno>, reply: ReplyEmpty) {
    match result {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(errno),
    }
}

impl Mounted {
    /// Answers with a file that the kernel is going to know by its name.
    fn enter(&self, found: Result<Arc<Inode>, Errno>, reply: ReplyEntry) {
        match found {
            Ok(inode) => {
                let number = self.looked_up(&inode);
                let (mut attributes, generation) = self.attributes(&inode);
                attributes.ino = number;
                let keep = self.keep_attributes(inode.fd());
                let attributes_for = self.unless_renumbered(number, inode.fd(), keep);
                let names_for = self.caching.names();
                reply.entry_with_ttls(&attributes_for, &names_for, &attributes, generation);
            }
            Err(errno) => reply.error(errno),
        }
    }
}

impl Filesystem for Mounted {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        self.agree(config);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.find(parent, name) {
            Err(Errno::ENOENT) => {
                let (attributes_for, names_for) = (self.caching.attributes(), self.caching.names());
                reply.entry_with_ttls(&attributes_for, &names_for, &NOBODY, Generation(0));
            }
            found => self.enter(found, reply),
        }
    }

    fn forget(&self, _: &Request, node: INodeNo, count: u64) {
        self.forgotten(node, count);
    }

    fn getattr(&self, _: &Request, node: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.files.inode(node) {
            Ok(inode) => {
                let keep = self.keep_attributes(inode.fd());
                reply.attr(&keep, &self.attributes(&inode).0);
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        node: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        ctime: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let changes = Changes {
            mode: mode.map(|mode| mode & 0o7777),
            uid,
            gid,
            size,
            atime: atime.map(new_time),
            mtime: mtime.map(new_time),
            ctime: ctime.map(seconds),
        };
        match self.set_attributes(node, &changes) {
            Ok((keep, attributes)) => reply.attr(&keep, &attributes),
            Err(errno) => reply.error(errno),
        }
    }

    fn readlink(&self, _: &Request, node: INodeNo, reply: ReplyData) {
        let target = self.files.inode(node).and_then(|link| {
            let target = self.files.fs.read_link(&link);
            self.files.heard(link.fd(), target)
        });
        match target {
            Ok(target) => reply.data(&target),
            Err(errno) => reply.error(errno),
        }
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _: u32,
        _: u32,
        reply: ReplyEntry,
    ) {
        let made = New::node(mode).and_then(|new| self.make(request, parent, name, new));
        self.enter(made, reply);
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _: u32,
        reply: ReplyEntry,
    ) {
        let made = self.make(request, parent, name, New::Directory(mode));
        self.enter(made, reply);
    }

    fn symlink(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let new = New::Symlink(target.as_os_str().as_bytes());
        self.enter(self.make(request, parent, name, new), reply);
    }

    fn link(&self, _: &Request, node: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.enter(self.make_link(node, parent, name), reply);
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer(self.remove(parent, name, false), reply);
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer(self.remove(parent, name, true), reply);
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let moved = self.move_name((parent, name), (new_parent, new_name), flags);
        answer(moved, reply);
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let flags = OpenFlags(flags);
        match self.create_or_open(request, (parent, name), mode, flags) {
            Ok(opened) => {
                let (mut attributes, generation) = self.attributes(&opened.inode);
                attributes.ino = opened.number;
                let fd = opened.inode.fd();
                let keep = if opened.is_new {
                    self.keep_new(fd)
                } else {
                    self.caching.names().min(self.keep_attributes(fd))
                };
                let keep = self.unless_renumbered(opened.number, fd, keep);
                reply.created(&keep, &attributes, generation, opened.handle, opened.how);
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn open(&self, _: &Request, node: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        match self.open_file(node, flags) {
            Ok((handle, how)) => reply.opened(handle, how),
            Err(errno) => reply.error(errno),
        }
    }

    fn release(
        &self,
        _: &Request,
        node: INodeNo,
        handle: FileHandle,
        flags: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.close_file(node, handle, flags);
        reply.ok();
    }

    fn read(
        &self,
        _: &Request,
        node: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.read_file(node, offset, size, reply);
    }

    fn write(
        &self,
        request: &Request,
        node: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        flags: WriteFlags,
        opened_with: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let write = Write {
            handle,
            offset,
            data,
            flags,
            opened_with,
        };
        match self.write_file(request, node, &write) {
            Ok(written) => reply.written(written),
            Err(errno) => reply.error(errno),
        }
    }

    fn lseek(
        &self,
        _: &Request,
        node: INodeNo,
        _: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        self.seek_in_file(node, offset, whence, reply);
    }

    fn fallocate(
        &self,
        _: &Request,
        node: INodeNo,
        _: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        answer(self.allocate(node, offset, length, mode), reply);
    }

    fn copy_file_range(
        &self,
        _: &Request,
        from: INodeNo,
        _: FileHandle,
        from_offset: u64,
        to: INodeNo,
        _: FileHandle,
        to_offset: u64,
        length: u64,
        _: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        match self.copy((from, from_offset), (to, to_offset), length) {
            Ok(copied) => reply.written(copied),
            Err(errno) => reply.error(errno),
        }
    }

    fn fsync(&self, _: &Request, node: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        answer(self.sync_file(node), reply);
    }

    fn opendir(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.open_directory() {
            Ok((handle, how)) => reply.opened(handle, how),
            Err(errno) => reply.error(errno),
        }
    }

    fn releasedir(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.close_directory(handle);
        reply.ok();
    }

    fn readdir(
        &self,
        _: &Request,
        node: INodeNo,
        handle: FileHandle,
        position: u64,
        reply: ReplyDirectory,
    ) {
        self.read_directory((node, handle), position, reply);
    }

    fn readdirplus(
        &self,
        _: &Request,
        node: INodeNo,
        handle: FileHandle,
        position: u64,
        reply: ReplyDirectoryPlus,
    ) {
        self.read_directory_plus((node, handle), position, reply);
    }

    fn fsyncdir(&self, _: &Request, node: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        answer(self.sync_file(node), reply);
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        self.space.answer(reply);
    }

    // Nothing waits here until a file is closed: the kernel writes its cache back first, and what
    // fails then fails close(2).
    not_needed! {
        flush(INodeNo, FileHandle, LockOwner) -> ReplyEmpty;
        access(INodeNo, AccessFlags) -> ReplyEmpty;
        setxattr(INodeNo, &OsStr, &[u8], i32, u32) -> ReplyEmpty;
        getxattr(INodeNo, &OsStr, u32) -> ReplyXattr;
        listxattr(INodeNo, u32) -> ReplyXattr;
        removexattr(INodeNo, &OsStr) -> ReplyEmpty;
        bmap(INodeNo, u32, u64) -> ReplyBmap;
        ioctl(INodeNo, FileHandle, IoctlFlags, u32, &[u8], u32) -> ReplyIoctl;
    }
}
