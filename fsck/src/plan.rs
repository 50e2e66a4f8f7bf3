//! What a repair will write, kept in memory until all of it is known.

mod lun;
mod write;

pub use lun::PlanLun;
pub use write::{WriteError, apply};

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use vmfs_core::lvm::{Volume, VolumeOffset};
use vmfs_core::scsi::Lun;

use crate::undo::Recorder;

/// When a write is made. After each stage the LUNs are flushed, so a cut leaves all of the earlier
/// ones and any part of the next: a volume that a second run can repair, with nothing lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Stage {
    /// New structures, where nothing refers to them: they mean nothing yet.
    #[default]
    New,
    /// Bitmaps, with what is used before and what is used after marked as used.
    Mark,
    /// What refers to the new structures, and all that has nothing to do with others.
    Refer,
    /// What is taken out: references, entries, descriptors.
    Remove,
    /// Bitmaps as they will be.
    Release,
}

impl Stage {
    /// All of them, in order.
    pub const ALL: [Self; 5] = [
        Self::New,
        Self::Mark,
        Self::Refer,
        Self::Remove,
        Self::Release,
    ];
}

/// Data that is copied before everything else, from one place on the volume to a free one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Copy {
    /// Where it is.
    pub from: VolumeOffset,
    /// Where it goes.
    pub to: VolumeOffset,
    /// Bytes.
    pub length: u64,
}

/// Bytes of a sector, the unit in which changes are kept.
pub(crate) const SECTOR: usize = 512;

/// One sector, as it will be.
#[derive(Debug, Clone)]
pub(crate) struct Planned {
    pub(crate) bytes: [u8; SECTOR],
    pub(crate) stage: Stage,
    /// What is written in the stage [`Stage::Mark`], for a sector of a bitmap.
    pub(crate) marked: Option<Box<[u8; SECTOR]>>,
}

/// Changed sectors of one LUN by their number.
pub(crate) type Sectors = BTreeMap<u64, Planned>;

/// The repair so far: sectors that will be written, on which LUN and when.
///
/// LUNs wrapped by [`Plan::wrap`] read as if it were done; writing to them adds to it.
#[derive(Debug, Default)]
pub struct Plan {
    luns: Mutex<Vec<Arc<PlanLun>>>,
    stage: Mutex<Stage>,
    copies: Mutex<Vec<Copy>>,
}

impl Plan {
    /// `lun` as the plan will leave it.
    pub fn wrap(self: &Arc<Self>, lun: Arc<dyn Lun>) -> Arc<PlanLun> {
        let mut luns = self.luns.lock();
        let wrapped = Arc::new(PlanLun::new(lun, luns.len() as u32));
        luns.push(Arc::clone(&wrapped));
        wrapped
    }

    /// `volume` as the plan will leave it.
    pub fn over(self: &Arc<Self>, volume: &Volume) -> Volume {
        volume.with_luns(|lun| self.wrap(Arc::clone(lun)))
    }

    /// The stage of what is written from now on.
    pub fn set_stage(&self, stage: Stage) {
        *self.stage.lock() = stage;
        for lun in self.luns.lock().iter() {
            lun.set_stage(stage);
        }
    }

    /// Lets everything that is written from now on be recorded first.
    pub fn record_to(&self, recorder: &Arc<Recorder>) {
        for lun in self.luns.lock().iter() {
            lun.set_recorder(Some(Arc::clone(recorder)));
        }
    }

    /// Calls `work` with writes going to the LUNs themselves.
    pub fn directly<T>(&self, work: impl FnOnce() -> T) -> T {
        let luns = self.luns();
        for lun in &luns {
            lun.set_direct(true);
        }
        let result = work();
        for lun in &luns {
            lun.set_direct(false);
        }
        result
    }

    /// Plans a copy of data.
    pub fn copy(&self, copy: Copy) {
        self.copies.lock().push(copy);
    }

    /// The copies of data.
    pub fn copies(&self) -> Vec<Copy> {
        self.copies.lock().clone()
    }

    /// The LUNs, in the order in which they were wrapped.
    pub fn luns(&self) -> Vec<Arc<PlanLun>> {
        self.luns.lock().clone()
    }

    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.copies.lock().is_empty() && self.luns.lock().iter().all(|lun| lun.is_unchanged())
    }

    /// How often something was written: the same twice when nothing was in between.
    pub fn changes(&self) -> u64 {
        let copies = self.copies.lock().len() as u64;
        let luns = self.luns.lock();
        copies + luns.iter().map(|lun| lun.changes()).sum::<u64>()
    }
}
