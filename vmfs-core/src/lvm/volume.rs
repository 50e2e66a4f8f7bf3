use std::fmt;
use std::ops::{Add, Range};
use std::sync::Arc;

use super::device::Device;
use super::error::LvmError;
use crate::format::{Uuid, VolTableEntry, VolumeState, text};
use crate::scsi::{Access, DeviceOffset, Lun, LunError};

/// A byte offset on the logical volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, serde::Serialize)]
#[serde(transparent)]
pub struct VolumeOffset(pub u64);

impl Add<u64> for VolumeOffset {
    type Output = Self;

    fn add(self, bytes: u64) -> Self {
        Self(self.0.saturating_add(bytes))
    }
}

impl fmt::Display for VolumeOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// A run of the volume that is contiguous on one device; a gap has no device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Extent {
    /// Where the run starts on the volume.
    pub logical: VolumeOffset,
    /// Bytes of the run.
    pub length: u64,
    /// Index of the device in [`Volume::luns`] and offset on it; `None` when it is missing.
    pub place: Option<(usize, DeviceOffset)>,
}

impl Extent {
    /// Where the run ends on the volume.
    pub(crate) fn end(&self) -> u64 {
        self.logical.0 + self.length
    }
}

/// A logical volume.
///
/// Cheap to share: reads take no lock.
#[derive(Debug, Clone)]
pub struct Volume {
    luns: Vec<Arc<dyn Lun>>,
    devices: Vec<Device>,
    /// Sorted by volume offset, without gaps from 0 to `size`.
    extents: Vec<Extent>,
    size: u64,
    entry: Option<VolTableEntry>,
}

/// Largest volume of any version, doubled.
const MAX_SIZE: u64 = 128 << 40;

impl Volume {
    /// A volume imaged above the volume layer: the LUN is the volume.
    pub fn without_lvm(lun: Arc<dyn Lun>) -> Self {
        let size = lun.capacity();
        let place = Some((0, DeviceOffset(0)));
        let extents = vec![Extent {
            logical: VolumeOffset(0),
            length: size,
            place,
        }];
        Self {
            luns: vec![lun],
            devices: Vec::new(),
            extents,
            size,
            entry: None,
        }
    }

    /// The volume of `found`, parts of `luns` by their number, sorted and without overlaps; what lies
    /// between them is missing.
    pub(super) fn of_extents(luns: Vec<Arc<dyn Lun>>, found: Vec<Extent>) -> Self {
        let size = found.last().map_or(0, Extent::end).min(MAX_SIZE);
        Self {
            luns,
            devices: Vec::new(),
            // Without overlaps there is nothing that could fail.
            extents: fill_gaps(found, size, &[]).unwrap_or_default(),
            size,
            entry: None,
        }
    }

    /// Assembles the volume that `devices` make up, whatever their order.
    ///
    /// A device that isn't there leaves a gap: the volume is degraded, see
    /// [`Volume::missing`].
    ///
    /// # Errors
    /// [`LvmError`] naming the device that is given twice, foreign or damaged.
    pub fn assemble(mut devices: Vec<Device>) -> Result<Self, LvmError> {
        let entry = volume_of(&devices)?;
        refuse_duplicates(&devices)?;
        devices.sort_by_key(|device| device.volumes().first().map(|entry| entry.first_pe.get()));

        let mut found = Vec::new();
        for (index, device) in devices.iter().enumerate() {
            let volume_id = device.volumes().first().map(|entry| entry.volume_id.get());
            for extent in device
                .extents()
                .iter()
                .filter(|e| Some(e.volume_id) == volume_id)
            {
                found.push(Extent {
                    logical: VolumeOffset(extent.logical),
                    length: extent.length,
                    place: Some((index, DeviceOffset(extent.physical))),
                });
            }
        }
        found.retain(|extent| extent.length > 0);
        found.sort_by_key(|extent| extent.logical);
        let covered = found.last().map_or(0, Extent::end);
        let size = entry.logical_size.get().max(covered).min(MAX_SIZE);
        let extents = fill_gaps(found, size, &devices)?;
        let luns = devices
            .iter()
            .map(|device| Arc::clone(device.lun()))
            .collect();
        Ok(Self {
            luns,
            devices,
            extents,
            size,
            entry: Some(entry),
        })
    }

    /// Size in bytes, missing parts included.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The LUNs that the volume lies on, in volume order.
    pub fn luns(&self) -> &[Arc<dyn Lun>] {
        &self.luns
    }

    /// The LVM devices, in volume order; empty for a volume without LVM.
    pub fn devices(&self) -> &[Device] {
        &self.devices
    }

    /// The volume table entry of the first device given; `None` without LVM.
    pub fn entry(&self) -> Option<&VolTableEntry> {
        self.entry.as_ref()
    }

    /// The volume's UUID; `None` without LVM.
    pub fn uuid(&self) -> Option<Uuid> {
        self.entry.as_ref().map(|entry| entry.uuid)
    }

    /// The runs of the volume in order, gaps included.
    pub fn extents(&self) -> &[Extent] {
        &self.extents
    }

