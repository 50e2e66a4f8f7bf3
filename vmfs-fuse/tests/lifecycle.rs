//! How a mount comes and goes, and what is said when it can't.

mod common;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};

use vmfs_tests::esxi_image;

use common::{MOUNT_VMFS, Mount, VMFS_FUSE, open, run, text, wait_for};
use rustix::io::Errno;
use rustix::process::Signal;

/// ESXi's volumes must stay as they are.
const READ_ONLY: [&str; 2] = ["-o", "ro"];

fn umount(mount: &Mount) {
    let status = Command::new("umount").arg(mount.path()).status();
    assert!(status.expect("umount").success());
}

/// Expects a mount to fail with `code`, and that what it says contains `part`.
#[track_caller]
fn refused(program: &str, devices: &[&Path], on: &Path, options: &[&str], code: i32, part: &str) {
    let output = run(program, devices, on, options);
    let said = text(&output);
    assert_eq!(output.status.code(), Some(code), "{said}");
    assert!(said.contains(part), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
}

#[test]
fn the_volume_can_be_used_as_soon_as_the_program_returns() {
    for _ in 0..20 {
        let mount = Mount::new(&[&esxi_image!("vmfs6")], &[]);
        assert_eq!(fs::read(mount.file("small")).expect("small"), b"tiny\n");
    }
}

#[test]
fn the_daemon_lets_go_of_its_callers_output() {
    // Waiting for the end of the output would wait for the daemon if it held on to it.
    let mount = Mount::empty();
    let output = Command::new("sh")
        .args(["-c", "\"$0\" \"$@\" | cat", VMFS_FUSE])
        .arg(esxi_image!("vmfs6"))
        .arg(mount.path())
        .args(READ_ONLY)
        .stdin(Stdio::null())
        .output()
        .expect("sh");
    assert!(output.status.success() && output.stdout.is_empty());
    assert!(mount.is_mounted());
}

#[test]
fn signals_unmount() {
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        let mount = Mount::new(&[&esxi_image!("vmfs5")], &[]);
        mount.signal(signal);
        mount.wait_until_gone();
    }
}

#[test]
fn in_the_foreground_the_end_of_the_mount_is_a_success() {
    for by_signal in [true, false] {
        let mount = Mount::empty();
        let mut child = Command::new(VMFS_FUSE)
            .arg("--foreground")
            .arg(esxi_image!("vmfs6"))
            .arg(mount.path())
            .args(READ_ONLY)
            .spawn()
            .expect("vmfs-fuse");
        wait_for("the mount", || mount.is_mounted());
        assert!(mount.file("small").exists());
        if by_signal {
            mount.signal(Signal::TERM);
        } else {
            // Busy for a moment while the daemon looks at its own mount.
            wait_for("umount", || {
                let status = Command::new("umount").arg(mount.path()).status();
                status.expect("umount").success()
            });
        }
        let status = child.wait().expect("vmfs-fuse");
        assert_eq!(status.code(), Some(0), "by signal: {by_signal}");
        assert!(!mount.is_mounted());
    }
}

#[test]
fn unmounting_ends_the_daemon() {
    let mount = Mount::new(&[&esxi_image!("vmfs6")], &[]);
    umount(&mount);
    mount.wait_until_gone();
}

#[test]
fn a_mount_on_top_is_left_alone() {
    let mount = Mount::new(&[&esxi_image!("vmfs6")], &[]);
    let below = mount.daemon().expect("a daemon");
    let image = esxi_image!("vmfs5");
    let output = run(VMFS_FUSE, &[&image], mount.path(), &READ_ONLY);
    assert!(output.status.success(), "{}", text(&output));
    rustix::process::kill_process(below, Signal::TERM).expect("signal");
    let link = || fs::read_link(mount.file("symlink")).expect("symlink");
    assert_eq!(link(), Path::new("/vmfs/volumes/vmfs5/small"));
    umount(&mount);
    assert_eq!(link(), Path::new("/vmfs/volumes/vmfs6/small"));
}

#[test]
fn an_open_file_outlives_the_unmount() {
    let mount = Mount::new(&[&esxi_image!("vmfs6")], &[]);
    let file = open(&mount.file("bigger"));
    mount.signal(Signal::TERM);
    wait_for("the unmount", || !mount.is_mounted());
    let mut buffer = [0; 4096];
    file.read_exact_at(&mut buffer, 77 << 20).expect("read");
    assert_eq!(buffer, [77; 4096]);
    assert!(mount.daemon().is_some());
    drop(file);
    mount.wait_until_gone();
}

