//! Hosts that stop in the middle of a command. Two open LUNs of one process are hosts of their own,
//! and a thread that waits inside a command is a process that was stopped there.

use std::fs::{self, File};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, JoinHandle};

use super::{Fault, SharedLun};
use crate::scsi::array::rules::{Demand, Refusal};
use crate::scsi::lun::{Access, Comparison};
use crate::scsi::persistent::{Key, PersistentReserve, ReservationType};

struct Image {
    _folder: tempfile::TempDir,
    path: PathBuf,
}

impl Image {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("image");
        fs::write(&path, vec![7; 1 << 20]).expect("image");
        Self {
            _folder: folder,
            path,
        }
    }

    fn host(&self, name: &str) -> Arc<SharedLun> {
        self.try_host(name).expect("open").into()
    }

    fn try_host(&self, name: &str) -> std::io::Result<SharedLun> {
        let file = File::options().read(true).write(true).open(&self.path)?;
        let file = Arc::new(file);
        let metadata = file.metadata()?;
        let lun = SharedLun::open(&self.path, &file, &metadata, Access::ReadWrite, Some(name))?;
        Ok(lun.expect("can be shared"))
    }

    /// A byte of the image file itself.
    fn byte(&self, at: usize) -> u8 {
        fs::read(&self.path).expect("image")[at]
    }
}

/// A command in a thread of its own that was stopped, and what it came to.
struct Stopped<T> {
    resume: Sender<()>,
    thread: JoinHandle<Result<T, Fault>>,
}

impl<T> Stopped<T> {
    fn resume(self) -> Result<T, Fault> {
        self.resume.send(()).expect("it waits");
        self.thread.join().expect("no panic")
    }
}

/// Where a command is stopped.
#[derive(Clone, Copy)]
enum At {
    /// It may write, and hasn't yet.
    BeforeWork,
    /// It has written, and hasn't ended.
    AfterWork,
}

/// Stops a command once, and tells that it did.
struct Brake {
    stopped: Option<Sender<()>>,
    resume: Receiver<()>,
}

impl Brake {
    fn stop(&mut self) {
        if let Some(stopped) = self.stopped.take() {
            stopped.send(()).expect("somebody waits");
            self.resume.recv().expect("resumed");
        }
    }
}

fn stop<T: Send + 'static>(
    command: impl FnOnce(Brake) -> Result<T, Fault> + Send + 'static,
) -> Stopped<T> {
    let (stopped, has_stopped) = mpsc::channel();
    let (resume, resumed) = mpsc::channel();
    let brake = Brake {
        stopped: Some(stopped),
        resume: resumed,
    };
    let thread = thread::spawn(move || command(brake));
    has_stopped.recv().expect("it stops");
    Stopped { resume, thread }
}

/// A write that stops.
fn stopped_write(host: &Arc<SharedLun>, offset: u64, data: Vec<u8>, at: At) -> Stopped<()> {
    let host = Arc::clone(host);
    stop(move |mut brake| {
        let bytes = offset..offset + data.len() as u64;
        host.run(
            &bytes,
            Demand::Write,
            |blocks| {
                if matches!(at, At::BeforeWork) {
                    brake.stop();
                }
                blocks.write(offset, &data)?;
                if matches!(at, At::AfterWork) {
                    brake.stop();
                }
                Ok(())
            },
            |revoked, ()| host.had_become(revoked, offset, data.iter().copied(), data.len()),
        )
    })
}

/// A COMPARE AND WRITE of a block that stops before it compares.
fn stopped_comparison(host: &Arc<SharedLun>, expected: u8, new: u8) -> Stopped<Comparison> {
    let host = Arc::clone(host);
    stop(move |mut brake| {
        host.run(
            &(0..512),
            Demand::Write,
            |blocks| {
                brake.stop();
                let mut found = [0; 512];
                blocks.read(0, &mut found)?;
                let comparison = Comparison::of(&[expected; 512], &found);
                if comparison == Comparison::Written {
                    blocks.write(0, &[new; 512])?;
                }
                Ok(comparison)
            },
            |revoked, comparison| {
                let wrote = *comparison == Comparison::Written;
                Ok(wrote && host.had_become(revoked, 0, [new; 512].into_iter(), 512)?)
            },
        )
    })
}

fn read(host: &SharedLun, offset: u64) -> u8 {
    let mut byte = [0];
    host.read(offset, &mut byte).expect("read");
    byte[0]
}

fn moved(host: &SharedLun) -> u64 {
    host.status().expect("status").moved_bytes
}

fn is_conflict<T>(result: &Result<T, Fault>) -> bool {
    matches!(result, Err(Fault::Refused(Refusal::Conflict)))
}

