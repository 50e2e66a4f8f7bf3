//! FUSE's calls as calls to the file system.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno, FileAttr, FileHandle, Filesystem,
    FopenFlags, Generation, INodeNo, InitFlags, IoctlFlags, KernelConfig, LockOwner, OpenAccMode,
    OpenFlags, RenameFlags, ReplyAttr, ReplyBmap, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyStatfs,
    ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use vmfs_core::file::FileError;
use vmfs_core::format::FdAddr;
use vmfs_core::fs::{DirEntry, FileSystem, FsError, Inode, SeekTo, Stat};
use vmfs_core::scsi::AlignedBuf;

use crate::attributes::{NOBODY, Overrides, address, entry_type, number, unreadable};
use crate::caching::Caching;
use crate::complaints::Complaints;
use crate::space::SpaceCount;

/// The kernel's largest request, unless the administrator raised `fs.fuse.max_pages_limit`.
const MAX_REQUEST: u32 = 1 << 20;
/// Requests that the kernel may have under way that nobody waits for, such as reading ahead.
const MAX_BACKGROUND: u16 = 64;

/// Positions 0 and 1 of a directory are `.` and `..`, which the file system leaves out.
const DOTS: u64 = 2;

/// A volume as FUSE sees it.
#[derive(Debug)]
pub(crate) struct Mounted {
    fs: Arc<FileSystem>,
    overrides: Overrides,
    caching: Caching,
    space: Arc<SpaceCount>,
    complaints: Complaints,
}

thread_local! {
    /// Where this thread reads file contents to, so that no read allocates or zeroes memory.
    static BUFFER: RefCell<AlignedBuf> = RefCell::default();
}

impl Mounted {
    /// Serves `fs`.
    pub(crate) fn new(fs: Arc<FileSystem>, overrides: Overrides, caching: Caching) -> Self {
        Self {
            space: SpaceCount::start(&fs),
            fs,
            overrides,
            caching,
            complaints: Complaints::default(),
        }
    }

    /// The file that the kernel calls `node`.
    fn inode(&self, node: INodeNo) -> Result<Arc<Inode>, Errno> {
        let fd = address(node).ok_or(Errno::ESTALE)?;
        self.heard(fd, self.fs.inode(fd))
    }

    /// Turns an error met at the file `fd` into its number, and logs it if it is worth that.
    fn heard<T>(&self, fd: FdAddr, result: Result<T, FsError>) -> Result<T, Errno> {
        result.map_err(|error| {
            self.complaints.hear(fd, &error);
            Errno::from_i32(error.errno().raw_os_error())
        })
    }

    fn attributes(&self, inode: &Inode) -> (FileAttr, Generation) {
        let stat = Stat::from(inode);
        let attributes = self.overrides.attributes(inode.fd(), &stat);
        (attributes, Generation(stat.generation.into()))
    }

    fn find(&self, parent: INodeNo, name: &OsStr) -> Result<Arc<Inode>, Errno> {
        let directory = self.inode(parent)?;
        let found = self.fs.lookup(&directory, name.as_bytes());
        self.heard(directory.fd(), found)
    }

