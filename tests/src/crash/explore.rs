use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use vmfs_core::format::FdAddr;
use vmfs_core::fs::{FileSystem, Rename};
use vmfs_core::scsi::{Lun, RecorderLun};

use super::compare::{self, Found};
use super::content::{Content, Source};
use super::cut::{Arrived, Cut, Player};
use super::image::ImageLun;
use super::model::Durable;
use super::operations::CREATOR;
use super::show;
use super::volume;
use super::workload::{Performed, Workload};
use crate::random::Random;

/// How many cuts were tried, of what.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Workloads.
    pub workloads: u64,
    /// Commands in their records.
    pub commands: u64,
    /// Cuts.
    pub cuts: u64,
    /// Cuts of the recovery from a cut.
    pub second_cuts: u64,
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, more: Self) {
        self.workloads += more.workloads;
        self.commands += more.commands;
        self.cuts += more.cuts;
        self.second_cuts += more.second_cuts;
    }
}

/// A cut that left what must not be.
#[derive(Debug)]
pub struct Failure {
    /// What was done; its seed does it again.
    pub workload: Workload,
    /// Number of the cut, which chooses the same one again.
    pub number: Option<u64>,
    /// The cut; `None` when it went wrong while it ran.
    pub cut: Option<Cut>,
    /// What is wrong.
    pub what: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.workload)?;
        if let (Some(number), Some(cut)) = (self.number, self.cut) {
            write!(f, ", cut {number} ({cut})")?;
        }
        write!(f, ": {}", self.what)
    }
}

/// Which cuts to try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cuts {
    /// So many, spread over the whole record.
    Spread(u64),
    /// One at each command, and so many more of each.
    Dense(u64),
    /// The one with this number of so many spread ones.
    One(u64, u64),
}

/// Performs a workload and tries cuts.
///
/// # Errors
/// The first cut that leaves what must not be.
pub fn explore(workload: Workload, cuts: Cuts) -> Result<Counts, Failure> {
    let fail = |what| Failure {
        workload,
        number: None,
        cut: None,
        what,
    };
    let performed = guarded(|| workload.perform()).map_err(fail)?;
    try_cuts(workload, &performed, cuts)
}

/// Tries cuts of a workload that was performed.
///
/// # Errors
/// The first cut that leaves what must not be.
pub fn try_cuts(workload: Workload, performed: &Performed, cuts: Cuts) -> Result<Counts, Failure> {
    let commands = performed.record.len() as u64;
    let mut counts = Counts {
        workloads: 1,
        commands,
        ..Counts::default()
    };
    let mut player = Player::new(&performed.record, &performed.image);
    let (total, only) = match cuts {
        Cuts::Spread(total) => (total, None),
        Cuts::Dense(each) => ((commands + 1) * (1 + each), None),
        Cuts::One(number, total) => (total, Some(number)),
    };
    for number in 0..total {
        if only.is_some_and(|only| only != number) {
            continue;
        }
        // The last one is at the end of the record.
        let position = (number * commands / (total - 1).max(1)) as usize;
        player.advance(position);
        let mut random = Random::new(workload.seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let arrived = Arrived::random(&mut random, player.unflushed());
        let cut = Cut { position, arrived };
        counts.cuts += 1;
        let examined = guarded(|| examine(performed, &player, cut, &mut random, &mut counts));
        examined.map_err(|what| Failure {
            workload,
            number: Some(number),
            cut: Some(cut),
            what,
        })?;
    }
    Ok(counts)
}

/// A panic is an error like others.
fn guarded<T>(work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|&text| text.to_owned()));
        Err(format!("panic: {}", text.unwrap_or_default()))
    })
}

