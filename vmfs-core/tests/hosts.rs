//! Several hosts on one LUN, each with its engine, in one process.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use common::upkept::{HEARTBEAT, LEASE, Upkept as Host, each_of};
use common::{volume, volume_of};
use mkfs_vmfs::Options;
use vmfs_core::cluster::{HostConfig, LockMethod};
use vmfs_core::format::{Family, FdAddr, Uuid};
use vmfs_core::fs::{Creator, FileSystem, FsError, OpenMode, Rename};
use vmfs_core::lvm::open_luns;
use vmfs_core::scsi::{Lun, MemoryArray, Personality};

const CREATOR: Creator = Creator {
    mode: 0o644,
    uid: 0,
    gid: 0,
};

fn each(test: impl Fn(&MemoryArray)) {
    each_of(volume, test);
}

#[test]
fn what_one_host_does_the_others_see_when_it_returns() {
    each(|array| {
        let a = Host::mount(array, 1);
        let root = FdAddr::ROOT;
        let directory =
            a.fs.make_directory(root, b"d", CREATOR)
                .expect("mkdir")
                .fd();
        for number in 0..50 {
            let name = format!("before{number}");
            a.fs.create(directory, name.as_bytes(), CREATOR)
                .expect("create");
        }
        assert!(!a.fs.is_shared());
        let b = Host::mount(array, 2);
        assert!(a.fs.is_shared() && b.fs.is_shared());
        assert_eq!(b.names(directory).len(), 50);
        for number in 0..40_usize {
            let (one, other) = if number % 2 == 0 { (&a, &b) } else { (&b, &a) };
            let name = format!("file{number}");
            let file = one.fs.create(directory, name.as_bytes(), CREATOR);
            let file = file.expect("create").fd();
            let data = vec![number as u8; 3000 * (number + 1)];
            one.fs.write(file, 0, &data).expect("write");
            let parent = other.fs.inode(directory).expect("inode");
            let seen = other.fs.lookup(&parent, name.as_bytes()).expect("lookup");
            assert_eq!((seen.fd(), seen.length()), (file, data.len() as u64));
            let mut read = vec![0; data.len()];
            other.fs.read(&seen, 0, &mut read).expect("read");
            assert!(read == data);
            let new_name = format!("renamed{number}");
            other
                .fs
                .rename(
                    directory,
                    name.as_bytes(),
                    directory,
                    new_name.as_bytes(),
                    Rename::NoReplace,
                )
                .expect("rename");
            let parent = one.fs.inode(directory).expect("inode");
            assert!(one.fs.lookup(&parent, name.as_bytes()).is_err());
            if number % 4 == 0 {
                one.fs
                    .unlink(directory, new_name.as_bytes())
                    .expect("unlink");
                assert!(matches!(other.fs.inode(file), Err(FsError::Stale { .. })));
            }
        }
        b.unmount();
        a.unmount();
    });
}

#[test]
fn a_file_that_is_open_for_writing_is_busy_elsewhere() {
    each(|array| {
        let (a, b) = (Host::mount(array, 1), Host::mount(array, 2));
        let file = a.fs.create(FdAddr::ROOT, b"disk", CREATOR).expect("create");
        let file = file.fd();
        a.fs.open_file(file, OpenMode::Write).expect("open");
        a.fs.open_file(file, OpenMode::Read).expect("open again");
        for mode in [OpenMode::Read, OpenMode::Write, OpenMode::MultiWriter] {
            let Err(error) = b.fs.open_file(file, mode) else {
                panic!("{mode:?} while another host has it open for writing");
            };
            assert!(error.to_string().contains("host1"), "{error}");
        }
        assert!(matches!(
            b.fs.unlink(FdAddr::ROOT, b"disk"),
            Err(FsError::Busy { .. })
        ));
        a.fs.write(file, 5 << 20, b"data").expect("write");
        assert_eq!(b.fs.inode(file).expect("stat").length(), (5 << 20) + 4);
        a.fs.close_file(file, OpenMode::Write);
        assert!(b.fs.open_file(file, OpenMode::Write).is_err());
        b.fs.open_file(file, OpenMode::Read).expect("shared");
        a.fs.close_file(file, OpenMode::Read);
        b.fs.open_file(file, OpenMode::Write).expect("alone");
        b.fs.close_file(file, OpenMode::Read);
        b.fs.close_file(file, OpenMode::Write);
        a.fs.unlink(FdAddr::ROOT, b"disk").expect("unlink");
        a.unmount();
        b.unmount();
    });
}

