//! The tool as a user runs it.

mod common;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};

use vmfs_fixtures::{Blocks, Content, FixtureBuilder, Kind, What};
use vmfs_tests::esxi_image;

use common::{on, stderr, stdout, vmfs, volume};

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).expect("JSON")
}

#[test]
fn esxi_volumes_are_told_of_listed_and_read() {
    let image = esxi_image!("vmfs6");
    let device = image.display().to_string();
    let info = json(&stdout(&["info", "--json", &device]));
    assert_eq!(info["file_system"]["label"], "vmfs6");
    assert_eq!(info["file_system"]["version"], "24.82");
    assert_eq!(info["devices"][0]["lvm_version"], "6.21");
    assert_eq!(info["file_system"]["hosts"][0]["slot"], 64);
    assert_eq!(info["file_system"]["space"]["free_blocks"], 472);

    let listing = stdout(&["ls", "-l", &device]);
    assert!(
        listing.contains("symlink -> /vmfs/volumes/vmfs6/small"),
        "{listing}"
    );
    assert!(listing.contains("rdm-rdm.vmdk (raw disk)"), "{listing}");
    assert!(!listing.contains(".fbb.sf"), "{listing}");
    assert!(stdout(&["ls", "-a", &device]).contains(".fbb.sf"));
    let all = json(&stdout(&["ls", "-R", "--json", &device]));
    assert_eq!(all.as_array().expect("an array").len(), 131);

    // Through the link, which names the volume as ESXi does.
    assert_eq!(stdout(&["cat", &on(&image, "/symlink")]), "tiny\n");
    let at = (42_u64 << 30).to_string();
    let part = on(&image, "/normal-flat.vmdk");
    assert_eq!(
        stdout(&["cat", "--offset", &at, "--length", "4", &part]),
        "BBBB"
    );

    let stat = json(&stdout(&[
        "stat",
        "--json",
        &on(&image, "/large-flat.vmdk"),
    ]));
    assert_eq!(stat["zero_level"], "double-pointer-block");
    assert_eq!(stat["map"][1]["offset"], 117_u64 << 30);
    assert_eq!(stat["map"][1]["volume_offset"], 0x3640_0000);
    assert_eq!(stat["map"].as_array().expect("runs").len(), 3);
    let df = json(&stdout(&["df", "--json", &device]));
    assert_eq!(df["free"], 472_u64 << 20);
}

#[test]
fn every_structure_can_be_dumped() {
    for name in ["vmfs5", "vmfs6"] {
        let image = esxi_image!(name);
        let device = image.display().to_string();
        for args in [
            &["device"][..],
            &["fs"],
            &["resources"],
            &["heartbeat"],
            &["dir"],
            &["fd", "--address", "0x4"],
        ] {
            let mut all = vec!["dump", args[0], &device, "--json"];
            all.extend(&args[1..]);
            let dumped = json(&stdout(&all));
            assert!(
                !dumped.as_array().expect("structures").is_empty(),
                "{all:?}"
            );
            let text = stdout(
                &all.iter()
                    .copied()
                    .filter(|a| *a != "--json")
                    .collect::<Vec<_>>(),
            );
            assert!(text.lines().count() > 2, "{all:?}: {text}");
        }
        let cluster = json(&stdout(&["dump", "cluster", &device, "fd", "0", "--json"]));
        assert_eq!(cluster[1]["free"], cluster[1]["free_by_bitmap"]);
        let block = stdout(&["dump", "block", &device, "0x200000", "16"]);
        assert!(block.contains("5e f1 ab 2f"), "{block}");
        let address = json(&stdout(&["dump", "address", &device, "0x5", "--json"]));
        assert!(address[0]["volume_offset"].is_string(), "{address}");
    }
}

