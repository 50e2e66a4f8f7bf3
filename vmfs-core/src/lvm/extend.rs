//! Extending: a volume gets another device.
//!
//! 1. On the new device, everything but the header: extents that continue the volume, and the
//!    volume table entry as it will be on all devices.
//! 2. Its header, which makes it one of the volume.
//! 3. Its name, on the volume's first device.
//! 4. The volume table entries of the other devices.
//!
//! Until 2 the new device is nothing; from then on the volume opens with it and, until 4 begins,
//! without it. Running it again after 2 finds the new device in the volume and goes on from
//! there. Several devices are added one after the other.

use std::sync::Arc;

use zerocopy::{FromZeros, IntoBytes};

use super::device::Device;
use super::error::LvmError;
use super::extents;
use super::resignature::{entry_of, flush, reopened};
use super::volume::Volume;
use crate::format::{
    DEVICE_HEADER_OFFSET, DevMetadata, PE_SIZE, PES_PER_MAP, ScsiDiskId, Uuid, VolTableEntry,
};
use crate::scsi::{DeviceOffset, Lun};

/// Where the data of a new device starts, as on ESXi's.
const DATA_OFFSET: u64 = 0x110_0000;
/// Devices of a volume, at most.
const MAX_DEVICES: usize = 32;
/// Bytes of a name in the table of device names.
const NAME_SIZE: usize = 256;
/// Bytes erased at a time.
const CHUNK: u64 = 1 << 20;
/// What a backup partition table may take of a device's end.
const TAIL: u64 = 33 * 4096;

/// A device to add.
#[derive(Debug, Clone)]
pub struct NewDevice {
    /// The device.
    pub lun: Arc<dyn Lun>,
    /// The UUID that it gets.
    pub uuid: Uuid,
    /// Take it even if it belongs to another volume, which is destroyed.
    pub overwrite: bool,
}

/// What extending did; sizes in bytes.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Extended {
    /// Devices that were added.
    pub added: Vec<String>,
    /// Devices that were of the volume already, from an earlier job.
    pub present: Vec<String>,
    /// Whether an earlier job was completed.
    pub completed: bool,
    /// Devices of the volume now.
    pub devices: usize,
    /// The volume's size before.
    pub size_before: u64,
    /// The volume's size now.
    pub size: u64,
}

/// Adds the devices `new`, in this order, to the end of the volume on `luns`, all of its devices,
/// at `time_us` microseconds since 1970; completes an interrupted job.
///
/// What a new device holds is lost; the caller has made sure that nobody wants it.
///
/// # Errors
/// [`LvmError::Taken`] when a new device belongs to another volume, and what keeps the volume
/// from being assembled; after a failed write, running it again completes the job.
pub fn extend(
    luns: Vec<Arc<dyn Lun>>,
    new: Vec<NewDevice>,
    time_us: u64,
) -> Result<Extended, LvmError> {
    let mut devices = luns
        .into_iter()
        .map(Device::open)
        .collect::<Result<Vec<_>, _>>()?;
    let own = Volume::assemble(devices.clone())?;
    let size_before = own.size();
    let mut fresh = Vec::new();
    let mut present = Vec::new();
    for new in new {
        match member(&new, &own)? {
            Some(device) => {
                present.push(device.name().to_owned());
                devices.push(device);
            }
            None => fresh.push(new),
        }
    }
    let volume = extents::whole_volume(devices)?;
    refuse_too_much(&volume, &fresh)?;
    let mut devices = volume.devices().to_vec();
    let named = name_devices(&devices)?;
    let completed = extents::agree(&devices, time_us)? || named;
    let mut added = Vec::new();
    for new in &fresh {
        devices = reopened(&devices)?;
        refuse_added_before(&devices, new)?;
        prepare(&devices, new, time_us)?;
        devices.push(Device::open(Arc::clone(&new.lun))?);
        name_devices(&devices)?;
        extents::agree(&devices, time_us)?;
        added.push(new.lun.name().to_owned());
    }
    let extents: u64 = devices.iter().map(extents::count).sum();
    Ok(Extended {
        added,
        present,
        completed,
        devices: devices.len(),
        size_before,
        size: extents * PE_SIZE,
    })
}

/// The new device if it is the volume's already.
fn member(new: &NewDevice, volume: &Volume) -> Result<Option<Device>, LvmError> {
    if !Device::is_lvm(&*new.lun) {
        return Ok(None);
    }
    let taken = |volume: String| LvmError::Taken {
        device: new.lun.name().to_owned(),
        volume,
    };
    let device = match Device::open(Arc::clone(&new.lun)) {
        Ok(device) => device,
        Err(_) if new.overwrite => return Ok(None),
        Err(error) => return Err(taken(format!("a volume that can't be read ({error})"))),
    };
    let own = volume.entry().map(|entry| (entry.uuid, entry.snap_id));
    match device.volumes().first() {
        Some(entry) if Some((entry.uuid, entry.snap_id)) == own => Ok(Some(device)),
        _ if new.overwrite => Ok(None),
        Some(entry) => Err(taken(format!("volume {}", entry.uuid))),
        None => Err(taken("an LVM device without a volume".to_owned())),
    }
}

/// A device that was given twice has become one of the volume by now.
fn refuse_added_before(devices: &[Device], new: &NewDevice) -> Result<(), LvmError> {
    let Ok(there) = Device::open(Arc::clone(&new.lun)) else {
        return Ok(());
    };
    let uuid = there.metadata().uuid;
    let same = devices.iter().find(|device| device.metadata().uuid == uuid);
    same.map_or(Ok(()), |first| {
        Err(LvmError::Duplicate {
            first: first.name().to_owned(),
            second: new.lun.name().to_owned(),
            uuid: uuid.to_string(),
        })
    })
}