#[test]
fn a_write_that_was_stopped_before_it_wrote_comes_after_what_others_wrote() {
    let image = Image::new();
    let (a, b) = (image.host("a"), image.host("b"));
    let late = stopped_write(&a, 1000, vec![1; 100], At::BeforeWork);
    assert_eq!(read(&b, 1000), 7);
    b.write(1000, &[2; 100], &|| true).expect("write");
    assert_eq!(read(&b, 1000), 2);
    assert_eq!(moved(&b), 4096);
    late.resume().expect("write");
    assert_eq!((read(&a, 1000), read(&b, 1099), read(&b, 1100)), (1, 1, 7));
    assert_eq!((moved(&b), image.byte(1000)), (0, 1));
}

#[test]
fn a_write_that_was_stopped_after_it_wrote_happens_once() {
    let image = Image::new();
    let (a, b) = (image.host("a"), image.host("b"));
    let late = stopped_write(&a, 1000, vec![1; 100], At::AfterWork);
    assert_eq!(read(&b, 1000), 1);
    b.write(1000, &[2; 100], &|| true).expect("write");
    late.resume().expect("write");
    // It was seen before b wrote, so it doesn't come again.
    assert_eq!((read(&a, 1000), read(&b, 1000)), (2, 2));
    assert_eq!((moved(&b), image.byte(1000)), (0, 2));
}

#[test]
fn what_only_reads_is_read_again_if_others_wrote_meanwhile() {
    let image = Image::new();
    let (a, b) = (image.host("a"), image.host("b"));
    let host = Arc::clone(&a);
    let late = stop(move |mut brake| {
        let mut bytes = [0; 8192];
        host.run(
            &(0..8192),
            Demand::Read,
            |blocks| {
                blocks.read(0, &mut bytes[..4096])?;
                brake.stop();
                blocks.read(4096, &mut bytes[4096..])
            },
            |_, ()| Ok(false),
        )?;
        Ok(bytes)
    });
    b.write(0, &[2; 8192], &|| true).expect("write");
    assert_eq!(moved(&b), 0, "nothing has to move for who reads");
    assert_eq!(late.resume().expect("read"), [2; 8192]);
}

#[test]
fn a_comparison_that_was_stopped_compares_anew() {
    for (others, comparison) in [
        (7, Comparison::Written),
        (9, Comparison::Miscompare { at: 0 }),
    ] {
        let image = Image::new();
        let (a, b) = (image.host("a"), image.host("b"));
        let late = stopped_comparison(&a, 7, 8);
        let first = b.compare_and_write(0, &[7; 512], &[others; 512]);
        assert_eq!(first.expect("command"), Comparison::Written);
        assert_eq!(late.resume().expect("command"), comparison);
        let expected = if others == 7 { 8 } else { 9 };
        assert_eq!((read(&b, 0), read(&b, 511)), (expected, expected));
        assert_eq!((moved(&b), image.byte(0)), (0, expected));
    }
}

/// Registers hosts under the keys 1, 2, … and lets the first one reserve for all of them.
fn register(hosts: &[&SharedLun]) {
    for (key, host) in (1..).map(Key).zip(hosts) {
        let key = Some(key);
        let action = PersistentReserve::Register { key };
        host.persistent(action).expect("register");
    }
    let kind = ReservationType::WriteExclusiveRegistrantsOnly;
    let key = Key(1);
    let action = PersistentReserve::Reserve { key, kind };
    hosts[0].persistent(action).expect("reserve");
}

fn preempt(host: &SharedLun, own: u64, victim: u64) {
    let kind = ReservationType::WriteExclusiveRegistrantsOnly;
    let (key, victim) = (Key(own), Key(victim));
    let action = PersistentReserve::Preempt { key, victim, kind };
    host.persistent(action).expect("preempt");
}

#[test]
fn a_fenced_write_never_lands_even_if_it_had_been_let_through() {
    for at in [At::BeforeWork, At::AfterWork] {
        let image = Image::new();
        let (a, b) = (image.host("a"), image.host("b"));
        register(&[&b, &a]);
        let late = stopped_write(&a, 5000, vec![1; 5000], at);
        preempt(&b, 1, 2);
        let found = read(&b, 9999);
        b.write(5000, &[2; 5000], &|| true).expect("write");
        let result = late.resume();
        match at {
            At::BeforeWork => {
                assert!(is_conflict(&result), "{result:?}");
                assert_eq!(found, 7);
            }
            // It had landed before it was fenced.
            At::AfterWork => {
                result.expect("write");
                assert_eq!(found, 1);
            }
        }
        assert!(is_conflict(&a.write(0, &[1; 512], &|| true)));
        assert_eq!((read(&b, 5000), read(&b, 9999)), (2, 2));
        b.write(5000, &[3; 512], &|| true).expect("write");
        assert_eq!((moved(&b), image.byte(5000), image.byte(9999)), (0, 3, 2));
    }
}