#[test]
fn a_copy_is_exact_sparse_and_has_the_attributes() {
    let image = esxi_image!("vmfs6");
    let folder = tempfile::tempdir().expect("folder");
    let to = folder.path().join("out");
    let output = vmfs(&[
        "cp",
        "-r",
        "--verify",
        &on(&image, "/"),
        &to.display().to_string(),
    ]);
    // The raw disk's data isn't there, and 42 TiB are more than most file systems hold.
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(
        stderr(&output).contains("rdm-rdm.vmdk: left out"),
        "{}",
        stderr(&output)
    );

    assert_eq!(fs::read(to.join("small")).expect("small"), b"tiny\n");
    assert_eq!(
        fs::read(to.join("directory/file42")).expect("file42"),
        b"File 42\n"
    );
    let bigger = fs::read(to.join("bigger")).expect("bigger");
    assert!((0..128).all(|mib| bigger[mib << 20] == mib as u8));
    let disk = fs::metadata(to.join("normal-flat.vmdk")).expect("disk");
    assert_eq!((disk.len(), disk.mode() & 0o7777), (69 << 30, 0o600));
    assert!(
        disk.blocks() * 512 <= 2 << 20,
        "holes stay holes: {} blocks",
        disk.blocks()
    );
    assert_eq!(disk.mtime(), 1_751_281_463);
    let link = fs::read_link(to.join("symlink")).expect("link");
    assert_eq!(link, Path::new("/vmfs/volumes/vmfs6/small"));
    assert!(!to.join(".fbb.sf").exists(), "system files stay behind");
    assert!(!to.join("small.vmfs-part").exists());
}

#[test]
fn an_interrupted_copy_goes_on() {
    let data: Vec<u8> = (0..600 << 20_u32)
        .map(|i: u32| (i >> 12) as u8 ^ i as u8)
        .collect();
    let (folder, image, _fixture) = volume(|builder| {
        let root = builder.root();
        builder
            .add_file(root, "disk", Blocks::full(data.clone()))
            .expect("file");
    });
    let to = folder.path().join("disk");
    let part = folder.path().join("disk.vmfs-part");
    // As a killed copy leaves it: a prefix, of which the end may be anything.
    let mut prefix = data[..500 << 20].to_vec();
    prefix[450 << 20..].fill(0xee);
    fs::write(&part, &prefix).expect("part");
    let args = [
        "cp",
        "--resume",
        "--verify",
        &on(&image, "/disk"),
        &to.display().to_string(),
    ];
    stdout(&args);
    assert!(fs::read(&to).expect("copy") == data);
    assert!(!part.exists());

    // What is complete is left alone; a part file of something else is not built upon.
    stdout(&args);
    fs::remove_file(&to).expect("remove");
    fs::write(&part, vec![1; 500 << 20]).expect("part of something else");
    let output = vmfs(&args);
    assert!(
        stderr(&output).contains("something else"),
        "{}",
        stderr(&output)
    );
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn hard_links_stay_links_and_directories_keep_their_times() {
    let (folder, image, fixture) = volume(|builder| {
        let root = builder.root();
        let below = builder.add_dir(root, "below").expect("directory");
        let file = builder
            .add_file(below, "one", Content::Resident(b"same".to_vec()))
            .expect("file");
        builder.add_link(root, "two", file).expect("link");
    });
    let to = folder.path().join("out");
    stdout(&["cp", "-r", &on(&image, "/"), &to.display().to_string()]);
    let inode = |name: &str| fs::metadata(to.join(name)).expect("metadata").ino();
    assert_eq!(inode("below/one"), inode("two"));
    assert_eq!(fs::read(to.join("two")).expect("two"), b"same");
    assert!(
        fixture
            .manifest()
            .iter()
            .any(|known| matches!(known.what, What::File(_)))
    );
}

#[test]
fn what_cannot_be_read_is_named_and_kept_apart() {
    let folder = tempfile::tempdir().expect("folder");
    let devices: Vec<_> = (0..3)
        .map(|number| folder.path().join(format!("{number}.img")))
        .collect();
    let files: Vec<_> = devices
        .iter()
        .map(|path| {
            let mut options = fs::File::options();
            options
                .read(true)
                .write(true)
                .create_new(true)
                .open(path)
                .expect("device")
        })
        .collect();
    let options = Kind::Span.options();
    for (file, device) in files.iter().zip(&options.devices) {
        file.set_len(device.size).expect("size");
    }
    let mut builder = FixtureBuilder::create(options, files).expect("fixture");
    Kind::Span.fill(&mut builder).expect("files");
    builder.finish().expect("fixture");

    let present = format!("{},{}:/", devices[1].display(), devices[0].display());
    let to = folder.path().join("out");
    let output = vmfs(&["cp", "-r", &present, &to.display().to_string()]);
    let told = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("1 device(s) of the volume missing"), "{told}");
    assert!(told.contains("can't be read (0x"), "{told}");
    assert!(told.contains(".vmfs-part"), "{told}");
    let info = vmfs(&[
        "info",
        &devices[0].display().to_string(),
        &devices[1].display().to_string(),
    ]);
    assert!(String::from_utf8_lossy(&info.stdout).contains("DEGRADED"));
}