#[test]
fn a_second_signal_ends_the_daemon_although_a_file_is_open() {
    let mount = Mount::new(&[&esxi_image!("vmfs6")], &[]);
    let file = open(&mount.file("bigger"));
    mount.signal(Signal::TERM);
    wait_for("the unmount", || !mount.is_mounted());
    mount.signal(Signal::TERM);
    mount.wait_until_gone();
    assert!(file.read_at(&mut [0; 4096], 0).is_err());
}

#[test]
fn two_mounts_of_a_volume_do_not_disturb_each_other() {
    let image = esxi_image!("vmfs6");
    let (first, second) = (Mount::new(&[&image], &[]), Mount::new(&[&image], &[]));
    first.signal(Signal::TERM);
    first.wait_until_gone();
    assert_eq!(fs::read(second.file("small")).expect("small"), b"tiny\n");
}

#[test]
fn a_mount_whose_daemon_was_killed_is_explained() {
    let mount = Mount::new(&[&esxi_image!("vmfs6")], &[]);
    mount.signal(Signal::KILL);
    wait_for("the daemon's end", || mount.daemon().is_none());
    // A request that is under way when the daemon goes ends with ECONNABORTED.
    wait_for("the kernel to notice", || {
        rustix::fs::statvfs(mount.path()).err() == Some(Errno::NOTCONN)
    });
    let image = esxi_image!("vmfs6");
    let on = mount.path();
    refused(VMFS_FUSE, &[&image], on, &READ_ONLY, 1, "umount -l");
}

#[test]
fn a_missing_device_degrades_the_volume() {
    let first = esxi_image!("vmfs6-span-0");
    let second = esxi_image!("vmfs6-span-1");
    // In any order, and as mount(8) has it.
    for (devices, options) in [
        (&[first.as_path(), second.as_path()][..], "ro".to_owned()),
        (&[second.as_path(), first.as_path()], "ro".to_owned()),
        (
            &[first.as_path()],
            format!("ro,extent={}", second.display()),
        ),
    ] {
        let mount = Mount::empty();
        let output = run(VMFS_FUSE, devices, mount.path(), &["-o", &options]);
        assert!(output.status.success(), "{}", text(&output));
        assert_eq!(text(&output), "");
        assert!(fs::read_dir(mount.path()).expect("root").count() > 5);
    }
    let mount = Mount::empty();
    let output = run(VMFS_FUSE, &[&first], mount.path(), &READ_ONLY);
    assert!(output.status.success(), "{}", text(&output));
    assert!(text(&output).contains("missing"), "{}", text(&output));
    assert!(fs::read_dir(mount.path()).expect("root").count() > 5);
}

#[test]
fn failures_say_what_is_wrong() {
    let image = esxi_image!("vmfs6");
    let mount = Mount::empty();
    let on = mount.path();
    let file = tempfile::NamedTempFile::new().expect("file");
    file.as_file().set_len(4 << 20).expect("size");
    let no = Path::new("/nowhere/at/all");

    let empty = file.path();
    for (devices, on, options, part) in [
        (&[no][..], on, "ro", "/nowhere/at/all"),
        (&[no], on, "rw", "/nowhere/at/all"),
        (&[empty], on, "ro", "no VMFS here"),
        (&[empty], on, "rw", "no VMFS here"),
        (&[&image], no, "ro", "no such directory"),
        (&[&image], empty, "ro", "not a directory"),
        (&[&image, &image], on, "ro", "the same device"),
        (&[&image], on, "ro,fish", "'fish'"),
        (&[&image], on, "ro,threads=x", "'x'"),
        (&[&image], on, "remount,ro", "can't be remounted"),
    ] {
        refused(VMFS_FUSE, devices, on, &["-o", options], 1, part);
        refused(VMFS_FUSE, devices, on, &["-f", "-o", options], 1, part);
    }
    let options = ["-o", "ro", "--log", "/nowhere/x"];
    refused(VMFS_FUSE, &[&image], on, &options, 1, "/nowhere/x");
    assert!(!mount.is_mounted());

    let usage = run(VMFS_FUSE, &[&image], Path::new("--fish"), &READ_ONLY);
    assert_eq!(usage.status.code(), Some(2));
}

