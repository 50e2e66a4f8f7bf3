mod commands;
mod transfer;

use std::fs::{File, FileType};
use std::io;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::RwLock;
use rustix::fs::{SeekFrom, seek};

use super::array::{
    Fault, LunIdentity, Personality, Refusal, SharedLun, SharedStatus, identity_of, personality_of,
};
use super::counters::{Counters, OpCounter};
use super::error::LunError;
use super::lun::{Access, DeviceOffset};

/// How often counters are shown to other processes, and how often a reader looks whether the image
/// is shared by now.
const INTERVAL: Duration = Duration::from_millis(100);

/// A LUN that is an image file or a block device.
///
/// Image files go through the page cache, which every process that opens the same file shares;
/// processes that write to one emulate an array together (docs/SHARED-LUN.md). Block devices are
/// opened `O_DIRECT`, since another host's writes don't pass through ours, and are for one host.
#[derive(Debug)]
pub struct FileLun {
    file: Arc<File>,
    name: String,
    capacity: u64,
    block_size: u32,
    /// Offsets, lengths and memory must be multiples of this.
    alignment: u64,
    access: Access,
    identity: Option<LunIdentity>,
    personality: Personality,
    /// What other processes have to do with the image; a reader that was there first joins when
    /// there are others.
    shared: OnceLock<SharedLun>,
    /// Place of the image and name of this host, for a reader that hasn't joined.
    apart: Option<(PathBuf, Option<String>)>,
    opened: Instant,
    /// Milliseconds after `opened` when something is to be done again that is done at intervals.
    due: AtomicU64,
    counters: Counters,
    /// Held alone while blocks are written in part, which takes a read and a write.
    edges: RwLock<()>,
}

impl FileLun {
    /// Opens the image file or block device at `path`, by an initiator name made of the machine's
    /// and the process's.
    pub fn open(path: &Path, access: Access) -> Result<Self, LunError> {
        Self::open_with(path, access, None)
    }

    /// Opens the image file or block device at `path` as the host called `initiator`, by which
    /// persistent reservations know it whenever it comes.
    pub fn open_as(path: &Path, access: Access, initiator: &str) -> Result<Self, LunError> {
        Self::open_with(path, access, Some(initiator))
    }

    fn open_with(path: &Path, access: Access, initiator: Option<&str>) -> Result<Self, LunError> {
        let open_error = |source| LunError::Open {
            path: path.to_owned(),
            source,
        };
        let kind = std::fs::metadata(path).map_err(open_error)?.file_type();
        let is_device = check_kind(path, kind)?;
        let direct = if is_device {
            rustix::fs::OFlags::DIRECT.bits().cast_signed()
        } else {
            0
        };
        let file = File::options()
            .read(true)
            .write(access == Access::ReadWrite)
            .custom_flags(direct)
            .open(path)
            .map_err(open_error)?;
        // Seeking tells the size of a block device too, where metadata says zero.
        let size = seek(&file, SeekFrom::End(0));
        let capacity = size.map_err(|errno| open_error(errno.into()))?;
        let block_size = if is_device {
            rustix::fs::ioctl_blksszget(&file).map_err(|errno| open_error(errno.into()))?
        } else {
            512
        };
        let mut lun = Self {
            file: Arc::new(file),
            name: path.display().to_string(),
            capacity,
            block_size,
            alignment: if is_device { block_size.into() } else { 1 },
            access,
            identity: identity_of(path, is_device),
            personality: Personality::default(),
            shared: OnceLock::new(),
            apart: None,
            opened: Instant::now(),
            due: AtomicU64::new(0),
            counters: Counters::default(),
            edges: RwLock::new(()),
        };
        let image = match std::fs::canonicalize(path) {
            // It is open here, but has no name by which another process could find it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            image => Some(image.map_err(open_error)?).filter(|_| !is_device),
        };
        if let Some(image) = image {
            lun.identity = identity_of(&image, false);
            lun.personality = match (personality_of(&image), access) {
                (Err(_), Access::ReadOnly) => Personality::default(),
                (personality, _) => personality.map_err(open_error)?,
            };
            lun.join(&image, initiator).map_err(open_error)?;
            if lun.shared().is_none() {
                lun.apart = Some((image, initiator.map(str::to_owned)));
            }
        }
        Ok(lun)
    }

