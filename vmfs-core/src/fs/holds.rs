//! Files that outlive their names, and their end.

use std::collections::BTreeSet;
use std::time::Duration;

use super::engine::Engine;
use super::error::FsError;
use super::file_system::FileSystem;
use super::sharing::Files;
use crate::file::FileError;
use crate::file::edit::FileEdit;
use crate::format::FdAddr;
use crate::resource::{AllocError, MetaError};

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

    /// Deletes what nobody may hold any more, before this host gives its journal back, which is all that tells
    /// of it. Another host that has such a file locked is about to notice that it is gone, or stopped on
    /// the way there: that one is waited for until it is dead.
    ///
    /// # Errors
    /// Why one can't be deleted.
    pub(super) fn reap_all(&self, engine: &Engine) -> Result<(), FsError> {
        let files: BTreeSet<FdAddr> = engine.nameless.iter().map(|file| *file).collect();
        let start = engine.host.clock.uptime();
        for file in files {
            match Self::when_free(engine, start, || self.reap(engine, file)) {
                Err(error) if is_damage(&error) => {
                    tracing::warn!(%file, "a deleted file's space isn't given back: {error}; run fsck.vmfs");
                }
                done => done?,
            }
        }
        Ok(())
    }

    /// Finishes what this host has begun to give back itself, as [`FileSystem::reap_all`] does: of a call that
    /// failed when its change couldn't be brought in place, which happened later, nothing but the journal tells.
    ///
    /// # Errors
    /// Why something can't be finished.
    pub(super) fn finish_own(&self, engine: &Engine) -> Result<(), FsError> {
        let start = engine.host.clock.uptime();
        for file in self.store().reader().pending() {
            Self::when_free(engine, start, || self.finish_pending(engine, file))?;
        }
        Ok(())
    }

    /// Does `work` on a file, again as long as another host has that locked, for a lease from `start` on.
    fn when_free(
        engine: &Engine,
        start: Duration,
        mut work: impl FnMut() -> Result<(), FsError>,
    ) -> Result<(), FsError> {
        loop {
            match work() {
                Err(FsError::Busy { .. })
                    if engine.host.clock.uptime().saturating_sub(start) < engine.host.lease =>
                {
                    engine.has_lease()?;
                }
                done => return done,
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
    /// names, cuts off what is behind the end of another. One that was given back before the journal was done
    /// with it isn't there any more; one that is damaged is left to fsck.vmfs, and mounts don't fail for it.
    pub(super) fn finish_pending(&self, engine: &Engine, file: FdAddr) -> Result<(), FsError> {
        match self.try_finish(engine, file) {
            Err(error) if is_damage(&error) => {
                tracing::info!(%file, "nothing more of it can be given back: {error}");
                Ok(())
            }
            finished => finished,
        }
    }

    fn try_finish(&self, engine: &Engine, file: FdAddr) -> Result<(), FsError> {
        let guard = self.lock_files(engine, &[file])?;
        self.store().drop_inode(file);
        let inode = self.locked(file)?;
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

/// Whether a call failed since something on the volume is damaged, so that it would again.
fn is_damage(error: &FsError) -> bool {
    matches!(
        error,
        FsError::File(
            FileError::Meta(MetaError::Damage(_))
                | FileError::Alloc(AllocError::Meta(MetaError::Damage(_)))
        )
    )
}
