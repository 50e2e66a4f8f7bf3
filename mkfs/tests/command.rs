//! `mkfs.vmfs` as its users see it.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Output};

use vmfs_core::fs::FileSystem;
use vmfs_core::lvm::open_paths;
use vmfs_core::scsi::Access;

fn mkfs(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_mkfs-vmfs"))
        .current_dir(folder)
        .args(arguments)
        .output()
        .expect("runs")
}

/// Runs it and expects that it refuses; gives what it said.
fn refused(folder: &Path, arguments: &[&str]) -> String {
    let output = mkfs(folder, arguments);
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {output:?}");
    String::from_utf8(output.stderr).expect("text")
}

fn made(folder: &Path, arguments: &[&str]) -> String {
    let output = mkfs(folder, arguments);
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).expect("text")
}

fn open(paths: &[&Path]) -> FileSystem {
    FileSystem::open(open_paths(paths, Access::ReadOnly).expect("a volume")).expect("VMFS")
}

#[test]
fn makes_what_is_asked_for() {
    let folder = tempfile::tempdir().expect("folder");
    let image = folder.path().join("a.img");
    let uuid = "68626efc-2ea12e18-b4ef-bc2411b17e28";
    let cases: [&[&str]; 4] = [
        &["--size", "3G", "-L", "store", "--uuid", uuid],
        &[
            "--size", "3G", "-L", "store", "--uuid", uuid, "-F", "--type", "vmfs5",
        ],
        &[
            "--size",
            "3G",
            "-L",
            "store",
            "--uuid",
            uuid,
            "-F",
            "--partition",
            "gpt",
        ],
        &[
            "--size",
            "3G",
            "-L",
            "store",
            "--uuid",
            uuid,
            "-F",
            "--sector-size",
            "4096",
        ],
    ];
    for arguments in cases {
        let arguments: Vec<&str> = arguments.iter().copied().chain(["a.img"]).collect();
        let told = made(folder.path(), &arguments);
        assert!(told.contains(uuid), "{told}");
        let fs = open(&[&image]);
        assert_eq!(fs.descriptor().label(), "store");
        assert_eq!(fs.descriptor().uuid.to_string(), uuid);
        assert!(fs.root().expect("a root").is_directory());
    }
}

#[test]
fn spans_devices_in_the_order_given() {
    let folder = tempfile::tempdir().expect("folder");
    made(folder.path(), &["-q", "--size", "2G", "b.img", "a.img"]);
    let (a, b) = (folder.path().join("a.img"), folder.path().join("b.img"));
    let fs = open(&[&a, &b]);
    // Two devices of 2 GiB have seven extents of 256 MiB each.
    assert_eq!(fs.volume().size(), 14 * (256 << 20));
    let told = refused(folder.path(), &["a.img"]);
    assert!(
        told.contains("extents 7 to 13") && told.contains("2 devices"),
        "{told}"
    );
}

#[test]
fn the_same_seed_and_time_make_the_same_volume() {
    let folder = tempfile::tempdir().expect("folder");
    let fixed = [
        "--time",
        "1751284800",
        "--seed",
        "7",
        "--size",
        "2G",
        "-F",
        "a.img",
        "--json",
    ];
    let first = made(folder.path(), &fixed);
    assert_eq!(first, made(folder.path(), &fixed));
    let report = made(folder.path(), &["--size", "2G", "-F", "--json", "a.img"]);
    assert_ne!(first, report);
}

#[test]
fn refuses_what_holds_something() {
    let folder = tempfile::tempdir().expect("folder");
    let image = folder.path().join("a.img");
    let marks: [(&str, u64, &[u8]); 10] = [
        ("XFS", 0, b"XFSB"),
        ("ext4", 0x438, b"\x53\xef"),
        ("Btrfs", 0x10040, b"_BHRfS_M"),
        ("NTFS", 3, b"NTFS    "),
        ("LVM2", 512, b"LABELONE"),
        ("LUKS", 0, b"LUKS\xba\xbe"),
        ("swap", 4086, b"SWAPSPACE2"),
        ("GPT", 512, b"EFI PART"),
        ("GPT", 4096, b"EFI PART"),
        ("VMFS", 0x10_0000, b"\x0d\xd0\x01\xc0"),
    ];
    for (name, offset, mark) in marks {
        let _ = fs::remove_file(&image);
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&image);
        let file = file.expect("image");
        file.set_len(3 << 30).expect("size");
        file.write_all_at(mark, offset).expect("mark");
        let told = refused(folder.path(), &["a.img"]);
        assert!(
            told.contains(name) && told.contains("--force"),
            "{name}: {told}"
        );
        let mut found = vec![0; mark.len()];
        file.read_exact_at(&mut found, offset).expect("still there");
        assert_eq!(found, mark);
    }
    made(folder.path(), &["--force", "a.img"]);
}

#[test]
fn refuses_a_volume_that_a_host_has_mounted() {
    let folder = tempfile::tempdir().expect("folder");
    let image = folder.path().join("a.img");
    made(folder.path(), &["--size", "2G", "-L", "busy", "a.img"]);
    // Slot 3 of the heartbeats, made to look owned.
    let slot = 0x110_0000 + 0x30_0000 + 3 * 4096;
    let file = File::options().write(true).open(&image).expect("image");
    file.write_all_at(&0xabcd_ef02_u32.to_le_bytes(), slot)
        .expect("write");
    let told = refused(folder.path(), &["a.img"]);
    assert!(
        told.contains("'busy'") && told.contains("hosts have mounted"),
        "{told}"
    );
}

#[test]
fn a_refusal_leaves_nothing_behind() {
    let folder = tempfile::tempdir().expect("folder");
    let told = refused(folder.path(), &["--size", "1G", "--array", "vaai", "a.img"]);
    assert!(told.contains("at least"), "{told}");
    let told = refused(folder.path(), &["a.img"]);
    assert!(told.contains("--size"), "{told}");
    let told = refused(folder.path(), &["--size", "2G", "a.img", "a.img"]);
    assert!(!told.is_empty());
    made(folder.path(), &["--dry-run", "--size", "2G", "a.img"]);
    let left: Vec<_> = fs::read_dir(folder.path()).expect("folder").collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_dry_run_changes_nothing() {
    let folder = tempfile::tempdir().expect("folder");
    let image = folder.path().join("a.img");
    made(folder.path(), &["--size", "2G", "-L", "old", "a.img"]);
    let told = made(
        folder.path(),
        &["--dry-run", "--force", "-L", "new", "--size", "5G", "a.img"],
    );
    assert!(told.contains("would be made"), "{told}");
    assert_eq!(open(&[&image]).descriptor().label(), "old");
    assert_eq!(fs::metadata(&image).expect("image").len(), 2 << 30);
}

#[test]
fn a_new_volume_is_no_snapshot_of_another() {
    let folder = tempfile::tempdir().expect("folder");
    for arguments in [&["--size", "2G"][..], &["-F", "--array", "legacy"]] {
        let arguments: Vec<&str> = arguments.iter().copied().chain(["a.img"]).collect();
        made(folder.path(), &arguments);
        let fs = open(&[&folder.path().join("a.img")]);
        for device in fs.volume().devices() {
            assert_eq!(device.origin(), vmfs_core::lvm::Origin::Original);
        }
    }
}
