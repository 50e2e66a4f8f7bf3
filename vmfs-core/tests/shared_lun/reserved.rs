//! RESERVE(6), and what ends it.

use vmfs_core::scsi::{Access, FileLun, Personality};

use super::Image;
use super::host::Host;

#[test]
fn other_hosts_conflict_until_the_lun_is_released() {
    let image = Image::new();
    let path = image.path();
    let (mut a, mut b) = (Host::start(&path, "a"), Host::start(&path, "b"));
    a.good("reserve");
    a.good("reserve");
    for order in [
        "read 0 512",
        "write 0 512 1",
        "zero 0 512",
        "compare 0 0 1",
        "unmap 0 512",
        "flush",
        "reserve",
        "register 7",
        "registrations",
    ] {
        assert_eq!(b.run(order), "conflict", "{order}");
    }
    assert_eq!(b.good("counters"), "miscompares 0 conflicts 9");
    b.good("release");
    assert_eq!(b.run("read 0 512"), "conflict");
    for order in ["write 0 512 1", "read 0 512", "compare 0 1 2", "flush"] {
        a.good(order);
    }
    a.good("release");
    assert_eq!(b.good("read 0 512"), "[2]");
    b.good("reserve");
    assert_eq!(a.run("read 0 512"), "conflict");
}

#[test]
fn the_reservation_of_a_killed_host_is_gone() {
    let image = Image::with(Personality::Legacy);
    let path = image.path();
    let (mut a, mut b) = (Host::start(&path, "a"), Host::start(&path, "b"));
    a.good("reserve");
    a.good("write 0 4096 1");
    assert_eq!(b.run("reserve"), "conflict");
    a.kill();
    assert_eq!(b.good("read 0 4096"), "[1]");
    b.good("reserve");
    // Who sits where the dead one sat doesn't have its reservation.
    let mut c = Host::start(&path, "a");
    assert_eq!(c.run("read 0 512"), "conflict");
}

#[test]
fn a_host_that_leaves_gives_the_lun_back() {
    let image = Image::new();
    let path = image.path();
    let mut b = Host::start(&path, "b");
    let lun = FileLun::open_as(&path, Access::ReadWrite, "a").expect("open");
    vmfs_core::scsi::Lun::reserve(&lun).expect("reserve");
    assert_eq!(b.run("write 0 512 1"), "conflict");
    drop(lun);
    b.good("write 0 512 1");
}

#[test]
fn a_stopped_host_keeps_its_reservation_until_the_lun_is_reset() {
    let image = Image::with(Personality::Legacy);
    let path = image.path();
    let (mut a, mut b) = (Host::start(&path, "a"), Host::start(&path, "b"));
    let mut c = Host::start(&path, "c");
    a.good("reserve");
    a.stop();
    assert_eq!(b.run("write 0 512 1"), "conflict");
    assert_eq!(b.run("reserve"), "conflict");
    b.good("reset");
    c.good("write 0 512 3");
    b.good("reserve");
    b.good("write 0 512 2");
    a.resume();
    assert_eq!(a.run("write 0 512 1"), "lost");
    assert_eq!(a.run("write 0 512 1"), "conflict");
    assert_eq!(a.good("attentions"), "[Reset]");
    assert_eq!(c.good("attentions"), "[Reset]");
    assert_eq!(c.good("attentions"), "[]");
    assert_eq!(b.good("attentions"), "[]");
    assert_eq!(b.good("read 0 512"), "[2]");
}

#[test]
fn a_legacy_array_has_nothing_but_reserve() {
    let image = Image::with(Personality::Legacy);
    let mut host = Host::start(&image.path(), "a");
    for order in [
        "compare 0 0 1",
        "unmap 0 512",
        "register 1",
        "registrations",
    ] {
        assert_eq!(host.run(order), "unsupported", "{order}");
    }
    host.good("write 0 8192 5");
    // Zeros are written where the array can't make them.
    host.good("zero 512 4096");
    assert_eq!(host.good("read 0 8192"), "[5, 0, 5]");
    host.good("reserve");
    host.good("release");
}

#[test]
fn reserving_is_not_starved_by_hosts_that_never_pause() {
    let image = Image::new();
    let path = image.path();
    let mut busy: Vec<_> = (0..3)
        .map(|host| Host::start(&path, &format!("busy-{host}")))
        .collect();
    for (host, byte) in busy.iter_mut().zip(1..) {
        host.good(&format!("storm 0 256 {byte}"));
    }
    let mut host = Host::start(&path, "a");
    for _ in 0..10 {
        host.good("reserve");
        host.good("write 0 131072 9");
        assert_eq!(host.good("read 0 131072"), "[9]");
        host.good("release");
    }
    for host in &mut busy {
        host.good("relax");
    }
}