#[test]
fn reserving_waits_for_what_runs_but_not_for_who_is_stopped() {
    let image = Image::new();
    let (a, b) = (image.host("a"), image.host("b"));
    let late = stopped_write(&a, 0, vec![1; 512], At::BeforeWork);
    b.reserve().expect("reserve");
    b.write(0, &[2; 512], &|| true).expect("write");
    assert!(is_conflict(&late.resume()));
    assert_eq!(read(&b, 0), 2);
    b.release().expect("release");
    a.write(0, &[1; 512], &|| true).expect("write");
    assert_eq!((read(&b, 0), image.byte(0)), (1, 1));
}

#[test]
fn a_reset_lets_no_late_write_of_the_old_holder_through() {
    let image = Image::new();
    let (a, b) = (image.host("a"), image.host("b"));
    a.reserve().expect("reserve");
    let late = stopped_write(&a, 0, vec![1; 512], At::BeforeWork);
    assert!(is_conflict(&b.reserve()));
    b.reset().expect("reset");
    b.reserve().expect("reserve");
    b.write(0, &[2; 512], &|| true).expect("write");
    assert!(is_conflict(&late.resume()));
    // The thread that had it learns that it is gone, once.
    assert!(matches!(a.write(0, &[1; 512], &|| true), Err(Fault::Lost)));
    assert!(is_conflict(&a.write(0, &[1; 512], &|| true)));
    assert_eq!(read(&b, 0), 2);
}

#[test]
fn several_stopped_writes_across_each_other_leave_one_truth() {
    let image = Image::new();
    let hosts: Vec<_> = ["a", "b", "c", "d"].map(|name| image.host(name)).into();
    let first = stopped_write(&hosts[0], 8192, vec![1; 4096], At::BeforeWork);
    // Across what was moved because of the first.
    let second = stopped_write(&hosts[1], 4096, vec![2; 12288], At::BeforeWork);
    let third = stopped_write(&hosts[2], 0, vec![3; 8192], At::AfterWork);
    let at = |offset| read(&hosts[3], offset);
    assert_eq!(
        [at(0), at(4096), at(8192), at(12288), at(16384)],
        [3, 3, 7, 7, 7]
    );
    hosts[3].write(12288, &[4; 8192], &|| true).expect("write");
    third.resume().expect("write");
    first.resume().expect("write");
    assert_eq!(
        [at(0), at(4096), at(8192), at(12288), at(16384)],
        [3, 3, 1, 4, 4]
    );
    second.resume().expect("write");
    assert_eq!(
        [at(0), at(4096), at(8192), at(12288), at(16384)],
        [3, 2, 2, 2, 4]
    );
    hosts[3].write(0, &vec![5; 20480], &|| true).expect("write");
    assert_eq!(moved(&hosts[3]), 0);
    let bytes = fs::read(&image.path).expect("image");
    assert!(bytes[..20480].iter().all(|&byte| byte == 5));
}

#[test]
fn moved_blocks_come_back_when_the_stopped_host_is_gone() {
    let image = Image::new();
    let b = image.host("b");
    // A host that is gone with a command in its lane, as the kernel leaves it.
    let a = image.try_host("a").expect("open");
    let seat = a.seat.as_ref().expect("seat");
    let permit = a.acquire(seat, &(0..512), true).expect("acquire");
    b.write(0, &[2; 512], &|| true).expect("write");
    assert_eq!((moved(&b), image.byte(0)), (4096, 7));
    std::mem::forget(permit);
    kill(&a);
    b.write(1, &[3; 1], &|| true).expect("write");
    assert_eq!((moved(&b), image.byte(0), image.byte(1)), (0, 2, 3));
}

#[test]
fn who_waits_for_a_dead_host_goes_on_at_once() {
    let image = Image::new();
    let (a, b) = (image.host("a"), image.host("b"));
    a.reserve().expect("reserve");
    let seat = a.seat.as_ref().expect("seat");
    let permit = a.acquire(seat, &(0..512), true).expect("acquire");
    std::mem::forget(permit);
    kill(&a);
    b.write(0, &[2; 512], &|| true).expect("write");
    assert_eq!(
        (moved(&b), image.byte(0)),
        (0, 2),
        "nothing had to be moved"
    );
    b.reserve().expect("reserve");
}

/// Does to a host what the kernel does when it dies.
fn kill(host: &SharedLun) {
    let seat = host.seat.as_ref().expect("seat").index;
    let lock = super::Memory::seat_lock(seat);
    super::locks::unlock(host.memory.file(), lock).expect("unlock");
}