    /// Reads into `buffer` and returns what is there.
    fn read_into<'a>(
        &self,
        node: INodeNo,
        offset: u64,
        size: usize,
        buffer: &'a mut AlignedBuf,
    ) -> Result<&'a [u8], Errno> {
        if buffer.len() < size {
            *buffer = AlignedBuf::new(size.max(MAX_REQUEST as usize));
        }
        let inode = self.inode(node)?;
        let read = self.fs.read(&inode, offset, &mut buffer[..size]);
        let length = self.heard(inode.fd(), read)?;
        Ok(&buffer[..length])
    }

    fn seek(&self, node: INodeNo, offset: i64, whence: i32) -> Result<i64, Errno> {
        const SEEK_DATA: i32 = 3;
        const SEEK_HOLE: i32 = 4;
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

    /// Calls `add` with the entries of a directory from `position` on, each with the position
    /// behind it, until it says that the reply is full.
    fn list(
        &self,
        node: INodeNo,
        position: u64,
        mut add: impl FnMut(&DirEntry, u64) -> bool,
    ) -> Result<(), Errno> {
        let directory = self.inode(node)?;
        let dots: [(&[u8], FdAddr); 2] = [
            (b".", directory.fd()),
            (
                b"..",
                self.heard(directory.fd(), self.fs.parent(&directory))?,
            ),
        ];
        for (index, (name, fd)) in (0..).zip(dots) {
            let entry = DirEntry {
                name: name.to_vec(),
                fd,
                kind: vmfs_core::format::FileKind::Directory,
                generation: 0,
                next: index + 1,
            };
            if position <= index && add(&entry, entry.next) {
                return Ok(());
            }
        }
        let from = position.saturating_sub(DOTS);
        let listed = self.fs.read_dir(&directory, from, |entry| {
            let next = entry.next + DOTS;
            !add(&entry, next)
        });
        self.heard(directory.fd(), listed)
    }

    fn add_with_attributes(
        &self,
        reply: &mut ReplyDirectoryPlus,
        entry: &DirEntry,
        next: u64,
    ) -> bool {
        let (attributes, generation, keep) = match self.heard(entry.fd, self.fs.inode(entry.fd)) {
            Ok(inode) => {
                let (attributes, generation) = self.attributes(&inode);
                (attributes, generation, self.caching.listed())
            }
            Err(_) => (unreadable(entry), Generation(0), Duration::ZERO),
        };
        let name = OsStr::from_bytes(&entry.name);
        reply.add(attributes.ino, next, name, &keep, &attributes, generation)
    }

    fn flags_of_open(&self, flags: OpenFlags) -> Result<FopenFlags, Errno> {
        if flags.acc_mode() != OpenAccMode::O_RDONLY {
            return Err(Errno::EROFS);
        }
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
}

/// Calls that would change the volume.
macro_rules! read_only {
    ($($call:ident($($argument:ty),*) -> $reply:ty;)*) => {$(
        fn $call(&self, _: &Request, $(_: $argument,)* reply: $reply) {
            reply.error(Errno::EROFS);
        }
    )*};
}

/// Calls that the kernel needn't repeat: it does without, or does it itself.
macro_rules! not_needed {
    ($($call:ident($($argument:ty),*) -> $reply:ty;)*) => {$(
        fn $call(&self, _: &Request, $(_: $argument,)* reply: $reply) {
            reply.error(Errno::ENOSYS);
        }
    )*};
}

impl Filesystem for Mounted {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let mut wanted = InitFlags::FUSE_ASYNC_READ
            | InitFlags::FUSE_ASYNC_DIO
            | InitFlags::FUSE_PARALLEL_DIROPS
            | InitFlags::FUSE_DO_READDIRPLUS
            | InitFlags::FUSE_READDIRPLUS_AUTO
            | InitFlags::FUSE_EXPORT_SUPPORT
            | InitFlags::FUSE_AUTO_INVAL_DATA
            | InitFlags::FUSE_CACHE_SYMLINKS;
        if self.caching.opens_are_free() {
            wanted |= InitFlags::FUSE_NO_OPEN_SUPPORT | InitFlags::FUSE_NO_OPENDIR_SUPPORT;
        }
        // What an older kernel lacks makes it slower, not wrong.
        let _ = config.add_capabilities(wanted & config.capabilities());
        let _ = config.set_max_write(MAX_REQUEST);
        let _ = config.set_max_background(MAX_BACKGROUND);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let (attributes_for, names_for) = (self.caching.attributes(), self.caching.names());
        match self.find(parent, name) {
            Ok(inode) => {
                let (attributes, generation) = self.attributes(&inode);
                reply.entry_with_ttls(&attributes_for, &names_for, &attributes, generation);
            }
            Err(Errno::ENOENT) => {
                reply.entry_with_ttls(&attributes_for, &names_for, &NOBODY, Generation(0));
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn getattr(&self, _: &Request, node: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.inode(node) {
            Ok(inode) => reply.attr(&self.caching.attributes(), &self.attributes(&inode).0),
            Err(errno) => reply.error(errno),
        }
    }

    fn readlink(&self, _: &Request, node: INodeNo, reply: ReplyData) {
        let target = self
            .inode(node)
            .and_then(|link| self.heard(link.fd(), self.fs.read_link(&link)));
        match target {
            Ok(target) => reply.data(&target),
            Err(errno) => reply.error(errno),
        }
    }

    fn open(&self, _: &Request, _: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        match self.flags_of_open(flags) {
            Ok(flags) => reply.opened(FileHandle(0), flags),
            Err(errno) => reply.error(errno),
        }
    }

    fn opendir(&self, request: &Request, node: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        self.open(request, node, flags, reply);
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
        BUFFER.with_borrow_mut(|buffer| {
            match self.read_into(node, offset, size as usize, buffer) {
                Ok(data) => reply.data(data),
                Err(errno) => reply.error(errno),
            }
        });
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
        match self.seek(node, offset, whence) {
            Ok(found) => reply.offset(found),
            Err(errno) => reply.error(errno),
        }
    }

    fn readdir(
        &self,
        _: &Request,
        node: INodeNo,
        _: FileHandle,
        position: u64,
        mut reply: ReplyDirectory,
    ) {
        let listed = self.list(node, position, |entry, next| {
            let name = OsStr::from_bytes(&entry.name);
            reply.add(number(entry.fd), next, entry_type(entry), name)
        });
        match listed {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(errno),
        }
    }

    fn readdirplus(
        &self,
        _: &Request,
        node: INodeNo,
        _: FileHandle,
        position: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let listed = self.list(node, position, |entry, next| {
            self.add_with_attributes(&mut reply, entry, next)
        });
        match listed {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(errno),
        }
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        self.space.answer(reply);
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    read_only! {
        setattr(
            INodeNo, Option<u32>, Option<u32>, Option<u32>, Option<u64>, Option<TimeOrNow>,
            Option<TimeOrNow>, Option<SystemTime>, Option<FileHandle>, Option<SystemTime>,
            Option<SystemTime>, Option<SystemTime>, Option<BsdFileFlags>
        ) -> ReplyAttr;
        mknod(INodeNo, &OsStr, u32, u32, u32) -> ReplyEntry;
        mkdir(INodeNo, &OsStr, u32, u32) -> ReplyEntry;
        unlink(INodeNo, &OsStr) -> ReplyEmpty;
        rmdir(INodeNo, &OsStr) -> ReplyEmpty;
        symlink(INodeNo, &OsStr, &Path) -> ReplyEntry;
        rename(INodeNo, &OsStr, INodeNo, &OsStr, RenameFlags) -> ReplyEmpty;
        link(INodeNo, INodeNo, &OsStr) -> ReplyEntry;
        create(INodeNo, &OsStr, u32, u32, i32) -> ReplyCreate;
        write(
            INodeNo, FileHandle, u64, &[u8], WriteFlags, OpenFlags, Option<LockOwner>
        ) -> ReplyWrite;
        fallocate(INodeNo, FileHandle, u64, u64, i32) -> ReplyEmpty;
        copy_file_range(
            INodeNo, FileHandle, u64, INodeNo, FileHandle, u64, u64, CopyFileRangeFlags
        ) -> ReplyWrite;
        setxattr(INodeNo, &OsStr, &[u8], i32, u32) -> ReplyEmpty;
        removexattr(INodeNo, &OsStr) -> ReplyEmpty;
    }

    not_needed! {
        access(INodeNo, AccessFlags) -> ReplyEmpty;
        flush(INodeNo, FileHandle, LockOwner) -> ReplyEmpty;
        getxattr(INodeNo, &OsStr, u32) -> ReplyXattr;
        listxattr(INodeNo, u32) -> ReplyXattr;
        bmap(INodeNo, u32, u64) -> ReplyBmap;
        ioctl(INodeNo, FileHandle, IoctlFlags, u32, &[u8], u32) -> ReplyIoctl;
    }
}