#[test]
fn hosts_that_work_in_one_directory_lose_nothing() {
    each(|array| {
        let hosts: Vec<Host> = (1..=4).map(|number| Host::mount(array, number)).collect();
        let directory = hosts[0].fs.make_directory(FdAddr::ROOT, b"d", CREATOR);
        let directory = directory.expect("mkdir").fd();
        thread::scope(|scope| {
            for (number, host) in hosts.iter().enumerate() {
                scope.spawn(move || {
                    for step in 0..40 {
                        let name = format!("h{number}s{step}");
                        let file = host.fs.create(directory, name.as_bytes(), CREATOR);
                        let file = file.expect("create").fd();
                        let data = name.repeat(500);
                        host.fs.write(file, 0, data.as_bytes()).expect("write");
                        if step % 3 == 0 {
                            host.fs.unlink(directory, name.as_bytes()).expect("unlink");
                        }
                        // One name for which all compete.
                        match host.fs.create(directory, b"common", CREATOR) {
                            Ok(_) => host.fs.unlink(directory, b"common").expect("unlink"),
                            Err(FsError::Exists { .. }) => {}
                            Err(error) => panic!("{error}"),
                        }
                    }
                });
            }
        });
        for host in &hosts {
            let mut expected: Vec<String> = (0..4)
                .flat_map(|h| {
                    (0..40)
                        .filter(|s| s % 3 != 0)
                        .map(move |s| format!("h{h}s{s}"))
                })
                .collect();
            expected.sort();
            assert_eq!(host.names(directory), expected);
            let parent = host.fs.inode(directory).expect("inode");
            for name in expected.iter().step_by(7) {
                let file = host.fs.lookup(&parent, name.as_bytes()).expect("lookup");
                let mut data = vec![0; file.length() as usize];
                host.fs.read(&file, 0, &mut data).expect("read");
                assert!(data == name.repeat(500).as_bytes());
            }
        }
        hosts.into_iter().for_each(Host::unmount);
    });
}

#[test]
fn a_dead_host_is_taken_over_from() {
    each(|array| {
        let (mut a, b) = (Host::mount(array, 1), Host::mount(array, 2));
        let file = a.fs.create(FdAddr::ROOT, b"disk", CREATOR).expect("create");
        let file = file.fd();
        a.fs.open_file(file, OpenMode::Write).expect("open");
        a.fs.write(file, 0, &vec![7; 100_000]).expect("write");
        a.fs.hold(file);
        a.pause();
        let start = Instant::now();
        while let Err(error) = b.fs.open_file(file, OpenMode::Write) {
            assert!(matches!(error, FsError::Busy { .. }), "{error}");
            assert!(start.elapsed() < LEASE * 10, "{error}");
            thread::sleep(HEARTBEAT / 10);
        }
        let mut data = vec![0; 100_000];
        let inode = b.fs.inode(file).expect("inode");
        b.fs.read(&inode, 0, &mut data).expect("read");
        assert!(data.iter().all(|&byte| byte == 7));
        // It wakes up.
        assert!(a.fs.write(file, 0, &vec![8; 100_000]).is_err());
        assert!(a.fs.create(FdAddr::ROOT, b"late", CREATOR).is_err());
        assert!(matches!(a.fs.close(), Err(FsError::Fenced)));
        b.fs.read(&inode, 0, &mut data).expect("read");
        assert!(data.iter().all(|&byte| byte == 7));
        b.fs.close_file(file, OpenMode::Write);
        drop(a);
        b.unmount();
    });
}