    /// Joins the hosts of the image, if it is or can be shared.
    fn join(&self, image: &Path, initiator: Option<&str>) -> io::Result<()> {
        let metadata = self.file.metadata()?;
        let shared = SharedLun::open(image, &self.file, &metadata, self.access, initiator)?;
        if let Some(shared) = shared {
            // Another thread may have been first.
            let _ = self.shared.set(shared);
        }
        Ok(())
    }

    /// The hosts of the image, if it is shared.
    fn shared(&self) -> Option<&SharedLun> {
        self.shared.get()
    }

    /// What an administrator may want to know of a shared image's hosts; `None` if it isn't shared.
    pub fn status(&self) -> Result<Option<SharedStatus>, LunError> {
        let status = self.shared().map(SharedLun::status).transpose();
        status.map_err(|fault| self.error(fault, "status", DeviceOffset(0), 0))
    }

    /// What the array that an image emulates can do; `None` for a device, whose array is its own.
    pub fn personality(&self) -> Option<Personality> {
        (self.alignment == 1).then_some(self.personality)
    }

    /// Takes the LUN from the host that has it by [`Lun::reserve`](super::Lun::reserve), which is told by
    /// [`LunError::ReservationLost`]; none of its commands that were sent before lands after this
    /// has returned. For administrators: hosts have [`Lun::reset`](super::Lun::reset).
    pub fn break_reservation(&self) -> Result<(), LunError> {
        const COMMAND: &str = "breaking the reservation";
        let shared = self.hosts(COMMAND, true)?;
        let broken = shared.break_reservation();
        broken.map_err(|fault| self.error(fault, COMMAND, DeviceOffset(0), 0))
    }

    /// The name that other hosts know this one by; `None` if it shares the LUN with nobody.
    pub fn initiator(&self) -> Option<&str> {
        self.shared().map(SharedLun::initiator)
    }

    /// Runs a command and counts it.
    fn command<T>(
        &self,
        command: &'static str,
        op: &OpCounter,
        offset: DeviceOffset,
        length: usize,
        run: impl FnOnce() -> Result<T, Fault>,
    ) -> Result<T, LunError> {
        let start = Instant::now();
        let result = run();
        let end = Instant::now();
        op.add(length, end - start, result.is_ok());
        let now = (end - self.opened).as_millis() as u64;
        let due = self.due.load(Relaxed);
        if now >= due {
            self.due.store(now + INTERVAL.as_millis() as u64, Relaxed);
            self.tend();
        }
        result.map_err(|fault| self.error(fault, command, offset, length))
    }

    /// What is done at intervals.
    fn tend(&self) {
        match (self.shared(), &self.apart) {
            (Some(shared), _) => shared.publish_counters(&self.counters.snapshot()),
            (None, Some((image, initiator))) if self.access == Access::ReadOnly => {
                // A reader can go on as before, whatever it is.
                let _ = self.join(image, initiator.as_deref());
            }
            (None, _) => {}
        }
    }

    fn error(
        &self,
        fault: Fault,
        command: &'static str,
        offset: DeviceOffset,
        length: usize,
    ) -> LunError {
        match fault {
            Fault::TooLate => LunError::fenced(&self.name),
            Fault::Refused(refusal) => {
                if refusal == Refusal::Conflict {
                    self.counters.count_conflict();
                }
                LunError::refused(&self.name, command, refusal)
            }
            Fault::Lost => LunError::lost(&self.name, command),
            Fault::Io(source) => LunError::Io {
                lun: self.name.clone(),
                operation: command,
                offset,
                length,
                source,
            },
        }
    }

    /// The shared image, for a command that only such have.
    fn hosts(&self, command: &'static str, has: bool) -> Result<&SharedLun, LunError> {
        let shared = self.shared().filter(|shared| has && shared.has_seat());
        shared.ok_or_else(|| LunError::unsupported(&self.name, command))
    }

    fn check_writable(&self) -> Result<(), LunError> {
        match self.access {
            Access::ReadWrite => Ok(()),
            Access::ReadOnly => Err(LunError::read_only(&self.name)),
        }
    }
}

/// Whether a path is a block device; an error if it is no image file either.
fn check_kind(path: &Path, kind: FileType) -> Result<bool, LunError> {
    let is_device = kind.is_block_device();
    if is_device || kind.is_file() {
        return Ok(is_device);
    }
    let found = if kind.is_dir() {
        "a directory"
    } else {
        "not a file that holds blocks"
    };
    Err(LunError::NotALun {
        path: path.to_owned(),
        found,
    })
}

