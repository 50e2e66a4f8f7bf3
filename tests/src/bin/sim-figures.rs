//! What the simulator notices, and how long a takeover takes (docs/SIMULATOR.md).

use vmfs_core::scsi::Personality;
use vmfs_tests::random::setting;
use vmfs_tests::sim::broken::LEFT_OUT;
use vmfs_tests::sim::{Settings, run};

fn main() {
    let what = std::env::args().nth(1).unwrap_or_default();
    let first = setting("VMFS_SIM_SEED", 1);
    match what.as_str() {
        "broken" => broken(first, setting("VMFS_SIM_COUNT", 300)),
        "fences" => fences(first, setting("VMFS_SIM_COUNT", 1000)),
        _ => {
            eprintln!("sim-figures broken [WHERE] | fences");
            std::process::exit(2);
        }
    }
}

/// Leaves out one rule after the other; with an argument, those of the scenarios with that in their name.
fn broken(first: u64, count: u64) {
    println!("| left out | where | seeds of {count} that notice | the first of them |");
    println!("|---|---|---|---|");
    let mut wrong = false;
    let only = std::env::args().nth(2).unwrap_or_default();
    for (broken, scenario, expected) in LEFT_OUT {
        if !scenario.shown().contains(&only) {
            continue;
        }
        let noticed: Vec<u64> = (first..first + count)
            .filter(|&seed| {
                let settings = scenario.settings(seed);
                run(Settings { broken, ..settings }).failure.is_some()
            })
            .collect();
        wrong |= noticed.is_empty() == expected.is_some();
        let rules: Vec<&str> = broken.iter().map(|rule| rule.shown()).collect();
        let number = noticed.first().map_or("none".to_owned(), u64::to_string);
        let (rules, shown) = (rules.join(", and "), scenario.shown());
        println!("| {rules} | {shown} | {} | {number} |", noticed.len());
    }
    std::process::exit(i32::from(wrong));
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
        let took = report.takeovers.first().map(|&time| (time, seed));
        match report.settings.personality {
            Personality::Vaai => vaai.extend(took),
            Personality::Legacy => legacy.extend(took),
        }
        seed += 1;
    }
    println!("{} runs, {failed} of them failed", seed - first);
    println!("| array | takeovers | median | 99 of 100 within | all within |");
    println!("|---|---|---|---|---|");
    let mut slowest = Vec::new();
    for (name, mut times) in [("full VAAI", vaai), ("SCSI-2 only", legacy)] {
        times.sort_unstable();
        let within = |part: usize| {
            let index = (times.len() * part / 100).min(times.len().saturating_sub(1));
            times.get(index).map_or(0.0, |(time, _)| time.as_secs_f64())
        };
        let (median, most, all) = (within(50), within(99), within(100));
        let count = times.len();
        println!("| {name} | {count} | {median:.1} s | {most:.1} s | {all:.1} s |");
        slowest.extend(times.into_iter().rev().take(10));
    }
    slowest.sort_unstable();
    for (time, seed) in slowest.iter().rev() {
        println!("{:.1} s: seed {seed}", time.as_secs_f64());
    }
    std::process::exit(i32::from(failed > 0));
}
