//! Hosts that are stopped wherever they are, and go on much later.

use vmfs_core::scsi::{Access, FileLun};

use super::Image;
use super::host::Host;

/// Bytes that the load writes to.
const LOAD: usize = 256 * 512;

/// Bytes that lie beside the image.
fn moved(image: &Image) -> u64 {
    let lun = FileLun::open_as(&image.path(), Access::ReadOnly, "onlooker").expect("open");
    lun.status().expect("status").expect("shared").moved_bytes
}

/// A host under load is stopped and fenced; others use its blocks; it goes on. Nothing that it
/// still wants to write may show.
#[test]
fn a_fenced_host_that_goes_on_writes_nothing() {
    let image = Image::new();
    let path = image.path();
    let mut b = Host::start(&path, "b");
    b.good("register 1");
    b.good("hold 1");
    let mut had_running = 0;
    for round in 0..40_u64 {
        let mut a = Host::start(&path, "a");
        a.good("register 2");
        a.good("load 0 256 2");
        // Not always at the same point.
        for _ in 0..round * 50 {
            b.good("read 1048576 512");
        }
        a.stop();
        b.good("preempt 1 2");
        let byte = 100 + round;
        b.good(&format!("write 0 {LOAD} {byte}"));
        assert_eq!(b.good(&format!("read 0 {LOAD}")), format!("[{byte}]"));
        had_running += usize::from(moved(&image) > 0);
        a.resume();
        // The write that it was in the middle of may have landed in time.
        let relaxed = a.run("relax");
        assert!(matches!(&*relaxed, "ok" | "conflict"), "{relaxed}");
        assert_eq!(a.run("write 0 512 2"), "conflict");
        assert_eq!(b.good(&format!("read 0 {LOAD}")), format!("[{byte}]"));
        // What was moved has come back.
        b.good("write 0 512 99");
        b.good(&format!("write 0 {LOAD} {byte}"));
        assert!(
            image.bytes()[..LOAD]
                .iter()
                .all(|&found| u64::from(found) == byte)
        );
    }
    assert_ne!(
        had_running, 0,
        "it was never stopped in the middle of a write"
    );
}

#[test]
fn a_fenced_host_that_is_killed_in_a_command_holds_nobody_up() {
    let image = Image::new();
    let path = image.path();
    let mut b = Host::start(&path, "b");
    b.good("register 1");
    b.good("hold 1");
    for _ in 0..20 {
        let mut a = Host::start(&path, "a");
        a.good("register 2");
        a.good("load 0 256 2");
        a.stop();
        b.good("write 0 4096 7");
        b.good("preempt 1 2");
        b.good(&format!("write 0 {LOAD} 7"));
        a.kill();
        assert_eq!(b.good(&format!("read 0 {LOAD}")), "[7]");
        b.good(&format!("write 0 {LOAD} 8"));
        assert!(image.bytes()[..LOAD].iter().all(|&found| found == 8));
    }
}

/// Without a fence it may go on, and then everything that it was told was written is there.
#[test]
fn a_stopped_host_that_was_not_fenced_goes_on_as_if_nothing_had_been() {
    let image = Image::new();
    let path = image.path();
    let (mut a, mut b) = (Host::start(&path, "a"), Host::start(&path, "b"));
    a.good("load 0 256 2");
    for _ in 0..40 {
        a.stop();
        for offset in (0..LOAD).step_by(8192) {
            b.good(&format!("write {offset} 8192 1"));
        }
        a.resume();
    }
    a.good("relax");
    a.good(&format!("write 0 {LOAD} 3"));
    assert_eq!(b.good(&format!("read 0 {LOAD}")), "[3]");
    b.good(&format!("write 0 {LOAD} 4"));
    assert!(image.bytes()[..LOAD].iter().all(|&found| found == 4));
}
