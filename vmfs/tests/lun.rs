//! `vmfs lun` on an image that hosts share.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Command, Output};

use vmfs_core::scsi::{
    Access, ArrayState, DeviceOffset, FileLun, Key, Lun, LunError, LunIdentity, PersistentReserve,
    Personality, ReservationType,
};

struct Image {
    folder: tempfile::TempDir,
}

impl Image {
    fn new(personality: Personality) -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let image = Self { folder };
        let file = File::create(image.path()).expect("image");
        file.set_len(1 << 20).expect("size");
        let identity = LunIdentity::new("naa.6000");
        ArrayState::create(&image.path(), identity, personality).expect("array");
        image
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("lun.img")
    }

    fn host(&self, name: &str) -> FileLun {
        FileLun::open_as(&self.path(), Access::ReadWrite, name).expect("open")
    }

    fn lun(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_vmfs"))
            .arg("lun")
            .args(arguments)
            .arg(self.path())
            .output()
            .expect("vmfs runs")
    }

    fn json(&self) -> serde_json::Value {
        let output = self.lun(&["--json"]);
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice(&output.stdout).expect("JSON")
    }
}

#[test]
fn an_image_that_nobody_shares_is_told_of_and_left_alone() {
    let image = Image::new(Personality::Legacy);
    let info = image.json();
    assert_eq!(info["identity"], "naa.6000");
    assert_eq!(info["size"], 1 << 20);
    assert_eq!(info["block_size"], 512);
    assert_eq!(info["personality"], "legacy");
    assert_eq!(info["capabilities"]["reserve"], true);
    assert_eq!(info["capabilities"]["compare_and_write"], false);
    assert!(info["shared"].is_null());
    let refused = image.lun(&["--reset"]);
    assert_eq!(refused.status.code(), Some(2));
    let files = fs::read_dir(image.folder.path()).expect("folder").count();
    assert_eq!(files, 2, "the image and its array");
}

#[test]
fn hosts_reservations_and_counters_are_told() {
    let image = Image::new(Personality::Vaai);
    let (a, b) = (image.host("esx-a"), image.host("esx-b"));
    let key = Some(Key(0xa));
    a.persistent_reserve(PersistentReserve::Register { key })
        .expect("register");
    let kind = ReservationType::WriteExclusiveRegistrantsOnly;
    let key = Key(0xa);
    a.persistent_reserve(PersistentReserve::Reserve { key, kind })
        .expect("reserve");
    a.write(DeviceOffset(0), &[1; 512]).expect("write");
    b.write(DeviceOffset(0), &[2; 512]).expect_err("fenced");
    drop(b);
    drop(a);
    let info = image.json();
    let shared = &info["shared"];
    assert_eq!(
        shared["reservations"]["kind"],
        "write-exclusive-registrants-only"
    );
    let registration = &shared["reservations"]["registrations"][0];
    assert_eq!(registration["initiator"], "esx-a");
    assert_eq!(registration["key"], "0x000000000000000a");
    assert_eq!(registration["holder"], true);
    let counters = &shared["counters"];
    assert_eq!(counters["writes"]["commands"], 2);
    assert_eq!(counters["writes"]["bytes"], 512);
    assert_eq!(counters["persistent_outs"]["commands"], 2);
    assert_eq!(counters["conflicts"], 1);
    assert_eq!(shared["hosts"].as_array().map(Vec::len), Some(0));

    let cleared = image.lun(&["--clear-registrations"]);
    assert!(cleared.status.success(), "{cleared:?}");
    let warning = String::from_utf8_lossy(&cleared.stderr).into_owned();
    assert!(
        warning.contains("warning") && warning.contains("esx-a"),
        "{warning}"
    );
    image
        .host("c")
        .write(DeviceOffset(0), &[3; 512])
        .expect("write");
}

#[test]
fn a_reservation_can_be_taken_away() {
    for option in ["--reset", "--release"] {
        let image = Image::new(Personality::Legacy);
        let (a, b) = (image.host("esx-a"), image.host("esx-b"));
        a.reserve().expect("reserve");
        let info = image.json();
        assert_eq!(info["shared"]["reserved_by"]["initiator"], "esx-a");
        assert_eq!(info["shared"]["reserved_by"]["process"], std::process::id());
        assert_eq!(info["shared"]["hosts"].as_array().map(Vec::len), Some(2));
        b.write(DeviceOffset(0), &[2; 512]).expect_err("reserved");
        let done = image.lun(&[option]);
        let text = String::from_utf8_lossy(&done.stdout).into_owned();
        assert!(
            done.status.success() && text.contains("reserved by    nobody"),
            "{text}"
        );
        b.write(DeviceOffset(0), &[2; 512]).expect("write");
        let lost = a.write(DeviceOffset(0), &[1; 512]).expect_err("lost");
        assert!(matches!(lost, LunError::ReservationLost { .. }), "{lost}");
        assert_eq!(b.attentions().len(), usize::from(option == "--reset"));
    }
}

#[test]
fn help_has_examples() {
    let image = Image::new(Personality::Vaai);
    let help = image.lun(&["--help"]);
    let text = String::from_utf8_lossy(&help.stdout).into_owned();
    assert!(
        text.contains("Examples:") && text.contains("--clear-registrations"),
        "{text}"
    );
}
