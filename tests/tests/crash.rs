//! The power goes at every kind of moment; `crash-soak` does the same for as long as one likes.

use vmfs_core::format::Family;
use vmfs_tests::crash::{Counts, Cuts, Variant, Workload, explore};

/// Workloads of each kind of use.
const WORKLOADS: u64 = 3;
/// Cuts of each workload.
const CUTS: u64 = 40;

fn explore_all(family: Family) {
    let mut counts = Counts::default();
    for variant in Variant::ALL {
        for seed in 0..WORKLOADS {
            let workload = Workload {
                family,
                variant,
                seed,
                calls: 100,
            };
            match explore(workload, Cuts::Spread(CUTS)) {
                Ok(more) => counts += more,
                Err(failure) => panic!("{failure}"),
            }
        }
    }
    println!(
        "{family}: {} cuts, {} cuts of recoveries",
        counts.cuts, counts.second_cuts
    );
    assert!(
        counts.cuts >= WORKLOADS * CUTS,
        "too few cuts to mean anything"
    );
}

#[test]
fn cuts_of_vmfs5_lose_nothing_that_was_durable() {
    explore_all(Family::Vmfs5);
}

#[test]
fn cuts_of_vmfs6_lose_nothing_that_was_durable() {
    explore_all(Family::Vmfs6);
}
