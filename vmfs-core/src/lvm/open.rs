use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use zerocopy::FromZeros;

use super::device::Device;
use super::error::LvmError;
use super::volume::Volume;
use crate::format::{FS_DESCRIPTOR_OFFSET, FsDescriptor};
use crate::scsi::{
    self, Access, DeviceOffset, IscsiUrl, Lun, LunError, PatientLun, SystemClock, look_through,
};

/// How long a read waits for a LUN that other hosts reserve.
const RESERVED: Duration = Duration::from_secs(30);

/// Opens the volume that the image files, block devices or iSCSI LUNs at `paths` make up, in any
/// order.
///
/// Each may be a device with an LVM header, a disk with a VMFS partition, or, alone, a
/// volume imaged above LVM.
///
/// # Errors
/// [`LvmError`] naming the path that doesn't fit and why.
pub fn open_paths<P: AsRef<Path>>(paths: &[P], access: Access) -> Result<Volume, LvmError> {
    open_paths_as(paths, access, None)
}

/// What [`open_paths`] does, as the host called `host` by iSCSI targets; without a name, as this
/// machine.
///
/// # Errors
/// As [`open_paths`].
pub fn open_paths_as<P: AsRef<Path>>(
    paths: &[P],
    access: Access,
    host: Option<&str>,
) -> Result<Volume, LvmError> {
    let luns = paths
        .iter()
        .map(|path| {
            let path = path.as_ref();
            // To an image's array each process is a host of its own.
            let host = host.filter(|_| IscsiUrl::is_one(path));
            let lun = scsi::open(path, access, host)?;
            let (clock, seed) = (Arc::new(SystemClock), u64::from(std::process::id()));
            let patient = PatientLun::for_reading(lun, clock, RESERVED, seed);
            Ok(Arc::new(patient) as Arc<dyn Lun>)
        })
        .collect::<Result<Vec<_>, LvmError>>()?;
    open_luns(luns)
}

/// What [`open_paths`] does, on LUNs that are open already.
///
/// # Errors
/// [`LvmError`] naming the LUN that doesn't fit and why.
pub fn open_luns(luns: Vec<Arc<dyn Lun>>) -> Result<Volume, LvmError> {
    let alone = luns.len() == 1;
    let mut devices = Vec::with_capacity(luns.len());
    for lun in luns {
        let lun = unwrap_partition(lun)?;
        if Device::has_header(&*lun)? {
            devices.push(Device::open(lun)?);
        } else if alone {
            return Ok(Volume::without_lvm(lun));
        } else {
            return Err(LvmError::NotLvm {
                device: lun.name().to_owned(),
            });
        }
    }
    Volume::assemble(devices)
}

/// The LUN itself if it holds VMFS, else its VMFS partition.
///
/// # Errors
/// [`LvmError`] when there is no VMFS, or several partitions have some.
pub fn unwrap_partition(lun: Arc<dyn Lun>) -> Result<Arc<dyn Lun>, LvmError> {
    if holds_vmfs(&*lun)? {
        return Ok(lun);
    }
    let mut partitions = Vec::new();
    for partition in look_through(&lun) {
        if holds_vmfs(&partition)? {
            partitions.push(partition);
        }
    }
    match (partitions.len(), partitions.pop()) {
        (1, Some(partition)) => Ok(Arc::new(partition)),
        (0, _) | (_, None) => Err(LvmError::NotVmfs {
            device: lun.name().to_owned(),
        }),
        (count, _) => Err(LvmError::SeveralPartitions {
            device: lun.name().to_owned(),
            count,
        }),
    }
}

fn holds_vmfs(lun: &dyn Lun) -> Result<bool, LvmError> {
    Ok(Device::has_header(lun)? || holds_file_system(lun)?)
}

fn holds_file_system(lun: &dyn Lun) -> Result<bool, LvmError> {
    let mut bytes = <[u8; size_of::<FsDescriptor>()]>::new_zeroed();
    let there = has(lun.read(DeviceOffset(FS_DESCRIPTOR_OFFSET), &mut bytes))?;
    Ok(there && FsDescriptor::parse(&bytes).is_ok())
}

/// Whether a read went well that fails on what is too short or broken; not if only another host
/// was in the way.
pub(super) fn has(read: Result<(), LunError>) -> Result<bool, LvmError> {
    match read {
        Err(error @ LunError::ReservationConflict { .. }) => Err(error.into()),
        read => Ok(read.is_ok()),
    }
}
