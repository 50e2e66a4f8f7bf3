//! One field of one structure damaged: what the others tell puts it right, and every file is as it was.
//!
//! Each word of the headers of devices, of the file system, of resource files and of their clusters, and of file
//! descriptors of each kind, is given each of some values that are right elsewhere. One case in `VMFS_FIELDS_EVERY` (61)
//! is tried, from number `VMFS_FIELDS_FIRST` (0) on; 1 tries all. A number without a common divisor with that of the
//! values tries each of them.

mod structures;
mod volume;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use fsck_vmfs::{Mode, Options, Outcome};
use vmfs_core::scsi::{self, Access};
use vmfs_tests::corpus::trial::copy_sparse;
use vmfs_tests::random::setting;

use structures::Structure;
use volume::Volume;

const WORD: u64 = 4;
/// What is written: small numbers, types, levels, sizes, and numbers that are too large.
const VALUES: [u32; 16] = [
    0,
    1,
    2,
    3,
    4,
    5,
    6,
    9,
    16,
    20,
    0x10d0,
    0x10d1,
    0xffff,
    0x10_0000,
    0x8000_0001,
    u32::MAX,
];

fn repair(image: &Path) -> Result<Outcome, String> {
    let lun = scsi::open(image, Access::ReadWrite, None).map_err(|error| error.to_string())?;
    let options = Options {
        lease: Duration::from_millis(20),
        ..Options::default()
    };
    fsck_vmfs::run(&[lun], Mode::Yes, &options, &mut |_| {}).map_err(|error| error.to_string())
}

/// What isn't right after a repair of this one word.
fn try_one(
    volume: &Volume,
    structure: &Structure,
    (offset, value): (u64, u32),
    image: &Path,
) -> Result<(), String> {
    copy_sparse(&volume.image, image).map_err(|error| error.to_string())?;
    let file = File::options().write(true).open(image);
    file.and_then(|file| file.write_all_at(&value.to_le_bytes(), structure.at + offset))
        .map_err(|error| error.to_string())?;
    let first = repair(image)?;
    if let Some(refused) = first.refused {
        return Err(format!("refused: {refused}"));
    }
    let second = repair(image)?;
    if !second.report.is_clean() {
        let left: Vec<_> = second.report.totals.keys().collect();
        return Err(format!("the second run finds {left:?}"));
    }
    let shortened = structure
        .lengths
        .contains(&offset)
        .then_some(structure.path.as_deref())
        .flatten();
    let lost = volume.lost(image, shortened);
    if lost.is_empty() {
        return Ok(());
    }
    let found: Vec<_> = first.report.totals.keys().collect();
    Err(format!("{found:?}: {}", lost.join("; ")))
}

fn one_word_costs_nothing(name: &str) {
    let (every, first) = (
        setting("VMFS_FIELDS_EVERY", 61),
        setting("VMFS_FIELDS_FIRST", 0),
    );
    let folder = tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .expect("folder");
    let volume = Volume::make(name, folder.path());
    let structures = structures::of(&volume);
    let words = structures.iter().flat_map(|structure| {
        let words = (0..structure.length / WORD).map(|word| word * WORD);
        words.flat_map(move |word| VALUES.map(|value| (structure, word, value)))
    });
    let cases: Vec<_> = words
        .skip(first as usize)
        .step_by(every.max(1) as usize)
        .collect();
    let next = AtomicUsize::new(0);
    let failures = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for worker in 0..2 {
            let (volume, cases, next, failures) = (&volume, &cases, &next, &failures);
            let image = folder.path().join(format!("worker-{worker}.img"));
            scope.spawn(move || {
                while let Some(&(structure, word, value)) = cases.get(next.fetch_add(1, SeqCst)) {
                    if let Err(error) = try_one(volume, structure, (word, value), &image) {
                        let place = format!("{} + {word:#x}: {value:#x}", structure.name);
                        let mut failures = failures.lock().expect("failures");
                        failures.push(format!("{place}: {error}"));
                    }
                }
            });
        }
    });
    let mut failures = failures.into_inner().expect("failures");
    failures.sort();
    let (failed, tried) = (failures.len(), cases.len());
    println!("{name}: {tried} words damaged");
    assert!(
        failures.is_empty(),
        "{failed} of {tried}:\n{}",
        failures.join("\n")
    );
}

#[test]
fn one_word_of_a_vmfs5_volume_costs_nothing() {
    one_word_costs_nothing("vmfs5");
}

#[test]
fn one_word_of_a_vmfs6_volume_costs_nothing() {
    one_word_costs_nothing("vmfs6");
}
