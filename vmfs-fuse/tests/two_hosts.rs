//! Two hosts that have one volume mounted: what a call on one has done, a call on the other sees.

mod common;

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::thread;

use common::Mount;
use common::volume::{Volume, each_format};

/// The hosts' heartbeats, as often as makes the second mount quick.
const TIMES: &str = "heartbeat=0.2,lease=10";

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
