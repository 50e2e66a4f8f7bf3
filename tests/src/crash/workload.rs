use std::fmt;
use std::sync::Arc;

use vmfs_core::format::Family;
use vmfs_core::fs::FileSystem;
use vmfs_core::scsi::{Lun, Recorded, RecorderLun};

use super::image::ImageLun;
use super::model::{Log, Syncs};
use super::operations::syncing;
use super::volume::{self, TestClock};
use super::worker::{Effect, Stage, Worker};
use crate::random::Random;

/// What kind of use a volume sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variant {
    /// Some thirty files, changed in every way; unmounts and host deaths in between.
    Mixed,
    /// The same with hardly a block free, so that what one file gives back another one gets.
    Tight,
    /// Some hundreds of names.
    Crowded,
    /// Three at a time.
    Threads,
    /// Some hundreds of names where a few file descriptors and sub-blocks are left: there must come
    /// more.
    Growing,
}

impl Variant {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Mixed,
        Self::Tight,
        Self::Crowded,
        Self::Threads,
        Self::Growing,
    ];

    fn crowd(self) -> usize {
        match self {
            Self::Mixed | Self::Tight => 30,
            Self::Crowded | Self::Growing => 250,
            Self::Threads => 15,
        }
    }
}

/// A run that can be had again: the same calls, and with one worker the same commands. With
/// threads the order of what they do differs from run to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Workload {
    /// Format of the volume.
    pub family: Family,
    /// What kind of use.
    pub variant: Variant,
    /// Chooses everything else.
    pub seed: u64,
    /// Calls of each worker.
    pub calls: u32,
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {:?}, seed {}, {} calls",
            self.family, self.variant, self.seed, self.calls
        )
    }
}

/// A workload that was performed.
#[derive(Debug)]
pub struct Performed {
    /// Every command that changed the LUN.
    pub record: Vec<Recorded>,
    /// The LUN before all of them.
    pub image: Arc<ImageLun>,
    /// What each worker did.
    pub logs: Vec<Log>,
    /// What each worker's names in the root begin with.
    pub prefixes: Vec<String>,
}

/// Calls between two comparisons of the model with the volume.
const CHECK_EVERY: u32 = 20;

impl Workload {
    /// Performs it on a fresh volume.
    ///
    /// # Errors
    /// When a call fails that shouldn't, or the volume isn't what the model says.
    pub fn perform(&self) -> Result<Performed, String> {
        let image = match self.variant {
            Variant::Growing => volume::crammed(self.family),
            _ => volume::fresh(self.family),
        };
        let lun = Arc::new(ImageLun::branch(&image));
        let recorder = Arc::new(RecorderLun::new(lun));
        let stage = Stage::new(Arc::clone(&recorder));
        let (logs, prefixes) = if self.variant == Variant::Threads {
            self.perform_in_threads(&stage)?
        } else {
            (vec![self.perform_alone(&stage)?], vec!["w".to_owned()])
        };
        Ok(Performed {
            record: recorder.take(),
            image,
            logs,
            prefixes,
        })
    }

    fn perform_alone(&self, stage: &Stage) -> Result<Log, String> {
        let lun: Arc<dyn Lun> = stage.recorder.clone();
        let mut random = Random::new(self.seed ^ 0x5eed);
        let (fs, mut clock) = mount(&lun)?;
        let mut worker = Worker::new(stage, Arc::new(fs), "w", self.seed);
        if self.variant == Variant::Tight {
            let leave = 8 + random.below(24);
            worker.fill_up(leave)?;
        }
        for call in 0..self.calls {
            keep_up(&worker.fs, &clock, &mut random)?;
            if random.below(150) == 0 {
                clock = worker.remount(&lun, random.below(2) == 0)?;
            }
            worker.act(self.variant.crowd())?;
            if call % CHECK_EVERY == 0 {
                worker.check()?;
            }
        }
        worker.check()?;
        if random.below(2) == 0 {
            worker.close()?;
            volume::fsck(&lun)?;
        }
        Ok(worker.into_log())
    }

    fn perform_in_threads(&self, stage: &Stage) -> Result<(Vec<Log>, Vec<String>), String> {
        const WORKERS: u64 = 3;
        let lun: Arc<dyn Lun> = stage.recorder.clone();
        let (fs, clock) = mount(&lun)?;
        let fs = Arc::new(fs);
        let prefixes: Vec<String> = (0..WORKERS).map(|number| format!("w{number}.")).collect();
        let work = |number: usize| {
            let seed = self.seed.wrapping_mul(WORKERS) + number as u64;
            let mut random = Random::new(seed ^ 0x5eed);
            let mut worker = Worker::new(stage, Arc::clone(&fs), &prefixes[number], seed);
            for call in 0..self.calls {
                keep_up(&fs, &clock, &mut random)?;
                worker.act(self.variant.crowd())?;
                if call % CHECK_EVERY == 0 {
                    worker.check_own()?;
                }
            }
            worker.check_own()?;
            Ok(worker.into_log())
        };
        let logs: Result<Vec<Log>, String> = std::thread::scope(|scope| {
            let work = &work;
            let threads: Vec<_> = (0..prefixes.len())
                .map(|number| scope.spawn(move || work(number)))
                .collect();
            let joined = threads.into_iter().map(|thread| {
                let result = thread.join();
                result.unwrap_or_else(|_| Err("a worker panicked".to_owned()))
            });
            joined.collect()
        });
        Ok((logs?, prefixes))
    }
}

fn mount(lun: &Arc<dyn Lun>) -> Result<(FileSystem, Arc<TestClock>), String> {
    volume::mount(lun).map_err(|error| format!("mount: {error}"))
}

/// Time goes by, and the host does what it has to do.
fn keep_up(fs: &FileSystem, clock: &TestClock, random: &mut Random) -> Result<(), String> {
    clock.advance(random.below(600));
    if random.below(25) == 0 {
        clock.advance(random.below(6000));
        let (_, result) = fs.keep_up();
        result.map_err(|error| format!("keep up: {error}"))?;
    }
    Ok(())
}

impl Worker<'_> {
    /// Takes all blocks but a few.
    fn fill_up(&mut self, leave: u64) -> Result<(), String> {
        let failed = |error| format!("fill up: {error}");
        let filler = self.fs.create(
            vmfs_core::format::FdAddr::ROOT,
            b"filler",
            super::operations::CREATOR,
        );
        let fd = filler.map_err(failed)?.fd();
        let space = self.fs.space();
        let blocks = space.free_blocks.saturating_sub(leave);
        let how = vmfs_core::fs::Allocate::Reserve;
        self.fs
            .allocate(fd, 0, blocks * space.block_size, how, true)
            .map_err(failed)?;
        self.sync()
    }

    /// Unmounts, or dies after a sync, and mounts again.
    fn remount(&mut self, lun: &Arc<dyn Lun>, dies: bool) -> Result<Arc<TestClock>, String> {
        if dies {
            self.sync()?;
        } else {
            self.close()?;
        }
        self.held.clear();
        let started = self.stage.moment();
        let (fs, clock) = mount(lun)?;
        self.fs = Arc::new(fs);
        let ended = self.stage.moment();
        self.forget_nameless();
        self.note("mount".to_owned(), Effect::default(), started, ended, true);
        self.check()?;
        Ok(clock)
    }

    fn close(&mut self) -> Result<(), String> {
        let started = self.stage.moment();
        let closed = self.fs.close();
        closed.map_err(|error| format!("close: {error}"))?;
        let ended = self.stage.moment();
        let effect = syncing(Syncs::All);
        self.note("close".to_owned(), effect, started, ended, true);
        Ok(())
    }
}
