use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

use dashmap::{DashMap, DashSet};

use super::error::FsError;
use super::file_system::FileSystem;
use super::locks::Locks;
use super::sharing::Sharing;
use super::unsynced::Unsynced;
use crate::cluster::{HostConfig, Membership, Renewal};
use crate::file::edit::DirHint;
use crate::file::{FileError, Inode};
use crate::format::{FdAddr, FileKind, ResourceKind};
use crate::lvm::LvmError;
use crate::resource::{Actor, AllocError, Allocator, MetaError, ResourcePlace};
use crate::scsi::LunError;
use crate::sync::{Mutex, RwLockReadGuard};

/// Directories whose hints are kept.
const KEPT_HINTS: usize = 256;

/// What helps to find one's way in directories.
pub(super) type Hints = DashMap<FdAddr, Arc<Mutex<DirHint>>>;

/// What a file system that is open for writing has besides one that is read.
#[derive(Debug)]
pub(super) struct Engine {
    pub(super) host: HostConfig,
    pub(super) membership: Arc<Membership>,
    pub(super) sharing: Sharing,
    pub(super) allocator: Arc<Allocator>,
    pub(super) locks: Locks,
    /// How often each file is in use by someone, so that it must outlive its names.
    pub(super) holds: DashMap<FdAddr, u64>,
    /// Files that were written to and not made durable since.
    pub(super) unsynced: Unsynced,
    /// Files without names that are still in use.
    pub(super) nameless: DashSet<FdAddr>,
    hints: Arc<Hints>,
    /// Held while a directory moves to another one, so that none moves below itself.
    pub(super) moving: Mutex<()>,
    /// Where this host has its journal, once it has.
    pub(super) journal_block: Option<(ResourceKind, ResourcePlace)>,
    /// Uptime at the last commit that nobody asked for, in milliseconds.
    pub(super) tidied: AtomicU64,
    pub(super) closed: AtomicBool,
}

impl Engine {
    pub(super) fn new(
        host: HostConfig,
        membership: Arc<Membership>,
        sharing: Sharing,
        allocator: Arc<Allocator>,
    ) -> Self {
        Self {
            host,
            membership,
            sharing,
            allocator,
            locks: Locks::default(),
            holds: DashMap::new(),
            unsynced: Unsynced::default(),
            nameless: DashSet::new(),
            hints: Arc::default(),
            moving: Mutex::new(()),
            journal_block: None,
            tidied: AtomicU64::new(0),
            closed: AtomicBool::new(false),
        }
    }

    /// Seconds since 1970, as far as the format's 32 bits go.
    pub(super) fn now(&self) -> u32 {
        u32::try_from(self.host.clock.now().as_secs()).unwrap_or(u32::MAX)
    }

    /// Whether the host has its lease yet, so that nobody else changes what it has locked or, if it is alone,
    /// anything. What was read is worth nothing if that can't be said afterwards.
    pub(super) fn has_lease(&self) -> Result<(), FsError> {
        let checked = self.membership.check("the volume");
        checked.map_err(|error| match error {
            LunError::Fenced { .. } => FsError::Fenced,
            error => LvmError::from(error).into(),
        })
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

    /// Forgets the hints of all directories.
    pub(super) fn forget_all_hints(&self) {
        self.hints.clear();
    }

    /// All hints.
    pub(super) fn hints(&self) -> &Arc<Hints> {
        &self.hints
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
        if engine.membership.age() > engine.host.lease * 3 / 4 {
            // Another host may take this one for dead soon.
            Self::renew(engine)?;
        }
        Ok(engine)
    }

    /// [`Engine::has_lease`], where others may change the volume.
    pub(super) fn has_lease(&self) -> Result<(), FsError> {
        self.engine.as_ref().map_or(Ok(()), Engine::has_lease)
    }

    /// [`FileSystem::engine`] for a call: whether the volume is shared doesn't change during it.
    pub(super) fn enter(&self) -> Result<(&Engine, RwLockReadGuard<'_, ()>), FsError> {
        let engine = self.engine()?;
        Ok((engine, engine.sharing.enter()))
    }

    /// Whether calls that change the volume can work.
    pub fn is_writable(&self) -> bool {
        self.engine().is_ok()
    }

    pub(super) fn renew(engine: &Engine) -> Result<(), FsError> {
        match engine.membership.renew()? {
            Renewal::Renewed => Ok(()),
            Renewal::Lost => Err(FsError::Fenced),
        }
    }

    /// The current state of a file that the caller has locked.
    pub(super) fn locked(&self, fd: FdAddr) -> Result<Arc<Inode>, FsError> {
        let inode = self.store().inode(fd);
        self.has_lease()?;
        Ok(inode?)
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

pub(super) fn needs_commit(error: &FsError) -> bool {
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
