//! Names: making, moving and removing files.

use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use rustix::fs::{FallocateFlags, RenameFlags, fallocate};
use rustix::io::Errno;

use super::bytes;
use crate::common::volume::{MIB, each_format};
use crate::common::{errno, open};

fn rename(from: &Path, to: &Path, flags: RenameFlags) -> Result<(), Errno> {
    let here = rustix::fs::CWD;
    rustix::fs::renameat_with(here, from, here, to, flags)
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
        assert!(crate::common::text(&output).contains("Operation not permitted"));
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
            crate::common::wait_for("the space", || free() >= before + 20);
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
        crate::common::wait_for("the unmount", || !mount.is_mounted());
        mount.signal(rustix::process::Signal::TERM);
        mount.wait_until_gone();
        drop(file);
        volume.check();
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
fn all_names_of_a_file_have_its_number() {
    each_format(|volume| {
        let mount = volume.mount(&[]);
        fs::write(mount.file("one"), "content").expect("write");
        drop(mount);
        // A mount that knows nothing of the file but what is on the volume.
        let mount = volume.mount(&[]);
        let number = |name: &str| mount.file(name).metadata().expect("stat").ino();
        let first = number("one");
        // The times on the volume are whole seconds, and a link changes one.
        thread::sleep(Duration::from_millis(1100));
        fs::hard_link(mount.file("one"), mount.file("two")).expect("link");
        assert_eq!((number("one"), number("two")), (first, first));
        fs::rename(mount.file("two"), mount.file("three")).expect("rename");
        fs::remove_file(mount.file("one")).expect("remove");
        assert_eq!(number("three"), first);
        fs::hard_link(mount.file("three"), mount.file("four")).expect("link");
        assert_eq!((number("three"), number("four")), (first, first));
        volume.survives(mount);
    });
}
