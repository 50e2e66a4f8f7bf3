//! Listing directories.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dashmap::DashMap;
use fuser::{
    Errno, FileHandle, FopenFlags, Generation, INodeNo, ReplyDirectory, ReplyDirectoryPlus,
};
use vmfs_core::format::FileKind;
use vmfs_core::fs::{DirEntry, FsError, Inode};

use super::Mounted;
use crate::attributes::{entry_type, number, unreadable};

/// Positions 0 and 1 of a directory are `.` and `..`, which the file system leaves out.
const DOTS: u64 = 2;

/// Directories that are being listed while they may change.
///
/// A position in a directory means nothing once the directory has changed, so who lists one gets
/// the names that it had at the beginning.
#[derive(Debug, Default)]
pub(super) struct Listings {
    opened: AtomicU64,
    open: DashMap<u64, Arc<Mutex<Option<Listing>>>>,
    /// Counts changes of names anywhere.
    changes: AtomicU64,
}

/// What a directory held when its listing began.
#[derive(Debug)]
struct Listing {
    entries: Vec<DirEntry>,
    /// The count of changes then.
    taken_at: u64,
}

impl Listings {
    /// A name is about to be made, removed or changed.
    pub(super) fn names_change(&self) {
        self.changes.fetch_add(1, SeqCst);
    }

    /// Starts a listing.
    pub(super) fn open(&self) -> FileHandle {
        let handle = self.opened.fetch_add(1, SeqCst);
        self.open.insert(handle, Arc::default());
        FileHandle(handle)
    }

    fn get(&self, handle: FileHandle) -> Option<Arc<Mutex<Option<Listing>>>> {
        Some(Arc::clone(&*self.open.get(&handle.0)?))
    }

    /// Ends a listing.
    pub(super) fn close(&self, handle: FileHandle) {
        self.open.remove(&handle.0);
    }
}

impl Mounted {
    /// Opens a directory.
    pub(super) fn open_directory(&self) -> Result<(FileHandle, FopenFlags), Errno> {
        match &self.changing {
            Some(changing) => Ok((changing.listings.open(), FopenFlags::empty())),
            None => self.open_unchanging().map(|flags| (FileHandle(0), flags)),
        }
    }

    /// Closes a directory.
    pub(super) fn close_directory(&self, handle: FileHandle) {
        if let Some(changing) = &self.changing {
            changing.listings.close(handle);
        }
    }

    /// Answers with names from `position` on.
    pub(super) fn read_directory(
        &self,
        (node, handle): (INodeNo, FileHandle),
        position: u64,
        mut reply: ReplyDirectory,
    ) {
        let listed = self.list(node, handle, position, |_, entry, next, _| {
            let name = OsStr::from_bytes(&entry.name);
            reply.add(number(entry.fd), next, entry_type(entry), name)
        });
        match listed {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(errno),
        }
    }

    /// Answers with names and attributes from `position` on.
    pub(super) fn read_directory_plus(
        &self,
        (node, handle): (INodeNo, FileHandle),
        position: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let listed = self.list(node, handle, position, |directory, entry, next, fresh| {
            self.add_with_attributes(&mut reply, directory, (entry, next), fresh)
        });
        match listed {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(errno),
        }
    }

    /// Calls `add` with the directory and its entries from `position` on, each with the position
    /// behind it and whether the directory surely has it yet, until it says that the reply is
    /// full.
    fn list(
        &self,
        node: INodeNo,
        handle: FileHandle,
        position: u64,
        mut add: impl FnMut(&Inode, &DirEntry, u64, bool) -> bool,
    ) -> Result<(), Errno> {
        let directory = self.files.inode(node)?;
        for (index, entry) in (0..).zip(self.dots(&directory)?) {
            if position <= index && add(&directory, &entry, index + 1, true) {
                return Ok(());
            }
        }
        if let Some(changing) = &self.changing {
            let listing = changing.listings.get(handle).ok_or(Errno::EBADF)?;
            return self.list_taken(&listing, &directory, position, add);
        }
        let from = position.saturating_sub(DOTS);
        let listed = self.files.fs.read_dir(&directory, from, |entry| {
            let next = entry.next + DOTS;
            !add(&directory, &entry, next, true)
        });
        self.files.heard(directory.fd(), listed)
    }

