//! What programs do on a read-write mount, and what the volume holds afterwards.

mod common;

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use common::volume::{GIB, MIB, Volume, each_format};
use common::{errno, open};
use rustix::fs::{FallocateFlags, OFlags, RenameFlags, SeekFrom, fallocate, seek};
use rustix::io::Errno;
use vmfs_tests::random::Random;

/// Bytes that are the same for the same seed.
fn bytes(seed: u64, length: u64) -> Vec<u8> {
    let mut random = Random::new(seed);
    let mut bytes = Vec::with_capacity(length as usize + 8);
    while (bytes.len() as u64) < length {
        bytes.extend(random.bits().to_le_bytes());
    }
    bytes.truncate(length as usize);
    bytes
}

fn rename(from: &Path, to: &Path, flags: RenameFlags) -> Result<(), Errno> {
    let here = rustix::fs::CWD;
    rustix::fs::renameat_with(here, from, here, to, flags)
}

#[test]
fn files_of_all_sizes_come_back() {
    for options in ["rw", "no_writeback_cache", "sync"] {
        each_format(|volume| {
            let mount = volume.mount(&["-o", options]);
            let mut sizes = vec![
                0, 1, 511, 512, 1023, 1024, 1025, 3584, 3585, 4096, 8192, 8193,
            ];
            sizes.extend([65_535, 65_536, 65_537, MIB - 1, MIB, MIB + 1, 5 * MIB + 3]);
            for (seed, &size) in (0..).zip(&sizes) {
                let path = mount.file(&format!("size-{size}"));
                fs::write(&path, bytes(seed, size)).expect("write");
                // Once more, in pieces that cross all borders.
                let mut file = File::create(mount.file(&format!("pieces-{size}"))).expect("create");
                for piece in bytes(seed, size).chunks(7919) {
                    file.write_all(piece).expect("write");
                }
                assert!(fs::read(&path).expect("read") == bytes(seed, size));
            }
            volume.survives(mount);
            let mount = volume.mount(&[]);
            for (seed, &size) in (0..).zip(&sizes) {
                for kind in ["size", "pieces"] {
                    let path = mount.file(&format!("{kind}-{size}"));
                    assert!(
                        fs::read(&path).expect("read") == bytes(seed, size),
                        "{size}"
                    );
                    // Changed in the middle and at the end by another mount.
                    let file = File::options().write(true).open(&path).expect("open");
                    file.write_all_at(b"middle", size / 2).expect("write");
                    file.write_all_at(b"end", size + 10_000).expect("write");
                }
            }
            volume.survives(mount);
        });
    }
}

#[test]
fn a_file_keeps_the_time_it_was_written_at() {
    each_format(|volume| {
        let mount = volume.mount(&[]);
        let path = mount.file("disk");
        let mut file = File::create(&path).expect("create");
        for length in [100, 10_000, 3 << 20] {
            file.write_all(&bytes(1, length)).expect("write");
            let written = fs::metadata(&path).expect("stat").mtime();
            // The kernel writes its cache back in another second.
            thread::sleep(Duration::from_millis(1100));
            file.sync_all().expect("sync");
            assert_eq!(fs::metadata(&path).expect("stat").mtime(), written);
        }
        drop(file);
        volume.survives(mount);
    });
}

#[test]
fn a_tree_can_be_built_and_taken_away() {
    each_format(|volume| {
        let mount = volume.mount(&[]);
        let free = || {
            let sizes = rustix::fs::statvfs(mount.path()).expect("statvfs");
            (sizes.f_bfree, sizes.f_ffree)
        };
        let before = free();
        for outer in 0..10 {
            let folder = mount.file(&format!("tree/{outer}/sub"));
            fs::create_dir_all(&folder).expect("folders");
            for inner in 0..100 {
                fs::write(
                    folder.join(format!("file{inner}")),
                    bytes(inner, inner * 400),
                )
                .expect("write");
            }
            symlink(format!("../{outer}/sub"), folder.join("link")).expect("link");
        }
        assert_eq!(fs::metadata(mount.file("tree")).expect("stat").nlink(), 12);
        volume.survives(mount);

        let mount = volume.mount(&[]);
        fs::remove_dir_all(mount.file("tree")).expect("remove");
        assert!(!mount.file("tree").exists());
        drop(mount);
        volume.check();
        let mount = volume.mount(&[]);
        let sizes = rustix::fs::statvfs(mount.path()).expect("statvfs");
        // Nothing is left but what the root directory has grown by.
        assert!(before.0 - sizes.f_bfree <= 1, "{before:?}");
        assert_eq!(before.1, sizes.f_ffree);
        volume.survives(mount);
    });
}

