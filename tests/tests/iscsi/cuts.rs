//! Connections that are cut or stall, and targets that go away.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use vmfs_core::scsi::{Access, Attention, IscsiLun, IscsiTimeouts, Lun, LunError};
use vmfs_tests::random::Random;
use vmfs_tests::tgt::{Options, Target};

use super::{
    SIZE, TIMEOUTS, at, eventually, first_byte, is_conflict, is_lost, open, preempt, register,
    reserve, within, write,
};

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
