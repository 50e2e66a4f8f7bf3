//! Hosts that died with the volume mounted, and hosts that live.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use common::{Subject, checked, codes, repair};
use fsck_vmfs::{Code, FsckError, Mode, Options, run};
use vmfs_core::cluster::{Clock, HostConfig};
use vmfs_core::format::{FdAddr, Uuid};
use vmfs_core::fs::{Creator, FileSystem};
use vmfs_core::lvm::{Volume, VolumeOffset, open_luns};
use vmfs_core::scsi::Lun;
use vmfs_fixtures::Kind;

const CREATOR: Creator = Creator {
    mode: 0o644,
    uid: 0,
    gid: 0,
};

fn host() -> HostConfig {
    let uuid = Uuid {
        time_lo: 7.into(),
        ..Uuid::default()
    };
    HostConfig::new(uuid, "host7")
}

/// Mounts, changes something that is durable in the journal only, and dies.
fn die(luns: &[Arc<dyn Lun>]) -> Volume {
    let volume = open_luns(luns.to_vec()).expect("volume");
    let fs = FileSystem::open_for_writing(volume.clone(), host()).expect("mount");
    for number in 0..20 {
        let name = format!("made-{number}");
        fs.create(FdAddr::ROOT, name.as_bytes(), CREATOR)
            .expect("create");
    }
    fs.sync().expect("sync");
    drop(fs);
    volume
}

#[test]
fn a_dead_hosts_journal_is_replayed_before_anything_is_repaired() {
    for kind in [Kind::Small6, Kind::Small5] {
        let subject = Subject::new(kind);
        let luns = subject.scratch();
        die(&luns);
        // To a check it is a host that may live, with all that it has in its journal.
        let seen = checked(&luns);
        assert!(seen.report.is_clean(), "{:#?}", seen.report.findings);
        let notes: Vec<Code> = seen.report.notes.iter().map(|note| note.code).collect();
        assert!(notes.contains(&Code::HostPresent), "{notes:?}");
        let repaired = repair(&luns, Mode::Preen).expect("a repair");
        assert_eq!(repaired.exit_code(), 1, "{:#?}", repaired.report.findings);
        let found: Vec<_> = codes(&repaired).into_iter().collect();
        assert_eq!(found, ["heartbeat-stale", "journal-pending"]);
        let after = checked(&luns);
        assert!(after.report.is_clean() && after.report.notes.is_empty());
        let fs = FileSystem::open(open_luns(luns).expect("volume")).expect("opens");
        fs.resolve(b"/made-19", false).expect("the last file");
    }
}

/// While somebody sleeps by it, a host renews its heartbeat.
#[derive(Debug)]
struct Beating {
    volume: Volume,
    slot: VolumeOffset,
    time: AtomicU64,
}

impl Clock for Beating {
    fn now(&self) -> Duration {
        self.uptime()
    }

    fn uptime(&self) -> Duration {
        Duration::from_millis(self.time.load(SeqCst))
    }

    fn sleep(&self, time: Duration) {
        let now = self.time.fetch_add(time.as_millis() as u64, SeqCst);
        let stamp = (now + 1_000_000).to_le_bytes();
        self.volume
            .write(self.slot + 0x14, &stamp)
            .expect("renewal");
    }
}

#[test]
fn a_volume_with_a_living_host_is_left_alone() {
    let subject = Subject::new(Kind::Small6);
    subject.write(
        subject.field(subject.block_files()[0], 0x08),
        &[77, 0, 0, 0],
    );
    let luns = subject.scratch();
    let volume = die(&luns);
    let slot = checked(&luns).report.notes[0].address;
    let Some(vmfs_core::format::At::Volume(slot)) = slot else {
        panic!("{slot:?}");
    };
    let options = Options {
        clock: Arc::new(Beating {
            volume,
            slot: VolumeOffset(slot),
            time: AtomicU64::new(0),
        }),
        ..Options::default()
    };
    let error = run(&luns, Mode::Yes, &options, &mut |_| {}).expect_err("it lives");
    assert!(matches!(error, FsckError::Mounted(_)), "{error}");
    assert_eq!(
        codes(&checked(&luns)).into_iter().collect::<Vec<_>>(),
        ["link-count-wrong"]
    );
}

#[test]
fn only_what_is_certain_is_repaired_without_asking() {
    let subject = Subject::new(Kind::Small6);
    let files = subject.block_files();
    subject.write(subject.field(files[0], 0x08), &[77, 0, 0, 0]);
    let luns = subject.scratch();
    assert_eq!(repair(&luns, Mode::Preen).expect("a repair").exit_code(), 1);
    assert!(checked(&luns).report.is_clean());
    // A lost descriptor needs a decision: then nothing is written.
    subject.write(subject.field(files[1], 0), &vec![0xaa; 0x170]);
    let luns = subject.scratch();
    let before = codes(&checked(&luns));
    let outcome = repair(&luns, Mode::Preen).expect("a check");
    assert_eq!((outcome.exit_code(), outcome.wrote), (4, false));
    assert_eq!(codes(&checked(&luns)), before);
}

#[test]
fn a_person_decides() {
    use fsck_vmfs::Answer;
    let damaged = || {
        let subject = Subject::new(Kind::Small6);
        let files = subject.block_files();
        subject.write(subject.field(files[0], 0x08), &[77, 0, 0, 0]);
        subject.write(subject.field(files[1], 0x24), &[99, 0, 0, 0, 0, 0, 0, 0]);
        subject
    };
    let asked = |answers: &'static [Answer]| {
        let luns = damaged().scratch();
        let mut next = answers.iter();
        let ask = move |finding: &fsck_vmfs::Finding| {
            assert!(finding.repair.is_some());
            *next.next().expect("no more questions")
        };
        let outcome = repair(&luns, Mode::Ask(Box::new(ask))).expect("a run");
        let left: Vec<_> = codes(&checked(&luns)).into_iter().collect();
        (outcome.exit_code(), left)
    };
    assert_eq!(asked(&[Answer::Yes, Answer::Yes]), (1, vec![]));
    assert_eq!(asked(&[Answer::All]), (1, vec![]));
    let (code, left) = asked(&[Answer::No, Answer::Yes]);
    assert_eq!((code, left.as_slice()), (5, &["block-count-wrong"][..]));
    let (code, left) = asked(&[Answer::Yes, Answer::Quit]);
    assert_eq!((code, left.len()), (36, 2));
}
