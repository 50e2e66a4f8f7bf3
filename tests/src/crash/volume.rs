use std::io;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mkfs_vmfs::{Options, Plan, Target};
use vmfs_core::cluster::{Clock, HostConfig};
use vmfs_core::format::{Family, FdAddr, Uuid};
use vmfs_core::fs::{FileSystem, FsError};
use vmfs_core::lvm::open_luns;
use vmfs_core::scsi::{DeviceOffset, Lun};

use super::image::ImageLun;
use super::operations::CREATOR;
use crate::random::Random;

/// About the smallest device that both formats fit on.
const DEVICE: u64 = 1400 << 20;

/// A clock that moves only when told to, or when someone sleeps.
#[derive(Debug, Default)]
pub struct TestClock {
    millis: AtomicU64,
    sleeps: AtomicU64,
}

impl TestClock {
    /// Lets time go by.
    pub fn advance(&self, millis: u64) {
        self.millis.fetch_add(millis, SeqCst);
    }

    /// How often someone slept.
    pub fn sleeps(&self) -> u64 {
        self.sleeps.load(SeqCst)
    }
}

impl Clock for TestClock {
    fn now(&self) -> Duration {
        Duration::from_secs(1_800_000_000) + self.uptime()
    }

    fn uptime(&self) -> Duration {
        Duration::from_millis(self.millis.load(SeqCst))
    }

    fn sleep(&self, time: Duration) {
        self.sleeps.fetch_add(1, SeqCst);
        self.advance(time.as_millis() as u64);
    }
}

/// Bytes of a host's journal: small, so that it is written over and over.
const JOURNAL: u64 = 96 << 10;

/// A host that wasn't there before, and its clock.
pub fn new_host() -> (HostConfig, Arc<TestClock>) {
    static HOSTS: AtomicU32 = AtomicU32::new(1);
    let number = HOSTS.fetch_add(1, SeqCst);
    // As random as a real host's: journals rely on it.
    let mut random = Random::new(number.into());
    let uuid = Uuid {
        time_lo: (random.bits() as u32).into(),
        time_hi: (random.bits() as u32).into(),
        random: (random.bits() as u16).into(),
        ..Uuid::default()
    };
    let clock = Arc::new(TestClock::default());
    let mut host = HostConfig::new(uuid, &format!("host{number}"));
    host.clock = clock.clone();
    host.journal = JOURNAL;
    (host, clock)
}

/// Mounts the volume on `lun` for a new host, whose clock is returned too.
pub fn mount(lun: &Arc<dyn Lun>) -> Result<(FileSystem, Arc<TestClock>), FsError> {
    let (host, clock) = new_host();
    let volume = open_luns(vec![Arc::clone(lun)])?;
    Ok((FileSystem::open_for_writing(volume, host)?, clock))
}

/// Opens the volume on `lun` for reading.
pub fn open(lun: &Arc<dyn Lun>) -> Result<FileSystem, FsError> {
    FileSystem::open(open_luns(vec![Arc::clone(lun)])?)
}

/// What is wrong with the volume on `lun`, if anything is.
pub fn fsck(lun: &Arc<dyn Lun>) -> Result<(), String> {
    let fs = open(lun).map_err(|error| format!("fsck can't open it: {error}"))?;
    let report = fsck_vmfs::check(&fs, &mut |_| {});
    if report.is_clean() {
        return Ok(());
    }
    let findings = report.findings.iter().take(20);
    let findings: Vec<_> = findings.map(|finding| format!("  {finding}")).collect();
    Err(format!("fsck finds:\n{}", findings.join("\n")))
}

struct ToImage<'a>(&'a ImageLun);

impl Target for ToImage<'_> {
    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let written = self.0.write(DeviceOffset(offset), bytes);
        written.map_err(io::Error::other)
    }

    fn zero(&self, offset: u64, length: u64) -> io::Result<()> {
        let zeroed = self.0.write_zeros(DeviceOffset(offset), length);
        zeroed.map_err(io::Error::other)
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
}

/// A fresh volume on a disk that was used before; the same image for all who ask.
///
/// # Panics
/// When it can't be made.
pub fn fresh(family: Family) -> Arc<ImageLun> {
    static MADE: Mutex<Vec<(Family, Arc<ImageLun>)>> = Mutex::new(Vec::new());
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, image)) = made.iter().find(|(of, _)| *of == family) {
        return Arc::clone(image);
    }
    let image = make(Options::new(family, &[DEVICE]));
    made.push((family, Arc::clone(&image)));
    image
}

/// A volume with a few file descriptors and sub-blocks left, on a disk that was used before; the
/// same image for all who ask.
///
/// # Panics
/// When it can't be made.
pub fn crammed(family: Family) -> Arc<ImageLun> {
    static MADE: Mutex<Vec<(Family, Arc<ImageLun>)>> = Mutex::new(Vec::new());
    /// Longer than what a descriptor has room for, not than a sub-block.
    const LENGTH: usize = 4000;
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, image)) = made.iter().find(|(of, _)| *of == family) {
        return Arc::clone(image);
    }
    let count = if family == Family::Vmfs6 { 2048 } else { 330 };
    let mut options = Options::new(family, &[DEVICE]);
    options.file_descriptors = Some(count);
    // On VMFS5 a directory takes one, and so does each of the files.
    options.sub_blocks = Some(if family == Family::Vmfs6 {
        count
    } else {
        count - 10
    });
    let image = make(options);
    let lun: Arc<dyn Lun> = image.clone();
    let (fs, _) = mount(&lun).expect("mount");
    for number in 0.. {
        if fs.space().free_file_descriptors <= 5 {
            break;
        }
        let name = format!("filler{number}");
        if number < 8 {
            // Two sub-blocks on VMFS6, so that both run out together.
            let directory = fs.make_directory(FdAddr::ROOT, name.as_bytes(), CREATOR);
            directory.expect("a descriptor");
            continue;
        }
        let file = fs.create(FdAddr::ROOT, name.as_bytes(), CREATOR);
        let fd = file.expect("a descriptor").fd();
        fs.write(fd, 0, &[0xf1; LENGTH]).expect("a sub-block");
    }
    fs.close().expect("close");
    made.push((family, Arc::clone(&image)));
    image
}

/// A fresh volume with these options, which name one device.
///
/// # Panics
/// When it can't be made.
pub fn make(mut options: Options) -> Arc<ImageLun> {
    options.time_us = 1_700_000_000_000_000;
    let image = ImageLun::new("disk", options.devices[0].size);
    "disk".clone_into(&mut options.label);
    options.devices[0].disk_id = image.name().into();
    let plan = Plan::new(options).expect("plan");
    mkfs_vmfs::apply(&plan, &[ToImage(&image)]).expect("mkfs");
    Arc::new(image)
}
