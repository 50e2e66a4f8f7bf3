//! Reservations, registrations and resets.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use vmfs_core::scsi::{
    Access, Attention, IscsiLun, IscsiTimeouts, IscsiUrl, Key, Lun, PersistentReserve,
};
use vmfs_tests::tgt::Target;

use super::{
    SHARED, SIZE, TIMEOUTS, at, eventually, first_byte, is_conflict, is_lost, open, preempt,
    register, reserve, write,
};

#[test]
fn a_reservation_keeps_others_out_until_it_is_released() {
    let target = Target::start(SIZE);
    let (one, two) = (open(&target, "one"), open(&target, "two"));
    one.reserve().expect("reserve");
    one.reserve().expect("once more");
    write(&one, 1).expect("write of the holder");
    assert!(is_conflict(&write(&two, 2)));
    assert!(is_conflict(&two.read(at(0), &mut [0; 512])));
    assert!(is_conflict(&two.reserve()));
    two.release().expect("of what it doesn't have");
    assert!(is_conflict(&two.flush()) || two.flush().is_ok());
    // A host that comes now finds out what the LUN is all the same, and waits if it must.
    let three = open(&target, "three");
    assert_eq!(three.capacity(), SIZE);
    assert!(three.capabilities().reserve);
    one.release().expect("release");
    write(&two, 2).expect("write after the release");
    assert_eq!(first_byte(&one), 2);
    assert!(two.counters().snapshot().conflicts >= 3);
}

#[test]
fn a_host_that_goes_away_leaves_no_reservation() {
    let target = Target::start(SIZE);
    let (one, two) = (open(&target, "one"), open(&target, "two"));
    one.reserve().expect("reserve");
    assert!(is_conflict(&two.reserve()));
    drop(one);
    two.reserve().expect("after the logout");
    two.release().expect("release");

    let mut holder = Command::new(std::env::current_exe().expect("this test"))
        .args([
            "reservations::holds_a_reservation_until_it_is_killed",
            "--exact",
            "--ignored",
            "--nocapture",
        ])
        .env("VMFS_TEST_URL", target.url())
        .stdout(Stdio::piped())
        .spawn()
        .expect("a process");
    let mut lines = BufReader::new(holder.stdout.take().expect("its output")).lines();
    assert!(lines.any(|line| line.is_ok_and(|line| line.contains("reserved"))));
    assert!(is_conflict(&two.reserve()));
    holder.kill().expect("kill -9");
    holder.wait().expect("its end");
    eventually("the dead host's reservation ends", || two.reserve().is_ok());
}

/// Not a test: what another one starts.
#[test]
#[ignore = "started by a_host_that_goes_away_leaves_no_reservation"]
fn holds_a_reservation_until_it_is_killed() {
    let Ok(url) = std::env::var("VMFS_TEST_URL") else {
        return;
    };
    let url: IscsiUrl = url.parse().expect("a URL");
    let lun = IscsiLun::open(&url, Access::ReadWrite, Some("holder"), TIMEOUTS).expect("open");
    lun.reserve().expect("reserve");
    println!("reserved");
    loop {
        thread::park();
    }
}

#[test]
fn a_persistent_reservation_fences() {
    let target = Target::start(SIZE);
    let luns = ["one", "two", "three"].map(|name| open(&target, name));
    let [one, two, three] = &luns;
    assert!(
        one.reservations()
            .expect("none yet")
            .registrations
            .is_empty()
    );
    register(one, 1);
    register(two, 2);
    reserve(one, 1).expect("reserve");
    write(one, 1).expect("the holder writes");
    write(two, 2).expect("who is registered writes");
    assert!(is_conflict(&write(three, 3)));
    assert_eq!(first_byte(three), 2, "everybody reads");
    assert!(
        is_conflict(&reserve(three, 3)),
        "who isn't registered reserves nothing"
    );
    let known = two.reservations().expect("status");
    assert_eq!(known.kind, Some(SHARED));
    let mut keys: Vec<_> = known
        .registrations
        .iter()
        .map(|one| (one.key.0, one.holder))
        .collect();
    keys.sort_unstable();
    assert_eq!(keys, [(1, true), (2, false)]);

    preempt(two, 2, 1).expect("preempt");
    assert!(is_conflict(&write(one, 1)));
    assert!(one.attentions().contains(&Attention::ReservationsPreempted));
    assert!(one.attentions().is_empty(), "told once");
    assert_eq!(first_byte(one), 2);
    let known = two.reservations().expect("status");
    assert_eq!(known.registrations.len(), 1);
    assert!(known.registrations[0].holder && known.registrations[0].key == Key(2));
    assert!(
        is_conflict(&preempt(two, 2, 1)),
        "nobody has the key any more"
    );

    let key = Key(2);
    let kind = SHARED;
    two.persistent_reserve(PersistentReserve::Release { key, kind })
        .expect("release");
    write(one, 4).expect("nothing is reserved");
    two.persistent_reserve(PersistentReserve::Clear { key })
        .expect("clear");
    assert!(two.reservations().expect("status").registrations.is_empty());
    register(one, 5);
    one.persistent_reserve(PersistentReserve::Register { key: None })
        .expect("unregister");
    assert!(one.reservations().expect("status").registrations.is_empty());
}

#[test]
fn a_reset_takes_a_reservation_and_says_so_once() {
    let target = Target::start(SIZE);
    let (one, two) = (open(&target, "one"), open(&target, "two"));
    one.reserve().expect("reserve");
    two.reset().expect("reset");
    assert!(is_lost(&write(&one, 1)));
    assert!(one.attentions().contains(&Attention::Reset));
    write(&one, 2).expect("without a reservation");
    two.reserve().expect("nobody has it");
    assert!(is_conflict(&write(&one, 3)));
}

/// tgt forgets one of two resets that are under way at a time: without an answer it is waited for until the time of
/// a command is over, which is so long here that it can't be taken for a busy machine.
#[test]
fn resets_of_several_threads_are_all_answered() {
    let target = Target::start(SIZE);
    let patient = IscsiTimeouts {
        command: Duration::from_secs(240),
        total: Duration::from_secs(600),
        ..TIMEOUTS
    };
    let lun = target.open("host", patient).expect("the LUN opens");
    let start = Instant::now();
    thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| (0..40).for_each(|_| lun.reset().expect("reset")));
            // Some of these are ended by a reset.
            scope.spawn(|| (0..40).for_each(|_| drop(lun.write(at(0), &[1; 16 << 10]))));
        }
    });
    assert!(start.elapsed() < patient.command / 8, "one has no answer");
}
