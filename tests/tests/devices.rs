//! What a volume lies on: devices in any order, missing, twice or foreign, cut short.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;
use vmfs_core::format::{FileKind, text};
use vmfs_core::fs::{FileSystem, Inode};
use vmfs_core::lvm::{LvmError, Volume, VolumeOffset, open_paths};
use vmfs_core::scsi::{Access, DeviceOffset, FileLun, Lun, MemoryLun, OverlayLun};
use vmfs_fixtures::Kind;
use vmfs_tests::esxi_image;
use vmfs_tests::images::{esxi_image, esxi_volume};
use vmfs_tests::walk::{all_files, fingerprint, open};

const MIB: u64 = 1 << 20;

#[test]
fn volumes_without_a_file_system_read_through_the_volume_layer() {
    for name in ["lvm5", "lvm6"] {
        let Some(image) = esxi_image(name) else {
            continue;
        };
        let volume = open_paths(&[image], Access::ReadOnly).expect("volume");
        assert_eq!(volume.size(), 512 << 20);
        // Every MiB is filled with its own number.
        let mut mib = vec![0; 1 << 20];
        for number in 0..512_u64 {
            volume
                .read(VolumeOffset(number << 20), &mut mib)
                .expect("read");
            assert!(
                mib.iter().all(|&byte| byte == number as u8),
                "{name}: MiB {number}"
            );
        }
        // And across a border.
        let mut two = [0; 2];
        volume
            .read(VolumeOffset((256 << 20) - 1), &mut two)
            .expect("read");
        assert_eq!(two, [255, 0]);
    }
}

