//! A file system that does nothing but answer from memory, with vmfs-fuse's settings: the fastest
//! that any file system on the same FUSE library can be here.

use std::ffi::OsStr;
use std::io;
use std::path::PathBuf;
use std::time::UNIX_EPOCH;

use anyhow::Result;
use clap::Parser;
use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, Generation, INodeNo, KernelConfig,
    LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty,
    ReplyEntry, ReplyOpen, Request, Session,
};
use vmfs_benches::backing::{SMALL_FILES, Sizes, THICK, small_name, small_offset};
use vmfs_benches::content;
use vmfs_benches::settings::{Settings, TTL};

const THICK_INO: u64 = 2;
const SMALL_INO: u64 = 3;
const FIRST_FILE: u64 = 4;

/// Mounts a thick file and a directory of small ones out of memory.
#[derive(Debug, Parser)]
struct Args {
    /// Where to mount
    point: PathBuf,
    /// Bytes of the thick file
    #[arg(long)]
    thick: u64,
    /// How many small files
    #[arg(long)]
    files: u32,
    /// Bytes of a small file
    #[arg(long)]
    file: u32,
    #[command(flatten)]
    settings: Settings,
}

struct Memory {
    bytes: Vec<u8>,
    sizes: Sizes,
    settings: Settings,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let sizes = Sizes {
        thick: args.thick,
        files: args.files,
        file: args.file,
    };
    let needed = sizes.thick.max(small_offset(sizes.files));
    let mut bytes = vec![0; needed as usize];
    content::fill(0, &mut bytes);
    let settings = args.settings;
    let memory = Memory {
        bytes,
        sizes,
        settings: settings.clone(),
    };
    let mount = Session::new(memory, &args.point, &settings.config())?.spawn()?;
    settings.set_read_ahead(&args.point)?;
    Ok(mount.join()?)
}

impl Memory {
    /// The bytes of a file; empty for what isn't one.
    fn file(&self, ino: u64) -> &[u8] {
        let (start, length) = match ino {
            THICK_INO => (0, self.sizes.thick),
            _ => (
                small_offset((ino - FIRST_FILE) as u32),
                u64::from(self.sizes.file),
            ),
        };
        &self.bytes[start as usize..(start + length) as usize]
    }

    fn is_directory(ino: u64) -> bool {
        ino == INodeNo::ROOT.0 || ino == SMALL_INO
    }

    fn attributes(&self, ino: u64) -> FileAttr {
        let directory = Self::is_directory(ino);
        let size = if directory {
            4096
        } else {
            self.file(ino).len() as u64
        };
        FileAttr {
            ino: INodeNo(ino),
            size,
            blocks: size.div_ceil(512),
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: if directory {
                FileType::Directory
            } else {
                FileType::RegularFile
            },
            perm: if directory { 0o755 } else { 0o644 },
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 1 << 20,
            flags: 0,
        }
    }

    fn find(&self, parent: u64, name: &str) -> Option<u64> {
        if parent == SMALL_INO {
            let digits = name.strip_prefix("file-")?.strip_suffix(".dat")?;
            let index: u32 = digits.parse().ok()?;
            return (index < self.sizes.files).then(|| FIRST_FILE + u64::from(index));
        }
        match name {
            THICK => Some(THICK_INO),
            SMALL_FILES => Some(SMALL_INO),
            _ => None,
        }
    }

    /// Calls `add` with each name from `from` on, until it says that its buffer is full.
    fn list(&self, ino: u64, from: u64, mut add: impl FnMut(u64, u64, String) -> bool) {
        let count = if ino == SMALL_INO {
            u64::from(self.sizes.files)
        } else {
            2
        };
        for index in from..count {
            let (child, name) = match (ino, index) {
                (SMALL_INO, _) => (FIRST_FILE + index, small_name(index as u32)),
                (_, 0) => (THICK_INO, THICK.to_owned()),
                _ => (SMALL_INO, SMALL_FILES.to_owned()),
            };
            if add(child, index + 1, name) {
                break;
            }
        }
    }
}

impl Filesystem for Memory {
    fn init(&mut self, _req: &Request, kernel: &mut KernelConfig) -> io::Result<()> {
        self.settings.negotiate(kernel);
        Ok(())
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match name.to_str().and_then(|name| self.find(parent.0, name)) {
            Some(ino) => reply.entry(&TTL, &self.attributes(ino), Generation(1)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&TTL, &self.attributes(ino.0));
    }

    fn open(&self, _req: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        match self.settings.open() {
            Ok(flags) => reply.opened(FileHandle(0), flags),
            Err(errno) => reply.error(errno),
        }
    }

    fn opendir(&self, request: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        self.open(request, ino, flags, reply);
    }

    fn read(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let file = self.file(ino.0);
        let start = offset.min(file.len() as u64) as usize;
        let end = (start + size as usize).min(file.len());
        reply.data(&file[start..end]);
    }

    fn readdir(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        self.list(ino.0, offset, |child, next, name| {
            reply.add(INodeNo(child), next, self.attributes(child).kind, name)
        });
        reply.ok();
    }

    fn readdirplus(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        self.list(ino.0, offset, |child, next, name| {
            let attributes = self.attributes(child);
            reply.add(INodeNo(child), next, name, &TTL, &attributes, Generation(1))
        });
        reply.ok();
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }
}
