//! Making, linking and unlinking.

use std::sync::Arc;
use std::time::Duration;

use super::changes::Creator;
use super::engine::Engine;
use super::error::FsError;
use super::file_system::FileSystem;
use super::sharing::Files;
use crate::cluster::OpenMode;
use crate::file::edit::{DirectoryEdit, FileEdit, NewFile};
use crate::file::{DirEntry, Inode};
use crate::format::{FdAddr, FileKind, ResourceKind};
use crate::resource::Changes;

/// Names that a file may have: a 32-bit count on disk, and no reason to come near its end.
const MAX_LINKS: u32 = 1 << 31;
/// Longest target of a symbolic link (Linux' PATH_MAX, its zero byte not counted).
const MAX_TARGET: usize = 4095;

/// Something to be made.
struct New<'a> {
    name: &'a [u8],
    kind: FileKind,
    creator: Creator,
    /// Of a symbolic link.
    target: &'a [u8],
    /// How it is opened, if it is.
    opened: Option<OpenMode>,
}

/// What was made.
struct Made {
    inode: Arc<Inode>,
    is_open: bool,
}

impl<'a> New<'a> {
    /// A regular file that isn't opened.
    fn file(name: &'a [u8], creator: Creator) -> Self {
        Self {
            name,
            kind: FileKind::Regular,
            creator,
            target: &[],
            opened: None,
        }
    }
}

impl FileSystem {
    /// Makes an empty regular file called `name`.
    pub fn create(
        &self,
        directory: FdAddr,
        name: &[u8],
        creator: Creator,
    ) -> Result<Arc<Inode>, FsError> {
        self.make(directory, &New::file(name, creator))
            .map(|made| made.inode)
    }

    /// Makes an empty regular file called `name` and opens it, in one step: no other host can delete it or write to
    /// it in between. Whether it is open: it isn't if another host was just looking at the descriptor, which was
    /// another file's; the caller opens it then.
    pub fn create_open(
        &self,
        directory: FdAddr,
        name: &[u8],
        creator: Creator,
        mode: OpenMode,
    ) -> Result<(Arc<Inode>, bool), FsError> {
        let new = New {
            opened: Some(mode),
            ..New::file(name, creator)
        };
        let made = self.make(directory, &new)?;
        Ok((made.inode, made.is_open))
    }

    /// Makes a directory called `name`.
    pub fn make_directory(
        &self,
        directory: FdAddr,
        name: &[u8],
        creator: Creator,
    ) -> Result<Arc<Inode>, FsError> {
        let new = New {
            kind: FileKind::Directory,
            ..New::file(name, creator)
        };
        self.make(directory, &new).map(|made| made.inode)
    }

    /// Makes a symbolic link called `name` to `target`.
    pub fn make_symlink(
        &self,
        directory: FdAddr,
        name: &[u8],
        target: &[u8],
        creator: Creator,
    ) -> Result<Arc<Inode>, FsError> {
        if target.is_empty() || target.contains(&0) {
            return Err(FsError::NotFound { name: Vec::new() });
        }
        if target.len() > MAX_TARGET {
            return Err(FsError::NameTooLong {
                name: target.to_vec(),
                max: MAX_TARGET,
            });
        }
        let new = New {
            kind: FileKind::Symlink,
            target,
            ..New::file(name, creator)
        };
        self.make(directory, &new).map(|made| made.inode)
    }

    fn make(&self, directory: FdAddr, new: &New<'_>) -> Result<Made, FsError> {
        let (engine, _call) = self.enter()?;
        self.check_name(new.name)?;
        loop {
            match self.make_locked(engine, directory, new) {
                // Another thread or host has what was taken for the new file locked.
                Err(FsError::Again) if engine.sharing.is_shared() => {
                    engine.host.clock.sleep(Duration::from_micros(500));
                }
                Err(FsError::Again) => crate::sync::give_way(false),
                made => return made,
            }
        }
    }

