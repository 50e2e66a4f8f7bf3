//! What an administrator sees of the hosts on a volume: their journals, and all disk locks.

use super::error::FsError;
use super::file_system::FileSystem;
use crate::cluster::{Host, LockView};
use crate::format::{FdAddr, LockKind, ResourceKind};
use crate::journal::{JournalHeader, is_unused, pending};
use crate::lvm::VolumeOffset;
use crate::resource::ResourceFile;

/// What is in a host's journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum JournalState {
    /// It has none.
    None,
    /// It is one of ours, and all that is in it is in place.
    Empty,
    /// It is one of ours, with changes that a takeover replays.
    Pending {
        /// How many transactions.
        transactions: usize,
    },
    /// Another host of ours has its journal there by now.
    Reused,
    /// It is one of ESXi's, and surely has nothing in it.
    EsxiEmpty,
    /// It is one of ESXi's, which may have changes that only ESXi can replay.
    Esxi,
}

/// What a disk lock protects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protected {
    /// A file.
    File(FdAddr),
    /// A resource cluster: of such resources, the one with this number.
    Cluster(ResourceKind, u64),
}

impl FileSystem {
    /// What is in a host's journal, as it stands now.
    pub fn journal_of(&self, host: &Host) -> Result<JournalState, FsError> {
        let volume = self.volume();
        if host.journal_addr == 0 {
            return Ok(JournalState::None);
        }
        let Some(header) = JournalHeader::read(volume, host.journal)? else {
            let unused = is_unused(volume, self.layout(), host.journal)?;
            return Ok(if unused {
                JournalState::EsxiEmpty
            } else {
                JournalState::Esxi
            });
        };
        if !header.is_of(host.host, host.generation) {
            return Ok(JournalState::Reused);
        }
        Ok(match pending(volume, host.journal, &header)? {
            0 => JournalState::Empty,
            transactions => JournalState::Pending { transactions },
        })
    }

    /// The lock of a file, as it stands now.
    pub fn lock_of(&self, file: FdAddr) -> Result<LockView, FsError> {
        self.lock_at(self.store().place_of(file)?)
    }

    fn lock_at(&self, place: VolumeOffset) -> Result<LockView, FsError> {
        LockView::read(self.volume(), self.layout(), place).map_err(FsError::from)
    }

    /// Calls `visit` with all locks of the volume that aren't free, those of files first. What
    /// can't be read is left out.
    ///
    /// Reads the lock of every file and every resource cluster.
    pub fn for_each_lock(&self, mut visit: impl FnMut(Protected, LockView)) {
        let mut look = |protected, place| match self.lock_at(place) {
            Ok(lock) if lock.mode != crate::format::LockMode::Free => visit(protected, lock),
            Ok(_) => {}
            Err(error) => tracing::debug!(?protected, %error, "its lock can't be read"),
        };
        let resources = self.store().resources();
        let descriptors = &resources.file_descriptors;
        for cluster in 0..descriptors.header().clusters() {
            for resource in self.used_in(descriptors, cluster) {
                let fd = FdAddr::new(cluster as u32, resource);
                if let Ok(place) = self.store().place_of(fd) {
                    look(Protected::File(fd), place);
                }
            }
        }
        for file in resources.iter() {
            for cluster in 0..file.header().clusters() {
                if let Some(place) = self.cluster_lock(file, cluster) {
                    look(Protected::Cluster(file.kind(), cluster), place);
                }
            }
        }
    }

    /// The resources of a cluster that are in use; none if it can't be read.
    fn used_in(&self, file: &ResourceFile, cluster: u64) -> Vec<u32> {
        let Ok((header, _)) = file.cluster(self.store().reader(), cluster) else {
            return Vec::new();
        };
        (0..header.total)
            .filter(|&resource| !header.is_free(resource))
            .collect()
    }

    /// Where a cluster's lock lies, if it has one: those of small file blocks that lie in a large
    /// one have not.
    fn cluster_lock(&self, file: &ResourceFile, cluster: u64) -> Option<VolumeOffset> {
        let place = file.cluster_place(self.store().reader(), cluster).ok()?;
        let mut kind = [0; 4];
        self.volume().read(place, &mut kind).ok()?;
        (u32::from_le_bytes(kind) == LockKind::of_cluster(file.kind()) as u32).then_some(place)
    }
}
