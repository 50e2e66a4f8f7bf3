//! What a mount shows of volumes that ESXi made.

mod common;

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::process::Command;
use std::thread;

use vmfs_tests::esxi_image;

use common::{Mount, errno, open};
use rustix::fs::SeekFrom;
use rustix::io::Errno;

const VOLUMES: [&str; 2] = ["vmfs5", "vmfs6"];
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// The byte that fills block `block` of `/bigger`, which has 128 blocks of 1 MiB.
fn filler(block: u64) -> u8 {
    (block % 256) as u8
}

fn each_volume(test: impl Fn(&str, &Mount)) {
    for name in VOLUMES {
        let mount = Mount::new(&[&esxi_image!(name)], &[]);
        test(name, &mount);
    }
}

#[test]
fn files_have_the_contents_that_were_written_on_esxi() {
    each_volume(|name, mount| {
        assert_eq!(fs::read(mount.file("small")).expect("small"), b"tiny\n");
        let mut big = b"Kusjes van SRT<3".repeat(65536);
        big.push(b'\n');
        assert!(fs::read(mount.file("big")).expect("big") == big, "{name}");
        let link = fs::read_link(mount.file("symlink")).expect("symlink");
        assert_eq!(link, Path::new(&format!("/vmfs/volumes/{name}/small")));
        let mut file = open(&mount.file("bigger"));
        let mut block = vec![0; MIB as usize];
        for number in 0..128 {
            file.read_exact(&mut block).expect("bigger");
            let expected = filler(number);
            assert!(
                block.iter().all(|&byte| byte == expected),
                "{name} {number}"
            );
        }
        assert_eq!(file.read(&mut block).expect("the end"), 0);
    });
}

#[test]
fn a_directory_lists_every_name_once() {
    each_volume(|name, mount| {
        let mut found: Vec<_> = fs::read_dir(mount.file("directory"))
            .expect("directory")
            .map(|entry| {
                entry
                    .expect("entry")
                    .file_name()
                    .into_string()
                    .expect("name")
            })
            .collect();
        found.sort();
        let mut expected: Vec<_> = (1..=100).map(|number| format!("file{number}")).collect();
        expected.sort();
        assert_eq!(found, expected, "{name}");
        for number in 1..=100 {
            let path = mount.file(&format!("directory/file{number}"));
            let expected = format!("File {number}\n");
            assert_eq!(fs::read_to_string(path).expect("file"), expected);
        }
    });
}

#[test]
fn a_name_that_is_not_there_is_not_found_each_time() {
    each_volume(|_, mount| {
        for _ in 0..2 {
            assert_eq!(
                errno(fs::metadata(mount.file("no such file"))),
                Errno::NOENT
            );
        }
        let long = mount.file(&"x".repeat(200));
        assert!(matches!(
            errno(fs::metadata(long)),
            Errno::NOENT | Errno::NAMETOOLONG
        ));
        assert_eq!(errno(fs::metadata(mount.file("small/x"))), Errno::NOTDIR);
    });
}

#[test]
fn inode_numbers_are_the_same_at_every_mount() {
    let numbers = |mount: &Mount| -> Vec<(String, u64)> {
        let mut numbers: Vec<_> = fs::read_dir(mount.path())
            .expect("root")
            .map(|entry| {
                let entry = entry.expect("entry");
                let number = entry.metadata().expect("metadata").ino();
                assert_eq!(
                    fs::symlink_metadata(entry.path()).expect("stat").ino(),
                    number
                );
                (entry.file_name().into_string().expect("name"), number)
            })
            .collect();
        numbers.sort();
        numbers
    };
    for name in VOLUMES {
        let image = esxi_image!(name);
        let first = Mount::new(&[&image], &[]);
        let second = Mount::new(&[&image], &["-o", "threads=1"]);
        assert_eq!(numbers(&first), numbers(&second), "{name}");
        assert_eq!(fs::metadata(first.path()).expect("root").ino(), 1);
    }
}

#[test]
fn attributes_are_the_stored_ones_unless_overridden() {
    let image = esxi_image!("vmfs6");
    let mount = Mount::new(&[&image], &[]);
    let stored = fs::metadata(mount.file("normal-flat.vmdk")).expect("metadata");
    assert_eq!(
        (stored.uid(), stored.gid(), stored.mode()),
        (0, 0, 0o100_600)
    );
    assert_eq!(stored.len(), 69 * GIB);
    assert!(stored.blocks() * 512 <= MIB, "{}", stored.blocks());
    drop(mount);

    let options = ["-o", "uid=12,gid=34,fmask=0137,dmask=027"];
    let mount = Mount::new(&[&image], &options);
    let file = fs::metadata(mount.file("normal-flat.vmdk")).expect("metadata");
    assert_eq!((file.uid(), file.gid(), file.mode()), (12, 34, 0o100_640));
    let directory = fs::metadata(mount.file("directory")).expect("metadata");
    assert_eq!(directory.mode(), 0o040_750);
    assert_eq!(file.mtime(), stored.mtime());
}

