//! Volumes in memory, hosts with a clock of their own, and randomness from a seed.
#![allow(dead_code, reason = "not every test uses all of it")]

pub(crate) mod upkept;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use mkfs_vmfs::{Options, Plan, Step};
use vmfs_core::cluster::{Clock, HostConfig};
use vmfs_core::format::{Family, Uuid};
use vmfs_core::fs::FileSystem;
use vmfs_core::lvm::open_luns;
use vmfs_core::scsi::{DeviceOffset, Lun, MemoryLun};

pub(crate) const MIB: u64 = 1 << 20;

/// A clock that moves only when someone sleeps.
#[derive(Debug, Default)]
pub(crate) struct TestClock {
    millis: AtomicU64,
}

impl Clock for TestClock {
    fn now(&self) -> Duration {
        Duration::from_secs(1_800_000_000) + self.uptime()
    }

    fn uptime(&self) -> Duration {
        Duration::from_millis(self.millis.load(SeqCst))
    }

    fn sleep(&self, time: Duration) {
        self.millis.fetch_add(time.as_millis() as u64, SeqCst);
    }
}

/// A host of a test.
pub(crate) struct Host(pub(crate) HostConfig);

impl Host {
    pub(crate) fn new(number: u32) -> Self {
        let uuid = Uuid {
            time_lo: number.into(),
            ..Uuid::default()
        };
        let mut config = HostConfig::new(uuid, &format!("host{number}"));
        config.clock = Arc::new(TestClock::default());
        Self(config)
    }
}

/// A fresh volume in memory.
pub(crate) fn volume(family: Family) -> Arc<MemoryLun> {
    volume_of(Options::new(family, &[2 << 30]))
}

pub(crate) fn volume_of(mut options: Options) -> Arc<MemoryLun> {
    options.time_us = 1_700_000_000_000_000;
    let size = options.devices[0].size;
    let plan = Plan::new(options).expect("plan");
    let lun = MemoryLun::new("volume", size);
    for step in plan.steps() {
        if let Step::Write { offset, bytes, .. } = step {
            lun.write(DeviceOffset(offset), &bytes).expect("write");
        }
    }
    Arc::new(lun)
}

pub(crate) fn mount(lun: &Arc<MemoryLun>, host: &Host) -> FileSystem {
    let volume = open_luns(vec![Arc::clone(lun) as Arc<dyn Lun>]).expect("volume");
    FileSystem::open_for_writing(volume, host.0.clone()).expect("mount")
}

/// Checks the volume, which must be clean.
pub(crate) fn fsck(lun: &Arc<MemoryLun>) {
    let volume = open_luns(vec![Arc::clone(lun) as Arc<dyn Lun>]).expect("volume");
    let fs = FileSystem::open(volume).expect("open");
    let report = fsck_vmfs::check(&fs, &mut |_| {});
    assert!(report.is_clean(), "{:#?}", report.findings);
}

/// SplitMix64.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// A size or an offset: of any magnitude, some just at a border.
    pub(crate) fn size(&mut self) -> u64 {
        let most = [100, 1024, 3584, 8192, 65536, 1 << 20, 6 << 20];
        let most = most[self.below(7) as usize];
        if self.below(5) == 0 {
            most
        } else {
            self.below(most)
        }
    }

    pub(crate) fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let random = self.next().to_le_bytes();
            chunk.copy_from_slice(&random[..chunk.len()]);
        }
    }
}
