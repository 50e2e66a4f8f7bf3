//! Runs seeds of the simulator and goes on after failures: for hunting.

use vmfs_tests::random::setting;
use vmfs_tests::sim::{Settings, run};

fn main() {
    let first = setting("VMFS_SIM_SEED", 1);
    let count = setting("VMFS_SIM_COUNT", 100);
    let (mut failed, mut undecided) = (0, 0);
    for seed in first..first + count {
        let report = run(Settings::of(seed));
        undecided += u64::from(report.is_undecided);
        failed += u64::from(report.failure.is_some());
        println!("{report} {:?} trace {:x}", report.counts, report.trace);
    }
    println!("{failed} of {count} seeds failed, {undecided} undecided");
    std::process::exit(i32::from(failed > 0));
}
