//! The LUN without any faults, for making the volume and for looking at what is left of it.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use parking_lot::Mutex;
use vmfs_core::cluster::HostConfig;
use vmfs_core::format::{FdAddr, Uuid};
use vmfs_core::fs::{Creator, FileSystem};
use vmfs_core::lvm::{VolumeOffset, open_luns};
use vmfs_core::scsi::{Access, Counters, DeviceOffset, Lun, LunError};

use super::disk::Disk;

/// The directory in which hosts work, besides the root.
pub const DIRECTORY: &[u8] = b"d";

/// A LUN of one host.
#[derive(Debug)]
pub struct PlainLun {
    disk: Mutex<Disk>,
    size: u64,
    counters: Counters,
}

impl PlainLun {
    /// The LUN with what is on `disk`.
    pub fn new(disk: Disk, size: u64) -> Arc<Self> {
        Arc::new(Self {
            disk: Mutex::new(disk),
            size,
            counters: Counters::default(),
        })
    }

    /// What is on it.
    pub fn into_disk(self: Arc<Self>) -> Disk {
        std::mem::take(&mut self.disk.lock())
    }
}

impl Lun for PlainLun {
    fn name(&self) -> &'static str {
        "the LUN"
    }

    fn capacity(&self) -> u64 {
        self.size
    }

    fn block_size(&self) -> u32 {
        512
    }

    fn access(&self) -> Access {
        Access::ReadWrite
    }

    fn read(&self, offset: DeviceOffset, buf: &mut [u8]) -> Result<(), LunError> {
        self.disk.lock().read(offset.0, buf);
        Ok(())
    }

    fn write(&self, offset: DeviceOffset, data: &[u8]) -> Result<(), LunError> {
        self.disk.lock().write(offset.0, data, None);
        Ok(())
    }

    fn flush(&self) -> Result<(), LunError> {
        Ok(())
    }

    fn counters(&self) -> &Counters {
        &self.counters
    }
}

/// Makes the directory that runs start with; where the volume begins on the LUN, the heartbeat slots
/// and the size of one; what is on the LUN then.
#[allow(clippy::type_complexity, reason = "used once")]
pub fn prepare(disk: Disk, size: u64) -> (Disk, u64, Range<u64>, u64) {
    let lun = PlainLun::new(disk, size);
    let volume = open_luns(vec![Arc::clone(&lun) as Arc<dyn Lun>]).expect("a volume");
    let uuid = Uuid {
        time_lo: 77.into(),
        ..Uuid::default()
    };
    let host = HostConfig::new(uuid, "maker");
    let fs = FileSystem::open_for_writing(volume, host).expect("a fresh volume mounts");
    let creator = Creator {
        mode: 0o755,
        uid: 0,
        gid: 0,
    };
    fs.make_directory(FdAddr::ROOT, DIRECTORY, creator)
        .expect("a directory");
    fs.close().expect("a fresh volume unmounts");
    let layout = fs.layout();
    let start = layout.heartbeats;
    let end = start + layout.heartbeat_slots * layout.heartbeat_size;
    let slot = layout.heartbeat_size;
    let (_, place) = fs
        .volume()
        .place(VolumeOffset(0))
        .expect("the start of the volume");
    drop(fs);
    (lun.into_disk(), place.0, start..end, slot)
}

/// What fsck finds on what `pages` hold.
pub fn fsck(disk: Disk, size: u64) -> Result<(), String> {
    let lun = PlainLun::new(disk, size);
    let volume = open_luns(vec![lun as Arc<dyn Lun>]).map_err(|error| error.to_string())?;
    let fs = FileSystem::open(volume).map_err(|error| error.to_string())?;
    let report = fsck_vmfs::check(&fs, &mut |_| {});
    if report.is_clean() {
        return Ok(());
    }
    Err(format!("fsck found: {:#?}", report.findings))
}

/// Pages of a disk.
pub type Pages = Arc<HashMap<u64, Box<[u8; 4096]>>>;