/// Mounts what a cut left and looks at it.
fn examine(
    performed: &Performed,
    player: &Player<'_>,
    cut: Cut,
    random: &mut Random,
    counts: &mut Counts,
) -> Result<(), String> {
    let image = Arc::new(player.image(cut.arrived));
    let read_only = if random.below(4) == 0 {
        let lun: Arc<dyn Lun> = image.clone();
        let fs = volume::open(&lun).map_err(|error| format!("opening to read: {error}"))?;
        Some(Found::read(&fs).map_err(|error| format!("reading only: {error}"))?)
    } else {
        None
    };
    // Recovery writes to a branch of its own, so that it can be cut as well.
    let recorder = Arc::new(RecorderLun::new(Arc::new(ImageLun::branch(&image))));
    let lun: Arc<dyn Lun> = recorder.clone();
    let (fs, _) = volume::mount(&lun).map_err(|error| format!("mounting: {error}"))?;
    let recovery = recorder.take();
    // Files that nobody has open any more go with the next commit.
    fs.sync().map_err(|error| format!("sync: {error}"))?;
    volume::fsck(&lun)?;
    let found = Found::read(&fs)?;
    let states = states(performed, &fs, &found, cut)?;
    if let Some(read_only) = read_only {
        read_only
            .same_as(&found)
            .map_err(|difference| format!("read-only it was different: {difference}"))?;
    }
    goes_on(&lun, fs, random)?;

    if random.below(6) == 0 {
        for _ in 0..3 {
            let mut player = Player::new(&recovery, &image);
            let position = random.below(recovery.len() as u64 + 1) as usize;
            player.advance(position);
            let arrived = Arrived::random(random, player.unflushed());
            let again = Cut { position, arrived };
            counts.second_cuts += 1;
            let lun: Arc<dyn Lun> = Arc::new(player.image(arrived));
            second_cut(performed, &lun, cut, &states).map_err(|what| {
                let commands = show::list(&recovery);
                format!("recovery cut {again}: {what}; the recovery was\n{commands}")
            })?;
        }
    }
    Ok(())
}

/// Which state of each worker is there.
fn states(
    performed: &Performed,
    fs: &FileSystem,
    found: &Found,
    cut: Cut,
) -> Result<Vec<usize>, String> {
    let logs = performed.logs.iter().zip(&performed.prefixes);
    logs.map(|(log, prefix)| {
        let durable = Durable::new(log, &performed.logs, cut.position);
        // A sync with nothing to do leaves no command.
        let newest = log.newest(cut.position).max(durable.names);
        compare::find_state(fs, found, log, &durable, newest, prefix)
    })
    .collect()
}

/// What a cut in the middle of a recovery left must come out as without that cut.
fn second_cut(
    performed: &Performed,
    lun: &Arc<dyn Lun>,
    cut: Cut,
    states_before: &[usize],
) -> Result<(), String> {
    let (fs, _) = volume::mount(lun).map_err(|error| format!("mounting: {error}"))?;
    fs.sync().map_err(|error| format!("sync: {error}"))?;
    volume::fsck(lun)?;
    let found = Found::read(&fs)?;
    let states = states(performed, &fs, &found, cut)?;
    if states != states_before {
        return Err(format!("states {states:?} instead of {states_before:?}"));
    }
    Ok(())
}

/// The volume can be used, unmounted and mounted again, and then nothing is left to recover.
fn goes_on(lun: &Arc<dyn Lun>, fs: FileSystem, random: &mut Random) -> Result<(), String> {
    let failed = |error: vmfs_core::fs::FsError| format!("going on: {error}");
    let root = FdAddr::ROOT;
    let made = fs.make_directory(root, b"after", CREATOR).map_err(failed)?;
    let file = fs.create(made.fd(), b"new", CREATOR).map_err(failed)?;
    let mut content = Content::default();
    let source = Source::new(u64::MAX);
    for range in [0..3000, 60_000 + random.below(9000)..70_000, 70_000..71_000] {
        let mut data = vec![0; (range.end - range.start) as usize];
        source.fill(range.start, &mut data);
        match fs.write(file.fd(), range.start, &data) {
            Err(error) if error.errno() == rustix::io::Errno::NOSPC => {}
            result => {
                result.map_err(failed)?;
                content.write(range, source);
            }
        }
    }
    fs.rename(made.fd(), b"new", root, b"after-file", Rename::NoReplace)
        .map_err(failed)?;
    fs.sync_file(file.fd()).map_err(failed)?;
    fs.remove_directory(root, b"after").map_err(failed)?;
    let before = Found::read(&fs)?;
    fs.close().map_err(failed)?;
    drop(fs);
    volume::fsck(lun).map_err(|what| format!("after going on: {what}"))?;
    let (fs, clock) = volume::mount(lun).map_err(|error| format!("mounting again: {error}"))?;
    if clock.sleeps() > 0 {
        return Err("after an unmount a host was waited for".to_owned());
    }
    before.same_as(&Found::read(&fs)?)?;
    let inode = fs.inode(file.fd()).map_err(failed)?;
    let mut bytes = vec![0; content.length() as usize];
    let read = fs.read(&inode, 0, &mut bytes).map_err(failed)?;
    let mut expected = vec![0; bytes.len()];
    content.expected(0, &mut expected);
    if read != bytes.len() || inode.length() != content.length() || bytes != expected {
        return Err("what was written after recovery is different".to_owned());
    }
    Ok(())
}
