//! The rows of the write benchmark.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Instant;

use anyhow::{Result, ensure};
use rustix::fs::OFlags;
use vmfs_core::scsi::AlignedBuf;

const BLOCK: usize = 4096;
const LARGE: usize = 1 << 20;

/// How much is done.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// Bytes of the file that is written in sequence.
    pub file: u64,
    /// Random writes or reads.
    pub random: u64,
    /// Small writes that are made durable one by one.
    pub synced: u64,
    /// Small files.
    pub files: u64,
}

impl Load {
    /// What results are taken with.
    pub const FULL: Self = Self {
        file: 1 << 30,
        random: 40_000,
        synced: 4_000,
        files: 10_000,
    };
    /// A tenth of it.
    pub const QUICK: Self = Self {
        file: 100 << 20,
        random: 4_000,
        synced: 400,
        files: 1_000,
    };
}

/// What a row does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Write,
    Read,
    RandomWrite,
    RandomRead,
    SyncedAppends,
    Create,
    Stat,
    Unlink,
    Untar,
    RemoveTree,
}

/// A row of the table.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    what: What,
    direct: bool,
    threads: u64,
    title: &'static str,
}

const fn row(what: What, direct: bool, threads: u64, title: &'static str) -> Row {
    Row {
        what,
        direct,
        threads,
        title,
    }
}

/// All rows, in the order in which they run.
pub const ROWS: [Row; 23] = [
    row(What::Write, false, 1, "sequential write, buffered, fsync"),
    row(What::Write, false, 8, "the same, 8 files at a time"),
    row(What::Read, false, 1, "sequential read, cold"),
    row(What::Read, false, 8, "the same, 8 files at a time"),
    row(What::Write, true, 1, "sequential write, O_DIRECT"),
    row(What::Write, true, 8, "the same, 8 files at a time"),
    row(What::Read, true, 1, "sequential read, O_DIRECT"),
    row(What::Read, true, 8, "the same, 8 files at a time"),
    row(
        What::RandomWrite,
        false,
        1,
        "random 4K write, buffered, fsync",
    ),
    row(What::RandomWrite, false, 8, "the same, 8 threads"),
    row(What::RandomWrite, true, 1, "random 4K write, O_DIRECT"),
    row(What::RandomWrite, true, 8, "the same, 8 threads"),
    row(What::RandomRead, false, 1, "random 4K read, cold"),
    row(What::RandomRead, false, 8, "the same, 8 threads"),
    row(What::RandomRead, true, 1, "random 4K read, O_DIRECT"),
    row(What::RandomRead, true, 8, "the same, 8 threads"),
    row(What::SyncedAppends, false, 1, "4K appends, fdatasync each"),
    row(What::SyncedAppends, false, 8, "the same, 8 files at a time"),
    row(What::Create, false, 1, "create 1K files"),
    row(What::Stat, false, 1, "stat them"),
    row(What::Unlink, false, 1, "unlink them"),
    row(What::Untar, false, 1, "untar a source tree"),
    row(What::RemoveTree, false, 1, "rm -r it"),
];