#[test]
fn holes_can_be_found() {
    each_volume(|name, mount| {
        for (file, at, length) in [
            ("normal-flat.vmdk", 42 * GIB, 69 * GIB),
            ("large-flat.vmdk", 117 * GIB, 42 << 40),
        ] {
            let file = open(&mount.file(file));
            assert_eq!(file.metadata().expect("metadata").len(), length);
            let seek = |to| rustix::fs::seek(&file, to);
            assert_eq!(seek(SeekFrom::Hole(0)), Ok(0), "{name}");
            let data = seek(SeekFrom::Data(0)).expect("data");
            assert!((at - 8 * MIB..=at).contains(&data), "{name} {data:#x}");
            let hole = seek(SeekFrom::Hole(at)).expect("hole");
            assert!(
                (at + 512..=at + 8 * MIB).contains(&hole),
                "{name} {hole:#x}"
            );
            assert_eq!(seek(SeekFrom::Data(hole)), Err(Errno::NXIO));
            assert_eq!(seek(SeekFrom::Hole(length)), Err(Errno::NXIO));
            let mut sectors = [0; 1536];
            file.read_exact_at(&mut sectors, at - 512).expect("read");
            assert!(sectors[..512].iter().all(|&byte| byte == 0));
            assert!(sectors[512..1024].iter().all(|&byte| byte == 0x42));
            assert!(sectors[1024..].iter().all(|&byte| byte == 0));
        }
    });
}

#[test]
fn cp_and_qemu_img_keep_holes() {
    each_volume(|name, mount| {
        let folder = tempfile::tempdir().expect("folder");
        let target = folder.path().join("copy");
        let status = Command::new("cp")
            .arg("--sparse=always")
            .arg(mount.file("normal-flat.vmdk"))
            .arg(&target)
            .status();
        assert!(status.expect("cp").success());
        let metadata = fs::metadata(&target).expect("copy");
        assert_eq!(metadata.len(), 69 * GIB);
        assert!(metadata.blocks() * 512 <= 16 * MIB, "{name}");
        let mut sector = [0; 512];
        open(&target)
            .read_exact_at(&mut sector, 42 * GIB)
            .expect("read");
        assert_eq!(sector, [0x42; 512]);

        let output = Command::new("qemu-img")
            .args(["map", "-f", "raw", "--output=json"])
            .arg(mount.file("large-flat.vmdk"))
            .output()
            .expect("qemu-img runs (Debian: apt install qemu-utils)");
        assert!(output.status.success(), "{}", common::text(&output));
        let map = String::from_utf8(output.stdout).expect("text");
        assert_eq!(map.matches("\"data\": true").count(), 1, "{map}");
    });
}

#[test]
fn a_pointer_to_a_raw_disk_can_be_looked_at_but_not_read() {
    each_volume(|_, mount| {
        let path = mount.file("rdm-rdm.vmdk");
        let file = open(&path);
        assert!(file.metadata().expect("metadata").len() > 0);
        assert_eq!(errno(file.read_at(&mut [0; 512], 0)), Errno::NXIO);
        // ENXIO from here would mean "a hole", and copies would be full of zeros.
        assert_eq!(
            rustix::fs::seek(&file, SeekFrom::Data(0)),
            Err(Errno::INVAL)
        );
        let folder = tempfile::tempdir().expect("folder");
        let mut copy = Command::new("cp");
        copy.arg("--sparse=always").arg(&path).arg(folder.path());
        assert!(!copy.output().expect("cp").status.success());
    });
}

#[test]
fn nothing_can_be_changed() {
    each_volume(|_, mount| {
        let small = mount.file("small");
        let new = mount.file("new");
        for errno in [
            errno(File::create(&new)),
            errno(File::options().write(true).open(&small)),
            errno(fs::remove_file(&small)),
            errno(fs::create_dir(&new)),
            errno(fs::remove_dir(mount.file("directory"))),
            errno(fs::rename(&small, &new)),
            errno(fs::hard_link(&small, &new)),
            errno(std::os::unix::fs::symlink("x", &new)),
            errno(fs::set_permissions(
                &small,
                std::os::unix::fs::PermissionsExt::from_mode(0o600),
            )),
        ] {
            assert_eq!(errno, Errno::ROFS);
        }
    });
}

#[test]
fn eight_threads_read_what_one_reads() {
    each_volume(|name, mount| {
        let path = mount.file("bigger");
        thread::scope(|scope| {
            for thread in 0..8_u64 {
                let file = open(&path);
                scope.spawn(move || {
                    let mut buffer = [0; 8192];
                    // Across block borders too, each thread on a walk of its own.
                    for step in 0..2000_u64 {
                        let place = (step * 7919 + thread * 104_729) * 4096 % (127 * MIB);
                        let offset = place + thread * 511;
                        file.read_exact_at(&mut buffer, offset).expect("read");
                        for (index, &byte) in (offset..).zip(&buffer) {
                            assert_eq!(byte, filler(index / MIB), "{name} {index:#x}");
                        }
                    }
                });
            }
        });
    });
}

#[test]
fn direct_reads_end_at_the_end_of_the_file() {
    each_volume(|_, mount| {
        let direct = rustix::fs::OFlags::DIRECT.bits().cast_signed();
        let file = File::options()
            .read(true)
            .custom_flags(direct)
            .open(mount.file("big"))
            .expect("open");
        let mut buffer = vec![0; 4 << 20];
        let read = file.read_at(&mut buffer, MIB - 16).expect("read");
        assert_eq!(&buffer[..read], b"Kusjes van SRT<3\n");
        let whole = file.read_at(&mut buffer, 0).expect("read");
        assert_eq!(whole as u64, MIB + 1);
    });
}

#[test]
fn the_size_of_the_volume_is_told() {
    each_volume(|name, mount| {
        let sizes = rustix::fs::statvfs(mount.path()).expect("statvfs");
        let total = sizes.f_blocks * sizes.f_frsize;
        assert!((GIB..=2 * GIB).contains(&total), "{name} {total}");
        assert!(sizes.f_bfree > 0 && sizes.f_bfree < sizes.f_blocks);
        assert!(sizes.f_ffree > 0 && sizes.f_ffree < sizes.f_files);
        assert!(sizes.f_namemax >= 127);
    });
}
