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

mod file;

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use vmfs_core::scsi::{DeviceOffset, Lun, LunError};

use crate::plan::SECTOR;
use file::{DeviceId, MAX_LENGTH, Sums, add_sums, head, in_order, next_record, read_head};

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
            let mut end = file.stream_position().map_err(failed)?;
            let mut sums = Sums::new();
            while let Some(record) = next_record(&mut file).map_err(failed)? {
                add_sums(&mut sums, &record);
                end = file.stream_position().map_err(failed)?;
            }
            let ordered = in_order(&known, &sums, luns);
            let same = |one: &Arc<dyn Lun>, other: &Arc<dyn Lun>| Arc::ptr_eq(one, other);
            let fits = ordered.is_some_and(|ordered| {
                ordered.len() == luns.len()
                    && ordered
                        .iter()
                        .zip(luns)
                        .all(|(one, other)| same(one, other))
            });
            if !fits {
                return Err(other_devices(&shown, &known, luns));
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
    let mut order = Vec::new();
    // Where in the undo file the oldest bytes of each sector are.
    let mut oldest: HashMap<(u32, u64), u64> = HashMap::new();
    let mut sums = Sums::new();
    while let Some(record) = next_record(&mut file).map_err(failed)? {
        if record.device as usize >= known.len() {
            return Err(UndoError::NotUndo { path: shown });
        }
        for at in (0..record.old.len() as u64).step_by(SECTOR) {
            let key = (record.device, record.offset + at);
            oldest.entry(key).or_insert_with(|| {
                order.push(key);
                record.old_at + at
            });
        }
        add_sums(&mut sums, &record);
    }
    let Some(devices) = in_order(&known, &sums, luns) else {
        return Err(other_devices(&shown, &known, luns));
    };
    if !force {
        refuse_changed(&devices, &order, &sums)?;
    }
    // Backwards, as the stages of the repair were made forwards.
    let mut bytes = [0; SECTOR];
    for key in order.iter().rev() {
        let (Some(&old_at), Some(lun)) = (oldest.get(key), devices.get(key.0 as usize)) else {
            continue;
        };
        file.seek(SeekFrom::Start(old_at)).map_err(failed)?;
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
    sums: &Sums,
) -> Result<(), UndoError> {
    let mut changed = 0;
    let mut first = None;
    let mut bytes = [0; SECTOR];
    for key in order {
        let (Some(known), Some(lun)) = (sums.get(key), devices.get(key.0 as usize)) else {
            continue;
        };
        lun.read(DeviceOffset(key.1), &mut bytes)?;
        if !known.contains(&crc32fast::hash(&bytes)) {
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
