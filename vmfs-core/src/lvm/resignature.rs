//! Resignaturing: a copy of a volume becomes a volume of its own.
//!
//! The states that the volume table has for it make the job restartable. While any device is
//! marked pending, the new UUID stands on at least that one, and running the job again carries on
//! with it:
//!
//! 1. every device's volume table entry gets the new UUID and is marked pending, and its header
//!    the LUN's own identity;
//! 2. the file system descriptor gets the new UUIDs and the new label;
//! 3. every device is marked normal again.
//!
//! Each step is one sector, and sectors are written whole or not at all.

use std::sync::Arc;

use zerocopy::IntoBytes;

use super::device::Device;
use super::error::LvmError;
use super::snapshot::Origin;
use super::volume::{Volume, VolumeOffset};
use crate::format::{
    DEVICE_HEADER_OFFSET, FS_DESCRIPTOR_OFFSET, FsDescriptor, ScsiDiskId, Uuid, VolTableEntry,
    VolumeState, text,
};
use crate::scsi::{DeviceOffset, Lun};

/// Bytes that are written at once.
const SECTOR: usize = 512;

/// What a resignatured volume gets; made by the caller, who has the clock and the randomness.
#[derive(Debug, Clone, Copy)]
pub struct NewSignature {
    /// The logical volume's UUID.
    pub volume: Uuid,
    /// The file system's UUID.
    pub file_system: Uuid,
    /// Now, in microseconds since 1970.
    pub time_us: u64,
}

/// What a resignature did.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Resignatured {
    /// The volume's new UUID: an earlier one if an interrupted job was completed.
    pub volume: String,
    /// The file system's new label; `None` when there is no file system on the volume.
    pub label: Option<String>,
    /// Whether an earlier job was completed instead of a new one begun.
    pub completed: bool,
}

/// Gives the volume on `luns`, all of one copy, a new signature, or completes an interrupted job.
///
/// # Errors
/// [`LvmError::NotSnapshot`] when the volume is no copy, and whatever keeps it from being
/// assembled; after a failed write, running it again completes the job.
pub fn resignature(luns: Vec<Arc<dyn Lun>>, new: NewSignature) -> Result<Resignatured, LvmError> {
    let devices = luns
        .into_iter()
        .map(Device::open)
        .collect::<Result<Vec<_>, _>>()?;
    let entries = devices
        .iter()
        .map(entry_of)
        .collect::<Result<Vec<_>, _>>()?;
    let pending = entries
        .iter()
        .find(|entry| entry.state() == VolumeState::ResignaturePending);
    let completed = pending.is_some();
    if !completed {
        refuse_original(&devices)?;
    }
    refuse_incomplete(&entries)?;
    let volume_uuid = pending.map_or(new.volume, |entry| entry.uuid);

    for (device, entry) in devices.iter().zip(&entries) {
        if entry.uuid != volume_uuid {
            write_entry(device, &renamed(entry, volume_uuid, new.time_us))?;
        }
        adopt(device, new.time_us)?;
    }
    flush(&devices)?;

    // The devices agree again, so the volume can be assembled and the file system reached.
    let devices = reopened(&devices)?;
    let label = sign_file_system(&Volume::assemble(devices.clone())?, volume_uuid, &new)?;
    flush(&devices)?;

    for device in &devices {
        let mut entry = entry_of(device)?;
        if entry.state() == VolumeState::ResignaturePending {
            entry.state = 1.into();
            write_entry(device, &entry)?;
        }
    }
    flush(&devices)?;
    Ok(Resignatured {
        volume: volume_uuid.to_string(),
        label,
        completed,
    })
}

pub(super) fn entry_of(device: &Device) -> Result<VolTableEntry, LvmError> {
    let first = device.volumes().first().cloned();
    first.ok_or_else(|| LvmError::NoVolume {
        device: device.name().to_owned(),
    })
}

pub(super) fn reopened(devices: &[Device]) -> Result<Vec<Device>, LvmError> {
    devices
        .iter()
        .map(|device| Device::open(Arc::clone(device.lun())))
        .collect()
}

pub(super) fn flush(devices: &[Device]) -> Result<(), LvmError> {
    devices
        .iter()
        .try_for_each(|device| Ok(device.lun().flush()?))
}

