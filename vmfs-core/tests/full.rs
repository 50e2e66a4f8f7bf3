//! A volume without a free block: it can be mounted, freed and written to again, also after a host
//! died on it.

mod common;

use common::{Host, fsck, mount, volume_of};
use mkfs_vmfs::Options;
use vmfs_core::format::{Family, FdAddr};
use vmfs_core::fs::{Creator, FileSystem, FsError};

const CREATOR: Creator = Creator {
    mode: 0o644,
    uid: 0,
    gid: 0,
};

/// Writes until nothing is left; the files that came of it.
fn fill(fs: &FileSystem) -> usize {
    let part = vec![0xf1; 1 << 20];
    for number in 0.. {
        let name = format!("fill{number}");
        let file = fs.create(FdAddr::ROOT, name.as_bytes(), CREATOR);
        let file = file.expect("a descriptor").fd();
        for offset in 0..256 {
            if let Err(error) = fs.write(file, offset << 20, &part) {
                assert_eq!(error.errno(), rustix::io::Errno::NOSPC, "{error}");
                return number + 1;
            }
        }
    }
    0
}

#[test]
fn a_full_volume_is_mounted_after_an_unmount_and_after_a_death() {
    for family in [Family::Vmfs5, Family::Vmfs6] {
        let lun = volume_of(Options::new(family, &[2 << 30]));
        let fs = mount(&lun, &Host::new(1));
        let free = fs.space().free_blocks;
        let files = fill(&fs);
        fs.sync().expect("sync");
        assert_eq!(fs.space().free_blocks, 0, "{family}");
        drop(fs);
        // It died; the next one fills what its journal leaves, and dies as well.
        let fs = mount(&lun, &Host::new(2));
        let _ = fs.write(
            fs.resolve(b"/fill0", true).expect("file").fd(),
            300 << 20,
            &[1; 4096],
        );
        fs.sync().expect("sync");
        drop(fs);
        fsck(&lun);
        let fs = mount(&lun, &Host::new(3));
        let refused = fs.write(FdAddr::ROOT, 0, b"x").expect_err("a directory");
        assert!(matches!(refused, FsError::IsDirectory { .. }), "{refused}");
        for number in 0..files {
            fs.unlink(FdAddr::ROOT, format!("fill{number}").as_bytes())
                .expect("unlink");
        }
        fs.sync().expect("sync");
        assert_eq!(fs.space().free_blocks, free, "{family}");
        fs.close().expect("close");
        fsck(&lun);
    }
}
