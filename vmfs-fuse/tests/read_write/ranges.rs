//! Lengths and ranges of files.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::process::Command;

use rustix::fs::{FallocateFlags, SeekFrom, fallocate, seek};
use rustix::io::Errno;
use vmfs_tests::random::Random;

use super::bytes;
use crate::common::open;
use crate::common::volume::{GIB, MIB, each_format};

#[test]
fn lengths_change_both_ways() {
    each_format(|volume| {
        let mount = volume.mount(&[]);
        let path = mount.file("file");
        let file = File::create_new(&path).expect("create");
        let mut expected: Vec<u8> = Vec::new();
        let mut random = Random::new(7);
        for step in 0..200 {
            let length = match random.below(4) {
                0 => random.below(2000),
                1 => random.below(100_000),
                2 => random.below(6 * MIB),
                _ => expected.len() as u64,
            };
            if random.below(2) == 0 {
                file.set_len(length).expect("truncate");
                expected.resize(length as usize, 0);
            } else {
                let at = random.below(length + 1);
                let data = bytes(step, random.below(300_000));
                file.write_all_at(&data, at).expect("write");
                let end = at as usize + data.len();
                expected.resize(expected.len().max(end), 0);
                expected[at as usize..end].copy_from_slice(&data);
            }
            if step % 20 == 0 {
                // What comes from the cache would be right anyway.
                file.sync_all().expect("sync");
                rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).expect("fadvise");
                assert!(fs::read(&path).expect("read") == expected, "{step}");
            }
        }
        drop(file);
        assert!(fs::read(&path).expect("read") == expected);
        // An existing file is emptied by opening it.
        drop(File::create(&path).expect("open"));
        assert_eq!(fs::metadata(&path).expect("stat").len(), 0);
        volume.survives(mount);
    });
}

#[test]
fn a_sparse_disk_takes_only_what_is_written() {
    each_format(|volume| {
        let mount = volume.mount(&[]);
        let path = mount.file("disk");
        let file = File::create(&path).expect("create");
        file.set_len(200 * GIB).expect("truncate");
        for at in [0, 3 * GIB, 42 * GIB, 199 * GIB] {
            file.write_all_at(&bytes(at, 8192), at).expect("write");
        }
        file.sync_all().expect("sync");
        drop(file);
        let taken = fs::metadata(&path).expect("stat").blocks() * 512;
        assert!(taken <= 32 * MIB, "{taken}");
        volume.survives(mount);
    });
}

#[test]
fn holes_are_where_nothing_was_written() {
    each_format(|volume| {
        let mount = volume.mount(&[]);
        let file = File::create(mount.file("disk")).expect("create");
        file.set_len(64 * MIB).expect("truncate");
        let data = |from| seek(&file, SeekFrom::Data(from));
        assert_eq!(data(0), Err(Errno::NXIO));
        // Nothing of this has left the kernel's cache when the question comes.
        file.write_all_at(&[1; 100], 20 * MIB).expect("write");
        assert_eq!(data(0), Ok(20 * MIB));
        file.write_all_at(&[1; 100], 80 * MIB).expect("write");
        let hole = seek(&file, SeekFrom::Hole(20 * MIB)).expect("hole");
        assert!((20 * MIB + 100..=21 * MIB).contains(&hole), "{hole:#x}");
        assert_eq!(data(hole), Ok(80 * MIB));
        let end = seek(&file, SeekFrom::Hole(80 * MIB));
        assert_eq!(end, Ok(80 * MIB + 100));
        assert_eq!(data(80 * MIB + 100), Err(Errno::NXIO));
        drop(file);
        volume.survives(mount);
    });
}

#[test]
fn a_copy_of_a_file_that_is_being_written_has_everything() {
    each_format(|volume| {
        let mount = volume.mount(&[]);
        let file = File::create(mount.file("growing")).expect("create");
        file.set_len(100 * MIB).expect("truncate");
        for at in [5, 50, 95] {
            let data = bytes(at, 100_000);
            file.write_all_at(&data, at * MIB + 77).expect("write");
        }
        // cp looks for holes in a file that has fewer blocks than its length would need.
        let mut cp = Command::new("cp");
        cp.arg(mount.file("growing")).arg(mount.file("copy"));
        assert!(cp.status().expect("cp").success());
        for at in [5, 50, 95] {
            let mut found = vec![0; 100_000];
            open(&mount.file("copy"))
                .read_exact_at(&mut found, at * MIB + 77)
                .expect("read");
            assert!(found == bytes(at, 100_000), "{at}");
        }
        drop(file);
        volume.survives(mount);
    });
}