#[test]
fn names_move_as_rename_says() {
    each_format(|volume| {
        let mount = volume.mount(&[]);
        let at = |name: &str| mount.file(name);
        for name in ["a", "b", "c"] {
            fs::write(at(name), name).expect("write");
        }
        for name in ["d", "d/sub", "e", "full"] {
            fs::create_dir(at(name)).expect("folder");
        }
        fs::write(at("full/file"), "full").expect("write");
        let read = |name: &str| fs::read_to_string(at(name)).expect("read");

        fs::rename(at("a"), at("b")).expect("over a file");
        assert_eq!((read("b"), at("a").exists()), ("a".to_owned(), false));
        let noreplace = rename(&at("b"), &at("c"), RenameFlags::NOREPLACE);
        assert_eq!(noreplace, Err(Errno::EXIST));
        assert_eq!(rename(&at("b"), &at("d/b"), RenameFlags::NOREPLACE), Ok(()));
        assert_eq!(rename(&at("d/b"), &at("c"), RenameFlags::EXCHANGE), Ok(()));
        assert_eq!((read("c"), read("d/b")), ("a".to_owned(), "c".to_owned()));
        // A file and a directory change places, across directories.
        assert_eq!(
            rename(&at("c"), &at("d/sub"), RenameFlags::EXCHANGE),
            Ok(())
        );
        assert_eq!(read("d/sub"), "a");
        assert!(at("c").is_dir());
        let whiteout = rename(&at("d/b"), &at("x"), RenameFlags::WHITEOUT);
        assert_eq!(whiteout, Err(Errno::INVAL));

        fs::rename(at("e"), at("d/e")).expect("into another directory");
        assert_eq!(fs::metadata(at("d")).expect("stat").nlink(), 3);
        assert_eq!(fs::canonicalize(at("d/e/..")).expect("path"), at("d"));
        fs::rename(at("d/e"), at("c")).expect("over an empty directory");
        assert_eq!(errno(fs::rename(at("c"), at("full"))), Errno::NOTEMPTY);
        assert_eq!(errno(fs::rename(at("d/b"), at("c"))), Errno::ISDIR);
        assert_eq!(errno(fs::rename(at("c"), at("d/b"))), Errno::NOTDIR);
        assert_eq!(errno(fs::rename(at("d"), at("d/below"))), Errno::INVAL);
        assert_eq!(errno(fs::rename(at("none"), at("d/b"))), Errno::NOENT);

        fs::hard_link(at("d/b"), at("same")).expect("link");
        fs::rename(at("d/b"), at("same")).expect("onto itself");
        assert_eq!(fs::metadata(at("d/b")).expect("stat").nlink(), 2);
        volume.survives(mount);
    });
}

#[test]
fn links_and_removals_count() {
    each_format(|volume| {
        let mount = volume.mount(&[]);
        let at = |name: &str| mount.file(name);
        fs::write(at("file"), "text").expect("write");
        fs::create_dir(at("dir")).expect("folder");
        for number in 0..50 {
            fs::hard_link(at("file"), at(&format!("dir/{number}"))).expect("link");
        }
        assert_eq!(fs::metadata(at("file")).expect("stat").nlink(), 51);
        assert_eq!(errno(fs::hard_link(at("dir"), at("no"))), Errno::PERM);
        assert_eq!(errno(fs::hard_link(at("file"), at("dir/1"))), Errno::EXIST);
        assert_eq!(errno(fs::remove_dir(at("dir"))), Errno::NOTEMPTY);
        assert_eq!(errno(fs::remove_dir(at("file"))), Errno::NOTDIR);
        assert_eq!(errno(fs::create_dir(at("dir"))), Errno::EXIST);
        for number in 10..50 {
            fs::remove_file(at(&format!("dir/{number}"))).expect("remove");
        }
        fs::remove_file(at("file")).expect("remove");
        assert_eq!(fs::metadata(at("dir/3")).expect("stat").nlink(), 10);
        assert_eq!(fs::read(at("dir/3")).expect("read"), b"text");

        for length in [1, 200, 3500, 4095] {
            let target = "x".repeat(length);
            symlink(&target, at(&format!("link{length}"))).expect("link");
            let found = fs::read_link(at(&format!("link{length}"))).expect("target");
            assert_eq!(found.as_os_str().as_bytes(), target.as_bytes());
        }
        volume.survives(mount);
    });
}

