//! LUNs of an iSCSI target, Debian's tgtd: commands, reservations, logging in, and connections
//! that are cut or stall.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use vmfs_core::scsi::{
    Access, Attention, Capabilities, DeviceOffset, IscsiLun, IscsiTimeouts, IscsiUrl, Key, Lun,
    LunError, PersistentReserve, ReservationType,
};
use vmfs_tests::random::Random;
use vmfs_tests::tgt::{Options, Target};

/// Short, since no test shall wait long, but long enough for a busy machine.
const TIMEOUTS: IscsiTimeouts = IscsiTimeouts {
    command: Duration::from_secs(2),
    total: Duration::from_secs(8),
    change: Duration::from_secs(6),
};
const SIZE: u64 = 64 << 20;
const SHARED: ReservationType = ReservationType::WriteExclusiveRegistrantsOnly;

fn open(target: &Target, initiator: &str) -> IscsiLun {
    target.open(initiator, TIMEOUTS).expect("the LUN opens")
}

fn at(offset: u64) -> DeviceOffset {
    DeviceOffset(offset)
}

fn write(lun: &IscsiLun, byte: u8) -> Result<(), LunError> {
    lun.write(at(0), &[byte; 512])
}

fn first_byte(lun: &IscsiLun) -> u8 {
    let mut buf = [0; 512];
    lun.read(at(0), &mut buf).expect("read");
    buf[0]
}

fn is_conflict<T>(result: &Result<T, LunError>) -> bool {
    matches!(result, Err(LunError::ReservationConflict { .. }))
}

fn is_lost<T>(result: &Result<T, LunError>) -> bool {
    matches!(result, Err(LunError::ReservationLost { .. }))
}

/// Random reads, writes and zeros of any alignment, beside the same in memory; in the end the
/// target's file must be the same.
#[test]
fn bytes_are_where_they_belong_whatever_their_alignment() {
    for (block, thin) in [(512, false), (4096, true)] {
        let target = Target::start_with(Options {
            size: 8 << 20,
            block,
            thin,
            ..Options::default()
        });
        let lun = open(&target, "host");
        assert_eq!((lun.capacity(), lun.block_size()), (8 << 20, block));
        let mut model = vec![0; 8 << 20];
        let mut random = Random::new(7);
        for round in 0..150u8 {
            let longest = if random.below(4) == 0 {
                3 << 20
            } else {
                10_000
            };
            let len = 1 + random.below(longest) as usize;
            let start = random.below((model.len() - len) as u64) as usize;
            let part = &mut model[start..start + len];
            match random.below(3) {
                0 => {
                    let mut back = vec![0; len];
                    lun.read(at(start as u64), &mut back).expect("read");
                    assert!(back == part, "read of {len} bytes at {start}");
                }
                1 => {
                    part.fill(round | 1);
                    lun.write(at(start as u64), part).expect("write");
                }
                _ => {
                    part.fill(0);
                    lun.write_zeros(at(start as u64), len as u64)
                        .expect("zeros");
                }
            }
        }
        lun.flush().expect("flush");
        let mut file = vec![0; 8 << 20];
        let backing = File::open(target.file(1)).expect("the target's file");
        backing.read_exact_at(&mut file, 0).expect("all of it");
        assert!(file == model, "blocks of {block} bytes");
        let counted = lun.counters().snapshot();
        assert_eq!(
            counted.reads.commands + counted.writes.commands + counted.zeroings.commands,
            150
        );
    }
}

#[test]
fn a_range_past_the_end_is_refused_before_it_is_sent() {
    let target = Target::start(SIZE);
    let lun = open(&target, "host");
    let error = lun
        .write(at(SIZE - 100), &[1; 200])
        .expect_err("past the end");
    assert!(
        matches!(error, LunError::PastEnd { capacity: SIZE, .. }),
        "{error}"
    );
    assert_eq!(lun.counters().snapshot().writes.commands, 0);
}

