use super::volume::VolumeOffset;
use crate::format::Damage;
use crate::scsi::LunError;

/// A volume could not be assembled, or a part of it not be reached.
#[derive(Debug, thiserror::Error)]
pub enum LvmError {
    /// The LUN below failed.
    #[error(transparent)]
    Lun(#[from] LunError),
    /// A structure of the volume layer is damaged.
    #[error(transparent)]
    Damage(#[from] Damage),
    /// Nothing was given to open.
    #[error("no device given")]
    NoDevice,
    /// There is no VMFS on the device.
    #[error(
        "{device}: no VMFS here: neither an LVM header at 1 MiB, nor a file system at 2 MiB, nor a VMFS partition"
    )]
    NotVmfs {
        /// Name of the device.
        device: String,
    },
    /// The device has several VMFS partitions.
    #[error(
        "{device} has {count} VMFS partitions that are volumes of their own; give one of them as a device"
    )]
    SeveralPartitions {
        /// Name of the device.
        device: String,
        /// How many.
        count: usize,
    },
    /// The device has an LVM header but belongs to no volume.
    #[error("{device} is an LVM device that belongs to no volume")]
    NoVolume {
        /// Name of the device.
        device: String,
    },
    /// The same device was given twice, or a device and a copy of it.
    #[error(
        "{first} and {second} are the same device {uuid}: give one of them (one is a copy if they are different disks)"
    )]
    Duplicate {
        /// The device given first.
        first: String,
        /// The device given later.
        second: String,
        /// The UUID that both have.
        uuid: String,
    },
    /// A device belongs to another volume than the first one.
    #[error(
        "{device} belongs to volume {found}, but {first} to volume {expected}: open one volume at a time"
    )]
    Foreign {
        /// The device that doesn't belong.
        device: String,
        /// Its volume.
        found: String,
        /// The first device.
        first: String,
        /// The first device's volume.
        expected: String,
    },
    /// A resignature of the volume was interrupted.
    #[error(
        "a resignature of {device} was interrupted: run 'vmfs lvm resignature' on all devices of the volume again to complete it"
    )]
    Resignaturing {
        /// A device that has its new signature already.
        device: String,
    },
    /// A device without a volume layer was given together with others.
    #[error(
        "{device} holds a whole file system without LVM: it can't be combined with other devices"
    )]
    NotLvm {
        /// The device.
        device: String,
    },
    /// Two extents claim the same part of the volume.
    #[error(
        "{first} and {second} both claim volume offset {offset}: one of them is a copy, or an extent table is damaged"
    )]
    Overlap {
        /// One device.
        first: String,
        /// The other.
        second: String,
        /// Where they overlap.
        offset: VolumeOffset,
    },
    /// The part of the volume lies on a device that wasn't given.
    #[error("volume offset {offset} lies on a device that is missing")]
    MissingExtent {
        /// Where.
        offset: VolumeOffset,
    },
    /// The part of the volume lies behind its end.
    #[error("the volume ends at {size:#x}, so it has no {length} bytes at {offset}")]
    PastEnd {
        /// Where.
        offset: VolumeOffset,
        /// How many bytes.
        length: usize,
        /// Size of the volume.
        size: u64,
    },
    /// The volume lies on the LUNs that it was made on.
    #[error(
        "{device} is no snapshot: its header was written on this very LUN, or the LUN doesn't tell what it is"
    )]
    NotSnapshot {
        /// The device.
        device: String,
    },
    /// A job that needs all devices of a volume got some.
    #[error("the volume has {expected} devices and {given} were given: give all of them")]
    Incomplete {
        /// Devices given.
        given: usize,
        /// Devices that the volume has.
        expected: usize,
    },
}