    /// What [`Mounted::list`] does, of the names that were there when the listing began; the
    /// beginning is wherever it starts at position 0.
    fn list_taken(
        &self,
        listing: &Mutex<Option<Listing>>,
        directory: &Inode,
        position: u64,
        mut add: impl FnMut(&Inode, &DirEntry, u64, bool) -> bool,
    ) -> Result<(), Errno> {
        let mut listing = listing.lock().unwrap_or_else(PoisonError::into_inner);
        if position == 0 {
            *listing = None;
        }
        let listing = match &mut *listing {
            Some(listing) => listing,
            empty => empty.insert(self.take_listing(directory)?),
        };
        let fresh = self.changes() == listing.taken_at;
        let first = position.saturating_sub(DOTS);
        for (index, entry) in (0..).zip(&listing.entries).skip(first as usize) {
            if add(directory, entry, index + 1 + DOTS, fresh) {
                break;
            }
        }
        Ok(())
    }

    fn take_listing(&self, directory: &Inode) -> Result<Listing, Errno> {
        let taken_at = self.changes();
        let mut entries = Vec::new();
        let listed = self.files.fs.read_dir(directory, 0, |entry| {
            entries.push(entry);
            true
        });
        self.files.heard(directory.fd(), listed)?;
        Ok(Listing { entries, taken_at })
    }

    fn changes(&self) -> u64 {
        let changing = self.changing.as_ref();
        changing.map_or(0, |changing| changing.listings.changes.load(SeqCst))
    }

    fn dots(&self, directory: &Inode) -> Result<[DirEntry; 2], Errno> {
        let fd = directory.fd();
        let parent = self.files.heard(fd, self.files.fs.parent(directory))?;
        let dot = |name: &[u8], fd| DirEntry {
            name: name.to_vec(),
            fd,
            kind: FileKind::Directory,
            generation: 0,
            next: 0,
        };
        Ok([dot(b".", fd), dot(b"..", parent)])
    }

    /// Adds an entry with what it names, which counts as a look-up; returns whether the reply was
    /// full instead.
    fn add_with_attributes(
        &self,
        reply: &mut ReplyDirectoryPlus,
        directory: &Inode,
        (entry, next): (&DirEntry, u64),
        fresh: bool,
    ) -> bool {
        let is_dot = matches!(&entry.name[..], b"." | b"..");
        // The kernel remembers what it is told here, so it mustn't hear of a name that has gone
        // since the listing began.
        let found = if fresh || is_dot {
            self.files.fs.inode(entry.fd)
        } else {
            self.files.fs.lookup(directory, &entry.name)
        };
        if let Err(FsError::NotFound { .. } | FsError::Stale { .. }) = found {
            return false;
        }
        let found = self.files.heard(entry.fd, found);
        let mut node = number(entry.fd);
        let (attributes, generation, keep) = if let Ok(inode) = &found {
            let (mut attributes, generation) = self.attributes(inode);
            if !is_dot {
                node = self.looked_up(inode);
                attributes.ino = node;
            }
            let keep = self.caching.names().min(self.keep_attributes(inode.fd()));
            let keep = self.unless_renumbered(node, inode.fd(), keep);
            (attributes, generation, keep)
        } else {
            if !is_dot {
                self.files.fs.hold(entry.fd);
            }
            (unreadable(entry), Generation(0), Duration::ZERO)
        };
        let name = OsStr::from_bytes(&entry.name);
        let listed = number(entry.fd);
        let full = reply.add(listed, next, name, &keep, &attributes, generation);
        if full && !is_dot {
            self.forgotten(node, 1);
        }
        full
    }
}
