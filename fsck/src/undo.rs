//! Undo files: everything that a repair has overwritten, and putting it back.
//!
//! A file is a head that names the devices, then records in the order of writing:
//!
//! | bytes | what |
//! |---|---|
//! | 4 | CRC-32 of the rest of the record |
//! | 4, 8, 4 | device, offset on it, length; both multiples of 512 |
//! | 4 each | CRC-32 of each new sector |
//! | length | the old bytes |
//!
//! A record is durable before its bytes are overwritten, so a repair that was killed can be undone
//! as well. A second repair appends to the file of the first.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use vmfs_core::scsi::{DeviceOffset, Lun, LunError};

use crate::plan::SECTOR;

const MAGIC: &[u8; 8] = b"VMFSundo";
const VERSION: u32 = 1;
/// Bytes of a record before its checksums: CRC-32, device, offset, length.
const RECORD_HEAD: usize = 20;
/// Longest record.
const MAX_LENGTH: u32 = 64 << 20;
/// Most devices of a volume.
const MAX_DEVICES: u32 = 64;

/// Writes an undo file.
#[derive(Debug)]
pub struct Recorder {
    file: Mutex<File>,
}

/// Why an undo file can't be made or used.
#[derive(Debug, thiserror::Error)]
pub enum UndoError {
    /// The file itself.
    #[error("undo file {path}: {source}")]
    File {
        /// Its path.
        path: String,
        /// What happened.
        source: io::Error,
    },
    /// It isn't an undo file.
    #[error("{path} is not an undo file of fsck.vmfs, or its head is damaged")]
    NotUndo {
        /// Its path.
        path: String,
    },
    /// It is of other devices.
    #[error(
        "undo file {path} is of {expected}, not of {found}; give the devices that were repaired, in any order"
    )]
    OtherDevices {
        /// Its path.
        path: String,
        /// The devices that it is of.
        expected: String,
        /// Those that were given.
        found: String,
    },
    /// The volume was changed since the repair.
    #[error(
        "{sectors} sectors were changed since the repair, the first at {device} offset {offset:#x}; --force restores the old ones all the same"
    )]
    Changed {
        /// How many.
        sectors: u64,
        /// The device with the first of them.
        device: String,
        /// Where on it.
        offset: u64,
    },
    /// A device failed.
    #[error(transparent)]
    Lun(#[from] LunError),
}

/// What tells a device apart: its size, and its identity in the LVM header at the time.
#[derive(Debug, Clone, PartialEq, Eq)]
struct DeviceId {
    capacity: u64,
    uuid: [u8; 16],
    name: String,
}

impl DeviceId {
    fn of(lun: &dyn Lun) -> Self {
        let mut uuid = [0; 16];
        let place = vmfs_core::format::DEVICE_HEADER_OFFSET
            + std::mem::offset_of!(vmfs_core::format::DevMetadata, uuid) as u64;
        // A device that can't be read there has none.
        let _ = lun.read(DeviceOffset(place), &mut uuid);
        Self {
            capacity: lun.capacity(),
            uuid,
            name: lun.name().to_owned(),
        }
    }

    /// A repair may have given the device its identity, so size and identity needn't both agree
    /// when there is one device only.
    fn fits(&self, lun: &dyn Lun, alone: bool) -> bool {
        let found = Self::of(lun);
        self.capacity == found.capacity && (alone || self.uuid == found.uuid)
    }
}

