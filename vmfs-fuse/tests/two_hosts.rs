//! Two hosts that have one volume mounted: what a call on one has done, a call on the other sees.

mod common;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use common::volume::{Volume, each_format};
use common::{Mount, errno};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

/// The hosts' heartbeats, as often as makes the second mount quick.
const HEARTBEAT: Duration = Duration::from_millis(600);
const TIMES: &str = "heartbeat=0.6,lease=10";

fn hosts(volume: &Volume) -> (Mount, Mount) {
    let mount = |host| volume.mount(&["--host", host, "-o", TIMES]);
    (mount("a"), mount("b"))
}

/// Both ways round, on both formats.
fn each_way(test: impl Fn(&Path, &Path)) {
    each_format(|volume| {
        let (a, b) = hosts(volume);
        for (number, (one, other)) in [(&a, &b), (&b, &a)].into_iter().enumerate() {
            let name = format!("file{number}");
            test(&one.file(&name), &other.file(&name));
        }
        drop((a, b));
        volume.check();
    });
}

fn append(path: &Path, text: &str) {
    let mut file = OpenOptions::new()
        .append(true)
        .create(true)
        .open(path)
        .expect("open");
    file.write_all(text.as_bytes()).expect("write");
}

#[test]
fn what_another_host_appends_is_there_and_stays() {
    each_way(|here, there| {
        append(here, "one");
        assert_eq!(fs::read_to_string(there).expect("read"), "one");
        append(here, " two");
        assert_eq!(fs::metadata(there).expect("metadata").len(), 7);
        append(there, " three");
        assert_eq!(fs::read_to_string(here).expect("read"), "one two three");
        let mut expected = String::from("one two three");
        for number in 0..20 {
            let line = format!("{number}\n");
            append(if number % 3 == 0 { there } else { here }, &line);
            expected += &line;
        }
        for path in [here, there] {
            assert_eq!(fs::read_to_string(path).expect("read"), expected);
        }
    });
}

#[test]
fn lengths_times_and_permissions_are_seen() {
    each_way(|here, there| {
        append(here, "something");
        let found = |path: &Path| {
            let found = fs::metadata(path).expect("metadata");
            (
                found.len(),
                found.mtime(),
                found.mode() & 0o777,
                found.ino(),
            )
        };
        assert_eq!(found(here), found(there));
        let file = File::options().write(true).open(here).expect("open");
        file.set_len(4).expect("cut");
        drop(file);
        assert_eq!(found(there).0, 4);
        let file = File::options().write(true).open(there).expect("open");
        file.set_modified(std::time::UNIX_EPOCH).expect("time");
        drop(file);
        assert_eq!(found(here).1, 0);
        fs::set_permissions(here, fs::Permissions::from_mode(0o604)).expect("mode");
        assert_eq!(found(there).2, 0o604);
        assert_eq!(found(here), found(there));
    });
}

#[test]
fn programs_of_one_host_append_side_by_side() {
    each_way(|here, there| {
        append(there, "first\n");
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..50).for_each(|_| append(here, "line\n")));
            }
        });
        let all = fs::read_to_string(there).expect("read");
        assert_eq!(all.lines().count(), 201);
        assert_eq!(all.len(), 6 + 200 * 5);
    });
}

#[test]
fn programs_of_two_hosts_write_to_one_disk_at_a_time() {
    each_format(|volume| {
        let disk = "multi_writer=/vms/quorum.vmdk";
        let options = format!("{TIMES},{disk}");
        let mount = |host, options: &str| volume.mount(&["--host", host, "-o", options]);
        let (a, b) = (mount("a", &options), mount("b", &options));
        fs::create_dir(a.file("vms")).expect("folder");
        let length = 3 << 20;
        fs::write(a.file("vms/quorum.vmdk"), vec![0; length as usize]).expect("disk");

        let open = |mount: &Mount| {
            let mut how = OpenOptions::new();
            how.read(true).write(true);
            how.open(mount.file("vms/quorum.vmdk")).expect("open")
        };
        let (one, other) = (open(&a), open(&b));
        let mut buffer = [0; 512];
        for round in 0..200_u64 {
            let offset = round * 7919 % (length / 512) * 512;
            let (writer, reader) = if round % 2 == 0 {
                (&one, &other)
            } else {
                (&other, &one)
            };
            let data = [round as u8 + 1; 512];
            writer.write_all_at(&data, offset).expect("write");
            reader.read_exact_at(&mut buffer, offset).expect("read");
            assert!(buffer == data, "{round}");
        }
        one.sync_all().expect("sync");
        // What would change where the disk's blocks are has to wait until the other host closes it.
        assert_eq!(errno(one.write_all_at(b"more", length)), Errno::BUSY);
        assert_eq!(errno(one.set_len(length / 2)), Errno::BUSY);
        // A host that doesn't share the disk gets it neither for reading nor for writing.
        let c = mount("c", TIMES);
        for writing in [false, true] {
            let mut how = OpenOptions::new();
            let opened = how
                .read(true)
                .write(writing)
                .open(c.file("vms/quorum.vmdk"));
            assert_eq!(errno(opened), Errno::BUSY);
        }
        drop(other);
        // The kernel tells of a close when close(2) has returned.
        common::wait_for("the other host to close the disk", || {
            one.write_all_at(b"more", length).is_ok()
        });
        drop(one);
        assert_eq!(
            fs::metadata(b.file("vms/quorum.vmdk")).expect("stat").len(),
            length + 4
        );
        drop((a, b, c));
        volume.check();
    });
}

