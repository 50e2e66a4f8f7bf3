//! An address of `.fdc.sf` that leads to a free block: the files whose descriptors lie behind it are
//! still there, and aren't taken for such that nobody has.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::sync::Arc;

use vmfs_core::cluster::HostConfig;
use vmfs_core::format::{BlockAddr, FdAddr, Layout, SystemFile, Uuid};
use vmfs_core::fs::{Creator, FileSystem};
use vmfs_core::lvm::{VolumeOffset, open_paths};
use vmfs_core::scsi::Access;
use vmfs_tests::corpus::base;
use vmfs_tests::corpus::trial::{copy_sparse, programs};
use vmfs_tests::crash::volume::TestClock;

/// More than the first file block of `.fdc.sf` has descriptors.
const FILES: u32 = 500;
const CREATOR: Creator = Creator {
    mode: 0o644,
    uid: 0,
    gid: 0,
};

/// Where the second address of `.fdc.sf`'s map lies on the device, and that of the volume's last block.
fn second_address(fs: &FileSystem) -> (u64, Vec<u8>) {
    let layout: &Layout = fs.layout();
    let fd = u64::from(SystemFile::FileDescriptors.fd().resource());
    let slot = layout.first_fd + fd * layout.fd_size + layout.fd_addresses + layout.address_size;
    let last = BlockAddr::FileBlock {
        block: (fs.volume().size() >> layout.file_block_shift) - 1,
        tbz: 0,
        cow: false,
    };
    let raw = last.encode(layout).to_le_bytes();
    let place = fs.volume().place(VolumeOffset(slot)).expect("place").1.0;
    (place, raw[..layout.address_size as usize].to_vec())
}

#[test]
fn descriptors_that_a_map_hides_are_found_again() {
    let programs = programs();
    let fsck = |mode: &str, image: &std::path::Path| {
        let mut command = Command::new(&programs.fsck);
        command.args([mode, "--lease", "20"]).arg(image);
        command.status().expect("fsck.vmfs").code()
    };
    for name in ["vmfs5", "vmfs6"] {
        let folder = tempfile::tempdir().expect("folder");
        let base = base::build(name, folder.path()).expect("base");
        let uuid = Uuid {
            time_lo: 77.into(),
            ..Uuid::default()
        };
        let mut host = HostConfig::new(uuid, "host77");
        host.clock = Arc::new(TestClock::default());
        let volume = open_paths(&base.devices, Access::ReadWrite).expect("volume");
        let fs = FileSystem::open_for_writing(volume, host).expect("file system");
        let directory = fs.make_directory(FdAddr::ROOT, b"late", CREATOR);
        let directory = directory.expect("directory").fd();
        for number in 0..FILES {
            let file = fs.create(directory, format!("{number}").as_bytes(), CREATOR);
            let file = file.expect("file").fd();
            fs.write(file, 0, &number.to_le_bytes()).expect("write");
        }
        fs.sync().expect("sync");
        let (slot, raw) = second_address(&fs);
        drop(fs);
        // This process still counts as the host that has the first one.
        let image = folder.path().join("copy.img");
        copy_sparse(&base.devices[0], &image).expect("copy");
        assert_eq!(fsck("-y", &image), Some(1), "{name}: the host's journal");
        let device = File::options().write(true).open(&image).expect("image");
        device.write_all_at(&raw, slot).expect("damage");
        let before = fs::read(&image).expect("image");
        assert_eq!(fsck("-p", &image), Some(4), "{name}");
        assert!(fs::read(&image).expect("image") == before, "{name}: -p");
        assert_eq!(fsck("-y", &image), Some(1), "{name}");
        assert_eq!(fsck("-n", &image), Some(0), "{name}");
        let volume = open_paths(&[&image], Access::ReadOnly).expect("volume");
        let fs = FileSystem::open(volume).expect("file system");
        for number in 0..FILES {
            let file = fs.resolve(format!("/late/{number}").as_bytes(), false);
            let mut content = [0; 4];
            fs.read(&file.expect("file"), 0, &mut content)
                .expect("read");
            assert_eq!(content, number.to_le_bytes(), "{name}");
        }
    }
}
