//! `vmfs hosts` and `vmfs locks` on a volume that hosts share.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use vmfs_core::cluster::HostConfig;
use vmfs_core::format::{Family, FdAddr, Uuid};
use vmfs_core::fs::{Creator, FileSystem, FsError, OpenMode};
use vmfs_core::lvm::open_paths;
use vmfs_core::scsi::{Access, ArrayState, LunIdentity, Personality};
use vmfs_fixtures::FixtureBuilder;
use vmfs_fixtures::mkfs_vmfs::Options;

const CREATOR: Creator = Creator {
    mode: 0o644,
    uid: 0,
    gid: 0,
};
const LEASE: Duration = Duration::from_millis(1600);

struct Host {
    fs: Arc<FileSystem>,
    stop: Arc<AtomicBool>,
}

struct Image(tempfile::TempDir);

impl Image {
    fn new(family: Family, personality: Personality) -> Self {
        let image = Self(tempfile::tempdir().expect("folder"));
        let file = File::create_new(image.path()).expect("image");
        let options = Options::new(family, &[2 << 30]);
        let builder = FixtureBuilder::create(options, vec![file]).expect("builder");
        builder.finish().expect("volume");
        ArrayState::create(&image.path(), LunIdentity::new("hosts"), personality).expect("array");
        image
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("volume.img")
    }

    fn mount(&self, number: u32) -> Host {
        let uuid = Uuid {
            time_lo: number.into(),
            ..Uuid::default()
        };
        let mut config = HostConfig::new(uuid, &format!("esx-{number}"));
        (config.heartbeat, config.lease) = (LEASE / 16, LEASE);
        let volume = open_paths(&[self.path()], Access::ReadWrite).expect("volume");
        let fs = FileSystem::open_for_writing(volume, config).expect("mount");
        let host = Host {
            fs: Arc::new(fs),
            stop: Arc::default(),
        };
        let (fs, stop) = (Arc::clone(&host.fs), Arc::clone(&host.stop));
        thread::spawn(move || {
            while !stop.load(SeqCst) {
                let (wait, _) = fs.keep_up();
                thread::sleep(wait.min(LEASE / 32));
            }
        });
        host
    }

    fn vmfs(&self, arguments: &[&str], path: &str) -> Output {
        Command::new(env!("CARGO_BIN_EXE_vmfs"))
            .args(arguments)
            .arg(format!("{}{path}", self.path().display()))
            .stdin(Stdio::null())
            .output()
            .expect("vmfs runs")
    }

    fn json(&self, arguments: &[&str], path: &str) -> serde_json::Value {
        let output = self.vmfs(&[&["--json"], arguments].concat(), path);
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice(&output.stdout).expect("JSON")
    }
}

fn each(test: impl Fn(&Image)) {
    for (family, personality) in [
        (Family::Vmfs6, Personality::Vaai),
        (Family::Vmfs5, Personality::Legacy),
    ] {
        eprintln!("{family} on {personality:?}");
        let image = Image::new(family, personality);
        test(&image);
        let volume = open_paths(&[image.path()], Access::ReadOnly).expect("volume");
        let fs = FileSystem::open(volume).expect("open");
        let report = fsck_vmfs::check(&fs, &mut |_| {});
        assert!(report.is_clean(), "{:#?}", report.findings);
    }
}

