use super::LockTable;
use crate::cluster::disk;
use crate::lvm::VolumeOffset;

/// Locks that a call holds.
#[derive(Debug)]
pub struct Held<'a> {
    pub(super) table: &'a LockTable,
    pub(super) places: Vec<VolumeOffset>,
}

impl Held<'_> {
    /// Whether the lock at `place` is among them.
    pub fn has(&self, place: VolumeOffset) -> bool {
        self.places.contains(&place)
    }

    /// Keeps the locks beyond the call, until [`LockTable::leave_all`].
    pub fn keep(&self) -> Vec<VolumeOffset> {
        let mut entries = self.table.entries.lock();
        for place in &self.places {
            let entry = entries.entry(*place).or_default();
            entry.users += 1;
            entry.kept += 1;
        }
        // Nobody waits for locks that are kept for long.
        self.table.changed.notify_all();
        self.places.clone()
    }

    /// Each lock's place and the number that it has since it was taken.
    pub fn tokens(&self) -> Vec<(u64, u64)> {
        let entries = self.table.entries.lock();
        self.places
            .iter()
            .map(|place| {
                let block = entries.get(place).and_then(|e| e.on_disk.as_deref());
                (place.0, block.map_or(0, disk::token))
            })
            .collect()
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        for &place in self.places.iter().rev() {
            self.table.leave(place);
        }
    }
}