/// Checks everything that could keep a new device out before anything is written.
fn refuse_too_much(volume: &Volume, fresh: &[NewDevice]) -> Result<(), LvmError> {
    let count = volume.devices().len() + fresh.len();
    if count > MAX_DEVICES {
        return Err(LvmError::TooManyDevices {
            count,
            most: MAX_DEVICES,
        });
    }
    let model = volume.devices().first().ok_or(LvmError::NoDevice)?;
    let mut size = volume.size();
    for new in fresh {
        size += fitting(model, &*new.lun)? * PE_SIZE;
    }
    extents::refuse_too_large(size)
}

/// Extents for a device that is described as `model` is.
fn fitting(model: &Device, lun: &dyn Lun) -> Result<u64, LvmError> {
    let mut metadata = model.metadata().clone();
    metadata.data_offset = DATA_OFFSET.into();
    match extents::fitting(&metadata, lun.capacity(), lun.name())? {
        0 => Err(LvmError::TooSmall {
            device: lun.name().to_owned(),
            size: lun.capacity(),
            needed: DATA_OFFSET + PE_SIZE,
        }),
        fit => Ok(fit),
    }
}

/// Makes `new` the device behind `devices`, the header last.
fn prepare(devices: &[Device], new: &NewDevice, time_us: u64) -> Result<(), LvmError> {
    let model = devices.first().ok_or(LvmError::NoDevice)?;
    let fit = fitting(model, &*new.lun)?;
    let first: u64 = devices.iter().map(extents::count).sum();
    let metadata = header(model, new, fit, time_us);
    erase(&*new.lun)?;
    let volume_id = entry_of(model)?.volume_id.get();
    extents::write(&*new.lun, &metadata, volume_id, first, (0, fit))?;
    let mut entry: VolTableEntry = entry_of(model)?;
    entry.logical_size = ((first + fit) * PE_SIZE).into();
    entry.generation = extents::next_generation(devices, devices.len() + 1, first + fit)?.into();
    entry.pes = (fit as u32).into();
    entry.first_pe = first.into();
    entry.last_pe = (first + fit - 1).into();
    entry.mod_time_us = time_us.into();
    entry.devices = (devices.len() as u32 + 1).into();
    let table = DEVICE_HEADER_OFFSET + metadata.volume_table();
    new.lun.write(DeviceOffset(table), entry.as_bytes())?;
    new.lun.flush()?;
    extents::write_header(&*new.lun, &metadata)?;
    Ok(new.lun.flush()?)
}

/// The header of a new device, with what `model` has in common with it.
fn header(model: &Device, new: &NewDevice, fit: u64, time_us: u64) -> DevMetadata {
    let model = model.metadata();
    let mut header = DevMetadata::new_zeroed();
    header.magic = model.magic;
    header.major_version = model.major_version;
    header.minor_version = model.minor_version;
    if let Some(identity) = new.lun.identity() {
        header.disk_id = ScsiDiskId::from_text(identity.as_str());
    }
    header.disk_block_size = model.disk_block_size;
    header.total_bytes = new.lun.capacity().into();
    header.volumes = 1.into();
    header.generation = 3.into();
    header.data_offset = DATA_OFFSET.into();
    header.uuid = new.uuid;
    header.init_time_us = time_us.into();
    header.mod_time_us = time_us.into();
    header.md_alignment = model.md_alignment;
    header.flags = model.flags;
    if extents::is_lvm6(model) {
        header.pes = 1.into();
        header.pe_units = (fit as u32).into();
    } else {
        header.pes = (fit as u32).into();
        header.last_pe = (fit as u32 - 1).into();
        if model.pe_maps.get() > 0 {
            header.pe_maps = (fit.div_ceil(PES_PER_MAP) as u32).into();
        }
    }
    header
}

/// Zeros what could be taken for something else: all before the data, the start of the data, and
/// the place of a backup partition table.
fn erase(lun: &dyn Lun) -> Result<(), LvmError> {
    // What there is of LVM goes first, so that no half of it is ever left.
    lun.write(DeviceOffset(DEVICE_HEADER_OFFSET), &[0; 512])?;
    lun.flush()?;
    let zeros = vec![0; CHUNK as usize];
    for offset in (0..DATA_OFFSET).step_by(CHUNK as usize) {
        lun.write(DeviceOffset(offset), &zeros)?;
    }
    let tail = lun.capacity().saturating_sub(TAIL);
    let length = (lun.capacity() - tail) as usize;
    Ok(lun.write(DeviceOffset(tail), &zeros[..length.min(zeros.len())])?)
}

/// Writes the names that the volume's first device doesn't have yet; whether there were any.
fn name_devices(devices: &[Device]) -> Result<bool, LvmError> {
    let Some(first) = devices.first() else {
        return Ok(false);
    };
    let known = first.device_names().len();
    let Some(table) = first.metadata().device_names().filter(|_| known > 0) else {
        return Ok(false);
    };
    for (index, device) in devices.iter().enumerate().skip(known) {
        let name = format!("openvmfs.{}:1", device.metadata().uuid);
        let mut field = [0; NAME_SIZE];
        let used = name.len().min(NAME_SIZE - 1);
        field[..used].copy_from_slice(&name.as_bytes()[..used]);
        let at = DEVICE_HEADER_OFFSET + table + (index * NAME_SIZE) as u64;
        first.lun().write(DeviceOffset(at), &field)?;
    }
    let written = known < devices.len();
    if written {
        flush(devices)?;
    }
    Ok(written)
}
