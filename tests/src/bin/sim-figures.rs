//! What the simulator notices, and how long a takeover takes (docs/SIMULATOR.md).

use std::time::Duration;

use vmfs_core::scsi::Personality;
use vmfs_tests::random::setting;
use vmfs_tests::sim::{Broken, Settings, run};

fn main() {
    let what = std::env::args().nth(1).unwrap_or_default();
    let first = setting("VMFS_SIM_SEED", 1);
    match what.as_str() {
        "broken" => broken(first, setting("VMFS_SIM_COUNT", 300)),
        "fences" => fences(first, setting("VMFS_SIM_COUNT", 1000)),
        _ => {
            eprintln!("sim-figures broken | fences");
            std::process::exit(2);
        }
    }
}

/// Leaves out one rule after the other.
fn broken(first: u64, count: u64) {
    println!("| rule that is left out | seeds of {count} that notice | the first of them |");
    println!("|---|---|---|");
    for broken in Broken::ALL {
        let notices = |seed: &u64| {
            let mut settings = Settings::of(*seed);
            settings.broken = Some(broken);
            run(settings).failure.is_some()
        };
        let noticed: Vec<u64> = (first..first + count).filter(notices).collect();
        let number = noticed.first().map(|seed| seed - first + 1);
        let number = number.map_or("none".to_owned(), |number| number.to_string());
        println!("| {} | {} | {number} |", broken.shown(), noticed.len());
    }
}

/// Stops hosts for longer than their lease, in the middle of something.
fn fences(first: u64, count: u64) {
    let mut failed = 0;
    let (mut vaai, mut legacy) = (Vec::new(), Vec::new());
    let mut seed = first;
    while ((vaai.len() + legacy.len()) as u64) < count && seed < first + count * 2 {
        let report = run(Settings::of_fence_trial(seed));
        if let Some(failure) = &report.failure {
            println!("seed {seed}: {failure}");
            failed += 1;
        }
        match report.settings.personality {
            Personality::Vaai => vaai.extend(report.takeovers.first()),
            Personality::Legacy => legacy.extend(report.takeovers.first()),
        }
        seed += 1;
    }
    println!("{} runs, {failed} of them failed", seed - first);
    println!("| array | takeovers | median | 99 of 100 within | all within |");
    println!("|---|---|---|---|---|");
    for (name, mut times) in [("full VAAI", vaai), ("SCSI-2 only", legacy)] {
        times.sort_unstable();
        let within = |part: usize| {
            let index = (times.len() * part / 100).min(times.len().saturating_sub(1));
            times.get(index).map_or(0.0, Duration::as_secs_f64)
        };
        let (median, most, all) = (within(50), within(99), within(100));
        let count = times.len();
        println!("| {name} | {count} | {median:.1} s | {most:.1} s | {all:.1} s |");
    }
    std::process::exit(i32::from(failed > 0));
}
