use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use dashmap::{DashMap, DashSet};
use parking_lot::Mutex;

use super::error::FsError;
use super::file_system::FileSystem;
use super::locks::Locks;
use crate::cluster::{HostConfig, Membership, Renewal};
use crate::file::edit::DirHint;
use crate::file::{FileError, Inode};
use crate::format::{FdAddr, FileKind, ResourceKind};
use crate::resource::{Actor, AllocError, Allocator, Changes, MetaError, ResourcePlace};

/// Directories whose hints are kept.
const KEPT_HINTS: usize = 256;

/// What a file system that is open for writing has besides one that is read.
#[derive(Debug)]
pub(super) struct Engine {
    pub(super) host: HostConfig,
    pub(super) membership: Membership,
    pub(super) allocator: Allocator,
    pub(super) locks: Locks,
    /// How often each file is in use by someone, so that it must outlive its names.
    pub(super) holds: DashMap<FdAddr, u64>,
    /// Files without names that are still in use.
    pub(super) nameless: DashSet<FdAddr>,
    hints: DashMap<FdAddr, Arc<Mutex<DirHint>>>,
    /// Held while a directory moves to another one, so that none moves below itself.
    pub(super) moving: Mutex<()>,
    pub(super) journal_block: (ResourceKind, ResourcePlace),
    /// Uptime at the last commit that nobody asked for, in milliseconds.
    pub(super) tidied: AtomicU64,
    pub(super) closed: AtomicBool,
}

impl Engine {
    pub(super) fn new(
        host: HostConfig,
        membership: Membership,
        allocator: Allocator,
        journal_block: (ResourceKind, ResourcePlace),
    ) -> Self {
        Self {
            host,
            membership,
            allocator,
            locks: Locks::default(),
            holds: DashMap::new(),
            nameless: DashSet::new(),
            hints: DashMap::new(),
            moving: Mutex::new(()),
            journal_block,
            tidied: AtomicU64::new(0),
            closed: AtomicBool::new(false),
        }
    }

    /// Seconds since 1970, as far as the format's 32 bits go.
    pub(super) fn now(&self) -> u32 {
        u32::try_from(self.host.clock.now().as_secs()).unwrap_or(u32::MAX)
    }

    pub(super) fn actor(&self) -> Actor {
        Actor {
            mac: self.host.uuid.mac,
            now: self.now(),
        }
    }

    /// What helps to find one's way in a directory.
    pub(super) fn hint(&self, directory: FdAddr) -> Arc<Mutex<DirHint>> {
        if self.hints.len() > KEPT_HINTS && !self.hints.contains_key(&directory) {
            self.hints.clear();
        }
        Arc::clone(&self.hints.entry(directory).or_default())
    }

    /// Forgets the hints of directories: their changes came to nothing, or they are gone.
    pub(super) fn forget_hints(&self, directories: &[FdAddr]) {
        for directory in directories {
            self.hints.remove(directory);
        }
    }
}

impl FileSystem {
    /// What changes need; an error when the volume can only be read, or no more.
    pub(super) fn engine(&self) -> Result<&Engine, FsError> {
        let engine = self.engine.as_ref().ok_or(FsError::ReadOnly)?;
        if engine.closed.load(SeqCst) {
            return Err(FsError::ReadOnly);
        }
        if engine.membership.is_lost() {
            return Err(FsError::Fenced);
        }
        if engine.membership.age(&engine.host) > engine.host.lease {
            // Another host may take this one for dead by now.
            self.renew(engine)?;
        }
        Ok(engine)
    }

    /// Whether calls that change the volume can work.
    pub fn is_writable(&self) -> bool {
        self.engine().is_ok()
    }

    fn renew(&self, engine: &Engine) -> Result<(), FsError> {
        match engine.membership.renew(self.volume(), &engine.host)? {
            Renewal::Renewed => Ok(()),
            Renewal::Lost => {
                tracing::error!(
                    "another host took this one for dead and recovered the volume: open files fail; unmount and mount again"
                );
                Err(FsError::Fenced)
            }
        }
    }