    /// The runs that lie on devices that aren't there.
    pub fn missing(&self) -> impl Iterator<Item = &Extent> {
        self.extents.iter().filter(|extent| extent.place.is_none())
    }

    /// How many devices the volume has and aren't there.
    pub fn missing_devices(&self) -> usize {
        let expected = self
            .entry
            .as_ref()
            .map_or(1, |entry| entry.devices.get() as usize);
        let gaps = self.missing().count();
        expected.saturating_sub(self.luns.len()).max(gaps)
    }

    /// What the volume's first device calls those that aren't there, as far as it tells.
    pub fn missing_names(&self) -> Vec<String> {
        let Some(names) = self.devices.first().map(Device::device_names) else {
            return Vec::new();
        };
        // The table is in volume order, so a gap's place among the devices is its place there.
        let mut index = 0;
        let mut missing = Vec::new();
        let mut last = None;
        for extent in &self.extents {
            let device = extent.place.map(|(device, _)| device);
            if device.is_some() && device == last {
                continue;
            }
            if device.is_none() {
                let gaps_left = self.missing().count() - missing.len();
                let count = if gaps_left == 1 {
                    self.missing_devices() - missing.len()
                } else {
                    1
                };
                missing.extend(names.iter().skip(index).take(count).cloned());
                index += count;
            } else {
                index += 1;
            }
            last = device;
        }
        missing
    }

    /// Where `offset` lies: its run, or `None` behind the end.
    pub fn locate(&self, offset: VolumeOffset) -> Option<&Extent> {
        let index = self
            .extents
            .partition_point(|extent| extent.logical <= offset);
        let extent = self.extents.get(index.checked_sub(1)?)?;
        (offset.0 < extent.end()).then_some(extent)
    }

    /// The LUN that has `offset`, and where on it.
    pub fn place(&self, offset: VolumeOffset) -> Result<(&Arc<dyn Lun>, DeviceOffset), LvmError> {
        let extent = self.locate(offset).ok_or(LvmError::PastEnd {
            offset,
            length: 1,
            size: self.size,
        })?;
        let (device, start) = extent.place.ok_or(LvmError::MissingExtent { offset })?;
        Ok((&self.luns[device], start + (offset.0 - extent.logical.0)))
    }

    /// The same volume with each LUN replaced by what `wrap` makes of it.
    #[must_use]
    pub fn with_luns(&self, wrap: impl FnMut(&Arc<dyn Lun>) -> Arc<dyn Lun>) -> Self {
        Self {
            luns: self.luns.iter().map(wrap).collect(),
            ..self.clone()
        }
    }

    /// Fills `buf` with the bytes at `offset`; a range may cross devices.
    pub fn read(&self, offset: VolumeOffset, buf: &mut [u8]) -> Result<(), LvmError> {
        self.for_each_piece(offset, buf.len(), |lun, at, range| {
            lun.read(at, &mut buf[range])
        })
    }

    /// The next bytes from `offset` on that may hold something, as [`Lun::next_mapped`] tells: what lies
    /// before them doesn't, or is missing. `None` if nothing follows.
    pub fn next_mapped(&self, offset: VolumeOffset) -> Result<Option<Range<u64>>, LunError> {
        let first = self
            .extents
            .partition_point(|extent| extent.end() <= offset.0);
        for extent in &self.extents[first..] {
            let Some((device, start)) = extent.place else {
                continue;
            };
            let skipped = offset.0.saturating_sub(extent.logical.0);
            let Some(mapped) = self.luns[device].next_mapped(start + skipped)? else {
                continue;
            };
            // The run is a window onto the device.
            let end = start.0 + extent.length;
            if mapped.start < end {
                let at = |place: u64| extent.logical.0 + (place - start.0);
                return Ok(Some(at(mapped.start)..at(mapped.end.min(end))));
            }
        }
        Ok(None)
    }

    /// Stores `data` at `offset`; a range may cross devices. Durable after [`Volume::flush`].
    pub fn write(&self, offset: VolumeOffset, data: &[u8]) -> Result<(), LvmError> {
        self.for_each_piece(offset, data.len(), |lun, at, range| {
            lun.write(at, &data[range])
        })
    }

    /// Stores `length` zero bytes at `offset`; a range may cross devices. Durable after
    /// [`Volume::flush`].
    pub fn write_zeros(&self, offset: VolumeOffset, length: u64) -> Result<(), LvmError> {
        self.for_each_piece(offset, length as usize, |lun, at, range| {
            lun.write_zeros(at, range.len() as u64)
        })
    }

    /// Whether every LUN can be written to.
    pub fn is_writable(&self) -> bool {
        self.luns
            .iter()
            .all(|lun| lun.access() == Access::ReadWrite)
    }

    /// Returns once every write that was answered before is durable.
    pub fn flush(&self) -> Result<(), LvmError> {
        self.luns.iter().try_for_each(|lun| Ok(lun.flush()?))
    }

