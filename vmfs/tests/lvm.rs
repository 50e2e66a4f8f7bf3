//! `vmfs lvm grow` and `vmfs lvm extend` on image files.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use vmfs_core::fs::FileSystem;
use vmfs_core::lvm::open_paths;
use vmfs_core::scsi::Access;
use vmfs_fixtures::Kind;

const GIB: u64 = 1 << 30;

/// A small volume of VMFS6 in an image file.
fn image(directory: &Path) -> PathBuf {
    let fixture = Kind::Small6.build().expect("fixture");
    let path = directory.join("volume.img");
    let file = File::create(&path).expect("image");
    let size = fixture.files()[0].metadata().expect("size").len();
    file.set_len(size).expect("size");
    let mut chunk = vec![0; 1 << 20];
    for offset in (0..size).step_by(chunk.len()) {
        let length = (size - offset).min(chunk.len() as u64) as usize;
        let part = &mut chunk[..length];
        fixture.files()[0]
            .read_exact_at(part, offset)
            .expect("read");
        if part.iter().any(|&byte| byte != 0) {
            file.write_all_at(part, offset).expect("write");
        }
    }
    path
}

fn empty(directory: &Path, name: &str, size: u64) -> PathBuf {
    let path = directory.join(name);
    let file = File::create(&path).expect("image");
    file.set_len(size).expect("size");
    path
}

fn vmfs(arguments: &[&str], devices: &[&Path]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_vmfs"))
        .args(arguments)
        .args(devices)
        .output()
        .expect("vmfs runs")
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}

/// Blocks of the file system, which all must lie on the devices.
fn blocks(devices: &[&Path]) -> u64 {
    let volume = open_paths(devices, Access::ReadOnly).expect("volume");
    assert_eq!(volume.missing_devices(), 0);
    let fs = FileSystem::open(volume).expect("file system");
    let space = fs.space();
    assert_eq!(space.blocks * space.block_size, fs.volume().size());
    space.blocks
}

#[test]
fn a_longer_image_gives_the_volume_more_room() {
    let directory = tempfile::tempdir().expect("directory");
    let path = image(directory.path());
    let before = blocks(&[&path]);
    let file = File::options().write(true).open(&path).expect("image");
    let size = file.metadata().expect("size").len();
    file.set_len(size + 5 * GIB).expect("size");
    let done = vmfs(&["lvm", "grow"], &[&path]);
    assert!(done.status.success(), "{}", text(&done));
    assert!(text(&done).contains("20 extents"), "{}", text(&done));
    assert_eq!(blocks(&[&path]), before + 5 * 1024);
    let again = vmfs(&["lvm", "grow"], &[&path]);
    assert!(again.status.success(), "{}", text(&again));
    assert!(text(&again).contains("nothing to do"), "{}", text(&again));
    let report = vmfs(&["lvm", "grow", "--json"], &[&path]);
    let report: serde_json::Value = serde_json::from_slice(&report.stdout).expect("JSON");
    assert_eq!(report["volume"]["changed"], false);
    assert_eq!(report["file_system"]["blocks"], before + 5 * 1024);
}

#[test]
fn new_devices_must_be_empty_or_forced() {
    let directory = tempfile::tempdir().expect("directory");
    let path = image(directory.path());
    let before = blocks(&[&path]);
    let new = empty(directory.path(), "new.img", 2 * GIB);
    let mark = File::options().write(true).open(&new).expect("image");
    mark.write_all_at(b"XFSB", 0).expect("write");
    let add = ["lvm", "extend", path.to_str().expect("path"), "--add"];
    let refused = vmfs(&add, &[&new]);
    assert_eq!(refused.status.code(), Some(2), "{}", text(&refused));
    assert!(text(&refused).contains("XFS"), "{}", text(&refused));
    assert_eq!(blocks(&[&path]), before);

    let forced = [&add[..2], &["--force"], &add[2..]].concat();
    let done = vmfs(&forced, &[&new]);
    assert!(done.status.success(), "{}", text(&done));
    // 7 extents fit behind the metadata.
    assert_eq!(blocks(&[&path, &new]), before + 7 * 256);
    let again = vmfs(&add, &[&new]);
    assert!(text(&again).contains("nothing to do"), "{}", text(&again));
}

#[test]
fn a_mounted_volume_is_left_alone() {
    let directory = tempfile::tempdir().expect("directory");
    let path = image(directory.path());
    let fs = FileSystem::open(open_paths(&[&path], Access::ReadWrite).expect("volume"));
    let fs = fs.expect("file system");
    let slot = vmfs_core::lvm::VolumeOffset(fs.layout().heartbeats);
    let state = 0xabcd_ef02_u32.to_le_bytes();
    fs.volume().write(slot, &state).expect("write");
    drop(fs);
    let file = File::options().write(true).open(&path).expect("image");
    let size = file.metadata().expect("size").len();
    file.set_len(size + GIB).expect("size");
    let before = blocks(&[&path]);
    let refused = vmfs(&["lvm", "grow"], &[&path]);
    assert!(!refused.status.success());
    assert!(text(&refused).contains("mounted"), "{}", text(&refused));
    let new = empty(directory.path(), "new.img", GIB);
    let add = ["lvm", "extend", path.to_str().expect("path"), "--add"];
    let refused = vmfs(&add, &[&new]);
    assert!(text(&refused).contains("mounted"), "{}", text(&refused));
    assert_eq!(blocks(&[&path]), before);
    let forced = vmfs(&["lvm", "grow", "--force"], &[&path]);
    assert!(forced.status.success(), "{}", text(&forced));
    assert_eq!(blocks(&[&path]), before + 1024);
}
