//! What an undo file holds: a head, and records.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::sync::Arc;

use vmfs_core::format::{DEVICE_HEADER_OFFSET, DevMetadata};
use vmfs_core::scsi::{DeviceOffset, Lun};

use crate::plan::SECTOR;

const MAGIC: &[u8; 8] = b"VMFSundo";
const VERSION: u32 = 1;
/// Bytes of a record before its checksums: CRC-32, device, offset, length.
const RECORD_HEAD: usize = 20;
/// Longest record.
pub(super) const MAX_LENGTH: u32 = 64 << 20;
/// Most devices of a volume.
const MAX_DEVICES: u32 = 64;

/// What tells a device apart: its size, and its identity in the LVM header at the time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DeviceId {
    capacity: u64,
    uuid: [u8; 16],
    pub(super) name: String,
}

impl DeviceId {
    pub(super) fn of(lun: &dyn Lun) -> Self {
        let mut uuid = [0; 16];
        let place = DEVICE_HEADER_OFFSET + std::mem::offset_of!(DevMetadata, uuid) as u64;
        // A device that can't be read there has none.
        let _ = lun.read(DeviceOffset(place), &mut uuid);
        Self {
            capacity: lun.capacity(),
            uuid,
            name: lun.name().to_owned(),
        }
    }

    /// Whether `lun` is this device. A repair may have given it another identity: then its header
    /// is one of those with the checksums `headers`, and with one device only its size will do.
    fn fits(&self, lun: &dyn Lun, alone: bool, headers: &[u32]) -> bool {
        let found = Self::of(lun);
        self.capacity == found.capacity
            && (alone || self.uuid == found.uuid || {
                let mut header = [0; SECTOR];
                let read = lun.read(DeviceOffset(DEVICE_HEADER_OFFSET), &mut header);
                read.is_ok() && headers.contains(&crc32fast::hash(&header))
            })
    }
}

/// The LUNs, each one once, in the order of the devices of an undo file; `None` if they are others.
pub(super) fn in_order(
    known: &[DeviceId],
    records: &Sums,
    luns: &[Arc<dyn Lun>],
) -> Option<Vec<Arc<dyn Lun>>> {
    let alone = known.len() == 1;
    let mut left: Vec<&Arc<dyn Lun>> = luns.iter().collect();
    let mut devices = Vec::new();
    for (index, id) in (0..).zip(known) {
        let header = records.get(&(index, DEVICE_HEADER_OFFSET));
        let headers = header.map_or(&[][..], Vec::as_slice);
        let fits = |lun: &&Arc<dyn Lun>| id.fits(&***lun, alone, headers);
        let found = left.iter().position(fits)?;
        devices.push(Arc::clone(left.remove(found)));
    }
    Some(devices)
}

/// Checksums of all that a sector may hold, what was there and what any write left, by device and
/// offset.
pub(super) type Sums = HashMap<(u32, u64), Vec<u32>>;

/// Adds what a record says to `sums`.
pub(super) fn add_sums(sums: &mut Sums, record: &Record) {
    for (index, old) in record.old.chunks_exact(SECTOR).enumerate() {
        let key = (record.device, record.offset + (index * SECTOR) as u64);
        let known = sums.entry(key).or_default();
        known.push(crc32fast::hash(old));
        known.extend(record.new.get(index));
    }
}

pub(super) fn head(devices: &[DeviceId]) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&(devices.len() as u32).to_le_bytes());
    for device in devices {
        bytes.extend_from_slice(&device.capacity.to_le_bytes());
        bytes.extend_from_slice(&device.uuid);
        bytes.extend_from_slice(&(device.name.len() as u32).to_le_bytes());
        bytes.extend_from_slice(device.name.as_bytes());
    }
    let crc = crc32fast::hash(&bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes
}

pub(super) fn read_head(file: &mut impl Read) -> io::Result<Vec<DeviceId>> {
    let invalid = || io::Error::new(io::ErrorKind::InvalidData, "no head");
    let mut seen = Vec::new();
    let mut take = |length: usize| -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        file.read_exact(&mut bytes)?;
        seen.extend_from_slice(&bytes);
        Ok(bytes)
    };
    let number = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().unwrap_or_default());
    if take(8)? != MAGIC || number(&take(4)?) != VERSION {
        return Err(invalid());
    }
    let count = number(&take(4)?);
    if count > MAX_DEVICES {
        return Err(invalid());
    }
    let mut devices = Vec::new();
    for _ in 0..count {
        let capacity = u64::from_le_bytes(take(8)?.try_into().unwrap_or_default());
        let uuid = take(16)?.try_into().unwrap_or_default();
        let length = number(&take(4)?);
        if length > 4096 {
            return Err(invalid());
        }
        let name = String::from_utf8_lossy(&take(length as usize)?).into_owned();
        devices.push(DeviceId {
            capacity,
            uuid,
            name,
        });
    }
    let crc = crc32fast::hash(&seen);
    let mut stored = [0; 4];
    file.read_exact(&mut stored)?;
    if u32::from_le_bytes(stored) != crc {
        return Err(invalid());
    }
    Ok(devices)
}

/// A record's head, and where its old bytes lie in the file.
pub(super) struct Record {
    pub(super) device: u32,
    pub(super) offset: u64,
    /// Checksums of the new sectors.
    new: Vec<u32>,
    pub(super) old_at: u64,
    pub(super) old: Vec<u8>,
}

/// The next record; `None` at the end, or where writing was cut off.
pub(super) fn next_record(file: &mut File) -> io::Result<Option<Record>> {
    let start = file.stream_position()?;
    let mut fixed = [0; RECORD_HEAD];
    if file.read_exact(&mut fixed).is_err() {
        return Ok(None);
    }
    let number = |at: usize| u32::from_le_bytes(fixed[at..at + 4].try_into().unwrap_or_default());
    let (crc, device, length) = (number(0), number(4), number(16));
    let offset = u64::from_le_bytes(fixed[8..16].try_into().unwrap_or_default());
    let sectors = length as usize / SECTOR;
    if length > MAX_LENGTH || !(length as usize).is_multiple_of(SECTOR) {
        return Ok(None);
    }
    let mut rest = vec![0; sectors * 4 + length as usize];
    if file.read_exact(&mut rest).is_err() {
        return Ok(None);
    }
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&fixed[4..]);
    hasher.update(&rest);
    if hasher.finalize() != crc {
        return Ok(None);
    }
    let old = rest.split_off(sectors * 4);
    let new = rest
        .chunks_exact(4)
        .map(|bytes| u32::from_le_bytes(bytes.try_into().unwrap_or_default()));
    Ok(Some(Record {
        device,
        offset,
        new: new.collect(),
        old_at: start + (RECORD_HEAD + sectors * 4) as u64,
        old,
    }))
}