fn head(devices: &[DeviceId]) -> Vec<u8> {
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

fn read_head(file: &mut impl Read) -> io::Result<Vec<DeviceId>> {
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
struct Record {
    device: u32,
    offset: u64,
    new: Vec<u32>,
    old_at: u64,
    old: Vec<u8>,
}

/// The next record; `None` at the end, or where writing was cut off.
fn next_record(file: &mut File) -> io::Result<Option<Record>> {
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

impl Recorder {
    /// Begins the undo file at `path` for `luns`, or goes on with it if it is theirs.
    ///
    /// # Errors
    /// [`UndoError`] when there is another file in its place.
    pub fn open(path: &Path, luns: &[Arc<dyn Lun>]) -> Result<Arc<Self>, UndoError> {
        let shown = path.display().to_string();
        let failed = |source| UndoError::File {
            path: shown.clone(),
            source,
        };
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(failed)?;
        let devices: Vec<_> = luns.iter().map(|lun| DeviceId::of(&**lun)).collect();
        if file.metadata().map_err(failed)?.len() == 0 {
            file.write_all(&head(&devices)).map_err(failed)?;
            file.sync_all().map_err(failed)?;
            if let Some(folder) = path.parent()
                && let Ok(folder) = File::open(if folder.as_os_str().is_empty() {
                    Path::new(".")
                } else {
                    folder
                })
            {
                // A file system without directories to sync has nothing to be made durable.
                let _ = folder.sync_all();
            }
        } else {
            let known = read_head(&mut file).map_err(|_| UndoError::NotUndo {
                path: shown.clone(),
            })?;
            let alone = known.len() == 1;
            let fits = known.len() == luns.len()
                && known
                    .iter()
                    .zip(luns)
                    .all(|(id, lun)| id.fits(&**lun, alone));
            if !fits {
                return Err(other_devices(&shown, &known, luns));
            }
            let mut end = file.stream_position().map_err(failed)?;
            while next_record(&mut file).map_err(failed)?.is_some() {
                end = file.stream_position().map_err(failed)?;
            }
            file.set_len(end).map_err(failed)?;
            file.seek(SeekFrom::Start(end)).map_err(failed)?;
        }
        Ok(Arc::new(Self {
            file: Mutex::new(file),
        }))
    }

    /// Notes that `old` at `offset` of `device` will become `new`; widened to whole sectors by the
    /// caller.
    pub(crate) fn record(
        &self,
        device: u32,
        offset: u64,
        old: &[u8],
        new: &[u8],
    ) -> io::Result<()> {
        let mut file = self.file.lock();
        for (index, (old, new)) in old
            .chunks(MAX_LENGTH as usize)
            .zip(new.chunks(MAX_LENGTH as usize))
            .enumerate()
        {
            let mut bytes = device.to_le_bytes().to_vec();
            let at = offset + index as u64 * u64::from(MAX_LENGTH);
            bytes.extend_from_slice(&at.to_le_bytes());
            bytes.extend_from_slice(&(old.len() as u32).to_le_bytes());
            for sector in new.chunks(SECTOR) {
                bytes.extend_from_slice(&crc32fast::hash(sector).to_le_bytes());
            }
            bytes.extend_from_slice(old);
            let crc = crc32fast::hash(&bytes);
            file.write_all(&crc.to_le_bytes())?;
            file.write_all(&bytes)?;
        }
        Ok(())
    }

    /// Makes all records durable.
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.file.lock().sync_data()
    }
}

fn other_devices(path: &str, known: &[DeviceId], luns: &[Arc<dyn Lun>]) -> UndoError {
    let names = |names: Vec<&str>| names.join(", ");
    UndoError::OtherDevices {
        path: path.to_owned(),
        expected: names(known.iter().map(|id| id.name.as_str()).collect()),
        found: names(luns.iter().map(Lun::name).collect()),
    }
}

/// A sector that a repair has overwritten.
struct Overwritten {
    /// Where in the undo file the oldest bytes are.
    old_at: u64,
    /// Checksums of all that it may hold now: what was there, and what any write left.
    known: Vec<u32>,
}

/// Puts back everything that the repair with the undo file at `path` has overwritten on `luns`, all
/// devices that were repaired in any order; how many sectors. With `force` also where something
/// else was written since.
///
/// # Errors
/// [`UndoError::Changed`] before anything is written; or that a device fails: then it can be tried
/// again.
pub fn undo(path: &Path, luns: &[Arc<dyn Lun>], force: bool) -> Result<u64, UndoError> {
    let shown = path.display().to_string();
    let failed = |source| UndoError::File {
        path: shown.clone(),
        source,
    };
    let mut file = File::open(path).map_err(failed)?;
    let known = read_head(&mut file).map_err(|_| UndoError::NotUndo {
        path: shown.clone(),
    })?;
    let alone = known.len() == 1;
    let mut devices: Vec<Arc<dyn Lun>> = Vec::new();
    for id in &known {
        let Some(lun) = luns.iter().find(|lun| id.fits(&***lun, alone)) else {
            return Err(other_devices(&shown, &known, luns));
        };
        devices.push(Arc::clone(lun));
    }
    let mut order = Vec::new();
    let mut sectors: HashMap<(u32, u64), Overwritten> = HashMap::new();
    while let Some(record) = next_record(&mut file).map_err(failed)? {
        if record.device as usize >= devices.len() {
            return Err(UndoError::NotUndo { path: shown });
        }
        for (index, old) in record.old.chunks_exact(SECTOR).enumerate() {
            let key = (record.device, record.offset + (index * SECTOR) as u64);
            let sector = sectors.entry(key).or_insert_with(|| {
                order.push(key);
                Overwritten {
                    old_at: record.old_at + (index * SECTOR) as u64,
                    known: Vec::new(),
                }
            });
            sector.known.push(crc32fast::hash(old));
            sector.known.extend(record.new.get(index));
        }
    }
    if !force {
        refuse_changed(&devices, &order, &sectors)?;
    }
    // Backwards, as the stages of the repair were made forwards.
    let mut bytes = [0; SECTOR];
    for key in order.iter().rev() {
        let (Some(sector), Some(lun)) = (sectors.get(key), devices.get(key.0 as usize)) else {
            continue;
        };
        file.seek(SeekFrom::Start(sector.old_at)).map_err(failed)?;
        file.read_exact(&mut bytes).map_err(failed)?;
        lun.write(DeviceOffset(key.1), &bytes)?;
    }
    for lun in &devices {
        lun.flush()?;
    }
    Ok(order.len() as u64)
}

fn refuse_changed(
    devices: &[Arc<dyn Lun>],
    order: &[(u32, u64)],
    sectors: &HashMap<(u32, u64), Overwritten>,
) -> Result<(), UndoError> {
    let mut changed = 0;
    let mut first = None;
    let mut bytes = [0; SECTOR];
    for key in order {
        let (Some(sector), Some(lun)) = (sectors.get(key), devices.get(key.0 as usize)) else {
            continue;
        };
        lun.read(DeviceOffset(key.1), &mut bytes)?;
        if !sector.known.contains(&crc32fast::hash(&bytes)) {
            changed += 1;
            first.get_or_insert((lun.name().to_owned(), key.1));
        }
    }
    match first {
        None => Ok(()),
        Some((device, offset)) => Err(UndoError::Changed {
            sectors: changed,
            device,
            offset,
        }),
    }
}