#[test]
fn hosts_that_would_lock_in_different_ways_are_kept_apart() {
    let array = MemoryArray::with(&volume(Family::Vmfs6), Personality::Vaai);
    let a = Host::mount(&array, 1);
    let uuid = Uuid {
        time_lo: 2.into(),
        ..Uuid::default()
    };
    let mut config = HostConfig::new(uuid, "host2");
    (config.heartbeat, config.lease) = (HEARTBEAT, LEASE);
    config.lock = Some(LockMethod::Scsi2);
    let volume = open_luns(vec![Arc::new(array.port("host2")) as _]).expect("volume");
    let error = FileSystem::open_for_writing(volume, config).expect_err("another method");
    assert!(
        error.to_string().contains("locks by ATS, not by SCSI-2"),
        "{error}"
    );
    a.unmount();
}

#[test]
fn resource_files_grow_under_several_hosts() {
    const FILES: u32 = 1200;
    let crammed = |family| {
        let mut options = Options::new(family, &[2 << 30]);
        options.file_descriptors = Some(300);
        options.sub_blocks = Some(300);
        volume_of(options)
    };
    each_of(crammed, |array| {
        let hosts = [Host::mount(array, 1), Host::mount(array, 2)];
        let make = |fs: &FileSystem, host: usize| {
            let name = format!("host{host}");
            let directory = fs.make_directory(FdAddr::ROOT, name.as_bytes(), CREATOR);
            let directory = directory.expect("mkdir").fd();
            for number in 0..FILES {
                let name = format!("f{number}");
                let made = fs.create(directory, name.as_bytes(), CREATOR);
                let fd = made.expect("a descriptor").fd();
                if number % 2 == 0 {
                    fs.write(fd, 0, &[number as u8; 4000]).expect("a sub-block");
                }
            }
        };
        thread::scope(|scope| {
            for (number, host) in hosts.iter().enumerate() {
                scope.spawn(move || make(&host.fs, number));
            }
        });
        for (number, host) in hosts.iter().enumerate() {
            // What the other one made, in clusters that were not there when this one mounted.
            let other = format!("/host{}", 1 - number);
            let directory = host
                .fs
                .resolve(other.as_bytes(), true)
                .expect("its directory");
            assert_eq!(host.names(directory.fd()).len(), FILES as usize);
            let last = format!("{other}/f{}", FILES - 2);
            let file = host
                .fs
                .resolve(last.as_bytes(), true)
                .expect("its last file");
            let mut bytes = vec![0; 4000];
            host.fs.read(&file, 0, &mut bytes).expect("read");
            assert_eq!(bytes, vec![(FILES - 2) as u8; 4000]);
        }
        let [a, b] = hosts;
        a.unmount();
        b.unmount();
    });
}

#[test]
fn an_administrator_can_break_a_lock() {
    each(|array| {
        let (mut a, b) = (Host::mount(array, 1), Host::mount(array, 2));
        let file = a.fs.create(FdAddr::ROOT, b"disk", CREATOR).expect("create");
        let file = file.fd();
        a.fs.open_file(file, OpenMode::Write).expect("open");
        a.fs.write(file, 0, &vec![7; 100_000]).expect("write");
        let lock = b.fs.lock_of(file).expect("a lock");
        assert!(lock.is_open && lock.is_held() && !lock.is_stale());
        let error = b.fs.break_lock(file, false).expect_err("its host lives");
        assert!(error.to_string().contains("host1"), "{error}");
        b.fs.open_file(file, OpenMode::Write).expect_err("busy");

        let broken = b.fs.break_lock(file, true).expect("by force");
        let names = broken.iter().filter_map(|holder| holder.host.as_ref());
        assert_eq!(
            names.map(|host| host.ip.as_str()).collect::<Vec<_>>(),
            ["host1"]
        );
        assert!(!b.fs.lock_of(file).expect("a lock").is_held());
        b.fs.open_file(file, OpenMode::Write).expect("free");
        b.fs.write(file, 0, &vec![8; 100_000]).expect("write");
        let start = Instant::now();
        while a.fs.is_writable() {
            assert!(a.fs.write(file, 0, &[9; 512]).is_err(), "it was fenced");
            assert!(start.elapsed() < LEASE * 20);
        }
        assert!(matches!(a.fs.close(), Err(FsError::Fenced)));
        a.pause();
        let mut data = vec![0; 100_000];
        let inode = b.fs.inode(file).expect("inode");
        b.fs.read(&inode, 0, &mut data).expect("read");
        assert!(data.iter().all(|&byte| byte == 8));
        b.fs.close_file(file, OpenMode::Write);

        // It can come back, and loses nothing but what it had.
        drop(a);
        let mut a = Host::mount(array, 1);
        a.fs.open_file(file, OpenMode::Write).expect("open");
        a.pause();
        let broken = b.fs.break_lock(file, false).expect("it is dead");
        assert!(broken.len() <= 1);
        b.fs.open_file(file, OpenMode::Write).expect("free");
        b.fs.close_file(file, OpenMode::Write);
        drop(a);
        b.unmount();
    });
}

