use super::allocator::Allocator;
use super::error::MetaError;
use super::system::Resources;
use crate::format::ResourceKind;
use crate::journal::MetaReader;
use crate::lvm::VolumeOffset;

/// The disk locks that a transaction has.
#[derive(Debug, Clone, Default)]
pub struct Hold {
    /// Place and number of each; `None` if this host has the volume for itself and needs none.
    locks: Option<Vec<(u64, u64)>>,
}

impl Hold {
    /// No lock is needed.
    pub fn alone() -> Self {
        Self::default()
    }

    /// Only what these locks protect may be changed: the place and number of each.
    pub fn of(locks: Vec<(u64, u64)>) -> Self {
        Self { locks: Some(locks) }
    }

    /// One more set of locks.
    pub(super) fn add(&mut self, more: &[(u64, u64)]) {
        if let Some(locks) = &mut self.locks {
            locks.extend_from_slice(more);
        }
    }

    /// The locks.
    pub fn locks(&self) -> &[(u64, u64)] {
        self.locks.as_deref().unwrap_or_default()
    }

    /// Whether locks are needed at all.
    pub(super) fn is_shared(&self) -> bool {
        self.locks.is_some()
    }

    /// Whether what the lock at `place` protects may be changed.
    pub(super) fn has(&self, place: VolumeOffset) -> bool {
        let Some(locks) = &self.locks else {
            return true;
        };
        locks.iter().any(|&(at, _)| at == place.0)
    }

    /// Fails if what the lock at `place` protects may not be changed.
    pub(super) fn check(&self, place: VolumeOffset) -> Result<(), MetaError> {
        if self.has(place) {
            return Ok(());
        }
        let places = vec![place];
        Err(MetaError::NeedsLocks { places })
    }

    /// [`Hold::check`] for a resource cluster.
    pub(super) fn check_cluster(
        &self,
        allocator: &Allocator,
        reader: &MetaReader,
        resources: &Resources,
        (kind, number): (ResourceKind, u64),
    ) -> Result<(), MetaError> {
        if !self.is_shared() {
            return Ok(());
        }
        let Some(file) = resources.file(kind) else {
            return Ok(());
        };
        let place = file.cluster_place(reader, number)?;
        allocator.note_place(place, (kind, number));
        self.check(place)
    }
}
