//! Files that outlive their names, and their end.

use std::collections::BTreeSet;

use super::engine::Engine;
use super::error::FsError;
use super::file_system::FileSystem;
use super::sharing::Files;
use crate::file::edit::FileEdit;
use crate::format::FdAddr;

impl FileSystem {
    /// Keeps a file alive after its last name goes, until as many [`FileSystem::release`]s.
    pub fn hold(&self, file: FdAddr) {
        if let Some(engine) = &self.engine {
            *engine.holds.entry(file).or_default() += 1;
        }
    }

    /// Gives up all holds of a file that another host has deleted: another file has its descriptor.
    pub fn drop_holds(&self, file: FdAddr) {
        if let Some(engine) = &self.engine {
            engine.holds.remove(&file);
        }
    }

    /// Gives up `count` holds; a file without names or holds is deleted.
    pub fn release(&self, file: FdAddr, count: u64) {
        let Some(engine) = &self.engine else {
            return;
        };
        let _call = engine.sharing.enter();
        let left = engine.holds.remove_if_mut(&file, |_, holds| {
            *holds = holds.saturating_sub(count);
            *holds == 0
        });
        if left.is_none() {
            return;
        }
        engine.unsynced.forget(file);
        if engine.nameless.contains(&file) {
            self.reap_or_keep(engine, file);
        } else {
            engine.allocator.forget(file);
        }
    }

    /// Deletes a file if it is noted as one without names and nobody holds it; if that fails it
    /// is tried again later.
    pub(super) fn reap_or_keep(&self, engine: &Engine, file: FdAddr) {
        // Not noted here: another thread may have deleted it, and its descriptor be a new file's.
        if let Err(error) = self.reap(engine, file) {
            tracing::warn!(%file, "a deleted file's space can't be given back now: {error}");
        }
    }

    /// Tries again what could not be deleted.
    pub(super) fn reap_unheld(&self, engine: &Engine) {
        let files: BTreeSet<FdAddr> = engine.nameless.iter().map(|file| *file).collect();
        for file in files {
            if !engine.holds.contains_key(&file) {
                self.reap_or_keep(engine, file);
            }
        }
    }

    fn reap(&self, engine: &Engine, file: FdAddr) -> Result<(), FsError> {
        let guard = self.lock_files(engine, &[file])?;
        if engine.holds.contains_key(&file) || !engine.nameless.contains(&file) {
            return Ok(());
        }
        self.delete(engine, &guard, file)?;
        engine.nameless.remove(&file);
        Ok(())
    }

    /// Gives back everything that a locked file without names has.
    fn delete(&self, engine: &Engine, guard: &Files<'_>, file: FdAddr) -> Result<(), FsError> {
        let place = self.store().place_of(file)?;
        loop {
            let more = self.change(engine, guard, |changes| {
                let mut edit = FileEdit::load(changes, file, place)?;
                edit.cut(0);
                let more = edit.trim()?;
                if more {
                    edit.save()?;
                } else {
                    edit.discard()?;
                }
                Ok(more)
            })?;
            if !more {
                break;
            }
        }
        self.store().drop_inode(file);
        engine.forget_hints(&[file]);
        engine.allocator.forget(file);
        Ok(())
    }

    /// Goes on with what a host had begun to give back of a file when it died: deletes one without
    /// names, cuts off what is behind the end of another.
    pub(super) fn finish_pending(&self, engine: &Engine, file: FdAddr) -> Result<(), FsError> {
        let guard = self.lock_files(engine, &[file])?;
        self.store().drop_inode(file);
        let Ok(inode) = self.locked(file) else {
            // It was given back before the journal was done with it.
            return Ok(());
        };
        if inode.meta().links.get() == 0 {
            return self.delete(engine, &guard, file);
        }
        loop {
            let more = self.change(engine, &guard, |changes| {
                let mut edit = FileEdit::load(changes, file, inode.offset())?;
                let more = edit.trim()?;
                edit.save()?;
                if !more {
                    changes.txn.finish(file);
                }
                Ok(more)
            })?;
            if !more {
                break;
            }
        }
        self.refresh(&[file])
    }
}
