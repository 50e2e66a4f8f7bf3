//! A file without names goes in the end, whatever fails on the way.

use super::*;
use vmfs_core::cluster::HostConfig;
use vmfs_core::format::FdAddr;
use vmfs_core::fs::{Creator, FsError};

const CREATOR: Creator = Creator {
    mode: 0o644,
    uid: 0,
    gid: 0,
};

/// A host that has deleted a file which is in use by it.
fn deleted(lun: Arc<dyn Lun>) -> FileSystem {
    let fs = mount(lun, 1);
    let file = fs.create(FdAddr::ROOT, b"disk", CREATOR).expect("create");
    let file = file.fd();
    fs.write(file, 0, &vec![7; 3 << 20]).expect("write");
    fs.hold(file);
    fs.unlink(FdAddr::ROOT, b"disk").expect("unlink");
    fs.sync().expect("sync");
    fs
}

/// Whatever was left, the next host puts it in order.
fn put_in_order(lun: &Arc<MemoryLun>) {
    let fs = mount(Arc::clone(lun) as Arc<dyn Lun>, 3);
    fs.close().expect("close");
    fsck(lun);
}

fn try_to_mount(lun: Arc<dyn Lun>, config: HostConfig) -> Result<FileSystem, FsError> {
    FileSystem::open_for_writing(open_luns(vec![lun])?, config)
}

#[test]
fn a_deletion_that_fails_at_unmount_is_left_to_the_next_host() {
    for family in [Family::Vmfs5, Family::Vmfs6] {
        let fresh = volume(family);
        let mut failed = 0;
        for reads in [false, true] {
            for good in 0.. {
                let lun = Arc::new(fresh.replica("volume"));
                let faults = Arc::new(Faults::none(reads, true));
                let faulty = FaultLun::new(Arc::clone(&lun), Arc::clone(&faults));
                let fs = deleted(Arc::new(faulty));
                let before = faults.seen();
                faults.set(good, 1);
                failed += u32::from(fs.close().is_err());
                let is_over = faults.seen() - before <= good;
                drop(fs);
                put_in_order(&lun);
                if is_over {
                    break;
                }
            }
        }
        assert!(failed > 5, "{family}: {failed}");
    }
}

#[test]
fn a_deletion_that_fails_at_takeover_is_left_to_the_next_host() {
    for family in [Family::Vmfs5, Family::Vmfs6] {
        let left = Arc::new(volume(family).replica("volume"));
        drop(deleted(Arc::clone(&left) as Arc<dyn Lun>));
        let mut failed = 0;
        for good in 0.. {
            let lun = Arc::new(left.replica("volume"));
            let faults = Arc::new(Faults::none(true, true));
            faults.set(good, 1);
            let faulty = FaultLun::new(Arc::clone(&lun), Arc::clone(&faults));
            let opened = try_to_mount(Arc::new(faulty), Host::new(2).0);
            let closed = opened.and_then(|fs| fs.close());
            failed += u32::from(closed.is_err());
            let is_over = faults.seen() <= good;
            put_in_order(&lun);
            if is_over {
                break;
            }
        }
        assert!(failed > 20, "{family}: {failed}");
    }
}
