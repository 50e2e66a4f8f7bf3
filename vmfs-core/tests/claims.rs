//! A claim of a dead host's slot whose answer is lost together with the reservation that it was made under.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use common::{Host, fsck, volume};
use vmfs_core::format::{Family, FdAddr};
use vmfs_core::fs::{Creator, FileSystem};
use vmfs_core::lvm::open_luns;
use vmfs_core::scsi::{DeviceOffset, Lun, LunError, MemoryArray, MemoryPort, Personality};

/// State word of a heartbeat slot that a host has.
const IN_USE: [u8; 4] = 0xabcd_ef02_u32.to_le_bytes();

/// A LUN whose connection ends when the first host's slot is written for the first time: the array has carried
/// it out, and the reservation is gone when it is sent again.
#[derive(Debug)]
struct CutLun {
    port: MemoryPort,
    other: MemoryPort,
    was_cut: Arc<AtomicBool>,
}

impl Lun for CutLun {
    vmfs_core::forward_lun!(port: name capacity block_size access capabilities flush reserve release persistent_reserve reservations reset attentions counters);

    fn read(&self, offset: DeviceOffset, buf: &mut [u8]) -> Result<(), LunError> {
        self.port.read(offset, buf)
    }

    fn write(&self, offset: DeviceOffset, data: &[u8]) -> Result<(), LunError> {
        let is_its = data.starts_with(&IN_USE) && data.windows(5).any(|name| name == b"host1");
        if is_its && !self.was_cut.swap(true, SeqCst) {
            self.port.write(offset, data)?;
            self.other.reset()?;
        }
        self.port.write(offset, data)
    }

    fn write_zeros(&self, offset: DeviceOffset, length: u64) -> Result<(), LunError> {
        self.port.write_zeros(offset, length)
    }
}

#[test]
fn a_claim_whose_answer_is_lost_with_the_reservation_is_gone_through_with() {
    for family in [Family::Vmfs5, Family::Vmfs6] {
        let lun = volume(family);
        let array = MemoryArray::with(&lun, Personality::Legacy);
        let mount = |lun: Arc<dyn Lun>, number| {
            let volume = open_luns(vec![lun]).expect("volume");
            FileSystem::open_for_writing(volume, Host::new(number).0).expect("mount")
        };
        // What it has made durable is in its journal only: it is alone.
        let dead = mount(Arc::new(array.port("host1")), 1);
        let creator = Creator {
            mode: 0o644,
            uid: 0,
            gid: 0,
        };
        dead.create(FdAddr::ROOT, b"file", creator).expect("create");
        dead.sync().expect("sync");
        drop(dead);
        let was_cut = Arc::new(AtomicBool::new(false));
        let cut = CutLun {
            port: array.port("host2"),
            other: array.port("other"),
            was_cut: Arc::clone(&was_cut),
        };
        let fs = mount(Arc::new(cut), 2);
        assert!(was_cut.load(SeqCst));
        let root = fs.root().expect("root");
        fs.lookup(&root, b"file").expect("what the dead host made");
        fs.close().expect("close");
        fsck(&lun);
    }
}
