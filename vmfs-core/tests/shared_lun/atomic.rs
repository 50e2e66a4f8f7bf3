//! Nothing comes between the parts of a command, or between RESERVE and RELEASE.

use vmfs_core::scsi::{Access, DeviceOffset, FileLun, Lun, Personality};

use super::Image;
use super::host::Host;

const HOSTS: u64 = 4;
/// A sector that isn't the first of its page.
const OFFSET: u64 = 4096 + 512;

fn number(image: &Image) -> u64 {
    let bytes = image.bytes();
    let number = &bytes[OFFSET as usize..OFFSET as usize + 8];
    u64::from_le_bytes(number.try_into().expect("eight bytes"))
}

fn count(order: &str, times: u64, image: &Image) -> Vec<Host> {
    let path = image.path();
    let mut hosts: Vec<_> = (0..HOSTS)
        .map(|host| Host::start(&path, &format!("host-{host}")))
        .collect();
    for host in &mut hosts {
        host.order(&format!("{order} {OFFSET} {times}"));
    }
    for host in &mut hosts {
        assert_eq!(host.answer(), "ok");
    }
    assert_eq!(number(image), HOSTS * times);
    hosts
}

#[test]
fn no_addition_by_compare_and_write_is_lost() {
    let image = Image::new();
    let mut hosts = count("count-by-comparing", 5000, &image);
    let mut miscompares = 0;
    for host in &mut hosts {
        let told = host.good("counters");
        let number = told.split(' ').nth(1).expect("a number");
        miscompares += number.parse::<u64>().expect("a number");
    }
    assert_ne!(miscompares, 0, "the hosts were never in each other's way");
}

#[test]
fn no_addition_under_reserve_is_lost() {
    for personality in [Personality::Vaai, Personality::Legacy] {
        let image = Image::with(personality);
        count("count-by-reserving", 500, &image);
    }
}

#[test]
fn no_addition_is_lost_while_hosts_are_stopped_and_killed() {
    const TIMES: u64 = 3000;
    let image = Image::new();
    let path = image.path();
    let mut hosts: Vec<_> = (0..3)
        .map(|host| Host::start(&path, &format!("host-{host}")))
        .collect();
    for host in &mut hosts {
        host.order(&format!("count-by-comparing {OFFSET} {TIMES}"));
    }
    // In the middle of whatever it does.
    for round in 0..20 {
        let host = &hosts[round % 3];
        host.stop();
        let mut other = Host::start(&path, "visitor");
        other.good(&format!("count-by-comparing {OFFSET} 10"));
        host.resume();
    }
    for host in &mut hosts {
        assert_eq!(host.answer(), "ok");
    }
    assert_eq!(number(&image), 3 * TIMES + 200);
}

#[test]
fn readers_never_see_half_a_write() {
    let image = Image::new();
    let path = image.path();
    let mut host = Host::start(&path, "writer");
    host.order(&format!("count-by-reserving {} 20000", 1 << 20));
    host.order(&format!("count-by-comparing {OFFSET} 100000"));
    assert_eq!(host.answer(), "ok");
    // Reads that don't wait for the writer would see some of the new bytes now and then.
    let lun = FileLun::open(&path, Access::ReadOnly).expect("open");
    for _ in 0..100_000 {
        let mut block = [0; 512];
        lun.read(DeviceOffset(OFFSET), &mut block).expect("read");
        let (numbers, _) = block.as_chunks::<8>();
        assert!(numbers.iter().all(|number| number == &numbers[0]));
    }
    assert_eq!(host.answer(), "ok");
}
