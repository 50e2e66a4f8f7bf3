//! Many hosts on one LUN, and everything that can go wrong, from seeds.

use std::time::{Duration, Instant};

use vmfs_tests::random::setting;
use vmfs_tests::sim::{Settings, run};

#[test]
fn fresh_seeds() {
    let fresh = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |time| time.as_micros() as u64);
    let first = setting("VMFS_SIM_SEED", fresh);
    let count = setting("VMFS_SIM_COUNT", 1);
    let seconds = setting("VMFS_SIM_SECONDS", 0);
    let start = Instant::now();
    let mut failed = 0;
    for number in 0.. {
        if number >= count && start.elapsed() >= Duration::from_secs(seconds) {
            break;
        }
        let report = run(Settings::of(first + number));
        if report.failure.is_some() {
            failed += 1;
        }
        println!("{:.3}", start.elapsed().as_secs_f32());
        println!(
            "{report} {:?} {:x} undecided {}",
            report.counts, report.trace, report.is_undecided
        );
    }
    assert!(failed == 0);
}
