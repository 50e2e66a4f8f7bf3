use crate::format::FdAddr;
use crate::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Locks that files share by address.
const STRIPES: usize = 1024;

/// Who may look at a file, and who may change it, inside this host.
///
/// Whoever needs several files takes all their locks at once, in one order, so that nobody waits
/// for another in a circle.
#[derive(Debug)]
pub(super) struct Locks {
    stripes: Vec<RwLock<()>>,
}

impl Default for Locks {
    fn default() -> Self {
        Self {
            stripes: (0..STRIPES).map(|_| RwLock::new(())).collect(),
        }
    }
}

impl Locks {
    fn stripe(file: FdAddr) -> usize {
        // Neighbouring descriptors differ in cluster and resource; mix both into the low bits.
        let mixed = file.raw().wrapping_mul(0x9e37_79b1);
        (mixed >> 16) as usize % STRIPES
    }

    /// For reading a file.
    pub(super) fn read(&self, file: FdAddr) -> RwLockReadGuard<'_, ()> {
        // Recursive, for a listing looks at the files that it lists.
        self.stripes[Self::stripe(file)].read_recursive()
    }

    /// For changing `file` while `other` is locked for changing by the caller; `None` if another
    /// thread has it, for which the caller must not wait.
    pub(super) fn try_write_also(
        &self,
        other: FdAddr,
        file: FdAddr,
    ) -> Option<Vec<RwLockWriteGuard<'_, ()>>> {
        let stripe = Self::stripe(file);
        if stripe == Self::stripe(other) {
            return Some(Vec::new());
        }
        self.stripes[stripe].try_write().map(|guard| vec![guard])
    }

    /// For changing all of `files`.
    pub(super) fn write(&self, files: &[FdAddr]) -> Vec<RwLockWriteGuard<'_, ()>> {
        let mut stripes: Vec<usize> = files.iter().map(|&file| Self::stripe(file)).collect();
        stripes.sort_unstable();
        stripes.dedup();
        stripes
            .into_iter()
            .map(|stripe| self.stripes[stripe].write())
            .collect()
    }
}
