//! Hosts with the thread that does their upkeep, on arrays of both kinds.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use vmfs_core::cluster::HostConfig;
use vmfs_core::format::{Family, FdAddr, Uuid};
use vmfs_core::fs::{FileSystem, FsError};
use vmfs_core::lvm::open_luns;
use vmfs_core::scsi::{Lun, MemoryArray, MemoryLun, Personality};

/// Everything in the time scale of tests: a hundredth of the usual.
pub(crate) const HEARTBEAT: Duration = Duration::from_millis(30);
pub(crate) const LEASE: Duration = Duration::from_millis(480);

/// A host with the thread that does its upkeep.
pub(crate) struct Upkept {
    pub(crate) fs: Arc<FileSystem>,
    stop: Arc<AtomicBool>,
    upkeep: Option<JoinHandle<()>>,
}

impl Upkept {
    /// Mounts the volume on `array` as host `number`, which may be fenced.
    pub(crate) fn mount(array: &MemoryArray, number: u32) -> Self {
        let lun = Arc::new(array.port(&format!("host{number}")));
        let may_fail = |error: &FsError| matches!(error, FsError::Fenced);
        Self::on(lun, number, Duration::from_millis(50), may_fail)
    }

    /// Mounts the volume on `lun` as host `number`; upkeep may fail with what `may_fail` allows.
    pub(crate) fn on(
        lun: Arc<dyn Lun>,
        number: u32,
        commit: Duration,
        may_fail: fn(&FsError) -> bool,
    ) -> Self {
        let uuid = Uuid {
            time_lo: number.into(),
            ..Uuid::default()
        };
        let mut config = HostConfig::new(uuid, &format!("host{number}"));
        (config.heartbeat, config.lease) = (HEARTBEAT, LEASE);
        config.commit = commit;
        let volume = open_luns(vec![lun]).expect("volume");
        let fs = Arc::new(FileSystem::open_for_writing(volume, config).expect("mount"));
        let stop = Arc::new(AtomicBool::new(false));
        let (its, stopped) = (Arc::clone(&fs), Arc::clone(&stop));
        let upkeep = thread::spawn(move || {
            while !stopped.load(SeqCst) {
                let (wait, result) = its.keep_up();
                if let Err(error) = result {
                    assert!(may_fail(&error), "{error}");
                }
                thread::sleep(wait.min(HEARTBEAT / 4));
            }
        });
        Self {
            fs,
            stop,
            upkeep: Some(upkeep),
        }
    }

    /// Ends the upkeep.
    pub(crate) fn pause(&mut self) {
        self.stop.store(true, SeqCst);
        if let Some(upkeep) = self.upkeep.take() {
            upkeep.join().expect("upkeep");
        }
    }

    pub(crate) fn unmount(mut self) {
        self.pause();
        self.fs.close().expect("close");
    }

    /// Names in a directory, in order, but for those of system files.
    pub(crate) fn names(&self, directory: FdAddr) -> Vec<String> {
        let directory = self.fs.inode(directory).expect("directory");
        let mut names = Vec::new();
        let visit = |entry: vmfs_core::fs::DirEntry| {
            names.push(String::from_utf8(entry.name).expect("UTF-8"));
            true
        };
        self.fs.read_dir(&directory, 0, visit).expect("list");
        names.retain(|name| !name.starts_with('.'));
        names.sort();
        names
    }
}

/// Runs `test` on volumes of both formats, on arrays with COMPARE AND WRITE and without; they must be clean
/// afterwards.
pub(crate) fn each_of(volume: impl Fn(Family) -> Arc<MemoryLun>, test: impl Fn(&MemoryArray)) {
    for family in [Family::Vmfs6, Family::Vmfs5] {
        for personality in [Personality::Vaai, Personality::Legacy] {
            eprintln!("{family:?} on {personality:?}");
            let array = MemoryArray::with(&volume(family), personality);
            test(&array);
            let volume = open_luns(vec![Arc::new(array.port("checker")) as _]).expect("volume");
            let fs = FileSystem::open(volume).expect("open");
            let report = fsck_vmfs::check(&fs, &mut |_| {});
            assert!(report.is_clean(), "{:#?}", report.findings);
        }
    }
}
