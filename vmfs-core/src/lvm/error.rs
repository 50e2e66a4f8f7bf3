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
    /// A device that isn't the volume's last has become larger.
    #[error(
        "{device} has become larger, but only {last}, which holds the end of the volume, can give it more"
    )]
    NotLast {
        /// The device.
        device: String,
        /// The volume's last device.
        last: String,
    },
    /// The extents of a device to grow aren't the plain row that growing continues.
    #[error(
        "the extents of {device} don't lie in one piece from the start of its data, or are in several metadata regions: it can't grow; add another device instead ('vmfs lvm extend')"
    )]
    Scattered {
        /// The device.
        device: String,
    },
    /// The devices have other extents than the volume.
    #[error(
        "the devices have {extents} extents of 256 MiB, but the volume has {size} bytes: not grown or extended"
    )]
    OddExtents {
        /// What the devices have.
        extents: u64,
        /// Bytes of the volume.
        size: u64,
    },
    /// A device has room for more extents than its tables.
    #[error(
        "{device} has room for {extents} extents of 256 MiB, but its tables for {most}, and further metadata regions can't be made: use a smaller device or partition"
    )]
    TooManyExtents {
        /// The device.
        device: String,
        /// Extents that fit on it.
        extents: u64,
        /// Extents that can be described.
        most: u64,
    },
    /// The volume would be longer than any may be.
    #[error("the volume would have {size} bytes; {most} are the most")]
    TooLarge {
        /// Its bytes.
        size: u64,
        /// The longest volume.
        most: u64,
    },
    /// A new device has no room for an extent.
    #[error("{device} has {size} bytes and is too small: {needed} are the least")]
    TooSmall {
        /// The device.
        device: String,
        /// Its size.
        size: u64,
        /// The least.
        needed: u64,
    },
    /// The volume has as many devices as a volume can have.
    #[error("the volume would have {count} devices; {most} are the most")]
    TooManyDevices {
        /// Devices that it would have.
        count: usize,
        /// The most.
        most: usize,
    },
    /// A device to add belongs to another volume.
    #[error("{device} belongs to {volume}; adding it would destroy that")]
    Taken {
        /// The device.
        device: String,
        /// The volume.
        volume: String,
    },
}