#[test]
fn what_the_format_lacks_is_refused() {
    each_format(|volume| {
        let mount = volume.mount(&[]);
        let at = |name: &str| mount.file(name);
        fs::write(at("file"), "text").expect("write");
        let output = Command::new("mkfifo").arg(at("fifo")).output();
        let output = output.expect("mkfifo");
        assert!(common::text(&output).contains("Operation not permitted"));
        let xattr = rustix::fs::setxattr(
            at("file"),
            "user.name",
            b"value",
            rustix::fs::XattrFlags::empty(),
        );
        assert_eq!(xattr, Err(Errno::OPNOTSUPP));
        let sizes = rustix::fs::statvfs(mount.path()).expect("statvfs");
        let longest = sizes.f_namemax as usize;
        fs::write(at(&"n".repeat(longest)), "long").expect("longest name");
        let longer = fs::write(at(&"n".repeat(longest + 1)), "longer");
        assert_eq!(errno(longer), Errno::NAMETOOLONG);
        // A system file is not for programs.
        assert_eq!(errno(fs::remove_file(at(".fbb.sf"))), Errno::PERM);
        let opened = File::options().write(true).open(at(".fbb.sf"));
        assert_eq!(errno(opened), Errno::PERM);
        let file = File::options().write(true).open(at("file")).expect("open");
        let far = file.set_len(1 << 62);
        assert_eq!(errno(far), Errno::FBIG);
        for flags in [
            FallocateFlags::COLLAPSE_RANGE,
            FallocateFlags::INSERT_RANGE,
            FallocateFlags::UNSHARE_RANGE,
        ] {
            assert_eq!(fallocate(&file, flags, 0, MIB), Err(Errno::OPNOTSUPP));
        }
        drop(file);
        volume.survives(mount);
    });
}

#[test]
fn a_deleted_file_lives_until_it_is_closed() {
    each_format(|volume| {
        let mount = volume.mount(&[]);
        let free = || rustix::fs::statvfs(mount.path()).expect("statvfs").f_bfree;
        let path = mount.file("file");
        fs::write(&path, bytes(1, 20 * MIB)).expect("write");
        let before = free();
        for by_rename in [false, true] {
            fs::write(&path, bytes(1, 20 * MIB)).expect("write");
            let file = File::options().read(true).write(true).open(&path);
            let file = file.expect("open");
            if by_rename {
                fs::write(mount.file("other"), "other").expect("write");
                fs::rename(mount.file("other"), &path).expect("rename");
                assert_eq!(fs::read(&path).expect("read"), b"other");
            } else {
                fs::remove_file(&path).expect("remove");
                assert!(!path.exists());
            }
            assert_eq!(file.metadata().expect("stat").nlink(), 0);
            file.write_all_at(b"still here", 20 * MIB).expect("write");
            file.sync_all().expect("sync");
            rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).expect("fadvise");
            let mut found = vec![0; 20 * MIB as usize + 10];
            file.read_exact_at(&mut found, 0).expect("read");
            assert!(found[..20 * MIB as usize] == bytes(1, 20 * MIB));
            assert_eq!(&found[20 * MIB as usize..], b"still here");
            drop(file);
            common::wait_for("the space", || free() >= before + 20);
        }
        volume.survives(mount);
    });
}

#[test]
fn files_that_are_open_and_nameless_at_the_unmount_are_gone() {
    each_format(|volume| {
        let mount = volume.mount(&[]);
        let path = mount.file("file");
        fs::write(&path, bytes(1, 5 * MIB)).expect("write");
        let file = open(&path);
        fs::remove_file(&path).expect("remove");
        mount.signal(rustix::process::Signal::TERM);
        common::wait_for("the unmount", || !mount.is_mounted());
        mount.signal(rustix::process::Signal::TERM);
        mount.wait_until_gone();
        drop(file);
        volume.check();
    });
}

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

