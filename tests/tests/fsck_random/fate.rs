//! What becomes of a damaged volume.

use std::fs;
use std::path::Path;

use vmfs_core::fs::FileSystem;
use vmfs_core::lvm::open_paths;
use vmfs_core::scsi::Access;
use vmfs_tests::corpus::trial::{Programs, same};
use vmfs_tests::random::Random;

use super::programs::fsck;
use super::victim::{Patches, Victim, damaged, lost, places};

/// What became of a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fate {
    /// Nothing that the check knows was damaged.
    Clean,
    /// All was repaired.
    Repaired,
    /// Something was left, and is left by a second run too.
    Left,
    /// Nothing was repaired.
    Refused,
}

/// What becomes of the volume that `seed` damages.
pub(crate) fn of(
    victim: &Victim,
    seed: u64,
    programs: &Programs,
    image: &Path,
) -> Result<Fate, String> {
    let patches = victim.damage(&mut Random::new(seed));
    let make = |image: &Path| damaged(victim, &patches, image);
    make(image).map_err(|error| error.to_string())?;
    repaired(victim, &patches, programs, image, &make)
}

/// What `-y` makes of a volume with these `patches`; `make` makes it again.
pub(crate) fn repaired(
    victim: &Victim,
    patches: &Patches,
    programs: &Programs,
    image: &Path,
    make: &dyn Fn(&Path) -> anyhow::Result<()>,
) -> Result<Fate, String> {
    let check = fsck(programs, "-n", image)?;
    let first = fsck(programs, "-y", image)?;
    if first & 8 != 0 {
        let again = image.with_extension("again");
        let unchanged = make(&again).and_then(|()| same(image, &again));
        let _ = fs::remove_file(&again);
        return match unchanged {
            Ok(true) => Ok(Fate::Refused),
            // A dead host's journal is replayed and its slot freed before the check.
            Ok(false) if first & 1 != 0 => Ok(Fate::Refused),
            Ok(false) => Err(format!("-y exits with {first} and has written")),
            Err(error) => Err(error.to_string()),
        };
    }
    let second = fsck(programs, "-y", image)?;
    let fate = match (first, second) {
        (0, 0) => Fate::Clean,
        (1, 0) => Fate::Repaired,
        (4.., 4) => Fate::Left,
        _ => {
            return Err(format!(
                "-n exits with {check}, -y with {first}, then {second}"
            ));
        }
    };
    let volume = open_paths(&[image], Access::ReadOnly).map_err(|error| error.to_string());
    let fs = volume.and_then(|volume| FileSystem::open(volume).map_err(|error| error.to_string()));
    let fs = match fs {
        Ok(fs) => fs,
        Err(_) if fate == Fate::Left => return Ok(fate),
        Err(error) => return Err(format!("clean, but doesn't open: {error}")),
    };
    if victim.exact && fate == Fate::Repaired && places(&fs) != victim.places {
        return Err("resource files lie elsewhere after -y".to_owned());
    }
    match lost(victim, patches, &fs) {
        Some(path) => Err(format!(
            "{path} wasn't hit and is damaged after -y ({fate:?})"
        )),
        None => Ok(fate),
    }
}