/// A volume on its own LUNs needs no new signature; hosts that use it would lose it.
fn refuse_original(devices: &[Device]) -> Result<(), LvmError> {
    match devices
        .iter()
        .find(|device| device.origin() != Origin::Snapshot)
    {
        Some(device) => Err(LvmError::NotSnapshot {
            device: device.name().to_owned(),
        }),
        None => Ok(()),
    }
}

/// With a device left out, its old signature would make it foreign for good.
fn refuse_incomplete(entries: &[VolTableEntry]) -> Result<(), LvmError> {
    let given = entries.len();
    match entries.first().map(|entry| entry.devices.get() as usize) {
        // LVM 3 and 4 don't count.
        Some(0) => Ok(()),
        Some(expected) if expected == given => Ok(()),
        Some(expected) => Err(LvmError::Incomplete { given, expected }),
        None => Err(LvmError::NoDevice),
    }
}

/// The entry under the new UUID, marked pending.
fn renamed(entry: &VolTableEntry, uuid: Uuid, time_us: u64) -> VolTableEntry {
    let mut renamed = entry.clone();
    // ESXi names a volume by its UUID; a name of another kind is kept.
    if text(&entry.name) == entry.uuid.to_string().as_bytes() {
        renamed.name = [0; 64];
        let name = uuid.to_string();
        renamed.name[..name.len()].copy_from_slice(name.as_bytes());
    }
    renamed.uuid = uuid;
    renamed.state = 2.into();
    renamed.generation = entry.generation.get().wrapping_add(1).into();
    renamed.mod_time_us = time_us.into();
    renamed
}

pub(super) fn write_entry(device: &Device, entry: &VolTableEntry) -> Result<(), LvmError> {
    let offset = DEVICE_HEADER_OFFSET + device.metadata().volume_table();
    Ok(device.lun().write(DeviceOffset(offset), entry.as_bytes())?)
}

/// Writes the LUN's own identity into the device header.
fn adopt(device: &Device, time_us: u64) -> Result<(), LvmError> {
    let Some(own) = device
        .lun()
        .identity()
        .filter(|_| device.origin() == Origin::Snapshot)
    else {
        return Ok(());
    };
    let mut metadata = device.metadata().clone();
    metadata.disk_id = ScsiDiskId::from_text(own.as_str());
    metadata.generation = metadata.generation.get().wrapping_add(1).into();
    metadata.mod_time_us = time_us.into();
    let mut sector = [0; SECTOR];
    let at = DeviceOffset(DEVICE_HEADER_OFFSET);
    device.lun().read(at, &mut sector)?;
    sector[..metadata.as_bytes().len()].copy_from_slice(metadata.as_bytes());
    Ok(device.lun().write(at, &sector)?)
}

/// Writes the new UUIDs and label into the file system descriptor, unless it has them already.
fn sign_file_system(
    volume: &Volume,
    volume_uuid: Uuid,
    new: &NewSignature,
) -> Result<Option<String>, LvmError> {
    let offset = VolumeOffset(FS_DESCRIPTOR_OFFSET);
    let mut sector = [0; SECTOR];
    volume.read(offset, &mut sector)?;
    let Ok(fsd) = FsDescriptor::parse(&sector) else {
        return Ok(None);
    };
    if fsd.volume_uuid() == volume_uuid {
        return Ok(Some(fsd.label()));
    }
    let mut signed = fsd.clone();
    let label = snapshot_label(&fsd.label(), volume_uuid);
    signed.uuid = new.file_system;
    signed.volume_info[..16].copy_from_slice(volume_uuid.as_bytes());
    signed.label = [0; 128];
    signed.label[..label.len()].copy_from_slice(label.as_bytes());
    sector[..signed.as_bytes().len()].copy_from_slice(signed.as_bytes());
    volume.write(offset, &sector)?;
    Ok(Some(label))
}

/// `snap-xxxxxxxx-OLD`, cut to what the label has room for.
///
/// The number is of the new UUID, so that copies of one volume, and copies of copies, differ.
fn snapshot_label(old: &str, uuid: Uuid) -> String {
    let mut label = format!("snap-{:08x}-{old}", uuid.time_hi.get());
    while label.len() > 127 {
        label.pop();
    }
    label
}
