//! `vmfs lvm grow` and `vmfs lvm extend`.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use mkfs_vmfs::{GrownFileSystem, contents_of, grow_file_system, refuse_in_use};
use serde::Serialize;
use vmfs_core::format::{FS_DESCRIPTOR_OFFSET, VMFS_MAGIC, VMFSL_MAGIC};
use vmfs_core::fs::FileSystem;
use vmfs_core::lvm::{Device, Extended, Grown, NewDevice, VolumeOffset, extend, grow, open_luns};
use vmfs_core::scsi::{self, Access, Lun};

use super::{Random, new_uuid, open};
use crate::Common;
use crate::error::Error;
use crate::output::{human, json};

#[derive(Debug, Serialize)]
struct Report<V> {
    /// `None` for a file system without a volume layer.
    volume: Option<V>,
    /// `None` when there is none on the volume.
    file_system: Option<GrownFileSystem>,
}

type Luns = Vec<Arc<dyn Lun>>;

/// Gives the volume on `devices` what its last one has become larger by.
pub(super) fn grow_volume(devices: &[PathBuf], force: bool, common: &Common) -> Result<(), Error> {
    let luns = open_all(devices)?;
    refuse_mounted(&luns, force)?;
    let volume = match &luns[..] {
        [alone] if !Device::is_lvm(&**alone) => None,
        _ => Some(grow(luns.clone(), now_us())?),
    };
    let file_system = grow_files(luns, volume.as_ref().is_some_and(|volume| volume.changed))?;
    let report = Report {
        volume,
        file_system,
    };
    if common.json {
        return json(&report);
    }
    let mut out = io::stdout().lock();
    if let Some(volume) = report.volume.as_ref().filter(|volume| volume.changed) {
        tell_grown(&mut out, volume)?;
    }
    let changed = report.volume.as_ref().is_some_and(|volume| volume.changed);
    tell_file_system(&mut out, report.file_system.as_ref(), changed)?;
    if !changed && report.file_system.as_ref().is_none_or(|fs| !fs.changed) {
        match &report.volume {
            Some(volume) => writeln!(
                out,
                "nothing to do: the volume has {} and {} no room for another 256 MiB; make it (or its partition) larger first",
                human(volume.size),
                volume.device
            )?,
            None => writeln!(out, "nothing to do: the file system has all of its device")?,
        }
    }
    Ok(())
}

fn tell_grown(out: &mut impl Write, volume: &Grown) -> io::Result<()> {
    if volume.extents == volume.extents_before {
        return writeln!(
            out,
            "completed an interrupted job: the volume has {}",
            human(volume.size)
        );
    }
    writeln!(
        out,
        "volume: from {} to {}, {} extents of 256 MiB more on {}",
        human(volume.size_before),
        human(volume.size),
        volume.extents - volume.extents_before,
        volume.device
    )
}

/// Adds `new` to the volume on `devices`.
pub(super) fn extend_volume(
    devices: &[PathBuf],
    new: &[PathBuf],
    force: bool,
    common: &Common,
) -> Result<(), Error> {
    refuse_twice(devices, new)?;
    let luns = open_all(devices)?;
    let mut random = Random::open()?;
    let added = new
        .iter()
        .map(|path| {
            Ok(NewDevice {
                lun: open_new(path, force)?,
                uuid: new_uuid(&mut random)?,
                overwrite: force,
            })
        })
        .collect::<Result<Vec<_>, Error>>()?;
    // Those of an interrupted job are the volume's already.
    let members = added.iter().map(|new| Arc::clone(&new.lun));
    let mut joined = Luns::new();
    for lun in members {
        if Device::is_lvm(&*lun) {
            joined.push(lun);
        }
    }
    let members = joined;
    let so_far = [&luns[..], &members[..]].concat();
    match open_luns(so_far.clone()) {
        Ok(_) => refuse_mounted(&so_far, force)?,
        Err(_) => refuse_mounted(&luns, force)?,
    }
    let all = luns.iter().cloned();
    let all: Luns = all
        .chain(added.iter().map(|new| Arc::clone(&new.lun)))
        .collect();
    let done = extend(luns, added, now_us())?;
    let changed = done.completed || !done.added.is_empty();
    let report = Report {
        file_system: grow_files(all, changed)?,
        volume: Some(done),
    };
    if common.json {
        return json(&report);
    }
    let mut out = io::stdout().lock();
    if let Some(volume) = &report.volume {
        tell_extended(&mut out, volume)?;
    }
    tell_file_system(&mut out, report.file_system.as_ref(), changed)
}