#[test]
fn capabilities_are_found_by_asking() {
    let target = Target::start(SIZE);
    let lun = open(&target, "host");
    // What tgt says of itself has COMPARE AND WRITE in it.
    let expected = Capabilities {
        compare_and_write: false,
        reserve: true,
        persistent_reserve: true,
        unmap: false,
    };
    assert_eq!(lun.capabilities(), expected);
    assert_eq!(
        target.proxy().commands(0x89),
        0,
        "COMPARE AND WRITE was tried out"
    );
    let error = lun.compare_and_write(at(0), &[0; 512], &[1; 512]);
    assert!(
        matches!(error, Err(LunError::Unsupported { .. })),
        "{error:?}"
    );
    assert!(matches!(
        lun.unmap(at(0), 4096),
        Err(LunError::Unsupported { .. })
    ));
    let identity = lun.identity().expect("an identity").clone();
    assert!(identity.as_str().starts_with("naa."), "{identity}");

    let thin = Target::start_with(Options {
        thin: true,
        luns: 2,
        ..Options::default()
    });
    let lun = open(&thin, "host");
    assert!(lun.capabilities().unmap);
    lun.write(at(0), &vec![7; 64 << 10]).expect("write");
    lun.unmap(at(100), (64 << 10) - 100).expect("unmap");
    let mut back = [1; 1024];
    lun.read(at(0), &mut back).expect("read");
    // Only whole blocks are unmapped; tgt's read as zeros then.
    assert_eq!((back[0], back[511], back[512]), (7, 7, 0));
    assert_ne!(lun.identity(), Some(&identity), "another target's LUN");
    // tgt's disk is an image, which has a hole there.
    lun.write(at(1 << 20), &[7; 4096]).expect("write");
    let next = lun.next_mapped(at(8192)).expect("GET LBA STATUS");
    assert_eq!(next, Some(1 << 20..(1 << 20) + 4096));
    assert_eq!(lun.next_mapped(at((1 << 20) + 4096)).expect("none"), None);
    assert_eq!(lun.next_mapped(at(lun.capacity())).expect("none"), None);
}

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
            "holds_a_reservation_until_it_is_killed",
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

/// Waits for what doesn't take long.
fn eventually(what: &str, happens: impl FnMut() -> bool) {
    within(Duration::from_secs(20), what, happens);
}

fn within(time: Duration, what: &str, mut happens: impl FnMut() -> bool) {
    let start = Instant::now();
    while !happens() {
        assert!(start.elapsed() < time, "{what}");
        thread::sleep(Duration::from_millis(10));
    }
}

fn register(lun: &IscsiLun, key: u64) {
    let key = Some(Key(key));
    let action = PersistentReserve::Register { key };
    lun.persistent_reserve(action).expect("register");
}

fn reserve(lun: &IscsiLun, key: u64) -> Result<(), LunError> {
    lun.persistent_reserve(PersistentReserve::Reserve {
        key: Key(key),
        kind: SHARED,
    })
}