#[test]
fn two_logs_appended_to_by_two_programs_keep_every_line() {
    each_format(|volume| {
        let mount = volume.mount(&[]);
        let path = mount.file("log");
        thread::scope(|scope| {
            for writer in 0..4 {
                let path = &path;
                scope.spawn(move || {
                    let log = File::options().append(true).create(true).open(path);
                    let mut log = log.expect("open");
                    for line in 0..500 {
                        let line = format!("writer {writer} line {line:4}\n");
                        log.write_all(line.as_bytes()).expect("append");
                    }
                });
            }
        });
        let text = fs::read_to_string(&path).expect("read");
        assert_eq!(text.lines().count(), 2000);
        for writer in 0..4 {
            for line in 0..500 {
                assert!(text.contains(&format!("writer {writer} line {line:4}\n")));
            }
        }
        volume.survives(mount);
    });
}

#[test]
fn direct_writes_of_several_threads_stay_apart() {
    for options in ["rw", "no_writeback_cache"] {
        each_format(|volume| {
            let mount = volume.mount(&["-o", options]);
            let path = mount.file("disk");
            let direct = (OFlags::DIRECT.bits()).cast_signed();
            let disk = File::options()
                .read(true)
                .write(true)
                .create_new(true)
                .custom_flags(direct)
                .open(&path);
            let disk = disk.expect("create");
            disk.set_len(16 * MIB).expect("truncate");
            thread::scope(|scope| {
                for writer in 0..4_u64 {
                    let disk = &disk;
                    scope.spawn(move || {
                        for block in (writer..4096).step_by(4) {
                            // Memory as O_DIRECT wants it, which a vector may not be.
                            let data = Aligned::filled(block);
                            disk.write_all_at(&data.0, block * 4096).expect("write");
                        }
                    });
                }
            });
            let before = disk.metadata().expect("stat").mtime();
            for block in 0..4096 {
                let mut data = Aligned([0; 4096]);
                disk.read_exact_at(&mut data.0, block * 4096).expect("read");
                assert!(data.0 == Aligned::filled(block).0, "{block}");
            }
            // Behind the end, through the cache, and directly again.
            let cached = open(&path);
            disk.write_all_at(&Aligned::filled(9).0, 16 * MIB)
                .expect("write");
            let mut found = [0; 4096];
            cached.read_exact_at(&mut found, 16 * MIB).expect("read");
            assert!(found == Aligned::filled(9).0);
            disk.write_all_at(&Aligned::filled(8).0, 16 * MIB)
                .expect("write");
            cached.read_exact_at(&mut found, 16 * MIB).expect("read");
            assert!(found == Aligned::filled(8).0);
            common::wait_for("the time to change", || {
                disk.write_all_at(&Aligned::filled(8).0, 0).expect("write");
                disk.metadata().expect("stat").mtime() > before
            });
            drop((disk, cached));
            volume.survives(mount);
        });
    }
}

#[repr(align(4096))]
struct Aligned([u8; 4096]);

impl Aligned {
    fn filled(block: u64) -> Box<Self> {
        let mut data = Box::new(Self([0; 4096]));
        for (index, chunk) in (0..).zip(data.0.chunks_exact_mut(8)) {
            chunk.copy_from_slice(&(block * 512 + index).to_le_bytes());
        }
        data
    }
}

#[test]
fn a_program_that_maps_its_file_writes_to_it() {
    // The linker maps what it writes; a program that runs afterwards was written well.
    each_format(|volume| {
        let mount = volume.mount(&["-o", "exec"]);
        let source = mount.file("hello.c");
        fs::write(&source, "int main(void) { return 42; }\n").expect("write");
        let program = mount.file("hello");
        let mut gcc = Command::new("gcc");
        gcc.arg("-o").arg(&program).arg(&source);
        assert!(gcc.status().expect("gcc").success());
        let status = Command::new(&program).status().expect("the program");
        assert_eq!(status.code(), Some(42));
        volume.survives(mount);
    });
}