impl Row {
    /// What a table calls it.
    pub const fn title(&self) -> &'static str {
        self.title
    }

    /// What its figure counts.
    pub const fn unit(&self) -> &'static str {
        match self.what {
            What::Write | What::Read => "MB/s",
            What::Untar | What::RemoveTree => "files/s",
            _ => "/s",
        }
    }

    /// Whether it can run on a bare image.
    pub fn is_data(&self) -> bool {
        matches!(
            self.what,
            What::Write | What::Read | What::RandomWrite | What::RandomRead
        )
    }

    /// Runs the row in the folder `place`, or on the image that it is; how many a second.
    ///
    /// # Errors
    /// A call failed.
    pub fn measure(&self, place: &Path, raw: bool, load: Load) -> Result<f64> {
        match self.what {
            What::Write | What::Read => self.sequential(place, raw, load),
            What::RandomWrite | What::RandomRead => self.random(place, raw, load),
            What::SyncedAppends => self.synced_appends(place, load),
            What::Create | What::Stat | What::Unlink => self.small_files(place, load),
            What::Untar | What::RemoveTree => self.tree(place, load),
        }
    }

    fn open(&self, path: &Path) -> Result<File> {
        let direct = if self.direct {
            OFlags::DIRECT
        } else {
            OFlags::empty()
        };
        Ok(OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .custom_flags(direct.bits().cast_signed())
            .open(path)?)
    }

    fn sequential(&self, place: &Path, raw: bool, load: Load) -> Result<f64> {
        let writes = self.what == What::Write;
        let each = load.file / self.threads / LARGE as u64 * LARGE as u64;
        if !writes {
            drop_caches();
        }
        let start = Instant::now();
        on_threads(self.threads, |thread| {
            let (path, base) = if raw {
                (place.to_owned(), thread * each)
            } else {
                (place.join(format!("large{}-{thread}", self.threads)), 0)
            };
            let file = self.open(&path)?;
            let mut buffer = AlignedBuf::new(LARGE);
            buffer.fill(thread as u8 + 1);
            for offset in (0..each).step_by(LARGE) {
                if writes {
                    file.write_all_at(&buffer, base + offset)?;
                } else {
                    file.read_exact_at(&mut buffer, base + offset)?;
                }
            }
            if writes {
                file.sync_all()?;
            }
            Ok(())
        })?;
        let seconds = start.elapsed().as_secs_f64();
        Ok((each * self.threads) as f64 / 1e6 / seconds)
    }

    fn random(&self, place: &Path, raw: bool, load: Load) -> Result<f64> {
        let path = if raw {
            place.to_owned()
        } else {
            place.join("large1-0")
        };
        let blocks = load.file / BLOCK as u64;
        let each = load.random / self.threads;
        drop_caches();
        let start = Instant::now();
        on_threads(self.threads, |thread| {
            let file = self.open(&path)?;
            let mut buffer = AlignedBuf::new(BLOCK);
            let mut state = thread + 1;
            for _ in 0..each {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                let offset = (state >> 33) % blocks * BLOCK as u64;
                if self.what == What::RandomWrite {
                    file.write_all_at(&buffer, offset)?;
                } else {
                    file.read_exact_at(&mut buffer, offset)?;
                }
            }
            if self.what == What::RandomWrite {
                file.sync_all()?;
            }
            Ok(())
        })?;
        Ok((each * self.threads) as f64 / start.elapsed().as_secs_f64())
    }

    fn synced_appends(&self, place: &Path, load: Load) -> Result<f64> {
        let each = load.synced / self.threads;
        let start = Instant::now();
        on_threads(self.threads, |thread| {
            let file = self.open(&place.join(format!("log{}-{thread}", self.threads)))?;
            for number in 0..each {
                file.write_all_at(&[7; BLOCK], number * BLOCK as u64)?;
                file.sync_data()?;
            }
            Ok(())
        })?;
        Ok((each * self.threads) as f64 / start.elapsed().as_secs_f64())
    }

    fn small_files(&self, place: &Path, load: Load) -> Result<f64> {
        let folder = place.join("small");
        let path = |number: u64| folder.join(format!("{}/file{number}", number % 10));
        if self.what == What::Create {
            for number in 0..10 {
                fs::create_dir_all(folder.join(number.to_string()))?;
            }
        }
        let start = Instant::now();
        for number in 0..load.files {
            match self.what {
                What::Create => fs::write(path(number), [7; 1024])?,
                What::Stat => ensure!(fs::metadata(path(number))?.len() == 1024, "a file's length"),
                _ => fs::remove_file(path(number))?,
            }
        }
        if self.what != What::Stat {
            rustix::fs::syncfs(File::open(&folder)?)?;
        }
        Ok(load.files as f64 / start.elapsed().as_secs_f64())
    }

    fn tree(&self, place: &Path, load: Load) -> Result<f64> {
        let (archive, files) = archive(load)?;
        let target = place.join("tree");
        let start = Instant::now();
        if self.what == What::Untar {
            fs::create_dir_all(&target)?;
            let mut command = Command::new("tar");
            command.arg("-xf").arg(&archive).arg("-C").arg(&target);
            ensure!(command.status()?.success(), "tar failed");
            rustix::fs::syncfs(File::open(&target)?)?;
        } else {
            fs::remove_dir_all(&target)?;
            rustix::fs::syncfs(File::open(place)?)?;
        }
        let seconds = start.elapsed().as_secs_f64();
        let _ = fs::remove_file(&archive);
        Ok(files as f64 / seconds)
    }
}

/// A tar file of what looks like a source tree: folders of folders, files of some kilobytes.
fn archive(load: Load) -> Result<(PathBuf, u64)> {
    let root = std::env::temp_dir().join(format!("write-bench-tree-{}", std::process::id()));
    let (source, archive) = (root.join("source"), root.with_extension("tar"));
    let files = load.files / 2;
    for number in 0..files {
        let folder = source.join(format!("part{}/module{}", number % 17, number % 101));
        fs::create_dir_all(&folder)?;
        let size = 200 + (number * 7919) % 24_000;
        fs::write(
            folder.join(format!("file{number}.c")),
            vec![b'x'; size as usize],
        )?;
    }
    let mut command = Command::new("tar");
    command
        .arg("-cf")
        .arg(&archive)
        .arg("-C")
        .arg(&source)
        .arg(".");
    ensure!(command.status()?.success(), "tar failed");
    fs::remove_dir_all(&root)?;
    Ok((archive, files))
}

/// Runs `work` on so many threads; the first error counts.
fn on_threads(count: u64, work: impl Fn(u64) -> Result<()> + Sync) -> Result<()> {
    thread::scope(|scope| {
        let threads: Vec<_> = (0..count)
            .map(|thread| {
                scope.spawn({
                    let work = &work;
                    move || work(thread)
                })
            })
            .collect();
        threads.into_iter().try_for_each(|thread| {
            thread
                .join()
                .unwrap_or_else(|_| Err(anyhow::anyhow!("a thread panicked")))
        })
    })
}

/// Empties the page cache, as far as this user may.
fn drop_caches() {
    rustix::fs::sync();
    let _ = fs::write("/proc/sys/vm/drop_caches", "3");
}