#[test]
fn what_is_forgotten_in_the_middle_of_a_call_does_no_harm() {
    each(|array| {
        let hosts = [Host::mount(array, 1), Host::mount(array, 2)];
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(SeqCst) {
                    for host in &hosts {
                        host.fs.forget();
                    }
                }
            });
            let work = hosts.iter().enumerate().map(|(number, host)| {
                scope.spawn(move || {
                    for step in 0..60 {
                        let name = format!("h{number}s{step}");
                        let file = host.fs.create(FdAddr::ROOT, name.as_bytes(), CREATOR);
                        let file = file.expect("create").fd();
                        host.fs.write(file, 0, &[1; 5000]).expect("write");
                        if step % 2 == 0 {
                            host.fs
                                .unlink(FdAddr::ROOT, name.as_bytes())
                                .expect("unlink");
                        }
                    }
                })
            });
            for work in work.collect::<Vec<_>>() {
                work.join().expect("work");
            }
            stop.store(true, SeqCst);
        });
        for host in &hosts {
            assert_eq!(host.names(FdAddr::ROOT).len(), 60);
        }
        hosts.into_iter().for_each(Host::unmount);
    });
}

#[test]
fn an_idle_host_costs_a_read_and_a_write_for_each_heartbeat() {
    const BEATS: u64 = 20;
    each(|array| {
        let lun = Arc::new(array.port("idle"));
        let mut config = HostConfig::new(Uuid::default(), "idle");
        (config.heartbeat, config.lease) = (HEARTBEAT, LEASE);
        let volume = open_luns(vec![Arc::clone(&lun) as Arc<dyn Lun>]).expect("volume");
        let fs = FileSystem::open_for_writing(volume, config).expect("mount");
        let run = |time: Duration| {
            let start = Instant::now();
            while start.elapsed() < time {
                let (wait, result) = fs.keep_up();
                result.expect("upkeep");
                thread::sleep(wait);
            }
            start.elapsed()
        };
        run(HEARTBEAT * 3);
        let before = lun.counters().snapshot();
        let time = run(HEARTBEAT * BEATS as u32);
        let after = lun.counters().snapshot();
        // One more at each end, for the timers' sake.
        let beats = time.as_millis() as u64 / HEARTBEAT.as_millis() as u64 + 2;
        let writes =
            |s: &vmfs_core::scsi::Snapshot| s.writes.commands + s.compare_and_writes.commands;
        let (reads, writes) = (
            after.reads.commands - before.reads.commands,
            writes(&after) - writes(&before),
        );
        let others = after.reserves.commands - before.reserves.commands
            + (after.flushes.commands - before.flushes.commands);
        assert!(
            writes <= beats && writes > 0,
            "{writes} writes in {beats} beats"
        );
        assert!(
            reads <= beats && reads > 0,
            "{reads} reads in {beats} beats"
        );
        assert_eq!(others, 0);
        fs.close().expect("close");
    });
}