/// A device given twice would be overwritten while it is in use.
fn refuse_twice(devices: &[PathBuf], new: &[PathBuf]) -> Result<(), Error> {
    let mut seen = Vec::new();
    for path in devices.iter().chain(new) {
        let name = scsi::name_of(path)?;
        let real = std::fs::canonicalize(&name).unwrap_or_else(|_| name.clone());
        if seen.contains(&real) {
            let text = format!("{} is given twice", name.display());
            return Err(Error::Usage(text));
        }
        seen.push(real);
    }
    Ok(())
}

fn tell_extended(out: &mut impl Write, volume: &Extended) -> io::Result<()> {
    for device in &volume.added {
        writeln!(out, "added {device}")?;
    }
    let how = if volume.completed {
        "an interrupted job was completed"
    } else {
        "nothing to do"
    };
    for device in &volume.present {
        writeln!(out, "{device} is of the volume already: {how}")?;
    }
    writeln!(
        out,
        "volume: from {} to {}, {} device(s)",
        human(volume.size_before),
        human(volume.size),
        volume.devices
    )
}

fn tell_file_system(
    out: &mut impl Write,
    file_system: Option<&GrownFileSystem>,
    volume_changed: bool,
) -> Result<(), Error> {
    let Some(fs) = file_system else {
        if volume_changed {
            writeln!(out, "no file system on the volume")?;
        }
        return Ok(());
    };
    if fs.changed {
        writeln!(
            out,
            "file system: from {} to {} blocks of {}, {} of them for metadata",
            fs.blocks_before,
            fs.blocks,
            human(fs.block_size),
            fs.metadata_blocks
        )?;
    }
    Ok(())
}

fn now_us() -> u64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH);
    since_1970.unwrap_or_default().as_micros() as u64
}

fn open_all(devices: &[PathBuf]) -> Result<Luns, Error> {
    devices
        .iter()
        .map(|path| open(path, Access::ReadWrite))
        .collect()
}

/// A device to add, which must be empty unless `force`d or of a VMFS volume, about which the
/// volume layer decides.
fn open_new(path: &Path, force: bool) -> Result<Arc<dyn Lun>, Error> {
    let lun = scsi::open(path, Access::ReadWrite, None)?;
    if !force
        && !Device::is_lvm(&*lun)
        && let Some(found) = contents_of(&*lun)?
    {
        let text = format!("{} holds {found}; give --force to overwrite it", lun.name());
        return Err(Error::Usage(text));
    }
    Ok(lun)
}

/// The file system on `luns`; `None` when there is none.
fn file_system(luns: Luns) -> Result<Option<FileSystem>, Error> {
    let volume = open_luns(luns)?;
    let mut magic = [0; 4];
    volume.read(VolumeOffset(FS_DESCRIPTOR_OFFSET), &mut magic)?;
    if ![VMFS_MAGIC, VMFSL_MAGIC].contains(&u32::from_le_bytes(magic)) {
        return Ok(None);
    }
    Ok(Some(FileSystem::open(volume)?))
}

fn refuse_mounted(luns: &Luns, force: bool) -> Result<(), Error> {
    match file_system(luns.clone())? {
        Some(fs) if !force => refuse_in_use(&fs).map_err(|error| Error::Grow(error.to_string())),
        _ => Ok(()),
    }
}

/// Grows the file system into a volume that may have `changed`.
fn grow_files(luns: Luns, changed: bool) -> Result<Option<GrownFileSystem>, Error> {
    let Some(fs) = file_system(luns)? else {
        return Ok(None);
    };
    match grow_file_system(fs) {
        Ok(done) => Ok(Some(done)),
        Err(error) if changed => Err(Error::Grow(format!(
            "the volume has grown, but not its file system, which works on as before: {error}"
        ))),
        Err(error) => Err(Error::Grow(error.to_string())),
    }
}