#[test]
fn exit_codes_and_messages_say_what_is_wrong() {
    let folder = tempfile::tempdir().expect("folder");
    let nothing = folder.path().join("nothing.img");
    let empty = folder.path().join("empty.img");
    fs::write(&empty, vec![0; 4 << 20]).expect("image");
    for (args, code, part) in [
        (
            vec!["info".to_owned(), nothing.display().to_string()],
            3,
            "No such file",
        ),
        (
            vec!["ls".to_owned(), empty.display().to_string()],
            3,
            "no VMFS here",
        ),
        (
            vec!["ls".to_owned(), folder.path().display().to_string()],
            3,
            "a directory",
        ),
        (vec!["frobnicate".to_owned()], 2, "frobnicate"),
        (
            vec!["cat".to_owned(), ":/x".to_owned()],
            2,
            "names no device",
        ),
    ] {
        let output = vmfs(&args);
        assert_eq!(
            output.status.code(),
            Some(code),
            "{args:?}: {}",
            stderr(&output)
        );
        assert!(
            stderr(&output).contains(part),
            "{args:?}: {}",
            stderr(&output)
        );
    }
    let image = esxi_image!("vmfs5");
    let output = vmfs(&["cat", &on(&image, "/none")]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("no such file"),
        "{}",
        stderr(&output)
    );
    let output = vmfs(&["cp", &on(&image, "/directory"), "/tmp"]);
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let image = esxi_image!("vmfs6");
    let mut cat = Command::new(env!("CARGO_BIN_EXE_vmfs"))
        .args(["cat", &on(&image, "/bigger")])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the tool starts");
    drop(cat.stdout.take());
    let output = cat.wait_with_output().expect("the tool ends");
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(output.stderr.is_empty(), "{}", stderr(&output));
}

#[test]
fn a_copied_image_is_a_snapshot_until_it_is_resignatured() {
    let image = esxi_image!("vmfs6");
    let folder = tempfile::tempdir().expect("folder");
    let copy = folder.path().join("copy.img");
    let status = Command::new("cp")
        .arg("--sparse=always")
        .args([&image, &copy])
        .status();
    assert!(status.expect("cp").success());
    let device = copy.display().to_string();
    let snapshots = json(&stdout(&["lvm", "snapshots", "--json", &device]));
    assert_eq!(snapshots.as_array().expect("rows").len(), 1);
    let done = json(&stdout(&["lvm", "resignature", "--json", &device]));
    let label = done["label"].as_str().expect("label");
    assert!(
        label.starts_with("snap-") && label.ends_with("-vmfs6"),
        "{label}"
    );
    assert_eq!(stdout(&["lvm", "snapshots", &device]), "");
    assert_eq!(stdout(&["cat", &on(&copy, "/small")]), "tiny\n");
    let again = vmfs(&["lvm", "resignature", &device]);
    assert!(stderr(&again).contains("no snapshot"), "{}", stderr(&again));
}

#[test]
fn an_original_is_not_resignatured_and_missing_devices_are_listed() {
    let (_folder, image, _fixture) = volume(|_| {});
    let device = image.display().to_string();
    let refused = vmfs(&["lvm", "resignature", &device]);
    assert!(
        stderr(&refused).contains("no snapshot"),
        "{}",
        stderr(&refused)
    );
    assert!(
        !image.with_extension("img.array").exists(),
        "a refusal leaves nothing"
    );
    let span = esxi_image!("vmfs6-span-1").display().to_string();
    let listed = json(&stdout(&["lvm", "list", "--json", &span]));
    assert_eq!(listed[0]["missing_devices"], 1);
    assert!(stdout(&["lvm", "list", &span]).contains("MISSING 1 other device"));
}