#[test]
fn extents_are_taken_in_any_order() {
    for name in ["vmfs5-span", "vmfs6-span"] {
        let Some(devices) = esxi_volume(name) else {
            continue;
        };
        let backwards: Vec<_> = devices.iter().rev().cloned().collect();
        assert_eq!(
            fingerprint(&open(&backwards)),
            fingerprint(&open(&devices)),
            "{name}"
        );
    }
    let fixture = Kind::Span.build().expect("fixture");
    let paths = fixture.paths();
    let expected = fingerprint(&open(&paths));
    for order in [[0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let devices = order.map(|index| paths[index].clone());
        assert_eq!(fingerprint(&open(&devices)), expected, "{order:?}");
    }
}

/// The error of opening `devices`, in words.
fn refusal(devices: &[PathBuf]) -> String {
    let opened = open_paths(devices, Access::ReadOnly);
    opened.expect_err("no volume").to_string()
}

#[test]
fn a_device_that_is_there_twice_is_named() {
    let Some(devices) = esxi_volume("vmfs5-span") else {
        return;
    };
    let volume = open_paths(&devices, Access::ReadOnly).expect("volume");
    let uuid = volume.devices()[0].metadata().uuid;
    let folder = tempfile::tempdir().expect("folder");
    let link = folder.path().join("again");
    std::os::unix::fs::symlink(&devices[0], &link).expect("link");
    assert_eq!(
        refusal(&[devices[0].clone(), devices[1].clone(), link.clone()]),
        format!(
            "{} and {} are the same device {uuid}: give one of them (one is a copy if they are different disks)",
            devices[0].display(),
            link.display()
        )
    );
}

/// A volume's UUID and name, as messages have them.
fn describe(volume: &Volume) -> String {
    let entry = volume.entry().expect("LVM");
    let name = String::from_utf8_lossy(text(&entry.name)).into_owned();
    format!("{} ({name})", entry.uuid)
}

#[test]
fn a_device_of_another_volume_is_named() {
    let (Some(devices), Some(other)) = (esxi_volume("vmfs5-span"), esxi_image("vmfs6")) else {
        return;
    };
    let own = open_paths(&devices, Access::ReadOnly).expect("volume");
    let foreign = open_paths(std::slice::from_ref(&other), Access::ReadOnly).expect("volume");
    assert_eq!(
        refusal(&[devices[0].clone(), devices[1].clone(), other.clone()]),
        format!(
            "{} belongs to volume {}, but {} to volume {}: open one volume at a time",
            other.display(),
            describe(&foreign),
            devices[0].display(),
            describe(&own)
        )
    );
}

/// Reads a piece of a file from the whole volume and from the one with a device missing: whether
/// the latter has it, which it then must have exactly, or says EIO.
fn read_degraded(
    whole: &FileSystem,
    degraded: &FileSystem,
    inode: &Inode,
    at: u64,
    path: &str,
) -> bool {
    let (mut ours, mut expected) = (vec![0; 4096], vec![0; 4096]);
    let length = whole.read(inode, at, &mut expected).expect("whole volume");
    match degraded.read(inode, at, &mut ours) {
        Ok(read) => {
            assert_eq!(ours[..read], expected[..length], "{path} from {at:#x}");
            true
        }
        Err(error) => {
            assert_eq!(error.errno(), rustix::io::Errno::IO, "{error}");
            false
        }
    }
}

#[test]
fn a_missing_extent_leaves_the_rest_readable() {
    for name in ["vmfs5-span", "vmfs6-span"] {
        let Some(devices) = esxi_volume(name) else {
            continue;
        };
        let whole = open(&devices);
        let volume = open_paths(&devices[..1], Access::ReadOnly).expect("degraded volume");
        assert_eq!(volume.missing_devices(), 1);
        assert!(
            volume.missing_names()[0].contains("QM00015"),
            "{:?}",
            volume.missing_names()
        );
        check_degraded_volume(whole.volume(), &volume, name);
        let degraded = FileSystem::open(volume).expect("file system");
        let (mut exact, mut failed) = (0, 0);
        for (path, inode) in all_files(&whole) {
            let mut at = 0;
            while at < inode.length() && !inode.is_directory() {
                let read = read_degraded(&whole, &degraded, &inode, at, &path);
                *if read { &mut exact } else { &mut failed } += 1;
                at += MIB;
            }
        }
        println!("{name}: {exact} pieces exact, {failed} on the missing device");
        assert!(exact > 50);

        // The other device has no file system descriptor, so there are no files.
        let volume = open_paths(&devices[1..], Access::ReadOnly).expect("degraded volume");
        assert_eq!(volume.missing_devices(), 1);
        check_degraded_volume(whole.volume(), &volume, name);
        let error = FileSystem::open(volume).expect_err("no descriptor");
        assert_eq!(
            error.to_string(),
            "volume offset 0x200000 lies on a device that is missing"
        );
    }
}

/// A volume with a device missing is what it was, or an error that says where.
fn check_degraded_volume(whole: &Volume, degraded: &Volume, name: &str) {
    assert_eq!(degraded.size(), whole.size(), "{name}");
    let (mut ours, mut expected) = ([0; 4096], [0; 4096]);
    let (mut exact, mut failed) = (0, 0);
    let border = match degraded.extents() {
        [first, ..] => first.length,
        [] => 0,
    };
    // In every MiB, and across the border of the devices by a byte on each side.
    let starts = (0..whole.size() / MIB).map(|number| number * MIB);
    for at in starts.chain([border - 1]) {
        let length = if at == border - 1 { 2 } else { ours.len() };
        let offset = VolumeOffset(at);
        whole
            .read(offset, &mut expected[..length])
            .expect("whole volume");
        let gone = degraded
            .missing()
            .find(|gap| at < gap.logical.0 + gap.length && gap.logical.0 < at + length as u64);
        match degraded.read(offset, &mut ours[..length]) {
            Ok(()) => {
                assert!(gone.is_none(), "{name} at {at:#x}");
                assert!(ours[..length] == expected[..length], "{name} at {at:#x}");
                exact += 1;
            }
            Err(error) => {
                let gap = gone.unwrap_or_else(|| panic!("{name} at {at:#x}: {error}"));
                let first = VolumeOffset(at.max(gap.logical.0));
                assert!(
                    matches!(error, LvmError::MissingExtent { offset } if offset == first),
                    "{name} at {at:#x}: {error}"
                );
                failed += 1;
            }
        }
    }
    assert!(
        exact > 1000 && failed > 1000,
        "{name}: {exact} exact, {failed} failed"
    );
}

#[test]
fn a_read_only_volume_is_opened_read_only() {
    let image = esxi_image!("vmfs6");
    let lun = FileLun::open(&image, Access::ReadOnly).expect("image");
    let pid = std::process::id();
    let path = image.canonicalize().expect("path");
    let fds = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("descriptors");
    let mine = fds
        .flatten()
        .find(|fd| std::fs::read_link(fd.path()).is_ok_and(|to| to == path));
    let number = mine.expect("an open descriptor").file_name();
    let info = std::fs::read_to_string(format!("/proc/{pid}/fdinfo/{}", number.display()));
    let flags = info.expect("fdinfo");
    let flags = flags
        .lines()
        .find_map(|line| line.strip_prefix("flags:"))
        .expect("flags")
        .trim();
    assert_eq!(
        u32::from_str_radix(flags, 8).expect("octal") & 3,
        0,
        "O_RDONLY"
    );
    assert!(lun.write(DeviceOffset(0), &[0; 512]).is_err());
}

#[test]
fn files_on_a_missing_device_fail_and_others_are_exact() {
    let fixture = Kind::Span.build().expect("fixture");
    let paths = fixture.paths();
    let whole = open(&paths);
    let missing_last = &paths[..paths.len() - 1];
    let degraded = open(missing_last);
    assert_eq!(degraded.volume().missing_devices(), 1);
    let (mut exact, mut failed) = (0, 0);
    for (path, inode) in all_files(&whole) {
        let mut at = 0;
        while at < inode.length() && inode.kind() != FileKind::Rdm {
            let run = whole.run_at(&inode, at, u64::MAX).expect("run");
            let read = read_degraded(&whole, &degraded, &inode, at, &path);
            *if read { &mut exact } else { &mut failed } += 1;
            at = run.end();
        }
    }
    println!("{exact} pieces exact, {failed} on the missing device");
    assert!(exact > 100 && failed > 0, "{exact} exact, {failed} failed");
}

/// The first `length` bytes of an image, without what is zero in it.
fn cut_short(image: &Path, length: u64) -> NamedTempFile {
    let short = NamedTempFile::new().expect("file");
    short.as_file().set_len(length).expect("length");
    let image = File::open(image).expect("image");
    let mut piece = vec![0; MIB as usize];
    for offset in (0..length).step_by(piece.len()) {
        image.read_exact_at(&mut piece, offset).expect("read");
        for (index, block) in piece.chunks(4096).enumerate() {
            if block.iter().any(|&byte| byte != 0) {
                let offset = offset + index as u64 * 4096;
                short.as_file().write_all_at(block, offset).expect("write");
            }
        }
    }
    short
}

#[test]
fn a_device_cut_short_says_so() {
    let image = esxi_image!("vmfs6");
    let short = cut_short(&image, 1 << 30);
    let fs = open(&[short.path().to_owned()]);
    let bigger = fs.resolve(b"/big", false).expect("big");
    let error = fs
        .read(&bigger, 0, &mut [0; 512])
        .expect_err("behind the cut");
    assert!(error.to_string().contains("cut short"), "{error}");
    let overlay: OverlayLun<MemoryLun> = OverlayLun::new(MemoryLun::new("x", 512), Vec::new());
    assert!(overlay.write(DeviceOffset(0), &[0]).is_err());
}
