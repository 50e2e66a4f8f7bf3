//! FUSE's calls as calls to the file system.
//!
//! - `calls`: each call, and how it is answered.
//! - `files`: files by the kernel's numbers.
//! - `told`: what the kernel knows of them.
//! - `creating`, `opens`, `read`, `write`, `list`, `names`: what the calls do.
//! - `shared`: files that several hosts write to at a time.
//! - `kernel`: what the kernel is told unasked.

mod calls;
mod creating;
mod files;
mod kernel;
mod list;
mod names;
mod opens;
mod read;
mod shared;
mod told;
mod write;

use std::sync::Arc;
use std::time::Duration;

use fuser::{FileAttr, Generation, INodeNo, InitFlags, KernelConfig};
use vmfs_core::format::{FdAddr, FileKind};
use vmfs_core::fs::{FileSystem, Inode, Stat};

use crate::attributes::{Overrides, number};
use crate::caching::Caching;
use crate::options::Options;
use crate::space::SpaceCount;
use files::Files;
pub(crate) use kernel::Kernel;
use list::Listings;
use opens::Opens;
use shared::SharedFiles;

/// The kernel's largest request, unless the administrator raised `fs.fuse.max_pages_limit`.
const MAX_REQUEST: u32 = 1 << 20;
/// Requests that the kernel may have under way that nobody waits for, such as reading ahead.
const MAX_BACKGROUND: u16 = 64;

/// A volume as FUSE sees it.
#[derive(Debug)]
pub(crate) struct Mounted {
    files: Files,
    overrides: Overrides,
    caching: Caching,
    space: Arc<SpaceCount>,
    changing: Option<Changing>,
    /// Direct writes to a file go on side by side.
    parallel_direct: bool,
}

/// What a mount needs besides that can change the volume.
#[derive(Debug)]
struct Changing {
    /// The kernel keeps what is written, and writes it back later.
    is_cached: bool,
    /// All changes are durable when they are answered.
    sync: bool,
    /// Those of names are.
    syncs_names: bool,
    opens: Opens,
    shared: SharedFiles,
    listings: Listings,
    kernel: Arc<Kernel>,
}

impl Mounted {
    /// Serves `fs`; `kernel` is connected as soon as the mount is there.
    pub(crate) fn new(fs: Arc<FileSystem>, options: &Options, kernel: Arc<Kernel>) -> Self {
        let changing = fs.is_writable().then(|| Changing {
            is_cached: !options.write_through && !options.sync,
            sync: options.sync,
            syncs_names: options.sync || options.dirsync,
            opens: Opens::default(),
            shared: SharedFiles::new(&options.multi_writer),
            listings: Listings::default(),
            kernel,
        });
        let caching = match &changing {
            Some(_) => Caching::writing(&fs, options),
            None => Caching::watch(&fs, options),
        };
        Self {
            space: SpaceCount::start(&fs),
            overrides: Overrides::from(options),
            files: Files::new(fs),
            caching,
            changing,
            parallel_direct: false,
        }
    }

    /// Tells the kernel how the mount wants to be asked.
    fn agree(&mut self, config: &mut KernelConfig) {
        let offered = config.capabilities();
        let mut wanted = InitFlags::FUSE_ASYNC_READ
            | InitFlags::FUSE_ASYNC_DIO
            | InitFlags::FUSE_BIG_WRITES
            | InitFlags::FUSE_PARALLEL_DIROPS
            | InitFlags::FUSE_DO_READDIRPLUS
            | InitFlags::FUSE_READDIRPLUS_AUTO
            | InitFlags::FUSE_EXPORT_SUPPORT
            | InitFlags::FUSE_CACHE_SYMLINKS;
        match &self.changing {
            // Only another host changes anything, which shows in times and lengths.
            None => wanted |= InitFlags::FUSE_AUTO_INVAL_DATA,
            Some(changing) if changing.is_cached => wanted |= InitFlags::FUSE_WRITEBACK_CACHE,
            Some(_) => {
                // Not with the cache: the kernel then trusts its own times, but doesn't change
                // them at a direct write of this kind. Without mmap on direct files, which older
                // kernels don't have, programs would miss something.
                let mmap = InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP;
                self.parallel_direct = offered.contains(mmap);
                wanted |= mmap;
            }
        }
        if self.caching.opens_are_free() {
            wanted |= InitFlags::FUSE_NO_OPEN_SUPPORT | InitFlags::FUSE_NO_OPENDIR_SUPPORT;
        }
        // What an older kernel lacks makes it slower, not wrong.
        let _ = config.add_capabilities(wanted & offered);
        let _ = config.set_max_write(MAX_REQUEST);
        let _ = config.set_max_background(MAX_BACKGROUND);
        if self.changing.is_some() {
            let _ = config.set_time_granularity(Duration::from_secs(1));
        }
    }

    fn attributes(&self, inode: &Inode) -> (FileAttr, Generation) {
        let stat = Stat::from(inode);
        let mut attributes = self.overrides.attributes(inode.fd(), &stat);
        if self.changing.is_some() && stat.nlink == 0 && inode.kind() != FileKind::System {
            // Deleted, but open yet.
            attributes.nlink = 0;
        }
        (attributes, Generation(stat.generation.into()))
    }

    /// `keep`, how long the kernel may keep attributes that it is told together with the number `node`; not at all if
    /// that is the number of a new edition, which they show: asked for, they show the one that the file had before.
    fn unless_renumbered(&self, node: INodeNo, fd: FdAddr, keep: Duration) -> Duration {
        if self.changing.is_some() && node != number(fd) {
            return Duration::ZERO;
        }
        keep
    }

    /// How long the kernel may keep the attributes of the file `fd`.
    fn keep_attributes(&self, fd: FdAddr) -> Duration {
        match &self.changing {
            Some(changing) if changing.is_cached && changing.opens.is_being_written(fd) => {
                self.caching.attributes_being_written()
            }
            _ => self.caching.attributes(),
        }
    }

    /// How long the kernel may keep the name and the attributes of a file that was just made and
    /// opened.
    ///
    /// FUSE has one time for both here. Of the attributes only the number of blocks changes
    /// behind the kernel's back, so it is told when the first of them is written.
    fn keep_new(&self, fd: FdAddr) -> Duration {
        match &self.changing {
            Some(changing) if changing.is_cached => {
                changing.opens.note_new(fd);
                self.caching.names().min(self.caching.attributes())
            }
            _ => self.caching.names().min(self.keep_attributes(fd)),
        }
    }

    /// Notes that the kernel is told of a file, so that it lives until the kernel forgets it as often; by
    /// which number the kernel is to call it.
    fn looked_up(&self, inode: &Inode) -> INodeNo {
        let fd = inode.fd();
        // The kernel has the root from the start, without asking.
        let Some(changing) = self.changing.as_ref().filter(|_| fd != FdAddr::ROOT) else {
            return number(fd);
        };
        let renewable = inode.kind() == FileKind::Regular
            && !changing.opens.is_open(fd)
            && !self.files.told.is_trusted(fd, self.files.fs.alone());
        self.files.told.note(inode, renewable, |is_another| {
            if is_another {
                self.files.fs.drop_holds(fd);
            }
            self.files.fs.hold(fd);
        })
    }

    /// The kernel forgets `count` look-ups of the file that it calls `node`.
    fn forgotten(&self, node: INodeNo, count: u64) {
        let Ok(fd) = Files::fd(node) else {
            return;
        };
        if self.changing.is_some() && fd != FdAddr::ROOT && self.files.told.forget(node, fd, count)
        {
            self.files.fs.release(fd, count);
        }
    }
}