fn preempt(lun: &IscsiLun, key: u64, victim: u64) -> Result<(), LunError> {
    lun.persistent_reserve(PersistentReserve::Preempt {
        key: Key(key),
        victim: Key(victim),
        kind: SHARED,
    })
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

#[test]
fn chap_lets_in_who_knows_the_secret() {
    let account = |name: &str, secret: &str| Some((name.to_owned(), secret.to_owned()));
    let target = Target::start_with(Options {
        account: account("vmfs", "twelve-bytes-or-more"),
        own_account: account("target", "another-twelve-bytes"),
        ..Options::default()
    });
    let open = |login: &str| {
        let url = target
            .url()
            .replace("iscsi://", &format!("iscsi://{login}"));
        let url: IscsiUrl = url.parse().expect("a URL");
        IscsiLun::open(&url, Access::ReadWrite, Some("host"), TIMEOUTS)
    };
    let lun = open("vmfs%twelve-bytes-or-more@").expect("the right secret");
    assert!(!format!("{lun:?}").contains("twelve"), "the secret shows");
    assert!(lun.name().starts_with("iscsi://vmfs@127"), "{}", lun.name());
    write(&lun, 1).expect("write");
    // After a cut as well.
    target.cut();
    assert_eq!(first_byte(&lun), 1);

    let error = open("vmfs%eleven-bytes@")
        .expect_err("a wrong secret")
        .to_string();
    assert!(
        error.contains("CHAP") && error.contains("account"),
        "{error}"
    );
    assert!(!error.contains("eleven"), "{error}");
    let error = open("").expect_err("no secret").to_string();
    assert!(error.contains("LIBISCSI_CHAP_PASSWORD"), "{error}");
}

#[test]
fn says_what_to_do_when_there_is_no_such_lun() {
    let mut target = Target::start(SIZE);
    let open = |url: String| {
        let url: IscsiUrl = url.parse().expect("a URL");
        let lun = IscsiLun::open(&url, Access::ReadOnly, None, TIMEOUTS);
        lun.map(|_| ()).expect_err("nothing there").to_string()
    };
    let error = open(target.url().replace("tgt", "tgx"));
    assert!(error.contains("no such target"), "{error}");
    let error = open(target.url_of(9));
    assert!(error.contains("25/00"), "{error}");
    target.stop();
    let error = open(target.direct_url());
    assert!(error.contains("running?"), "{error}");
}

#[test]
fn a_lun_that_is_opened_to_be_read_is_not_written_to() {
    let target = Target::start(SIZE);
    let url: IscsiUrl = target.url().parse().expect("a URL");
    let lun = IscsiLun::open(&url, Access::ReadOnly, Some("host"), TIMEOUTS).expect("open");
    for result in [lun.write(at(0), &[1; 512]), lun.write_zeros(at(0), 512)] {
        assert!(
            matches!(result, Err(LunError::ReadOnly { .. })),
            "{result:?}"
        );
    }
    assert_eq!(first_byte(&lun), 0);
}

/// Commands of all threads reach the target before any is answered.
#[test]
fn commands_of_several_threads_are_under_way_together() {
    const THREADS: u64 = 8;
    /// Bytes of a command without data.
    const COMMAND: u64 = 48;
    let target = Target::start(SIZE);
    let lun = open(&target, "host");
    let proxy = target.proxy();
    proxy.stall_answers();
    let before = proxy.sent();
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let lun = &lun;
            scope.spawn(move || {
                lun.read(at(thread * 4096), &mut [0; 4096]).expect("read");
            });
        }
        eventually("all commands are sent", || {
            proxy.sent() - before >= THREADS * COMMAND
        });
        proxy.resume();
    });
    assert_eq!(proxy.accepted(), 1, "a connection was lost");
}

/// Every thread has its own part of the LUN, and knows what it has written.
fn work(lun: &IscsiLun, thread: u64, go_on: impl Fn() -> bool) {
    let start = thread << 20;
    for round in (1..=u8::MAX).cycle().take_while(|_| go_on()) {
        let len = 4096 << (round % 7);
        let data = vec![round; len];
        lun.write(at(start), &data).expect("write");
        let mut back = vec![0; len];
        lun.read(at(start), &mut back).expect("read");
        let wrong: Vec<_> = (0..len).filter(|&i| back[i] != round).collect();
        assert!(
            wrong.is_empty(),
            "round {round} of thread {thread}: {} of {len} bytes are wrong, from {}",
            wrong.len(),
            wrong[0]
        );
    }
}

#[test]
fn commands_complete_although_connections_are_cut() {
    completes_although_connections_are_cut(&Target::start(SIZE));
}

/// A write whose connection is gone must not come out from behind its own repetition.
#[test]
fn a_write_of_an_old_connection_lands_before_its_repetition() {
    completes_although_connections_are_cut(&Target::start_with(Options {
        slow: true,
        ..Options::default()
    }));
}

fn completes_although_connections_are_cut(target: &Target) {
    const LOGINS: u64 = 25;
    let lun = open(target, "host");
    let enough = || target.proxy().accepted() >= LOGINS;
    thread::scope(|scope| {
        for thread in 0..4 {
            let (lun, enough) = (&lun, &enough);
            scope.spawn(move || work(lun, thread, || !enough()));
        }
        let mut random = Random::new(3);
        within(
            Duration::from_secs(60),
            "the host logs in again and again",
            || {
                // In the middle of answers, wherever that is.
                target.proxy().cut_after(random.below(1 << 20));
                enough()
            },
        );
    });
}