impl Drop for FileLun {
    fn drop(&mut self) {
        if let Some(shared) = self.shared() {
            shared.publish_counters(&self.counters.snapshot());
        }
    }
}
#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;
    use crate::scsi::{Lun, OverlayLun, PartitionLun};

    struct Image {
        _folder: tempfile::TempDir,
        path: PathBuf,
    }

    impl Image {
        fn path(&self) -> &Path {
            &self.path
        }
    }

    fn lun(access: Access) -> (Image, FileLun) {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("image");
        std::fs::write(&path, [7; 8192]).expect("write");
        let lun = FileLun::open(&path, access).expect("open");
        let image = Image {
            _folder: folder,
            path,
        };
        (image, lun)
    }

    #[test]
    fn reads_past_the_end_fail_and_are_not_counted_as_commands() {
        let (_file, lun) = lun(Access::ReadOnly);
        let error = lun
            .read(DeviceOffset(8000), &mut [0; 512])
            .expect_err("past the end");
        assert!(
            matches!(error, LunError::PastEnd { capacity: 8192, .. }),
            "{error}"
        );
        assert_eq!(lun.counters().snapshot().reads.commands, 0);
    }

    #[test]
    fn an_offset_near_the_largest_number_is_past_the_end() {
        let (_file, lun) = lun(Access::ReadOnly);
        assert!(lun.read(DeviceOffset(u64::MAX - 3), &mut [0; 16]).is_err());
    }

    #[test]
    fn a_read_only_lun_refuses_writes() {
        let (file, lun) = lun(Access::ReadOnly);
        assert!(matches!(
            lun.write(DeviceOffset(0), &[1; 512]),
            Err(LunError::ReadOnly { .. })
        ));
        assert_eq!(std::fs::read(file.path()).expect("read"), vec![7; 8192]);
    }

    #[test]
    fn unaligned_ranges_work_on_a_lun_that_needs_alignment() {
        let (file, mut lun) = lun(Access::ReadWrite);
        lun.alignment = 512;
        lun.shared = OnceLock::new();
        lun.write(DeviceOffset(1000), &[9; 700]).expect("write");
        let mut back = [0; 702];
        lun.read(DeviceOffset(999), &mut back).expect("read");
        assert_eq!((back[0], back[1], back[700], back[701]), (7, 9, 9, 7));
        assert_eq!(std::fs::read(file.path()).expect("read").len(), 8192);
        assert_eq!(lun.counters().snapshot().writes.bytes, 700);
    }

    #[test]
    fn a_directory_is_not_a_lun() {
        let error = FileLun::open(Path::new("/"), Access::ReadOnly).expect_err("a directory");
        assert!(error.to_string().contains("a directory"), "{error}");
    }

    #[test]
    fn holes_of_an_image_are_passed_over_by_what_lies_on_it_too() {
        const PART: u64 = 256 << 10;
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("image");
        let image = File::create(&path).expect("create");
        image.set_len(8 * PART).expect("size");
        for at in [PART, 4 * PART] {
            image
                .write_all_at(&vec![7; PART as usize], at)
                .expect("write");
        }
        let lun = Arc::new(FileLun::open(&path, Access::ReadOnly).expect("open"));
        let next = |lun: &dyn Lun, at| lun.next_mapped(DeviceOffset(at)).expect("answer");
        assert_eq!(next(&lun, 0), Some(PART..2 * PART));
        assert_eq!(next(&lun, PART + 1), Some(PART + 1..2 * PART));
        assert_eq!(next(&lun, 2 * PART), Some(4 * PART..5 * PART));
        assert_eq!(next(&lun, 5 * PART), None);
        assert_eq!(next(&lun, 9 * PART), None);

        let base: Arc<dyn Lun> = Arc::clone(&lun) as Arc<dyn Lun>;
        let partition = PartitionLun::new(base, 1, 2 * PART, 2 * PART + 512);
        assert_eq!(next(&partition, 0), Some(2 * PART..2 * PART + 512));
        let partition = PartitionLun::new(Arc::clone(&lun) as Arc<dyn Lun>, 1, 2 * PART, PART);
        assert_eq!(next(&partition, 0), None);

        let patched = OverlayLun::new(lun, vec![(6 * PART, vec![1; 3]), (100, vec![2; 8])]);
        assert_eq!(next(&patched, 0), Some(100..108));
        assert_eq!(next(&patched, 104), Some(104..108));
        assert_eq!(next(&patched, 108), Some(PART..2 * PART));
        assert_eq!(next(&patched, 5 * PART), Some(6 * PART..6 * PART + 3));
        assert_eq!(next(&patched, 6 * PART + 3), None);
    }
}
