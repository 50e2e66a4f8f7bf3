//! Growing: a device became larger, and the volume gets the rest of it.
//!
//! 1. New extents stand behind those that the header counts, where nobody reads them (LVM 6 has
//!    one extent, which gets longer).
//! 2. The device header counts them. From here on the volume is larger: it ends with its last
//!    extent.
//! 3. The volume table entries of all devices say so, too.
//!
//! Each step brings the devices to what the LUN's size asks for and is skipped where they are
//! there, so running it again completes a job that was cut off.

use std::sync::Arc;

use super::device::Device;
use super::error::LvmError;
use super::extents;
use super::resignature::{entry_of, flush, reopened};
use crate::format::{PE_SIZE, PES_PER_MAP};
use crate::scsi::Lun;

/// What growing did; sizes in bytes.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Grown {
    /// The device that holds the end of the volume.
    pub device: String,
    /// Its extents of 256 MiB before.
    pub extents_before: u64,
    /// Its extents of 256 MiB now.
    pub extents: u64,
    /// The volume's size before.
    pub size_before: u64,
    /// The volume's size now.
    pub size: u64,
    /// Whether anything was written.
    pub changed: bool,
}

/// Gives the volume on `luns`, all of its devices, what its last device has become larger by, at
/// `time_us` microseconds since 1970; completes an interrupted job.
///
/// Nothing is done when the device has no room for another extent.
///
/// # Errors
/// [`LvmError::NotLast`] when another device has become larger, and what keeps the volume from
/// being assembled or the device from having more extents; after a failed write, running it
/// again completes the job.
pub fn grow(luns: Vec<Arc<dyn Lun>>, time_us: u64) -> Result<Grown, LvmError> {
    let devices = luns
        .into_iter()
        .map(Device::open)
        .collect::<Result<Vec<_>, _>>()?;
    let volume = extents::whole_volume(devices)?;
    let devices = volume.devices();
    let last = devices.last().ok_or(LvmError::NoDevice)?;
    let before = extents::in_header(last.metadata());
    let start = entry_of(last)?.first_pe.get();
    let fit = extents::fitting(last.metadata(), last.lun().capacity(), last.name())?.max(before);
    extents::refuse_too_large(start.saturating_add(fit).saturating_mul(PE_SIZE))?;
    if fit > before {
        refuse_scattered(last, before)?;
        lengthen(last, (before, fit), time_us)?;
    }
    let devices = reopened(devices)?;
    let changed = extents::agree(&devices, time_us)? || fit > before;
    if !changed {
        refuse_other_devices(&devices)?;
    }
    Ok(Grown {
        device: last.name().to_owned(),
        extents_before: before,
        extents: fit,
        size_before: (start + before) * PE_SIZE,
        size: (start + fit) * PE_SIZE,
        changed,
    })
}

fn lengthen(device: &Device, (before, fit): (u64, u64), time_us: u64) -> Result<(), LvmError> {
    let entry = entry_of(device)?;
    let (lun, mut metadata) = (device.lun(), device.metadata().clone());
    let (id, first) = (entry.volume_id.get(), entry.first_pe.get());
    extents::write(&**lun, &metadata, id, first, (before, fit))?;
    lun.flush()?;
    if extents::is_lvm6(&metadata) {
        metadata.pe_units = (fit as u32).into();
    } else {
        metadata.pes = (fit as u32).into();
        metadata.last_pe = (fit as u32 - 1).into();
        if metadata.pe_maps.get() > 0 {
            metadata.pe_maps = (fit.div_ceil(PES_PER_MAP) as u32).into();
        }
    }
    metadata.total_bytes = lun.capacity().into();
    metadata.generation = metadata.generation.get().wrapping_add(1).into();
    metadata.mod_time_us = time_us.into();
    extents::write_header(&**lun, &metadata)?;
    flush(std::slice::from_ref(device))
}

/// New extents go behind the old ones, which must be the volume's and in one piece.
fn refuse_scattered(device: &Device, count: u64) -> Result<(), LvmError> {
    let entry = entry_of(device)?;
    let start = device.metadata().data_offset.get();
    let in_one_piece = matches!(device.extents(), [only]
        if only.physical == start
            && only.logical == entry.first_pe.get() * PE_SIZE
            // LVM 6 may have the longer entry already, from a job that was cut off.
            && (only.length == count * PE_SIZE || extents::is_lvm6(device.metadata()))
            && only.volume_id == entry.volume_id.get());
    if in_one_piece && device.regions() == 0 {
        return Ok(());
    }
    Err(LvmError::Scattered {
        device: device.name().to_owned(),
    })
}

/// Behind the extents of a device in the middle, the next device's begin.
fn refuse_other_devices(devices: &[Device]) -> Result<(), LvmError> {
    let Some((last, others)) = devices.split_last() else {
        return Ok(());
    };
    for device in others {
        let metadata = device.metadata();
        let fit = extents::fitting(metadata, device.lun().capacity(), device.name())?;
        if fit > extents::in_header(metadata) {
            return Err(LvmError::NotLast {
                device: device.name().to_owned(),
                last: last.name().to_owned(),
            });
        }
    }
    Ok(())
}