    /// Calls `piece` for each part of `length` bytes at `offset` that lies on one device: the
    /// device, where on it, and which of the bytes.
    fn for_each_piece(
        &self,
        offset: VolumeOffset,
        length: usize,
        mut piece: impl FnMut(&dyn Lun, DeviceOffset, Range<usize>) -> Result<(), LunError>,
    ) -> Result<(), LvmError> {
        let mut done = 0;
        while done < length {
            let at = offset + done as u64;
            let extent = self.locate(at).ok_or(LvmError::PastEnd {
                offset,
                length,
                size: self.size,
            })?;
            let inside = at.0 - extent.logical.0;
            let part = (length - done).min((extent.length - inside) as usize);
            let (device, start) = extent.place.ok_or(LvmError::MissingExtent { offset: at })?;
            piece(&*self.luns[device], start + inside, done..done + part)?;
            done += part;
        }
        Ok(())
    }
}

/// The volume that all devices belong to.
fn volume_of(devices: &[Device]) -> Result<VolTableEntry, LvmError> {
    let entry_of = |device: &Device| {
        device
            .volumes()
            .first()
            .cloned()
            .ok_or_else(|| LvmError::NoVolume {
                device: device.name().to_owned(),
            })
    };
    let describe = |entry: &VolTableEntry| {
        format!(
            "{} ({})",
            entry.uuid,
            String::from_utf8_lossy(text(&entry.name))
        )
    };
    let first = devices.first().ok_or(LvmError::NoDevice)?;
    let expected = entry_of(first)?;
    for device in devices {
        let found = entry_of(device)?;
        if (found.uuid, found.snap_id) != (expected.uuid, expected.snap_id) {
            for (device, entry) in [(device, &found), (first, &expected)] {
                if entry.state() == VolumeState::ResignaturePending {
                    return Err(LvmError::Resignaturing {
                        device: device.name().to_owned(),
                    });
                }
            }
            return Err(LvmError::Foreign {
                device: device.name().to_owned(),
                found: describe(&found),
                first: first.name().to_owned(),
                expected: describe(&expected),
            });
        }
    }
    Ok(expected)
}

fn refuse_duplicates(devices: &[Device]) -> Result<(), LvmError> {
    for (index, second) in devices.iter().enumerate() {
        let uuid = second.metadata().uuid;
        if let Some(first) = devices[..index]
            .iter()
            .find(|first| first.metadata().uuid == uuid)
        {
            return Err(LvmError::Duplicate {
                first: first.name().to_owned(),
                second: second.name().to_owned(),
                uuid: uuid.to_string(),
            });
        }
    }
    Ok(())
}

fn fill_gaps(found: Vec<Extent>, size: u64, devices: &[Device]) -> Result<Vec<Extent>, LvmError> {
    let device_name = |extent: &Extent| {
        let device = extent.place.and_then(|(index, _)| devices.get(index));
        device.map_or("", Device::name).to_owned()
    };
    let gap = |from, to| Extent {
        logical: VolumeOffset(from),
        length: to - from,
        place: None,
    };
    let mut extents: Vec<Extent> = Vec::with_capacity(found.len());
    let mut end = 0;
    for extent in found {
        if extent.logical.0 < end {
            return Err(LvmError::Overlap {
                first: extents.last().map(device_name).unwrap_or_default(),
                second: device_name(&extent),
                offset: extent.logical,
            });
        }
        if extent.logical.0 > end {
            extents.push(gap(end, extent.logical.0));
        }
        end = extent.end();
        extents.push(extent);
    }
    if end < size {
        extents.push(gap(end, size));
    }
    Ok(extents)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scsi::FileLun;

    #[test]
    fn what_no_block_is_behind_is_passed_over() {
        const PART: u64 = 256 << 10;
        let folder = tempfile::tempdir().expect("folder");
        let device = |name: &str, data: u64| {
            let path = folder.path().join(name);
            let mut bytes = vec![0; data as usize];
            bytes.resize((data + PART) as usize, 7);
            std::fs::write(&path, &bytes).expect("write");
            let image = std::fs::File::options().write(true).open(&path);
            let image = image.expect("open");
            image.set_len(8 * PART).expect("size");
            let lun = FileLun::open(&path, Access::ReadWrite).expect("open");
            lun.write_zeros(DeviceOffset(0), data).expect("hole");
            Arc::new(lun) as Arc<dyn Lun>
        };
        let luns = vec![device("one", 3 * PART), device("other", PART)];
        let run = |at, device, start| Extent {
            logical: VolumeOffset(at * PART),
            length: 2 * PART,
            place: Some((device, DeviceOffset(start * PART))),
        };
        // The first run ends before its device's data, and a device is missing behind it.
        let runs = vec![run(0, 0, 1), run(4, 1, 0), run(6, 0, 3)];
        let volume = Volume::of_extents(luns, runs);
        let next = |at| volume.next_mapped(VolumeOffset(at)).expect("answer");
        assert_eq!(next(0), Some(5 * PART..6 * PART));
        assert_eq!(next(5 * PART + 9), Some(5 * PART + 9..6 * PART));
        assert_eq!(next(6 * PART), Some(6 * PART..7 * PART));
        assert_eq!(next(7 * PART), None);
        assert_eq!(next(20 * PART), None);
    }
}
