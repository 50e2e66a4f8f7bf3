//! What a change costs in commands to the LUN.

use std::fmt::Write as _;
use std::fs;
use std::sync::Arc;

use anyhow::{Context, Result};
use vmfs_core::cluster::HostConfig;
use vmfs_core::format::{Family, FdAddr, Uuid};
use vmfs_core::fs::{Creator, FileSystem};
use vmfs_core::lvm::open_luns;
use vmfs_core::scsi::{Access, FileLun, Lun, Snapshot};
use vmfs_fixtures::mkfs_vmfs::{Options, Plan, apply};

const CREATOR: Creator = Creator {
    mode: 0o644,
    uid: 0,
    gid: 0,
};
/// Why each line is what it is.
const REASONS: &str = "\
create, empty: no write of its own. A thousand creations share a few commits, each one write to the journal and two flushes,
  the first for data that the transaction refers to. When the journal is full a checkpoint brings the sectors in place, in
  this line or a later one: one or two writes for each descriptor, whose neighbours' sectors don't touch its own, and a few
  for the directory and the clusters. Bytes are the sectors that change, once in the journal and once in place: two of the
  descriptor, two or three of the directory's block, one or two of the descriptor cluster.
write 1 KiB to each: where it fits into the descriptor (VMFS6: 3584 bytes) it goes through the journal with it, else it is
  one write of data, before anything refers to it.
4 KiB to each, fsync each: one write of data and a flush, one to the journal and a flush; the rest are checkpoints.
unlink: the sectors that the creation had changed, in shared commits.
";
/// Files of each line.
const FILES: u64 = 1000;

/// A table of commands and bytes for each file, on both formats.
///
/// # Errors
/// A volume can't be made or written to.
pub fn table() -> Result<String> {
    let mut out =
        "Commands to the LUN for each operation: writes, bytes written, flushes, zeroings\n"
            .to_owned();
    for family in [Family::Vmfs6, Family::Vmfs5] {
        let folder = std::env::temp_dir().join(format!("write-bench-lun-{}", std::process::id()));
        fs::create_dir_all(&folder)?;
        let counted = count(family, &folder.join("image"), &mut out);
        fs::remove_dir_all(&folder)?;
        counted?;
    }
    out.push_str(REASONS);
    Ok(out)
}

fn count(family: Family, image: &std::path::Path, out: &mut String) -> Result<()> {
    let mut options = Options::new(family, &[4 << 30]);
    options.time_us = 1_700_000_000_000_000;
    let file = fs::File::create(image)?;
    file.set_len(4 << 30)?;
    apply(&Plan::new(options).context("a plan")?, &[file])?;
    let lun = Arc::new(FileLun::open(image, Access::ReadWrite)?);
    let volume = open_luns(vec![Arc::clone(&lun) as Arc<dyn Lun>])?;
    let fs = FileSystem::open_for_writing(volume, HostConfig::new(Uuid::default(), "bench"))?;
    let folder = fs.make_directory(FdAddr::ROOT, b"folder", CREATOR)?.fd();
    fs.sync()?;
    let name = |number: u64| format!("file{number}").into_bytes();
    let mut line = |title: &str, work: &mut dyn FnMut(u64) -> Result<()>| -> Result<()> {
        let before = lun.counters().snapshot();
        for number in 0..FILES {
            work(number)?;
        }
        fs.sync()?;
        let after = lun.counters().snapshot();
        let each = |of: &dyn Fn(&Snapshot) -> u64| (of(&after) - of(&before)) as f64 / FILES as f64;
        writeln!(
            out,
            "{:<8}{:<38}{:>10.2}{:>10.0}{:>10.2}{:>10.2}",
            family.to_string(),
            title,
            each(&|s| s.writes.commands),
            each(&|s| s.writes.bytes),
            each(&|s| s.flushes.commands),
            each(&|s| s.zeroings.commands),
        )?;
        Ok(())
    };
    line("create, empty", &mut |number| {
        fs.create(folder, &name(number), CREATOR)?;
        Ok(())
    })?;
    let find = |number| -> Result<FdAddr> {
        let directory = fs.inode(folder)?;
        Ok(fs.lookup(&directory, &name(number))?.fd())
    };
    line("write 1 KiB to each", &mut |number| {
        Ok(fs.write(find(number)?, 0, &[7; 1024])?)
    })?;
    line("4 KiB to each, fsync each", &mut |number| {
        let file = find(number)?;
        fs.write(file, 0, &[7; 4096])?;
        Ok(fs.sync_file(file)?)
    })?;
    line(
        "unlink",
        &mut |number| Ok(fs.unlink(folder, &name(number))?),
    )?;
    fs.close()?;
    Ok(())
}