/// Each of them ends what its last session had under way, by a reset that all others hear of, in the middle of doing the
/// same.
#[test]
fn many_hosts_may_be_cut_off_at_once() {
    const HOSTS: u64 = 40;
    const CUTS: u64 = 6;
    let target = Target::start(SIZE);
    let target = &target;
    let over = &AtomicBool::new(false);
    thread::scope(|scope| {
        let work = |host: u64| {
            let lun = open(target, &format!("host{host}"));
            for round in (1..=u8::MAX).cycle() {
                if over.load(SeqCst) {
                    return;
                }
                let data = [round; 4096];
                let mut written = lun.write(at(host * 4096), &data);
                while is_conflict(&written) {
                    thread::sleep(Duration::from_millis(1));
                    written = lun.write(at(host * 4096), &data);
                }
                written.unwrap_or_else(|error| panic!("host {host}: {error}"));
            }
        };
        let workers: Vec<_> = (0..HOSTS)
            .map(|host| scope.spawn(move || work(host)))
            .collect();
        for cut in 1..=CUTS {
            within(Duration::from_secs(60), "all log in", || {
                target.proxy().accepted() >= HOSTS * cut
                    || workers.iter().any(thread::ScopedJoinHandle::is_finished)
            });
            thread::sleep(Duration::from_millis(300));
            target.cut();
        }
        over.store(true, SeqCst);
    });
}

#[test]
fn a_target_may_be_started_anew() {
    let mut target = Target::start(SIZE);
    let lun = open(&target, "host");
    write(&lun, 1).expect("write");
    target.restart();
    assert_eq!(first_byte(&lun), 1);
    // And while commands are under way.
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let worker = scope.spawn(|| work(&lun, 1, || !over.load(SeqCst)));
        for _ in 0..3 {
            thread::sleep(Duration::from_millis(50));
            target.stop();
            thread::sleep(Duration::from_millis(100));
            target.restart();
        }
        over.store(true, SeqCst);
        worker.join().expect("the worker");
    });
}

#[test]
fn what_was_reserved_is_lost_with_the_connection() {
    let target = Target::start(SIZE);
    let (one, two) = (open(&target, "one"), open(&target, "two"));
    one.reserve().expect("reserve");
    target.cut();
    two.reserve().expect("nobody has it any more");
    write(&two, 2).expect("write");
    // Whatever the host does next, before it is refused for the other's reservation.
    assert!(is_lost(&write(&one, 1)));
    assert!(is_conflict(&write(&one, 1)));
    two.release().expect("release");
    assert_eq!(first_byte(&two), 2);
    write(&one, 3).expect("as anybody may");

    // A command under way is not sent again, unless it is of a thread that has reserved nothing.
    one.reserve().expect("reserve");
    target.proxy().stall();
    thread::scope(|scope| {
        let others: Vec<_> = (1..4)
            .map(|block| {
                let one = &one;
                scope.spawn(move || one.write(at(block * 512), &[4; 512]))
            })
            .collect();
        scope.spawn(|| {
            thread::sleep(Duration::from_millis(100));
            target.cut();
            target.proxy().resume();
        });
        let result = write(&one, 4);
        assert!(is_lost(&result), "{result:?}");
        for other in others {
            other.join().expect("a thread").expect("written");
        }
    });
    let mut back = [0; 2048];
    one.read(at(0), &mut back).expect("read");
    assert!(back[..512] == [3; 512] && back[512..] == [4; 1536]);
    one.reserve().expect("reserve");
    write(&one, 5).expect("write");
    // What is released is not missed, even if the answer doesn't come.
    target.proxy().stall_answers();
    thread::scope(|scope| {
        scope.spawn(|| {
            thread::sleep(Duration::from_millis(100));
            target.cut();
            target.proxy().resume();
        });
        one.release().expect("released");
    });
    assert_eq!(first_byte(&one), 5);
}