    fn make_locked(
        &self,
        engine: &Engine,
        directory: FdAddr,
        new: &New<'_>,
    ) -> Result<Made, FsError> {
        let guard = self.lock_files(engine, &[directory])?;
        let parent = self.locked_directory(directory)?;
        if self.find_locked(engine, &parent, new.name)?.is_some() {
            return Err(FsError::Exists {
                name: new.name.to_vec(),
            });
        }
        let (fd, _locked) = self.change_names(engine, &guard, &[directory], |changes| {
            let near = u64::from(directory.cluster());
            let kind_of_fd = ResourceKind::FileDescriptor;
            let (place, generation) = changes.take(kind_of_fd, near, directory)?;
            let fd = FdAddr::new(place.0 as u32, place.1);
            let also = engine.locks.try_write_also(directory, fd);
            let also = also.ok_or(FsError::Again)?;
            let held = self.lock_new(engine, fd)?;
            if let Some(held) = &held {
                changes.add_locks(&held.tokens());
            }
            let is_directory = new.kind == FileKind::Directory;
            let file = NewFile {
                kind: new.kind,
                mode: new.creator.mode,
                uid: new.creator.uid,
                gid: new.creator.gid,
                parent: directory,
            };
            let mut edit = FileEdit::create(changes, fd, generation, &file)?;
            if is_directory {
                edit.meta_mut().links = 2.into();
                let parent = (directory, parent.meta().generation.get());
                edit = DirectoryEdit::create(edit, generation, parent)?;
            } else if new.kind == FileKind::Symlink {
                edit.write(0, new.target)?;
            }
            edit.save()?;
            let mut edit = Self::edit_directory(engine, changes, &parent)?;
            edit.add(new.name, (fd, new.kind, generation))?;
            edit.add_links(i32::from(is_directory));
            edit.save()?;
            Ok((fd, (held, also)))
        })?;
        self.refresh(&[directory])?;
        let inode = self.store().refresh(fd)?;
        // As long as the directory is locked no other host finds the file.
        let is_open = new
            .opened
            .is_some_and(|mode| self.open_made(engine, fd, mode));
        Ok(Made { inode, is_open })
    }

    /// Gives `file` one more name.
    pub fn link(
        &self,
        file: FdAddr,
        directory: FdAddr,
        name: &[u8],
    ) -> Result<Arc<Inode>, FsError> {
        let (engine, _call) = self.enter()?;
        self.check_name(name)?;
        let guard = self.lock_files(engine, &[directory, file])?;
        self.change_names(engine, &guard, &[directory], |changes| {
            let parent = self.locked_directory(directory)?;
            let inode = self.locked_changeable(file)?;
            if inode.is_directory() {
                return Err(FsError::IsDirectory { fd: file });
            }
            let links = inode.meta().links.get();
            if links == 0 {
                return Err(FsError::NotFound { name: Vec::new() });
            }
            if links >= MAX_LINKS {
                return Err(FsError::TooManyLinks { fd: file });
            }
            if self.find_locked(engine, &parent, name)?.is_some() {
                return Err(FsError::Exists {
                    name: name.to_vec(),
                });
            }
            let generation = inode.meta().generation.get();
            let mut edit = Self::edit_directory(engine, changes, &parent)?;
            edit.add(name, (file, inode.kind(), generation))?;
            edit.save()?;
            Self::add_links(changes, &inode, 1)
        })?;
        self.refresh(&[directory])?;
        Ok(self.store().refresh(file)?)
    }

    /// Removes a name that isn't a directory's; with the last name and the last hold goes the file.
    pub fn unlink(&self, directory: FdAddr, name: &[u8]) -> Result<(), FsError> {
        self.remove(directory, name, false)
    }

    /// Removes an empty directory.
    pub fn remove_directory(&self, directory: FdAddr, name: &[u8]) -> Result<(), FsError> {
        self.remove(directory, name, true)
    }

    fn remove(&self, directory: FdAddr, name: &[u8], wants_directory: bool) -> Result<(), FsError> {
        let (engine, _call) = self.enter()?;
        let fd = loop {
            let fd = self.peek(engine, directory, name)?;
            let guard = self.lock_files(engine, &[directory, fd])?;
            let parent = self.locked_directory(directory)?;
            if self
                .find_locked(engine, &parent, name)?
                .map(|entry| entry.fd)
                == Some(fd)
            {
                self.remove_locked(engine, &guard, &parent, name, fd, wants_directory)?;
                drop(guard);
                break fd;
            }
        };
        if engine.nameless.contains(&fd) && !engine.holds.contains_key(&fd) {
            self.reap_or_keep(engine, fd);
        }
        Ok(())
    }

    fn remove_locked(
        &self,
        engine: &Engine,
        guard: &Files<'_>,
        parent: &Arc<Inode>,
        name: &[u8],
        fd: FdAddr,
        wants_directory: bool,
    ) -> Result<(), FsError> {
        let inode = self.locked_changeable(fd)?;
        match (inode.is_directory(), wants_directory) {
            (true, false) => return Err(FsError::IsDirectory { fd }),
            (false, true) => return Err(not_a_directory(&inode)),
            (true, true) => self.check_empty(&inode)?,
            (false, false) => {}
        }
        let gone = inode.is_directory() || inode.meta().links.get() <= 1;
        self.change_names(engine, guard, &[parent.fd()], |changes| {
            let mut edit = Self::edit_directory(engine, changes, parent)?;
            edit.remove(name)?;
            edit.add_links(-i32::from(wants_directory));
            edit.save()?;
            Self::drop_link(changes, &inode, parent.fd())
        })?;
        if gone {
            engine.nameless.insert(fd);
        }
        self.refresh(&[parent.fd(), fd])
    }

