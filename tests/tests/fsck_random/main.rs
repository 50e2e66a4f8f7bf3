//! Random damage: whatever the bytes say, fsck.vmfs ends, within 512 MiB and without a panic; what it has
//! repaired is clean; where it refuses to repair it has written nothing; and files that the damage didn't touch stay as
//! they are, also where a person has let some of it be repaired and some not.
//!
//! `VMFS_RANDOM_COUNT` volumes (200) are damaged, from `VMFS_RANDOM_SEED` on; a failure prints the seed that
//! makes it again alone: `VMFS_RANDOM_SEED=N VMFS_RANDOM_COUNT=1 cargo test -p vmfs-tests --test fsck_random`.
//! With `VMFS_RANDOM_SHOW=1` each volume that isn't repaired is shown: what was damaged, and what was said;
//! `VMFS_RANDOM_KEEP=FOLDER` keeps it there as it was damaged.

mod answered;
mod fate;
mod programs;
mod victim;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use vmfs_tests::corpus::base;
use vmfs_tests::corpus::trial::{Programs, copy_sparse};
use vmfs_tests::random::{Random, setting};

use fate::Fate;
use victim::{Victim, damaged};

/// What is done with the volume that a seed damages.
type Trial = fn(&Victim, u64, &Programs, &Path) -> Result<Fate, String>;

/// Does that, and shows what was not repaired if that is wanted.
fn try_one(
    trial: Trial,
    victim: &Victim,
    seed: u64,
    programs: &Programs,
    image: &Path,
) -> Result<Fate, String> {
    let fate = trial(victim, seed, programs, image);
    let unrepaired = matches!(fate, Ok(Fate::Refused | Fate::Left) | Err(_));
    if unrepaired && setting("VMFS_RANDOM_SHOW", 0) != 0 {
        let patches = victim.damage(&mut Random::new(seed));
        damaged(victim, &patches, image).map_err(|error| error.to_string())?;
        if let Some(folder) = std::env::var_os("VMFS_RANDOM_KEEP") {
            let kept = Path::new(&folder).join(format!("{seed}.img"));
            copy_sparse(image, &kept).map_err(|error| error.to_string())?;
        }
        let shown = programs::show(victim, &patches, programs, image);
        println!("{seed} ({}): {fate:?}\n  {shown}", victim.base.name);
    }
    fate
}

/// Damages a volume by each of the seeds; what became of them. `exact` if resource files must be as they were.
fn run(seeds: &[u64], exact: bool, trial: Trial) -> BTreeMap<Fate, u64> {
    let programs = vmfs_tests::corpus::trial::programs();
    let folder = tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .expect("folder");
    let victims: Vec<_> = ["vmfs6", "vmfs5"]
        .iter()
        .map(|name| Victim::new(base::build(name, folder.path()).expect("base"), exact))
        .collect();
    let next = AtomicUsize::new(0);
    let fates = Mutex::new(BTreeMap::<Fate, u64>::new());
    let failures = Mutex::new(Vec::new());
    let unrepaired = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for worker in 0..2 {
            let image: PathBuf = folder.path().join(format!("worker-{worker}.img"));
            let (next, fates, failures) = (&next, &fates, &failures);
            let unrepaired = &unrepaired;
            let (victims, programs) = (&victims, &programs);
            scope.spawn(move || {
                while let Some(&seed) = seeds.get(next.fetch_add(1, SeqCst)) {
                    let victim = &victims[(seed % 2) as usize];
                    match try_one(trial, victim, seed, programs, &image) {
                        Ok(fate) => {
                            *fates.lock().expect("fates").entry(fate).or_default() += 1;
                            if matches!(fate, Fate::Left | Fate::Refused) {
                                unrepaired.lock().expect("unrepaired").push((seed, fate));
                            }
                        }
                        Err(error) => {
                            let name = &victim.base.name;
                            let line = format!("VMFS_RANDOM_SEED={seed} ({name}): {error}");
                            eprintln!("{line}");
                            failures.lock().expect("failures").push(line);
                        }
                    }
                    let _ = fs::remove_file(&image);
                }
            });
        }
    });
    let fates = fates.into_inner().expect("fates");
    let failures = failures.into_inner().expect("failures");
    let count = seeds.len();
    let unrepaired = unrepaired.into_inner().expect("unrepaired");
    println!("{count} volumes: {fates:?}; not repaired: {unrepaired:?}");
    assert!(
        failures.is_empty(),
        "{} of {count}:\n{}",
        failures.len(),
        failures.join("\n")
    );
    fates
}

/// The seeds that are asked for.
fn seeds() -> Vec<u64> {
    let first = setting("VMFS_RANDOM_SEED", 1);
    let count = setting("VMFS_RANDOM_COUNT", 200);
    (first..first + count).collect()
}

/// Of so many volumes more than one is repaired, or the damage doesn't reach much.
fn assert_repaired(fates: &BTreeMap<Fate, u64>, of: u64) {
    let count: u64 = fates.values().sum();
    let repaired = fates.get(&Fate::Repaired).copied().unwrap_or(0);
    assert!(count < 50 || repaired > count / of, "{fates:?}");
}

#[test]
fn whatever_is_damaged_is_repaired_or_left() {
    assert_repaired(&run(&seeds(), false, fate::of), 3);
}

#[test]
fn whatever_is_answered_loses_nothing() {
    // Of most volumes all is repaired at the answers.
    assert_repaired(&run(&seeds(), false, answered::of), 6);
}

/// Seeds of volumes that were refused or left once: addresses behind the ends of resource files, the header of
/// `.pbc.sf`, and descriptors behind the system files'; then all others of 100,000 to 109,999. The last but one was
/// given a longer `.sbc.sf` than it had; the last lost what a resource file named as a pointer block behind its end. Then
/// a header with a wrong field whose address is lost, one that is another file's, a descriptor's kind of map, a region
/// of extents that isn't there, addresses where a bitmap is lost too, and a descriptor that told the size of blocks.
const KEPT: [u64; 56] = [
    100_045, 100_047, 100_062, 100_128, 100_236, 100_322, 100_421, 100_447, 100_449, 100_452,
    100_499, 100_529, 100_577, 100_635, 100_675, 100_718, 100_782, 100_876, 100_918, 101_066,
    101_138, 102_435, 102_503, 103_522, //
    100_803, 101_713, 101_817, 102_230, 103_239, 104_466, 104_571, 104_875, 104_970, 105_337,
    105_734, 105_775, 105_869, 106_153, 107_197, 107_466, 107_955, 108_040, 108_339, 108_704,
    109_077, 109_451, 400_461, 401_579, 103_545, 202_622, //
    201_064, 202_862, 204_243, 205_151, 806_821, 808_779,
];

/// What is put together of resource files is as it was. `VMFS_RANDOM_KEPT` has other seeds, with commas.
#[test]
fn what_was_refused_once_is_repaired() {
    let kept: Vec<u64> = std::env::var("VMFS_RANDOM_KEPT").map_or_else(
        |_| KEPT.to_vec(),
        |seeds| {
            let seeds = seeds.split(',').map(|seed| seed.trim().parse());
            seeds.collect::<Result<_, _>>().expect("seeds")
        },
    );
    let fates = run(&kept, true, fate::of);
    let repaired = fates.get(&Fate::Repaired).copied().unwrap_or(0);
    assert_eq!(repaired, kept.len() as u64, "{fates:?}");
}
