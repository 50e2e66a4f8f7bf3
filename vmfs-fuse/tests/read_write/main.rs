//! What programs do on a read-write mount, and what the volume holds afterwards.

#[path = "../common/mod.rs"]
mod common;
mod names;
mod ranges;

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use common::open;
use common::volume::{GIB, MIB, Volume, each_format};
use rustix::fs::OFlags;
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
