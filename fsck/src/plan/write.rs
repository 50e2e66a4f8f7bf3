use std::collections::BTreeMap;
use std::sync::Arc;

use vmfs_core::lvm::{LvmError, Volume};
use vmfs_core::scsi::{DeviceOffset, Lun, LunError};

use super::lun::undo_error;
use super::{Plan, PlanLun, SECTOR, Stage};
use crate::undo::Recorder;

/// Longest single write.
const MAX_RUN: usize = 1 << 20;
/// Bytes of data copied at a time.
const COPIED_AT_ONCE: u64 = 4 << 20;

/// A repair that could not be written to its end. What was written is in the order of the stages,
/// so another run goes on from there.
#[derive(Debug, thiserror::Error)]
#[error("the repair was cut off: {0}; run fsck.vmfs again")]
pub struct WriteError(#[from] LvmError);

impl From<LunError> for WriteError {
    fn from(error: LunError) -> Self {
        Self(error.into())
    }
}

/// Writes what `plan` has for the LUNs below `volume`, stage by stage, each durable before the
/// next. With a `recorder` all that is overwritten is recorded durably first.
///
/// # Errors
/// [`WriteError`] for the first write that fails.
pub fn apply(
    plan: &Plan,
    volume: Option<&Volume>,
    recorder: Option<&Arc<Recorder>>,
) -> Result<(), WriteError> {
    if let Some(volume) = volume {
        copy_data(plan, volume)?;
    }
    for stage in Stage::ALL {
        let mut runs = Vec::new();
        for lun in plan.luns() {
            let sectors = due(&lun, stage);
            runs.extend(joined(sectors).map(|(offset, bytes)| (Arc::clone(&lun), offset, bytes)));
        }
        if let Some(recorder) = recorder {
            for (lun, offset, bytes) in &runs {
                lun.record(recorder, *offset, bytes)?;
            }
            recorder.sync().map_err(undo_error)?;
        }
        for (lun, offset, bytes) in &runs {
            lun.write_through(*offset, bytes, true)?;
        }
        if !runs.is_empty() {
            plan.luns().iter().try_for_each(|lun| lun.base().flush())?;
        }
    }
    Ok(())
}

/// The sectors that `lun` gets in `stage`.
fn due(lun: &PlanLun, stage: Stage) -> BTreeMap<u64, [u8; SECTOR]> {
    let planned = lun.planned();
    let due = planned.into_iter().filter_map(|(number, planned)| {
        let bytes = match (stage, planned.marked) {
            (Stage::Mark, Some(marked)) => *marked,
            _ if planned.stage == stage => planned.bytes,
            _ => return None,
        };
        Some((number, bytes))
    });
    due.collect()
}

/// Neighbouring sectors as single writes.
fn joined(sectors: BTreeMap<u64, [u8; SECTOR]>) -> impl Iterator<Item = (DeviceOffset, Vec<u8>)> {
    let mut runs: Vec<(u64, Vec<u8>)> = Vec::new();
    for (number, bytes) in sectors {
        match runs.last_mut() {
            Some((first, run))
                if *first + (run.len() / SECTOR) as u64 == number && run.len() < MAX_RUN =>
            {
                run.extend_from_slice(&bytes);
            }
            _ => runs.push((number, bytes.to_vec())),
        }
    }
    let size = SECTOR as u64;
    runs.into_iter()
        .map(move |(number, bytes)| (DeviceOffset(number * size), bytes))
}

/// Copies data to where nothing is yet.
fn copy_data(plan: &Plan, volume: &Volume) -> Result<(), WriteError> {
    let copies = plan.copies();
    if copies.is_empty() {
        return Ok(());
    }
    plan.directly(|| {
        for copy in &copies {
            let mut done = 0;
            while done < copy.length {
                let part = (copy.length - done).min(COPIED_AT_ONCE);
                let mut bytes = vec![0; part as usize];
                volume.read(copy.from + done, &mut bytes)?;
                volume.write(copy.to + done, &bytes)?;
                done += part;
            }
        }
        volume.flush()
    })?;
    Ok(())
}
