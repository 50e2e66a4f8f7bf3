//! Who may use a mount; needs root to become somebody else.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use vmfs_tests::esxi_image;

use common::volume::each_format;
use common::{Mount, VMFS_FUSE, copy, errno, text};
use tempfile::TempDir;

const READ_ONLY: &str = "-oro";
const SOMEBODY: &str = "nobody";

fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("not root: nothing is tested of other users");
    }
    root
}

/// Whether ordinary users may mount here.
fn users_can_mount() -> bool {
    let open_to_all = fs::metadata("/dev/fuse")
        .is_ok_and(|metadata| metadata.permissions().mode() & 0o006 == 0o006);
    if !open_to_all {
        eprintln!("/dev/fuse isn't open to ordinary users: nothing is tested of their mounts");
    }
    is_root() && open_to_all
}

/// Runs a program as an ordinary user.
fn as_somebody(program: &Path, arguments: &[&Path]) -> Output {
    Command::new("runuser")
        .args(["-u", SOMEBODY, "--"])
        .arg(program)
        .args(arguments)
        .output()
        .expect("runuser")
}

/// The program and an image where an ordinary user can reach them.
fn reachable(image: &Path) -> (TempDir, PathBuf, PathBuf) {
    let folder = tempfile::tempdir().expect("folder");
    let all = fs::Permissions::from_mode(0o755);
    fs::set_permissions(folder.path(), all.clone()).expect("permissions");
    let program = copy(Path::new(VMFS_FUSE), folder.path());
    fs::set_permissions(&program, all.clone()).expect("permissions");
    let image = copy(image, folder.path());
    fs::set_permissions(&image, all).expect("permissions");
    (folder, program, image)
}

/// A mountpoint that belongs to an ordinary user.
fn own_mountpoint() -> Mount {
    let mount = Mount::empty();
    let status = Command::new("chown")
        .arg(SOMEBODY)
        .arg(mount.path())
        .status();
    assert!(status.expect("chown").success());
    mount
}

fn can_read(path: &Path) -> bool {
    as_somebody(Path::new("cat"), &[path]).status.success()
}

#[test]
fn others_get_in_with_allow_other_as_far_as_modes_let_them() {
    if !is_root() {
        return;
    }
    let image = esxi_image!("vmfs6");
    for (options, small, vmdk) in [
        (&[][..], false, false),
        (&["-o", "allow_other"], true, false),
        (&["-o", "allow_other,umask=022"], true, true),
    ] {
        let mount = Mount::new(&[&image], options);
        let open = fs::Permissions::from_mode(0o755);
        // Only the folder below the mount can be changed, and it hides behind the mount.
        assert!(fs::set_permissions(mount.path(), open).is_err());
        assert_eq!(can_read(&mount.file("small")), small, "{options:?}");
        assert_eq!(can_read(&mount.file("normal.vmdk")), vmdk, "{options:?}");
    }
}

#[test]
fn modes_are_checked_where_others_get_in() {
    if !is_root() {
        return;
    }
    each_format(|volume| {
        for (options, others, checked) in [
            (&[][..], false, false),
            (&["-o", "allow_other"], true, true),
        ] {
            let mount = volume.mount(options);
            let table = fs::read_to_string("/proc/mounts").expect("mount table");
            let path = mount.path().display().to_string();
            let line = table.lines().find(|line| line.contains(&path));
            let line = line.expect("the mount");
            assert_eq!(line.contains("default_permissions"), checked, "{line}");

            let (open, closed) = (mount.file("open"), mount.file("closed"));
            for (file, mode) in [(&open, 0o644), (&closed, 0o600)] {
                fs::write(file, "content").expect("file");
                let mode = fs::Permissions::from_mode(mode);
                fs::set_permissions(file, mode).expect("mode");
            }
            assert_eq!(can_read(&open), others, "{options:?}");
            assert!(!can_read(&closed), "{options:?}");
            // Not even root runs what nobody may run.
            assert_eq!(
                errno(Command::new(&open).spawn()),
                rustix::io::Errno::ACCESS
            );
        }
    });
}

#[test]
fn an_ordinary_user_can_mount_and_unmount() {
    if !users_can_mount() {
        return;
    }
    let (_folder, program, image) = reachable(&esxi_image!("vmfs6"));
    let mount = own_mountpoint();
    let output = as_somebody(&program, &[&image, mount.path(), READ_ONLY.as_ref()]);
    assert!(output.status.success(), "{}", text(&output));
    assert!(can_read(&mount.file("small")));
    // It's that user's alone, and root is not let in either.
    assert!(fs::read(mount.file("small")).is_err());
    let table = fs::read_to_string("/proc/mounts").expect("mount table");
    let line = format!("{} fuse.vmfs ro,", mount.path().display());
    assert!(table.contains(&line), "{table}");
    let arguments = [Path::new("-u"), mount.path()];
    let output = as_somebody(Path::new("fusermount3"), &arguments);
    assert!(output.status.success(), "{}", text(&output));
    mount.wait_until_gone();
}

#[test]
fn an_ordinary_users_mount_ends_with_a_signal() {
    if !users_can_mount() {
        return;
    }
    let (_folder, program, image) = reachable(&esxi_image!("vmfs6"));
    let mount = own_mountpoint();
    let output = as_somebody(&program, &[&image, mount.path(), READ_ONLY.as_ref()]);
    assert!(output.status.success(), "{}", text(&output));
    mount.signal(rustix::process::Signal::TERM);
    mount.wait_until_gone();
}

#[test]
fn allow_other_that_the_system_forbids_is_explained() {
    let allowed = fs::read_to_string("/etc/fuse.conf")
        .is_ok_and(|text| text.lines().any(|line| line.trim() == "user_allow_other"));
    if !users_can_mount() || allowed {
        return;
    }
    let (_folder, program, image) = reachable(&esxi_image!("vmfs6"));
    let mount = own_mountpoint();
    let options = Path::new("-oro,allow_other");
    let output = as_somebody(&program, &[&image, mount.path(), options]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output).contains("/etc/fuse.conf"),
        "{}",
        text(&output)
    );
    assert!(!mount.is_mounted());
}
