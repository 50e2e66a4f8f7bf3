use vmfs_core::format::{DEVICE_HEADER_OFFSET, Family, MAX_PE_MAPS, PE_SIZE, PES_PER_MAP, Uuid};

use super::identity::Identity;
use super::options::{LvmVersion, Options, PartitionTable, PlanError};

/// Where the first physical extent lies, from the start of the partition or device.
const DATA_OFFSET: u64 = 0x110_0000;
/// Bytes of a metadata region, of which eight maps need 8.5 MiB.
const REGION_SIZE: u64 = DATA_OFFSET - DEVICE_HEADER_OFFSET;
/// Physical extents that one metadata region describes.
const PES_PER_REGION: u64 = PES_PER_MAP * MAX_PE_MAPS as u64;
/// Where ESXi starts the partition of a VMFS volume.
const PARTITION_START: u64 = 1 << 20;
/// The longest volume, from VMware's documents.
pub(crate) const MAX_VOLUME: u64 = 64 << 40;

/// A run of the volume that is contiguous on one device; all in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Offset on the volume.
    pub volume: u64,
    /// Index of the device.
    pub device: usize,
    /// Offset on the device.
    pub offset: u64,
    /// Length.
    pub length: u64,
}

/// One device of a planned volume.
#[derive(Debug, Clone)]
pub struct DeviceLayout {
    /// The device's UUID.
    pub uuid: Uuid,
    /// Where the LVM's view of the device starts: 0, or the start of the partition.
    pub start: u64,
    /// Bytes from there on that are the volume's.
    pub length: u64,
    /// Physical extents of 256 MiB; 0 without LVM.
    pub extents: u64,
    /// The first of them, counted over the volume.
    pub first_extent: u64,
    /// Metadata regions: device offset of each from `start`, and of the data that it describes.
    pub(crate) regions: Vec<Region>,
}

/// A metadata region of LVM; offsets from the device layout's start.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Region {
    pub(crate) offset: u64,
    pub(crate) data: u64,
    pub(crate) first_extent: u64,
    pub(crate) extents: u64,
}

/// Divides the devices up; returns them and the segments of the volume in order.
pub(crate) fn lay_out(
    options: &Options,
    identity: &mut Identity,
) -> Result<(Vec<DeviceLayout>, Vec<Segment>), PlanError> {
    let mut devices = Vec::new();
    let mut segments: Vec<Segment> = Vec::new();
    let mut volume = 0;
    for (index, spec) in options.devices.iter().enumerate() {
        let (start, length) = usable(options, index, spec.size)?;
        let mut device = DeviceLayout {
            uuid: identity.uuid(),
            start,
            length,
            extents: 0,
            first_extent: volume / PE_SIZE,
            regions: Vec::new(),
        };
        if options.lvm == LvmVersion::None {
            let usable = length - length % options.file_block_size;
            segments.push(Segment {
                volume: 0,
                device: 0,
                offset: start,
                length: usable,
            });
            volume = usable;
        } else {
            device.regions = regions(options.lvm, length);
            device.extents = device.regions.iter().map(|region| region.extents).sum();
            if device.extents == 0 {
                return Err(PlanError::DeviceTooSmall {
                    device: index,
                    size: spec.size,
                    needed: spec.size - length + DATA_OFFSET + PE_SIZE,
                });
            }
            for region in &device.regions {
                let length = region.extents * PE_SIZE;
                segments.push(Segment {
                    volume,
                    device: index,
                    offset: start + region.data,
                    length,
                });
                volume += length;
            }
        }
        devices.push(device);
    }
    let needed = match options.family {
        Family::Vmfs3 => 512 << 20,
        Family::Vmfs5 => 1 << 30,
        Family::Vmfs6 => 1280 << 20,
    };
    if volume < needed {
        return Err(PlanError::VolumeTooSmall {
            family: options.family,
            size: volume,
            needed,
        });
    }
    if volume > MAX_VOLUME {
        return Err(PlanError::VolumeTooLarge {
            size: volume,
            most: MAX_VOLUME,
        });
    }
    Ok((devices, segments))
}

/// Start and length of what the volume may use of a device.
fn usable(options: &Options, device: usize, size: u64) -> Result<(u64, u64), PlanError> {
    let sector = u64::from(options.sector_size);
    let size = size - size % sector;
    match options.partition {
        PartitionTable::None => Ok((0, size)),
        PartitionTable::Gpt => {
            // The backup header and table: one sector and 16 KiB.
            let tail = sector + (16 << 10);
            let end = size.saturating_sub(tail);
            let length = end.saturating_sub(PARTITION_START);
            if length == 0 {
                return Err(PlanError::DeviceTooSmall {
                    device,
                    size,
                    needed: PARTITION_START + DATA_OFFSET + PE_SIZE + tail,
                });
            }
            Ok((PARTITION_START, length))
        }
    }
}

/// The metadata regions of a device of `length` bytes, with as many extents as fit.
///
/// LVM 6 describes a device with one entry. Before, a region has room for 65536 extents; where a
/// device has more, the next region follows the data of the one before.
fn regions(lvm: LvmVersion, length: u64) -> Vec<Region> {
    let mut regions = Vec::new();
    let (mut offset, mut data, mut first_extent) = (DEVICE_HEADER_OFFSET, DATA_OFFSET, 0);
    loop {
        let fit = length.saturating_sub(data) / PE_SIZE;
        let extents = if lvm == LvmVersion::V6 {
            fit
        } else {
            fit.min(PES_PER_REGION)
        };
        if extents == 0 && !regions.is_empty() {
            return regions;
        }
        regions.push(Region {
            offset,
            data,
            first_extent,
            extents,
        });
        if extents == fit {
            return regions;
        }
        offset = data + extents * PE_SIZE;
        data = offset + REGION_SIZE;
        first_extent += extents;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_64_tib_lvm5_device_loses_extents_to_its_extra_regions() {
        let regions = regions(LvmVersion::V5, 64 << 40);
        assert_eq!(regions.len(), 4);
        let extents: u64 = regions.iter().map(|region| region.extents).sum();
        assert_eq!(extents, 262_143);
        assert_eq!(regions[1].offset, DATA_OFFSET + 65536 * PE_SIZE);
    }

    #[test]
    fn the_devices_of_real_volumes_have_eight_extents() {
        for lvm in [LvmVersion::V5, LvmVersion::V6] {
            let regions = regions(lvm, 2_181_038_592);
            assert_eq!((regions.len(), regions[0].extents), (1, 8));
        }
    }
}
