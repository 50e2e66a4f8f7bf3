use std::collections::btree_map::Entry;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use parking_lot::{Mutex, RwLock};
use vmfs_core::scsi::{Access, DeviceOffset, Lun, LunError};

use super::{Planned, SECTOR, Sectors, Stage};
use crate::undo::Recorder;

/// A LUN as a repair will leave it: reads show what is planned, writes only plan.
#[derive(Debug)]
pub struct PlanLun {
    base: Arc<dyn Lun>,
    /// Its number in the plan, by which an undo file knows it.
    index: u32,
    sectors: RwLock<Sectors>,
    stage: Mutex<Stage>,
    changes: AtomicU64,
    /// Writes go to the LUN itself, what they overwrite to the recorder.
    direct: AtomicBool,
    recorder: Mutex<Option<Arc<Recorder>>>,
}

impl PlanLun {
    pub(super) fn new(base: Arc<dyn Lun>, index: u32) -> Self {
        Self {
            base,
            index,
            sectors: RwLock::default(),
            stage: Mutex::default(),
            changes: AtomicU64::new(0),
            direct: AtomicBool::new(false),
            recorder: Mutex::default(),
        }
    }

    /// Lets writes go to the LUN itself from now on, or not any more.
    pub(super) fn set_direct(&self, direct: bool) {
        self.direct.store(direct, Relaxed);
    }

    pub(super) fn set_recorder(&self, recorder: Option<Arc<Recorder>>) {
        *self.recorder.lock() = recorder;
    }

    /// Writes to the LUN itself. What was there is recorded durably before, unless it is already.
    pub(super) fn write_through(
        &self,
        offset: DeviceOffset,
        data: &[u8],
        recorded: bool,
    ) -> Result<(), LunError> {
        if !recorded && let Some(recorder) = self.recorder.lock().clone() {
            self.record(&recorder, offset, data)?;
            recorder.sync().map_err(undo_error)?;
        }
        self.base.write(offset, data)
    }

    /// Records what `data` will overwrite.
    pub(super) fn record(
        &self,
        recorder: &Recorder,
        offset: DeviceOffset,
        data: &[u8],
    ) -> Result<(), LunError> {
        let mut old = vec![0; data.len()];
        self.base.read(offset, &mut old)?;
        recorder
            .record(self.index, offset.0, &old, data)
            .map_err(undo_error)
    }

    /// The LUN as it is.
    pub fn base(&self) -> &Arc<dyn Lun> {
        &self.base
    }

    pub(super) fn set_stage(&self, stage: Stage) {
        *self.stage.lock() = stage;
    }

    pub(super) fn is_unchanged(&self) -> bool {
        self.sectors.read().is_empty()
    }

    pub(super) fn changes(&self) -> u64 {
        self.changes.load(Relaxed)
    }

    /// The planned sectors.
    pub(super) fn planned(&self) -> Sectors {
        self.sectors.read().clone()
    }

    /// A sector as it is on the LUN, zeros behind its end.
    pub(super) fn original(&self, number: u64) -> Result<[u8; SECTOR], LunError> {
        let mut bytes = [0; SECTOR];
        let start = number * SECTOR as u64;
        let length = self.base.capacity().saturating_sub(start);
        let length = length.min(SECTOR as u64) as usize;
        self.base.read(DeviceOffset(start), &mut bytes[..length])?;
        Ok(bytes)
    }

    fn past_end(&self, offset: DeviceOffset, length: usize) -> Result<(), LunError> {
        match offset.0.checked_add(length as u64) {
            Some(end) if end <= self.capacity() => Ok(()),
            _ => Err(LunError::PastEnd {
                lun: self.name().to_owned(),
                offset,
                length,
                capacity: self.capacity(),
            }),
        }
    }
}

/// The undo file failed.
pub(super) fn undo_error(source: std::io::Error) -> LunError {
    LunError::Io {
        lun: "the undo file".to_owned(),
        operation: "write",
        offset: DeviceOffset(0),
        length: 0,
        source,
    }
}

impl Lun for PlanLun {
    vmfs_core::forward_lun!(base: name capacity block_size identity counters);

    fn next_mapped(&self, offset: DeviceOffset) -> Result<Option<Range<u64>>, LunError> {
        let size = SECTOR as u64;
        let sectors = self.sectors.read();
        let planned = sectors.range(offset.0 / size..).next();
        let planned = planned.map(|(&number, _)| {
            let end = (number + 1) * size;
            offset.0.max(number * size)..end.min(self.capacity())
        });
        let mapped = self.base.next_mapped(offset)?;
        Ok(mapped
            .into_iter()
            .chain(planned)
            .min_by_key(|next| next.start))
    }

    fn access(&self) -> Access {
        Access::ReadWrite
    }

    fn read(&self, offset: DeviceOffset, buf: &mut [u8]) -> Result<(), LunError> {
        self.base.read(offset, buf)?;
        let sectors = self.sectors.read();
        if sectors.is_empty() || buf.is_empty() {
            return Ok(());
        }
        let end = offset.0 + buf.len() as u64;
        let size = SECTOR as u64;
        for (&number, planned) in sectors.range(offset.0 / size..end.div_ceil(size)) {
            let start = number * size;
            let (from, to) = (offset.0.max(start), end.min(start + size));
            buf[(from - offset.0) as usize..(to - offset.0) as usize]
                .copy_from_slice(&planned.bytes[(from - start) as usize..(to - start) as usize]);
        }
        Ok(())
    }

    fn write(&self, offset: DeviceOffset, data: &[u8]) -> Result<(), LunError> {
        self.past_end(offset, data.len())?;
        if self.direct.load(Relaxed) {
            return self.write_through(offset, data, false);
        }
        let stage = *self.stage.lock();
        let size = SECTOR as u64;
        let end = offset.0 + data.len() as u64;
        let mut sectors = self.sectors.write();
        for number in offset.0 / size..end.div_ceil(size) {
            let start = number * size;
            let (from, to) = (offset.0.max(start), end.min(start + size));
            let new = &data[(from - offset.0) as usize..(to - offset.0) as usize];
            let inside = (from - start) as usize..(to - start) as usize;
            match sectors.entry(number) {
                Entry::Occupied(mut entry) => {
                    let planned = entry.get_mut();
                    if planned.bytes[inside.clone()] != *new {
                        planned.bytes[inside].copy_from_slice(new);
                        self.changes.fetch_add(1, Relaxed);
                    }
                    planned.stage = planned.stage.max(stage);
                }
                Entry::Vacant(entry) => {
                    let old = self.original(number)?;
                    let mut bytes = old;
                    bytes[inside].copy_from_slice(new);
                    if bytes != old {
                        entry.insert(Planned {
                            bytes,
                            stage,
                            marked: None,
                        });
                        self.changes.fetch_add(1, Relaxed);
                    }
                }
            }
            if stage == Stage::Mark
                && let Some(planned) = sectors.get_mut(&number)
            {
                planned.marked = Some(Box::new(planned.bytes));
            }
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), LunError> {
        if self.direct.load(Relaxed) {
            return self.base.flush();
        }
        Ok(())
    }
}
