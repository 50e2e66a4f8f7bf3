//! Persistent reservations outlive processes, and keep out who was fenced.

use super::Image;
use super::host::Host;

/// Two hosts that are registered under 1 and 2, of which the first has reserved for both.
fn two(image: &Image) -> (Host, Host) {
    let path = image.path();
    let (mut a, mut b) = (Host::start(&path, "a"), Host::start(&path, "b"));
    a.good("register 1");
    b.good("register 2");
    a.good("hold 1");
    (a, b)
}

#[test]
fn only_registered_hosts_write() {
    let image = Image::new();
    let (mut a, mut b) = two(&image);
    let mut c = Host::start(&image.path(), "c");
    a.good("write 0 512 1");
    b.good("write 0 512 2");
    assert_eq!(c.good("read 0 512"), "[2]");
    for order in [
        "write 0 512 3",
        "zero 0 512",
        "compare 0 2 3",
        "unmap 0 512",
    ] {
        assert_eq!(c.run(order), "conflict", "{order}");
    }
    assert_eq!(c.run("preempt 0 1"), "conflict");
    assert_eq!(c.run("reserve"), "conflict", "RESERVE doesn't mix");
    assert_eq!(a.run("release"), "conflict");
    let all = r#"[("a", 1, true), ("b", 2, false)] Some(WriteExclusiveRegistrantsOnly)"#;
    assert_eq!(c.good("registrations"), all);
    c.good("register 3");
    c.good("write 0 512 3");
}

#[test]
fn a_fenced_host_stays_fenced_whoever_dies() {
    let image = Image::new();
    let (mut a, mut b) = two(&image);
    a.good("preempt 1 2");
    assert_eq!(b.run("write 0 512 2"), "conflict");
    assert_eq!(b.good("attentions"), "[RegistrationsPreempted]");
    b.kill();
    let mut b = Host::start(&image.path(), "b");
    assert_eq!(b.run("write 0 512 2"), "conflict");
    a.kill();
    assert_eq!(b.run("write 0 512 2"), "conflict");
    b.kill();
    let (mut a, mut b) = (
        Host::start(&image.path(), "a"),
        Host::start(&image.path(), "b"),
    );
    assert_eq!(b.run("write 0 512 2"), "conflict");
    a.good("write 0 512 1");
    b.good("register 2");
    b.good("write 0 512 2");
    a.good("clear 1");
    assert_eq!(b.good("attentions"), "[ReservationsPreempted]");
    let mut c = Host::start(&image.path(), "c");
    c.good("write 0 512 3");
}

#[test]
fn a_reset_leaves_persistent_reservations() {
    let image = Image::new();
    let (mut a, _b) = two(&image);
    let mut c = Host::start(&image.path(), "c");
    a.good("reset");
    assert_eq!(c.run("write 0 512 3"), "conflict");
    assert_eq!(c.good("attentions"), "[Reset]");
    a.good("write 0 512 1");
}