    /// Takes a name off a file's count; with the last one it is to be deleted.
    pub(super) fn drop_link(
        changes: &mut Changes<'_>,
        inode: &Inode,
        directory: FdAddr,
    ) -> Result<(), FsError> {
        let links = inode.meta().links.get();
        if inode.is_directory() {
            Self::add_links(changes, inode, -i64::from(links))?;
        } else {
            Self::add_links(changes, inode, -1)?;
            if links > 1 && inode.meta().parent_fd.get() == directory.raw() {
                // Nothing says which directories have the other names.
                let mut edit = FileEdit::load(changes, inode.fd(), inode.offset())?;
                edit.meta_mut().parent_fd = 0.into();
                edit.save()?;
            }
        }
        if inode.is_directory() || links <= 1 {
            changes.txn.begin(inode.fd());
        }
        Ok(())
    }

    pub(super) fn add_links(
        changes: &mut Changes<'_>,
        inode: &Inode,
        more: i64,
    ) -> Result<(), FsError> {
        let now = changes.now();
        let mut edit = FileEdit::load(changes, inode.fd(), inode.offset())?;
        let meta = edit.meta_mut();
        let links = u64::from(meta.links.get()).saturating_add_signed(more);
        meta.links = (links as u32).into();
        meta.ctime = now.into();
        Ok(edit.save()?)
    }

    pub(super) fn edit_directory<'c, 'a>(
        engine: &Engine,
        changes: &'c mut Changes<'a>,
        directory: &Inode,
    ) -> Result<DirectoryEdit<'c, 'a>, FsError> {
        let hint = engine.hint(directory.fd());
        let edit = FileEdit::load(changes, directory.fd(), directory.offset())?;
        Ok(DirectoryEdit::new(edit, hint))
    }

    /// [`FileSystem::change`] for directories: what is known of them is forgotten on an error.
    pub(super) fn change_names<T>(
        &self,
        engine: &Engine,
        files: &Files<'_>,
        directories: &[FdAddr],
        mut work: impl FnMut(&mut Changes<'_>) -> Result<T, FsError>,
    ) -> Result<T, FsError> {
        self.change(engine, files, |changes| {
            let result = work(changes);
            if result.is_err() {
                engine.forget_hints(directories);
            }
            result
        })
        .inspect_err(|_| engine.forget_hints(directories))
    }

    /// The entry `name` of a directory that the caller has locked.
    pub(super) fn find_locked(
        &self,
        engine: &Engine,
        directory: &Inode,
        name: &[u8],
    ) -> Result<Option<DirEntry>, FsError> {
        let hint = engine.hint(directory.fd());
        let found = DirectoryEdit::lookup(self.store(), directory, name, &hint);
        engine.has_lease()?;
        Ok(found?)
    }

    /// The file that has a name at this moment.
    pub(super) fn peek(
        &self,
        engine: &Engine,
        directory: FdAddr,
        name: &[u8],
    ) -> Result<FdAddr, FsError> {
        let max = self.layout().max_name();
        if name.len() > max {
            return Err(FsError::NameTooLong {
                name: name.to_vec(),
                max,
            });
        }
        let found = self.consistently(directory, || {
            let _guard = engine.locks.read(directory);
            let parent = self.locked_directory(directory)?;
            self.find_locked(engine, &parent, name)
        })?;
        found
            .map(|entry| entry.fd)
            .ok_or_else(|| FsError::NotFound {
                name: name.to_vec(),
            })
    }

    pub(super) fn check_name(&self, name: &[u8]) -> Result<(), FsError> {
        let max = self.layout().max_name();
        if name == b"." || name == b".." {
            return Err(FsError::Exists {
                name: name.to_vec(),
            });
        }
        if name.is_empty() || name.contains(&b'/') || name.contains(&0) {
            return Err(FsError::Invalid("a name is neither empty nor has / in it"));
        }
        if name.len() > max {
            return Err(FsError::NameTooLong {
                name: name.to_vec(),
                max,
            });
        }
        Ok(())
    }

    pub(super) fn check_empty(&self, directory: &Inode) -> Result<(), FsError> {
        let mut empty = true;
        crate::file::Directory::new(self.store(), directory)?.for_each(0, &mut |_| {
            empty = false;
            false
        })?;
        self.has_lease()?;
        if empty {
            return Ok(());
        }
        Err(FsError::NotEmpty { fd: directory.fd() })
    }
}

pub(super) fn not_a_directory(inode: &Inode) -> FsError {
    crate::file::FileError::WrongKind {
        fd: inode.fd(),
        found: inode.kind(),
        wanted: "directory",
    }
    .into()
}
