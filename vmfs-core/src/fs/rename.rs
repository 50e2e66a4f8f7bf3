//! Renaming: over a target, across directories, in exchange.

use std::sync::Arc;

use super::changes::Rename;
use super::engine::Engine;
use super::error::FsError;
use super::file_system::FileSystem;
use super::names::not_a_directory;
use super::sharing::Files;
use crate::file::Inode;
use crate::file::edit::{DirectoryEdit, FileEdit};
use crate::format::FdAddr;
use crate::resource::Changes;

impl FileSystem {
    /// Gives what is called `name` in `directory` the name `new_name` in `new_directory`, in one
    /// step.
    pub fn rename(
        &self,
        directory: FdAddr,
        name: &[u8],
        new_directory: FdAddr,
        new_name: &[u8],
        how: Rename,
    ) -> Result<(), FsError> {
        let (engine, _call) = self.enter()?;
        self.check_name(new_name)?;
        loop {
            let source = self.peek(engine, directory, name)?;
            let target = match self.peek(engine, new_directory, new_name) {
                Ok(fd) => Some(fd),
                Err(FsError::NotFound { .. }) => None,
                Err(error) => return Err(error),
            };
            let is_directory = |fd| match self.inode(fd) {
                Ok(inode) => Ok(Some(inode.is_directory())),
                // Another host has deleted it since its name was found.
                Err(FsError::Stale { .. }) => Ok(None),
                Err(error) => Err(error),
            };
            let Some(mut moves_directory) = is_directory(source)? else {
                continue;
            };
            if let (Rename::Exchange, Some(target)) = (how, target) {
                let Some(directory) = is_directory(target)? else {
                    continue;
                };
                moves_directory |= directory;
            }
            let crosses = directory != new_directory;
            let moving = (crosses && moves_directory).then(|| engine.moving.lock());
            let mut files = vec![directory, new_directory, source];
            files.extend(target);
            // The root stands for the tree: hosts move directories one after the other.
            let _tree = match &moving {
                Some(_) => self.keep_locked(engine, FdAddr::ROOT)?,
                None => None,
            };
            if moving.is_some() {
                self.check_not_below(source, new_directory)?;
                if let (Rename::Exchange, Some(target)) = (how, target) {
                    self.check_not_below(target, directory)?;
                }
            }
            let guard = self.lock_files(engine, &files)?;
            let old = self.locked_directory(directory)?;
            let new = self.locked_directory(new_directory)?;
            let found = self.find_locked(engine, &old, name)?;
            let replaced = self.find_locked(engine, &new, new_name)?;
            if found.map(|entry| entry.fd) != Some(source)
                || replaced.map(|entry| entry.fd) != target
            {
                continue;
            }
            let source = self.locked_changeable(source)?;
            let target = match target {
                Some(fd) => Some(self.locked_changeable(fd)?),
                None => None,
            };
            let ends = [(&old, name), (&new, new_name)];
            self.rename_locked(engine, &guard, ends, &source, target.as_ref(), how)?;
            self.refresh(&files)?;
            drop(guard);
            if let Some(target) = target.map(|target| target.fd())
                && engine.nameless.contains(&target)
                && !engine.holds.contains_key(&target)
            {
                self.reap_or_keep(engine, target);
            }
            return Ok(());
        }
    }

    fn rename_locked(
        &self,
        engine: &Engine,
        guard: &Files<'_>,
        [(old, name), (new, new_name)]: [(&Arc<Inode>, &[u8]); 2],
        source: &Arc<Inode>,
        target: Option<&Arc<Inode>>,
        how: Rename,
    ) -> Result<(), FsError> {
        match (how, target) {
            (Rename::NoReplace, Some(_)) => {
                return Err(FsError::Exists {
                    name: new_name.to_vec(),
                });
            }
            (Rename::Exchange, None) => {
                return Err(FsError::NotFound {
                    name: new_name.to_vec(),
                });
            }
            // Two names of one file: rename(2) leaves both.
            (_, Some(target)) if target.fd() == source.fd() => return Ok(()),
            (Rename::Replace, Some(target)) => match (source.is_directory(), target.is_directory())
            {
                (true, false) => return Err(not_a_directory(target)),
                (false, true) => return Err(FsError::IsDirectory { fd: target.fd() }),
                (true, true) => self.check_empty(target)?,
                (false, false) => {}
            },
            _ => {}
        }
        let crosses = old.fd() != new.fd();
        let entry = |inode: &Inode| (inode.fd(), inode.kind(), inode.meta().generation.get());
        self.change_names(engine, guard, &[old.fd(), new.fd()], |changes| {
            if let (Rename::Exchange, Some(target)) = (how, target) {
                let difference =
                    i32::from(source.is_directory()) - i32::from(target.is_directory());
                let mut edit = Self::edit_directory(engine, changes, new)?;
                edit.replace(new_name, entry(source))?;
                edit.add_links(if crosses { difference } else { 0 });
                edit.save()?;
                let mut edit = Self::edit_directory(engine, changes, old)?;
                edit.replace(name, entry(target))?;
                edit.add_links(if crosses { -difference } else { 0 });
                edit.save()?;
                self.set_parent(changes, source, new, crosses)?;
                return self.set_parent(changes, target, old, crosses);
            }
            let mut edit = Self::edit_directory(engine, changes, new)?;
            let mut links = i32::from(source.is_directory() && crosses);
            if let Some(target) = target {
                edit.replace(new_name, entry(source))?;
                links -= i32::from(target.is_directory());
            } else {
                edit.add(new_name, entry(source))?;
            }
            edit.add_links(links);
            edit.save()?;
            let mut edit = Self::edit_directory(engine, changes, old)?;
            edit.remove(name)?;
            edit.add_links(-i32::from(source.is_directory() && crosses));
            edit.save()?;
            if let Some(target) = target {
                Self::drop_link(changes, target, new.fd())?;
            }
            self.set_parent(changes, source, new, crosses)
        })?;
        if let (Rename::Replace, Some(target)) = (how, target)
            && (target.is_directory() || target.meta().links.get() <= 1)
        {
            engine.nameless.insert(target.fd());
        }
        Ok(())
    }

    /// Notes that `inode` has its name in `parent` now.
    fn set_parent(
        &self,
        changes: &mut Changes<'_>,
        inode: &Inode,
        parent: &Inode,
        crosses: bool,
    ) -> Result<(), FsError> {
        let now = changes.now();
        let wide = self.layout().family == crate::format::Family::Vmfs6;
        let mut edit = FileEdit::load(changes, inode.fd(), inode.offset())?;
        edit.meta_mut().ctime = now.into();
        if crosses && wide {
            edit.meta_mut().parent_fd = parent.fd().raw().into();
        }
        if crosses && inode.is_directory() {
            let parent = (parent.fd(), parent.meta().generation.get());
            edit = DirectoryEdit::set_parent(edit, parent)?;
        }
        Ok(edit.save()?)
    }

    /// Fails when `directory` is `file` or lies below it.
    fn check_not_below(&self, file: FdAddr, directory: FdAddr) -> Result<(), FsError> {
        /// Deeper trees than that have a loop.
        const MAX_DEPTH: u32 = 1 << 16;
        let mut at = directory;
        for _ in 0..MAX_DEPTH {
            if at == file {
                return Err(FsError::Invalid("a directory can't move below itself"));
            }
            if at == FdAddr::ROOT {
                return Ok(());
            }
            let inode = self.inode(at)?;
            at = self.parent(&inode)?;
        }
        Err(FsError::Loop { path: Vec::new() })
    }
}
