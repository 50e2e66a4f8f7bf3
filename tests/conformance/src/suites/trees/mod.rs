//! What is written through the mount is read back by readers that other people wrote.

mod fsck;
mod write;
mod written;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use vmfs_core::format::{Family, ZeroLevel};
use vmfs_core::fs::Inode;
use vmfs_tests::oracle::dissect;
use vmfs_tests::random::Random;
use vmfs_tests::walk;

use super::Session;
use crate::mount::Mount;
use write::Amounts;
use written::{WHOLE, Written};

const ALL: Amounts = Amounts {
    files: 20_000,
    large: 300 << 20,
    disk_writes: 400,
    names: 2000,
    pairs: 40,
};

const QUICK: Amounts = Amounts {
    files: 1500,
    large: 24 << 20,
    disk_writes: 60,
    names: 300,
    pairs: 4,
};

pub(super) fn run(session: &mut Session<'_>) -> Result<()> {
    let amounts = session.pick(QUICK, ALL);
    let top = session.place.path().to_owned();
    let written = write::write(&top, amounts, &mut Random::new(11)).context("write")?;
    let compare = || written.compare_mount(&top, &BTreeMap::new());
    session.checks.note("read-at-once", compare());
    session.place.remount()?;
    session.checks.note("read-remounted", compare());
    let Some(family) = session.place.family() else {
        return Ok(());
    };
    session.place.unmount()?;
    let image = session.place.image();
    let found = dissect(std::slice::from_ref(&image), WHOLE, &written.places());
    session
        .checks
        .note("dissect.vmfs", written.compare_dissect(&found));
    let (reader, reach) = match family {
        Family::Vmfs5 => ("vmfs-fuse", BTreeMap::new()),
        _ => ("vmfs6-fuse", vmfs6_fuse_reach(&image)),
    };
    let compared = by_debian(session, reader, &image, &written, &reach);
    session.checks.note(reader, compared);
    if family == Family::Vmfs5 {
        session.checks.note("fsck.vmfs", fsck::check(&image));
    } else {
        session.skip(
            "fsck.vmfs6",
            "it takes the bitmaps of new volumes for wrong, and divides by zero on many",
        );
    }
    session.place.mount()
}

/// How far vmfs6-fuse reads files: to the first entry of the descriptor that is empty
/// (docs/READERS.md).
fn vmfs6_fuse_reach(image: &Path) -> BTreeMap<String, u64> {
    let volume = walk::open(&[image]);
    let per_block = volume.layout().pointers_per_block;
    let reach = |inode: &Inode| {
        let map = inode.map();
        let entries = map.addresses();
        let used = entries.iter().take_while(|&&raw| raw != 0).count() as u64;
        let holds_addresses = !matches!(map.zero_level(), ZeroLevel::Resident | ZeroLevel::None);
        let covered = per_block.pow(map.zero_level().depth()) << inode.meta().block_shift();
        (holds_addresses && used < entries.len() as u64).then(|| used * covered)
    };
    let files = walk::all_files(&volume).into_iter();
    files
        .filter_map(|(path, inode)| {
            let path = path.trim_start_matches('/').to_owned();
            Some((path, reach(&inode)?))
        })
        .collect()
}

/// Compares with what Debian's mount shows.
fn by_debian(
    session: &Session<'_>,
    reader: &str,
    image: &Path,
    written: &Written,
    reach: &BTreeMap<String, u64>,
) -> Result<()> {
    let folder = session.place.beside("debian")?;
    let log = folder.with_extension("log");
    let mut command = Command::new(Path::new("/usr/sbin").join(reader));
    command.arg("-f").arg(image).arg(&folder);
    let mount = Mount::new(
        &session.place.tools().processes,
        &mut command,
        &folder,
        &log,
    )?;
    written.compare_mount(&folder, reach)?;
    mount.unmount()
}
