//! Device headers and extents: docs/fsck/devices.md.

mod entries;
mod header;
mod tables;

use std::sync::Arc;

use vmfs_core::lvm::{Device, LvmError, Volume, open_luns, unwrap_partition};
use vmfs_core::scsi::Lun;

use crate::check::Check;
use crate::code::Code;
use crate::finding::Finding;

/// The volume on `luns`, whose headers are mended first if need be.
///
/// # Errors
/// When they make no volume.
pub(crate) fn open(check: &mut Check<'_>, luns: &[Arc<dyn Lun>]) -> Result<Volume, LvmError> {
    let mut devices: Vec<Arc<dyn Lun>> = Vec::new();
    for lun in luns {
        let device = match unwrap_partition(Arc::clone(lun)) {
            Ok(device) => device,
            // What neither LVM nor a file system begins may have had one.
            Err(error) => header::lost(check, lun).ok_or(error)?,
        };
        devices.push(device);
    }
    let lvm = devices.iter().all(|device| Device::is_lvm(&**device));
    if lvm {
        tables::run(check, &devices);
    }
    let volume = open_luns(devices)?;
    if volume.missing().next().is_some() {
        let names = volume.missing_names();
        let detail = if names.is_empty() {
            format!("{} of its devices weren't given", volume.missing_devices())
        } else {
            format!("{} wasn't given", names.join(", "))
        };
        check.found(Finding::new(Code::DeviceMissing, "volume", detail));
    }
    Ok(volume)
}
