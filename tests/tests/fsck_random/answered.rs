//! A person's answers: what isn't repaired now, and what is, costs nothing that the next run could have kept.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::Duration;

use fsck_vmfs::{Answer, Mode, Options, Outcome};
use vmfs_core::scsi::{self, Access};
use vmfs_tests::corpus::trial::{Programs, copy_sparse, same};
use vmfs_tests::random::Random;

use super::fate::{self, Fate};
use super::victim::{Victim, damaged};

/// Of so many repairs one isn't wanted.
const DECLINED: u64 = 3;

/// What becomes of the volume that `seed` damages if a person answers at random, and then repairs the rest.
pub(crate) fn of(
    victim: &Victim,
    seed: u64,
    programs: &Programs,
    image: &Path,
) -> Result<Fate, String> {
    let patches = victim.damage(&mut Random::new(seed));
    damaged(victim, &patches, image).map_err(|error| error.to_string())?;
    let before = image.with_extension("before");
    copy_sparse(image, &before).map_err(|error| error.to_string())?;
    let outcome = catch_unwind(AssertUnwindSafe(|| answer(seed, image)))
        .map_err(|_| "panicked at a person's answers".to_owned())?;
    // What isn't a volume at all is refused by any run.
    if let Ok(outcome) = outcome
        && !outcome.wrote
        && !same(image, &before).map_err(|error| error.to_string())?
    {
        return Err("nothing was said to be written and something was".to_owned());
    }
    copy_sparse(image, &before).map_err(|error| error.to_string())?;
    let again = |image: &Path| copy_sparse(&before, image);
    let fate = fate::repaired(victim, &patches, programs, image, &again);
    let _ = fs::remove_file(&before);
    fate
}

/// A run that asks before each repair.
fn answer(seed: u64, image: &Path) -> Result<Outcome, String> {
    let mut random = Random::new(!seed);
    let ask = move |_: &fsck_vmfs::Finding| match random.below(DECLINED) {
        0 => Answer::No,
        _ => Answer::Yes,
    };
    let lun = scsi::open(image, Access::ReadWrite, None).map_err(|error| error.to_string())?;
    let options = Options {
        lease: Duration::from_millis(20),
        ..Options::default()
    };
    let run = fsck_vmfs::run(&[lun], Mode::Ask(Box::new(ask)), &options, &mut |_| {});
    run.map_err(|error| error.to_string())
}
