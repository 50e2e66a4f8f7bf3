//! Directories that outgrow their first map: tens of thousands of names.

mod common;

use common::{Host, fsck, mount, volume_of};
use mkfs_vmfs::Options;
use vmfs_core::format::{Family, FdAddr};
use vmfs_core::fs::Creator;

#[test]
fn a_directory_takes_eighty_thousand_names_and_gives_them_back() {
    for family in [Family::Vmfs5, Family::Vmfs6] {
        let lun = volume_of(Options::new(family, &[4 << 30]));
        let fs = mount(&lun, &Host::new(1));
        let creator = Creator {
            mode: 0o755,
            uid: 0,
            gid: 0,
        };
        let directory = fs.make_directory(FdAddr::ROOT, b"many", creator);
        let directory = directory.expect("directory").fd();
        let file = fs.create(directory, b"file", creator).expect("file").fd();
        let name = |number: u32| format!("a name of a file {number}").into_bytes();
        for number in 0..80_000 {
            fs.link(file, directory, &name(number)).expect("link");
        }
        let inode = fs.inode(directory).expect("directory");
        for number in (0..80_000).step_by(97) {
            assert_eq!(fs.lookup(&inode, &name(number)).expect("there").fd(), file);
        }
        fs.close().expect("close");
        fsck(&lun);
        let fs = mount(&lun, &Host::new(2));
        for number in 0..80_000 {
            fs.unlink(directory, &name(number)).expect("unlink");
        }
        fs.unlink(directory, b"file").expect("unlink");
        fs.remove_directory(FdAddr::ROOT, b"many").expect("rmdir");
        fs.close().expect("close");
        fsck(&lun);
    }
}