    /// Does what a host has to do from time to time: renews its heartbeat, makes what is
    /// [`HostConfig::commit`] old durable, deletes what nobody holds any more. Returns how long to
    /// wait before the next call. An error is worth a line in the log; the next call tries again.
    pub fn keep_up(&self) -> (Duration, Result<(), FsError>) {
        let Ok(engine) = self.engine() else {
            return (Duration::from_secs(1), Ok(()));
        };
        let mut result = Ok(());
        if engine.membership.age(&engine.host) >= engine.host.heartbeat {
            result = self.renew(engine);
        }
        let uptime = engine.host.clock.uptime().as_millis() as u64;
        let commit = engine.host.commit.as_millis() as u64;
        if uptime.saturating_sub(engine.tidied.load(SeqCst)) >= commit {
            engine.tidied.store(uptime, SeqCst);
            self.reap_unheld(engine);
            let reader = self.store().reader();
            if let Some(journal) = reader.journal() {
                result = result.and(journal.tidy(reader).map_err(Into::into));
            }
        }
        let wait = engine.host.heartbeat.min(engine.host.commit) / 2;
        (wait.max(Duration::from_millis(1)), result)
    }

    /// Runs `work` in a transaction and publishes it. If resources are used up but for those that
    /// wait for a commit, commits and runs it once more. On an error nothing has changed.
    pub(super) fn change<T>(
        &self,
        engine: &Engine,
        mut work: impl FnMut(&mut Changes<'_>) -> Result<T, FsError>,
    ) -> Result<T, FsError> {
        for last in [false, true] {
            let (reader, resources) = (self.store().reader(), self.store().resources());
            let mut changes = Changes::new(reader, resources, &engine.allocator, engine.actor());
            match work(&mut changes) {
                Ok(done) => {
                    changes.publish()?;
                    for fd in engine.allocator.take_grown() {
                        self.store().drop_inode(fd);
                    }
                    return Ok(done);
                }
                Err(error) if !last && needs_commit(&error) => {
                    drop(changes);
                    self.sync()?;
                }
                Err(error) => return Err(error),
            }
        }
        Err(FsError::ReadOnly)
    }

    /// The current state of a file that the caller has locked.
    pub(super) fn locked(&self, fd: FdAddr) -> Result<Arc<Inode>, FsError> {
        Ok(self.store().inode(fd)?)
    }

    /// The current state of a directory that the caller has locked, which must have a name yet.
    pub(super) fn locked_directory(&self, fd: FdAddr) -> Result<Arc<Inode>, FsError> {
        let inode = self.locked(fd)?;
        if !inode.is_directory() {
            let found = inode.kind();
            let wanted = "directory";
            return Err(FileError::WrongKind { fd, found, wanted }.into());
        }
        if inode.meta().links.get() == 0 {
            return Err(FsError::NotFound { name: Vec::new() });
        }
        if inode.kind() == FileKind::System {
            return Err(FsError::SystemFile { fd });
        }
        Ok(inode)
    }

    /// The current state of a locked file whose content or attributes may be changed.
    pub(super) fn locked_changeable(&self, fd: FdAddr) -> Result<Arc<Inode>, FsError> {
        let inode = self.locked(fd)?;
        if inode.kind() == FileKind::System {
            return Err(FsError::SystemFile { fd });
        }
        Ok(inode)
    }

    /// The current state of a locked regular file.
    pub(super) fn locked_regular(&self, fd: FdAddr) -> Result<Arc<Inode>, FsError> {
        let inode = self.locked_changeable(fd)?;
        match inode.kind() {
            FileKind::Regular => Ok(inode),
            FileKind::Directory => Err(FsError::IsDirectory { fd }),
            FileKind::Rdm => {
                let rdm = inode.rdm();
                let disk = rdm.map(|rdm| rdm.disk.text()).unwrap_or_default();
                Err(FileError::RawDisk { fd, disk }.into())
            }
            found => Err(FileError::WrongKind {
                fd,
                found,
                wanted: "regular file",
            }
            .into()),
        }
    }

    /// Reads files again that were just changed.
    pub(super) fn refresh(&self, files: &[FdAddr]) -> Result<(), FsError> {
        for &fd in files {
            self.store().refresh(fd)?;
        }
        Ok(())
    }
}

fn needs_commit(error: &FsError) -> bool {
    matches!(
        error,
        FsError::File(FileError::Alloc(AllocError::NeedsCommit { .. }))
    )
}

impl From<crate::journal::JournalError> for FsError {
    fn from(error: crate::journal::JournalError) -> Self {
        MetaError::from(error).into()
    }
}

impl From<AllocError> for FsError {
    fn from(error: AllocError) -> Self {
        Self::File(error.into())
    }
}