#[test]
fn ranges_are_allocated_zeroed_and_given_back() {
    each_format(|volume| {
        let mount = volume.mount(&[]);
        let path = mount.file("file");
        let file = File::create_new(&path).expect("create");
        let blocks = || {
            file.sync_all().expect("sync");
            let mount_of = rustix::fs::statvfs(mount.path()).expect("statvfs");
            mount_of.f_bfree
        };
        let allocate = |flags, at, length| fallocate(&file, flags, at, length).expect("fallocate");
        let keep = FallocateFlags::KEEP_SIZE;
        let full = blocks();

        allocate(keep, 0, 8 * MIB);
        assert_eq!(file.metadata().expect("stat").len(), 0);
        assert!(full - blocks() >= 8);
        allocate(FallocateFlags::empty(), 4 * MIB, 8 * MIB);
        assert_eq!(file.metadata().expect("stat").len(), 12 * MIB);
        assert!(full - blocks() >= 12);
        assert!(fs::read(&path).expect("read").iter().all(|&byte| byte == 0));

        file.write_all_at(&vec![7; 12 * MIB as usize], 0)
            .expect("write");
        let punch = FallocateFlags::PUNCH_HOLE | keep;
        allocate(punch, MIB + 10, 4 * MIB);
        allocate(FallocateFlags::ZERO_RANGE | keep, 7 * MIB - 5, MIB);
        allocate(FallocateFlags::ZERO_RANGE, 11 * MIB, 2 * MIB);
        assert!(full - blocks() <= 11, "{}", full - blocks());
        let mut expected = vec![7; 13 * MIB as usize];
        for (at, end) in [
            (MIB + 10, 5 * MIB + 10),
            (7 * MIB - 5, 8 * MIB - 5),
            (11 * MIB, 13 * MIB),
        ] {
            expected[at as usize..end as usize].fill(0);
        }
        assert!(fs::read(&path).expect("read") == expected);
        let without_keeping = fallocate(&file, FallocateFlags::PUNCH_HOLE, 0, MIB);
        assert_eq!(without_keeping, Err(Errno::OPNOTSUPP));
        drop(file);
        volume.survives(mount);
    });
}

#[test]
fn ranges_are_copied_inside_the_volume() {
    each_format(|volume| {
        let mount = volume.mount(&[]);
        let from = File::create_new(mount.file("from")).expect("create");
        from.write_all_at(&bytes(3, 9 * MIB), 0).expect("write");
        let to = File::create(mount.file("to")).expect("create");
        let copy = |from: &File, mut at: u64, to: &File, mut target: u64, length: usize| {
            let mut left = length;
            while left > 0 {
                let place = (Some(&mut at), Some(&mut target));
                let done = rustix::fs::copy_file_range(from, place.0, to, place.1, left);
                match done.expect("copy") {
                    0 => break,
                    done => left -= done,
                }
            }
            length - left
        };
        assert_eq!(copy(&from, 1000, &to, 5, 5 << 20), 5 << 20);
        // The source ends before the range does.
        assert_eq!(copy(&from, 8 * MIB, &to, 20 * MIB, 5 << 20), 1 << 20);
        let found = fs::read(mount.file("to")).expect("read");
        let source = bytes(3, 9 * MIB);
        assert!(found[5..5 + (5 << 20)] == source[1000..1000 + (5 << 20)]);
        assert!(found[20 << 20..] == source[8 << 20..]);
        assert!(found[5 + (5 << 20)..20 << 20].iter().all(|&byte| byte == 0));
        // Within one file.
        assert_eq!(copy(&from, 0, &from, 4 * MIB, 3 << 20), 3 << 20);
        let mut expected = bytes(3, 9 * MIB);
        expected.copy_within(..3 << 20, 4 << 20);
        assert!(fs::read(mount.file("from")).expect("read") == expected);
        drop((from, to));
        volume.survives(mount);
    });
}