#[test]
fn a_registered_host_stays_registered_unless_it_was_fenced() {
    let target = Target::start(SIZE);
    let (one, two) = (open(&target, "one"), open(&target, "two"));
    register(&one, 1);
    register(&two, 2);
    reserve(&two, 2).expect("reserve");
    for byte in 1..4 {
        target.cut();
        write(&one, byte).expect("still registered");
        write(&two, byte).expect("still registered");
    }
    // The host is away, and fenced meanwhile.
    target.proxy().stall();
    let two = IscsiLun::open(
        &target.direct_url().parse().expect("a URL"),
        Access::ReadWrite,
        Some("two"),
        TIMEOUTS,
    )
    .expect("another session");
    register(&two, 3);
    thread::scope(|scope| {
        let late = scope.spawn(|| write(&one, 9));
        thread::sleep(Duration::from_millis(100));
        preempt(&two, 3, 1).expect("fence");
        target.cut();
        target.proxy().resume();
        let result = late.join().expect("the thread");
        assert!(is_lost(&result), "{result:?}");
    });
    assert!(
        one.attentions()
            .contains(&Attention::RegistrationsPreempted)
    );
    assert!(is_conflict(&write(&one, 9)));
    assert_eq!(first_byte(&two), 3);
}

#[test]
fn a_host_is_asked_before_each_sending() {
    let target = Target::start(SIZE);
    let lun = open(&target, "host");
    let asked = AtomicU32::new(0);
    let fenced = |result: Result<(), LunError>| matches!(result, Err(LunError::Fenced { .. }));
    assert!(fenced(lun.write_if(at(0), &[1; 512], &|| false)));
    assert!(fenced(lun.write_zeros_if(at(0), 1 << 20, &|| false)));
    assert_eq!(first_byte(&lun), 0);
    // It may the first time, and not any more when the connection is back.
    target.proxy().stall();
    thread::scope(|scope| {
        let write =
            scope.spawn(|| lun.write_if(at(0), &[1; 512], &|| asked.fetch_add(1, SeqCst) == 0));
        eventually("it is asked", || asked.load(SeqCst) == 1);
        thread::sleep(Duration::from_millis(100));
        target.cut();
        target.proxy().resume();
        assert!(fenced(write.join().expect("the thread")));
    });
    assert_eq!(asked.load(SeqCst), 2);
    assert_eq!(first_byte(&lun), 0);
}

#[test]
fn a_silent_target_is_an_error_and_no_hang() {
    let timeouts = IscsiTimeouts {
        command: Duration::from_millis(400),
        total: Duration::from_millis(1200),
        change: Duration::from_millis(600),
    };
    let target = Target::start(SIZE);
    let lun = target.open("host", timeouts).expect("open");
    write(&lun, 1).expect("write");
    target.proxy().stall();
    let timed_out = |result: Result<(), LunError>| match result {
        Err(LunError::Io { source, .. }) => source.kind() == std::io::ErrorKind::TimedOut,
        _ => false,
    };
    thread::scope(|scope| {
        let read = scope.spawn(|| lun.read(at(0), &mut [0; 512]));
        let write = scope.spawn(|| write(&lun, 2));
        let flush = scope.spawn(|| lun.flush());
        assert!(timed_out(read.join().expect("a thread")));
        assert!(timed_out(write.join().expect("a thread")));
        assert!(timed_out(flush.join().expect("a thread")));
    });
    assert!(timed_out(lun.read(at(0), &mut [0; 512])), "and again");
    // What was on its way is lost, not late.
    target.cut();
    target.proxy().resume();
    assert_eq!(first_byte(&lun), 1, "what was not sent again is not there");
    write(&lun, 3).expect("write");
    assert_eq!(first_byte(&lun), 3);
}

#[test]
fn a_target_that_is_gone_is_an_error_until_it_is_back() {
    let timeouts = IscsiTimeouts {
        command: Duration::from_secs(2),
        total: Duration::from_millis(500),
        change: Duration::from_millis(500),
    };
    let mut target = Target::start(SIZE);
    let lun = target.open("host", timeouts).expect("open");
    target.stop();
    let error = write(&lun, 1).expect_err("nobody there");
    assert!(error.to_string().contains("127.0.0.1"), "{error}");
    target.restart();
    eventually("it is back", || write(&lun, 2).is_ok());
    assert_eq!(first_byte(&lun), 2);
}