#[test]
fn space_that_another_host_takes_is_missing() {
    each_way(|here, there| {
        let free = |path: &Path| {
            let folder = path.parent().expect("folder");
            rustix::fs::statvfs(folder).expect("statvfs").f_bfree
        };
        let before = free(here);
        fs::write(there, vec![1; 8 << 20]).expect("write");
        let left = free(there);
        assert!(left <= before - 8, "{left}, {before} before");
        common::wait_for("less to be free", || free(here) == left);
        fs::remove_file(here).expect("remove");
        common::wait_for("more to be free", || free(here) >= left + 8);
        common::wait_for("more to be free", || free(there) == free(here));
    });
}

/// open(2) with O_CREAT opens what is there, and else makes it, whatever another host does to the name meanwhile.
#[test]
fn a_name_that_two_hosts_make_and_remove_can_be_opened() {
    each_way(|here, there| {
        let open = |path: &Path| {
            let flags = OFlags::CREATE | OFlags::RDONLY;
            let mut tries = 0;
            loop {
                match rustix::fs::open(path, flags, Mode::from_raw_mode(0o644)) {
                    // Found and deleted before it was opened, twice in a row: docs/SHARING.md.
                    Err(Errno::STALE) if tries < 5 => tries += 1,
                    opened => return opened.expect("open or make"),
                }
            }
        };
        let work = |path: &Path| {
            for _ in 0..300 {
                drop(open(path));
                if let Err(error) = fs::remove_file(path) {
                    assert_eq!(error.kind(), io::ErrorKind::NotFound, "{error}");
                }
            }
        };
        thread::scope(|scope| {
            scope.spawn(|| work(here));
            scope.spawn(|| work(there));
        });
    });
}

/// Many programs of two hosts that append to one log which isn't there yet, as with `>>` of a shell: it is made
/// once, and has all lines of each.
#[test]
fn programs_of_two_hosts_begin_one_log() {
    each_way(|here, there| {
        let log = |number: u32, path: &Path| path.with_extension(format!("{number}.log"));
        let together = Barrier::new(2);
        let work = |path: &Path| {
            for number in 0..60 {
                let path = log(number, path);
                together.wait();
                let mut file = loop {
                    let opened = OpenOptions::new().append(true).create(true).open(&path);
                    match opened {
                        // The other host has it open.
                        Err(error) if error.raw_os_error() == Some(Errno::BUSY.raw_os_error()) => {}
                        opened => break opened.expect("open or make"),
                    }
                };
                file.write_all(b"line\n").expect("write");
            }
        };
        thread::scope(|scope| {
            scope.spawn(|| work(here));
            scope.spawn(|| work(there));
        });
        for number in 0..60 {
            let all = fs::read_to_string(log(number, here)).expect("read");
            assert_eq!(all, "line\n".repeat(2), "{number}");
        }
    });
}

/// What another host did before it went away is seen by the one that is alone then, and keeps everything in memory.
#[test]
fn what_a_host_did_before_it_left_is_seen() {
    const LENGTH: usize = 70_000;
    each_format(|volume| {
        let (a, b) = hosts(volume);
        for name in ["cut", "appended", "rewritten"] {
            fs::write(a.file(name), vec![1; LENGTH]).expect("write");
            assert_eq!(fs::read(a.file(name)).expect("read").len(), LENGTH);
        }
        let open = |name: &str| {
            File::options()
                .write(true)
                .open(b.file(name))
                .expect("open")
        };
        open("cut").set_len(100).expect("cut");
        append(&b.file("appended"), "tail");
        // Perhaps in the second that it was written in, so that no attribute tells.
        open("rewritten")
            .write_all_at(&vec![2; LENGTH], 0)
            .expect("write");
        drop(b);
        // By then it has found that it is alone.
        thread::sleep(HEARTBEAT * 5);
        append(&a.file("cut"), "tail");
        let with_tail = |length: usize| [&vec![1; length], &b"tail"[..]].concat();
        assert_eq!(fs::read(a.file("cut")).expect("read"), with_tail(100));
        append(&a.file("appended"), "tail");
        let appended = fs::read(a.file("appended")).expect("read");
        assert!(appended == [&with_tail(LENGTH), &b"tail"[..]].concat());
        assert!(fs::read(a.file("rewritten")).expect("read") == vec![2; LENGTH]);
        drop(a);
        volume.check();
    });
}