#[test]
fn a_directory_can_be_emptied_while_it_is_listed() {
    each_format(|volume| {
        let mount = volume.mount(&[]);
        let folder = mount.file("folder");
        fs::create_dir(&folder).expect("folder");
        for number in 0..3000 {
            File::create(folder.join(format!("a name to be deleted {number}"))).expect("create");
        }
        let mut seen = 0;
        for entry in fs::read_dir(&folder).expect("list") {
            fs::remove_file(entry.expect("entry").path()).expect("remove");
            seen += 1;
        }
        assert_eq!(seen, 3000);
        assert_eq!(fs::read_dir(&folder).expect("list").count(), 0);
        // Names that come and go meanwhile neither hide nor repeat the others.
        for number in 0..1000 {
            File::create(folder.join(format!("stays {number}"))).expect("create");
        }
        let mut names = Vec::new();
        for (number, entry) in (0..).zip(fs::read_dir(&folder).expect("list")) {
            let name = entry
                .expect("entry")
                .file_name()
                .into_string()
                .expect("name");
            if name.starts_with("stays") {
                names.push(name);
            }
            File::create(folder.join(format!("more {number}"))).expect("create");
            if number > 0 {
                let before = folder.join(format!("more {}", number - 1));
                fs::remove_file(before).expect("remove");
            }
        }
        names.sort();
        names.dedup();
        assert_eq!(names.len(), 1000);
        volume.survives(mount);
    });
}

#[test]
fn threads_do_not_disturb_each_other() {
    each_format(|volume| {
        let mount = volume.mount(&[]);
        let root = mount.path();
        let shared = root.join("shared");
        fs::create_dir(&shared).expect("folder");
        thread::scope(|scope| {
            for thread in 0..8_u64 {
                let shared = &shared;
                scope.spawn(move || work(thread, root, shared).expect("work"));
            }
        });
        for thread in 0..8_u64 {
            for step in (0..150).filter(|step| step % 3 != 0) {
                let path = shared.join(format!("{thread}-{step}"));
                let expected = bytes(thread * 1000 + step, step * 97 % 30_000);
                assert!(fs::read(path).expect("read") == expected, "{thread} {step}");
            }
        }
        volume.survives(mount);
    });
}

/// Makes, moves, reads and removes files in a directory of its own and in one that others use.
fn work(thread: u64, root: &Path, shared: &Path) -> io::Result<()> {
    let own = root.join(format!("own{thread}"));
    fs::create_dir(&own)?;
    for step in 0..150 {
        let name = format!("{thread}-{step}");
        let data = bytes(thread * 1000 + step, step * 97 % 30_000);
        fs::write(own.join(&name), &data)?;
        fs::rename(own.join(&name), shared.join(&name))?;
        assert!(fs::read(shared.join(&name))? == data, "{name}");
        fs::hard_link(shared.join(&name), own.join("link"))?;
        if step % 3 == 0 {
            fs::remove_file(shared.join(&name))?;
        }
        assert_eq!(fs::read(own.join("link"))?.len(), data.len());
        fs::remove_file(own.join("link"))?;
    }
    fs::remove_dir(own)
}

#[test]
fn a_full_volume_says_so_and_can_be_emptied() {
    use vmfs_core::format::Family;
    for (family, size) in [(Family::Vmfs5, 3 * GIB / 2), (Family::Vmfs6, 2 * GIB)] {
        for options in ["rw", "no_writeback_cache"] {
            let volume = Volume::new(family, size);
            let mount = volume.mount(&["-o", options]);
            let chunk = bytes(1, 8 * MIB);
            let mut files = 0;
            // The error comes from write, or from fsync for what waits in the cache.
            let failed = loop {
                let path = mount.file(&format!("file{files}"));
                let result = File::create(path).and_then(|file| {
                    for at in 0..8 {
                        file.write_all_at(&chunk, at * 8 * MIB)?;
                    }
                    file.sync_all()
                });
                if let Err(error) = result {
                    break error;
                }
                files += 1;
            };
            assert_eq!(
                Errno::from_io_error(&failed),
                Some(Errno::NOSPC),
                "{failed}"
            );
            assert!(files >= 4, "{files}");
            for number in 0..files {
                let path = mount.file(&format!("file{number}"));
                let mut found = vec![0; chunk.len()];
                open(&path)
                    .read_exact_at(&mut found, 56 * MIB)
                    .expect("read");
                assert!(found == chunk);
            }
            for number in 0..=files {
                fs::remove_file(mount.file(&format!("file{number}"))).expect("remove");
            }
            fs::write(mount.file("again"), &chunk).expect("write");
            File::open(mount.file("again"))
                .expect("open")
                .sync_all()
                .expect("sync");
            volume.survives(mount);
        }
    }
}