#[test]
fn mount_vmfs_does_what_mount_wants() {
    let image = esxi_image!("vmfs5");
    let no = Path::new("/nowhere/at/all");
    let mount = Mount::empty();
    let on = mount.path();
    refused(MOUNT_VMFS, &[no], on, &["-o", "ro"], 32, "/nowhere/at/all");
    refused(
        MOUNT_VMFS,
        &[&image],
        no,
        &["-o", "ro"],
        32,
        "no such directory",
    );
    refused(MOUNT_VMFS, &[&image], on, &["-o", "ro,fish"], 1, "'fish'");
    assert_eq!(run(MOUNT_VMFS, &[], on, &[]).status.code(), Some(1));

    let fake = run(MOUNT_VMFS, &[&image], on, &["-f", "-o", "ro"]);
    assert!(
        fake.status.success() && !mount.is_mounted(),
        "{}",
        text(&fake)
    );
    let fake = run(MOUNT_VMFS, &[no], on, &["-f", "-o", "ro"]);
    assert_eq!(fake.status.code(), Some(32));

    let options = ["-s", "-n", "-o", "ro,nofail,fish", "-t", "vmfs"];
    let output = run(MOUNT_VMFS, &[&image], on, &options);
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(text(&output), "");
    assert_eq!(fs::read(mount.file("small")).expect("small"), b"tiny\n");
    let table = fs::read_to_string("/proc/mounts").expect("mount table");
    let line = format!(
        "{} {} fuse.vmfs ro,",
        image.canonicalize().expect("path").display(),
        on.display()
    );
    assert!(table.contains(&line), "{table}");
}

/// Prints the file handle of a file, or what the file of a handle starts with.
const HANDLES: &str = "
import ctypes, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
what, mount, arg = sys.argv[1:]
if what == 'name':
    handle, there = ctypes.create_string_buffer(struct.pack('Ii', 128, 0), 136), ctypes.c_int()
    result = libc.name_to_handle_at(-100, arg.encode(), handle, ctypes.byref(there), 0)
    assert result == 0, os.strerror(ctypes.get_errno())
    print(handle.raw[:8 + struct.unpack('I', handle.raw[:4])[0]].hex())
else:
    fd = libc.open_by_handle_at(os.open(mount, os.O_RDONLY), bytes.fromhex(arg), os.O_RDONLY)
    assert fd >= 0, os.strerror(ctypes.get_errno())
    print(os.fstat(fd).st_size)
";

fn handles(what: &str, mount: &Mount, arg: &str) -> String {
    let mut python = Command::new("python3");
    python
        .args(["-c", HANDLES, what])
        .arg(mount.path())
        .arg(arg);
    let output = python.output().expect("python3");
    assert!(output.status.success(), "{}", text(&output));
    String::from_utf8(output.stdout)
        .expect("text")
        .trim()
        .to_owned()
}

#[test]
fn file_handles_outlive_the_mount() {
    if !rustix::process::geteuid().is_root() {
        println!("not tested: opening by handle is root's");
        return;
    }
    let image = esxi_image!("vmfs6");
    let mount = Mount::new(&[&image], &["-o", "ro"]);
    let name = |file| handles("name", &mount, mount.file(file).to_str().expect("text"));
    let (file, folder) = (name("small"), name(".sdd.sf"));
    drop(mount);
    let mount = Mount::new(&[&image], &["-o", "ro"]);
    assert_eq!(handles("open", &mount, &file), "5");
    handles("open", &mount, &folder);
}

#[test]
fn an_empty_subtype_leaves_fuse() {
    let image = esxi_image!("vmfs6");
    let mount = Mount::new(&[&image], &["-o", "ro,subtype="]);
    let table = fs::read_to_string("/proc/mounts").expect("mount table");
    let line = format!(" {} fuse ro,", mount.path().display());
    assert!(table.contains(&line), "{table}");
}

#[test]
fn what_is_damaged_is_logged_once() {
    let image = esxi_image!("vmfs6-span-0");
    let folder = tempfile::tempdir().expect("folder");
    let log = folder.path().join("log");
    let rdm = esxi_image!("vmfs6");
    let log_option = log.to_str().expect("text");
    let mount = Mount::new(&[&rdm], &["--log", log_option]);
    for _ in 0..5 {
        let file = File::open(mount.file("rdm-rdm.vmdk")).expect("open");
        assert!(file.read_at(&mut [0; 512], 0).is_err());
    }
    drop(mount);
    let said = fs::read_to_string(&log).expect("log");
    assert_eq!(said.matches("raw disk").count(), 1, "{said}");

    let mount = Mount::new(&[&image], &["--log", log_option]);
    drop(mount);
    assert!(fs::read_to_string(&log).expect("log").contains("missing"));
}