#[test]
fn hosts_and_what_they_hold_are_told() {
    each(|image| {
        let (a, b) = (image.mount(1), image.mount(2));
        let disk = a.fs.create(FdAddr::ROOT, b"disk", CREATOR).expect("create");
        a.fs.open_file(disk.fd(), OpenMode::Write).expect("open");
        let report = image.json(&["-v", "hosts", "--wait", "30"], "");
        let hosts = report["hosts"].as_array().expect("hosts");
        assert_eq!(hosts.len(), 2);
        let of = |name: &str| hosts.iter().find(|host| host["name"] == name);
        let (first, second) = (of("esx-1").expect("a host"), of("esx-2").expect("a host"));
        assert_eq!(
            (&first["liveness"], &second["liveness"]),
            (&"alive".into(), &"alive".into())
        );
        assert_eq!((&first["locks"], &second["locks"]), (&1.into(), &0.into()));
        assert_eq!(first["held"][0]["of"], "/disk");
        assert_eq!(
            (&first["shares"], &first["is_ours"]),
            (&true.into(), &true.into())
        );
        let text = String::from_utf8(image.vmfs(&["hosts", "--wait", "0"], "").stdout);
        let text = text.expect("UTF-8");
        assert!(
            text.contains("esx-1") && text.contains("unknown: looked at once"),
            "{text}"
        );

        let locks = image.json(&["locks"], ":/disk");
        assert_eq!(locks[0]["mode"], "exclusive");
        assert_eq!(
            (&locks[0]["is_open"], &locks[0]["is_stale"]),
            (&true.into(), &false.into())
        );
        assert_eq!(locks[0]["holders"][0]["name"], "esx-1");
        assert_eq!(image.json(&["locks"], "").as_array().map(Vec::len), Some(1));

        // It stops, and is dead a lease later; nobody looks after it meanwhile.
        b.stop.store(true, SeqCst);
        a.fs.close_file(disk.fd(), OpenMode::Write);
        a.stop.store(true, SeqCst);
        thread::sleep(LEASE / 8);
        let report = image.json(&["hosts", "--lease", "1.6", "--wait", "1.6"], "");
        for host in report["hosts"].as_array().expect("hosts") {
            assert_eq!(host["liveness"], "dead", "{host}");
        }
        let silent = image.json(&["hosts", "--wait", "0.2"], "");
        assert_eq!(silent["hosts"][0]["liveness"], "silent");
        assert!(image.mount(3).fs.close().is_ok(), "which puts all in order");
    });
}

#[test]
fn a_lock_is_broken_only_with_care() {
    each(|image| {
        let (a, b) = (image.mount(1), image.mount(2));
        let disk = a.fs.create(FdAddr::ROOT, b"disk", CREATOR).expect("create");
        let disk = disk.fd();
        a.fs.open_file(disk, OpenMode::Write).expect("open");
        let breaks = ["locks", "--break", "--lease", "1.6"];
        // Nobody is there to be asked.
        let refused = image.vmfs(&breaks, ":/disk");
        assert_eq!(refused.status.code(), Some(2), "{refused:?}");
        let refused = image.vmfs(&[&breaks[..], &["--yes"]].concat(), ":/disk");
        let text = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(2), "{text}");
        assert!(text.contains("esx-1") && text.contains("--force"), "{text}");
        a.fs.write(disk, 0, b"it has its lock yet").expect("write");

        let broken = image.json(&[&breaks[..], &["--yes", "--force"]].concat(), ":/disk");
        assert_eq!(broken[0]["before"]["holders"][0]["name"], "esx-1");
        assert_eq!(broken[0]["after"]["mode"], "free");
        b.fs.open_file(disk, OpenMode::Write).expect("open");
        a.fs.write(disk, 0, b"too late")
            .expect_err("it lost the volume");
        let start = Instant::now();
        while a.fs.is_writable() {
            assert!(start.elapsed() < LEASE * 40);
            thread::sleep(LEASE / 32);
        }
        assert!(matches!(a.fs.close(), Err(FsError::Fenced)));
        a.stop.store(true, SeqCst);

        // A dead host needs no force.
        b.stop.store(true, SeqCst);
        thread::sleep(LEASE / 8);
        let broken = image.json(&[&breaks[..], &["--yes"]].concat(), ":/disk");
        assert_eq!(broken[0]["after"]["mode"], "free");
        let report = image.json(&["hosts", "--wait", "0"], "");
        assert_eq!(report["hosts"].as_array().map(Vec::len), Some(0));
    });
}

#[test]
fn help_has_examples() {
    let image = Image::new(Family::Vmfs6, Personality::Vaai);
    for command in ["hosts", "locks"] {
        let help = image.vmfs(&[command, "--help"], "");
        let text = String::from_utf8_lossy(&help.stdout).into_owned();
        assert!(text.contains("Examples:"), "{text}");
    }
    let none = image.vmfs(&["hosts"], "");
    let text = String::from_utf8_lossy(&none.stdout).into_owned();
    assert!(text.contains("no host has it mounted"), "{text}");
}
