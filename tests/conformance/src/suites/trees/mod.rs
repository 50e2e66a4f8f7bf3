//! What is written through the mount is read back by readers that other people wrote.

mod fsck;
mod write;
mod written;

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use vmfs_core::format::Family;
use vmfs_tests::oracle::dissect;
use vmfs_tests::random::Random;

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

/// vmfs6-fuse reads zeros inside blocks from 16 GiB of a file on (docs/READERS.md).
const VMFS6_FUSE_REACH: u64 = 16 << 30;

pub(super) fn run(session: &mut Session<'_>) -> Result<()> {
    let amounts = session.pick(QUICK, ALL);
    let top = session.place.path().to_owned();
    let written = write::write(&top, amounts, &mut Random::new(11)).context("write")?;
    let compare = || written.compare_mount(&top, u64::MAX);
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
        Family::Vmfs5 => ("vmfs-fuse", u64::MAX),
        _ => ("vmfs6-fuse", VMFS6_FUSE_REACH),
    };
    session
        .checks
        .note(reader, by_debian(session, reader, &image, &written, reach));
    if family == Family::Vmfs5 {
        session.checks.note("fsck.vmfs", fsck::check(&image));
    } else {
        session.skip("fsck.vmfs6", "it divides by zero on every VMFS6 volume");
    }
    session.place.mount()
}

/// Compares with what Debian's mount shows.
fn by_debian(
    session: &Session<'_>,
    reader: &str,
    image: &Path,
    written: &Written,
    reach: u64,
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
