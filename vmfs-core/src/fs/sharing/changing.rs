//! Transactions under the locks of what they change, and reading what other hosts may change.

use std::collections::BTreeSet;

use super::Files;
use crate::cluster::{Held, Version};
use crate::file::FileError;
use crate::format::FdAddr;
use crate::fs::engine::{Engine, needs_commit};
use crate::fs::error::FsError;
use crate::fs::file_system::FileSystem;
use crate::lvm::VolumeOffset;
use crate::resource::{AllocError, Changes, MetaError};

/// Tries to read something while no other host changes it, before this one locks it for that.
const QUIET_READS: u32 = 16;

impl FileSystem {
    /// Runs `work` in a transaction under the locks of `files` and those of clusters that it turns
    /// out to need, and publishes it; if the volume is shared, it is in place when this returns.
    /// On an error nothing has changed.
    pub(in crate::fs) fn change<T>(
        &self,
        engine: &Engine,
        files: &Files<'_>,
        mut work: impl FnMut(&mut Changes<'_>) -> Result<T, FsError>,
    ) -> Result<T, FsError> {
        let (reader, resources) = (self.store().reader(), self.store().resources());
        let shared = engine.sharing.is_shared();
        let mut clusters = BTreeSet::new();
        let mut held = None;
        let mut committed = false;
        loop {
            let hold = engine.hold(files, held.as_ref());
            let allocator = &engine.allocator;
            let mut changes = Changes::new(reader, resources, allocator, engine.actor(), hold);
            let result = work(&mut changes).and_then(|done| {
                changes.publish()?;
                Ok(done)
            });
            match result {
                Err(error) if let Some(places) = missing_locks(&error) => {
                    // What was changed on the way must be in place before its locks go.
                    self.bring_in_place(engine, files, held.as_ref())?;
                    clusters.extend(places);
                    drop(held.take());
                    held = Some(self.lock_places(engine, &clusters)?);
                }
                Err(error) if !committed && needs_commit(&error) => {
                    committed = true;
                    self.sync()?;
                }
                Ok(done) => {
                    for file in engine.allocator.take_grown() {
                        self.store().drop_inode(file);
                    }
                    if shared {
                        self.bring_in_place(engine, files, held.as_ref())?;
                    }
                    return Ok(done);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Brings everything published in place. If that fails the locks stay until it can be done.
    fn bring_in_place(
        &self,
        engine: &Engine,
        files: &Files<'_>,
        clusters: Option<&Held<'_>>,
    ) -> Result<(), FsError> {
        let reader = self.store().reader();
        let Some(journal) = reader.journal() else {
            return Ok(());
        };
        let settled = journal.settle(reader);
        if settled.is_err() {
            let mut unsettled = engine.sharing.unsettled.lock();
            for held in [files.held.as_ref(), clusters].into_iter().flatten() {
                unsettled.extend(held.keep());
            }
        }
        Ok(settled?)
    }

    /// Tries again to bring in place what could not be.
    pub(in crate::fs) fn settle_rest(&self, engine: &Engine) -> Result<(), FsError> {
        let mut unsettled = engine.sharing.unsettled.lock();
        if unsettled.is_empty() {
            return Ok(());
        }
        let reader = self.store().reader();
        if let Some(journal) = reader.journal() {
            journal.settle(reader)?;
        }
        engine.sharing.locks.leave_all(unsettled.drain(..));
        Ok(())
    }

    /// Calls `read`, which reads what belongs to `file`, so that it sees it as it was at one moment
    /// after the call began.
    pub(in crate::fs) fn consistently<T>(
        &self,
        file: FdAddr,
        mut read: impl FnMut() -> Result<T, FsError>,
    ) -> Result<T, FsError> {
        let Some(engine) = &self.engine else {
            return read();
        };
        let _call = engine.sharing.enter_again();
        engine.has_lease()?;
        // What no other host changes is so as long as this one has its lease, which may have ended meanwhile.
        let still = |result: Result<T, FsError>| engine.has_lease().and(result);
        if !engine.sharing.is_shared() {
            return still(read());
        }
        let place = self.store().place_of(file)?;
        let locks = &engine.sharing.locks;
        if locks.protects(place) {
            return still(read());
        }
        let version = || -> Result<Version, FsError> {
            loop {
                match locks.version(place, engine.patience()) {
                    Ok(version) => return Ok(version),
                    Err(error) => self.give_way(engine, error)?,
                }
            }
        };
        let mut before = version()?;
        for _ in 0..QUIET_READS {
            let result = read();
            let after = version()?;
            if before == after {
                return result;
            }
            before = after;
        }
        // In this order, as calls that change the file: `read` wants both.
        let _stripe = engine.locks.read(file);
        let _held = self.lock_places(engine, &BTreeSet::from([place]))?;
        still(read())
    }
}

/// The disk locks for want of which something failed.
fn missing_locks(error: &FsError) -> Option<Vec<VolumeOffset>> {
    match error {
        FsError::File(
            FileError::Meta(MetaError::NeedsLocks { places })
            | FileError::Alloc(AllocError::Meta(MetaError::NeedsLocks { places })),
        ) => Some(places.clone()),
        _ => None,
    }
}
