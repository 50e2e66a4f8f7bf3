//! Files that are open, each with a disk lock for as long.

use std::collections::BTreeSet;

use super::CLOSING;
use crate::cluster::{LockError, OpenMode};
use crate::format::FdAddr;
use crate::fs::engine::Engine;
use crate::fs::error::FsError;
use crate::fs::file_system::FileSystem;

/// How often a file is open, in each way.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Opens {
    read: u32,
    multi_writer: u32,
    write: u32,
}

impl Opens {
    fn count(&mut self, mode: OpenMode) -> &mut u32 {
        match mode {
            OpenMode::Read => &mut self.read,
            OpenMode::MultiWriter => &mut self.multi_writer,
            OpenMode::Write => &mut self.write,
        }
    }

    pub(super) fn strongest(self) -> Option<OpenMode> {
        let counts = [
            (self.write, OpenMode::Write),
            (self.multi_writer, OpenMode::MultiWriter),
            (self.read, OpenMode::Read),
        ];
        counts
            .into_iter()
            .find(|&(count, _)| count > 0)
            .map(|(_, mode)| mode)
    }
}

impl FileSystem {
    /// Opens a file, for as long as it isn't closed as often; other hosts can't write to it
    /// meanwhile, or not open it at all, as `mode` says.
    ///
    /// # Errors
    /// [`FsError::Busy`] when another host has it open in a way that doesn't go with `mode`.
    pub fn open_file(&self, file: FdAddr, mode: OpenMode) -> Result<(), FsError> {
        let (engine, _call) = self.enter()?;
        let place = self.store().place_of(file)?;
        // One at a time, so that counts and locks agree.
        let _stripes = engine.locks.write(&[file]);
        let before = engine.sharing.opens.get(&file).and_then(|o| o.strongest());
        if engine.sharing.is_shared() && before < Some(mode) {
            let deadline = engine.closes_until();
            loop {
                match engine
                    .sharing
                    .locks
                    .open(place, before.max(Some(mode)).unwrap_or(mode))
                {
                    Ok(()) => break,
                    // Another host may be about to close it, or have it for a call only.
                    Err(LockError::Held { .. }) if engine.host.clock.uptime() < deadline => {
                        engine.host.clock.sleep(CLOSING);
                    }
                    Err(error) => self.give_way(engine, error)?,
                }
            }
            let inode = self.store().refresh(file);
            if !inode.is_ok_and(|inode| inode.meta().links.get() > 0) && before.is_none() {
                engine.sharing.locks.close(place, None);
                return Err(FsError::Stale { fd: file });
            }
        }
        *engine.sharing.opens.entry(file).or_default().count(mode) += 1;
        Ok(())
    }

    /// [`FileSystem::open_file`] for a file that was just made and that the caller has locked, with its directory;
    /// whether it could be done without waiting.
    pub(in crate::fs) fn open_made(&self, engine: &Engine, file: FdAddr, mode: OpenMode) -> bool {
        if engine.sharing.is_shared() {
            let Ok(place) = self.store().place_of(file) else {
                return false;
            };
            if let Err(error) = engine.sharing.locks.open(place, mode) {
                tracing::debug!(%file, "it is opened later: {error}");
                return false;
            }
        }
        *engine.sharing.opens.entry(file).or_default().count(mode) += 1;
        true
    }

    /// Closes a file that was opened in this mode.
    pub fn close_file(&self, file: FdAddr, mode: OpenMode) {
        let Some(engine) = &self.engine else {
            return;
        };
        let _call = engine.sharing.enter();
        let _stripes = engine.locks.write(&[file]);
        let left = {
            let mut opens = engine.sharing.opens.entry(file).or_default();
            let count = opens.count(mode);
            *count = count.saturating_sub(1);
            opens.strongest()
        };
        if left.is_none() {
            engine.sharing.opens.remove(&file);
        }
        if let Ok(place) = self.store().place_of(file) {
            engine.sharing.locks.close(place, left);
        }
    }

    /// Gives up the locks of all open files.
    pub(in crate::fs) fn close_all_files(&self, engine: &Engine) {
        let sharing = &engine.sharing;
        let files: BTreeSet<FdAddr> = sharing.opens.iter().map(|open| *open.key()).collect();
        sharing.opens.clear();
        for file in files {
            if let Ok(place) = self.store().place_of(file) {
                sharing.locks.close(place, None);
            }
        }
    }

    /// Whether this host may write to blocks that the file has without locking it for the call, as no other
    /// one changes which those are: alone, or beside other hosts.
    pub(in crate::fs) fn writes_as(
        &self,
        engine: &Engine,
        file: FdAddr,
    ) -> Result<Option<OpenMode>, FsError> {
        if !engine.sharing.is_shared() {
            return Ok(Some(OpenMode::Write));
        }
        let place = self.store().place_of(file)?;
        Ok(engine.sharing.locks.writes_as(place))
    }
}
