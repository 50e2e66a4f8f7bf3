use std::path::Path;
use std::sync::Arc;

use zerocopy::FromZeros;

use super::device::Device;
use super::error::LvmError;
use super::volume::Volume;
use crate::format::{FS_DESCRIPTOR_OFFSET, FsDescriptor};
use crate::scsi::{Access, DeviceOffset, FileLun, Lun, look_through};

/// Opens the volume that the image files or block devices at `paths` make up, in any order.
///
/// Each path may be a device with an LVM header, a disk with a VMFS partition, or, alone, a
/// volume imaged above LVM.
///
/// # Errors
/// [`LvmError`] naming the path that doesn't fit and why.
pub fn open_paths<P: AsRef<Path>>(paths: &[P], access: Access) -> Result<Volume, LvmError> {
    let luns = paths
        .iter()
        .map(|path| Ok(Arc::new(FileLun::open(path.as_ref(), access)?) as Arc<dyn Lun>))
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
        if Device::is_lvm(&*lun) {
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
    if holds_vmfs(&*lun) {
        return Ok(lun);
    }
    let mut partitions: Vec<_> = look_through(&lun)
        .into_iter()
        .filter(|partition| holds_vmfs(partition))
        .collect();
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

fn holds_vmfs(lun: &dyn Lun) -> bool {
    Device::is_lvm(lun) || holds_file_system(lun)
}

fn holds_file_system(lun: &dyn Lun) -> bool {
    let mut bytes = <[u8; size_of::<FsDescriptor>()]>::new_zeroed();
    lun.read(DeviceOffset(FS_DESCRIPTOR_OFFSET), &mut bytes)
        .is_ok()
        && FsDescriptor::parse(&bytes).is_ok()
}
