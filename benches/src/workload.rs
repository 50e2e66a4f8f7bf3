//! One measurement of one row on one file system.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{Advice, OFlags, fadvise};
use rustix::io::Errno;
use serde::Serialize;
use vmfs_core::scsi::AlignedBuf;

use crate::content;

/// Bytes of a sequential read.
pub const LARGE: usize = 1 << 20;
/// Bytes of a random read.
pub const SMALL: usize = 4 << 10;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Row {
    /// List a directory; stat, open and read every file, in a file system mounted a moment ago.
    Walk,
    /// 1 MiB reads in order through an empty page cache.
    SequentialCold,
    /// 1 MiB reads in order with `O_DIRECT`.
    SequentialDirect,
    /// 4 KiB reads at random with `O_DIRECT`, one thread.
    RandomDirect1,
    /// 4 KiB reads at random with `O_DIRECT`, eight threads.
    RandomDirect8,
    /// 4 KiB reads at random through an empty page cache, one thread.
    RandomCold1,
    /// 4 KiB reads at random through an empty page cache, eight threads.
    RandomCold8,
    /// 1 MiB reads in order of what the page cache holds.
    Reread,
}

impl Row {
    /// All rows, the walk first: it needs a mount that nothing has looked at.
    pub const ALL: [Self; 8] = [
        Self::Walk,
        Self::SequentialCold,
        Self::SequentialDirect,
        Self::RandomDirect1,
        Self::RandomDirect8,
        Self::RandomCold1,
        Self::RandomCold8,
        Self::Reread,
    ];

    /// What a table calls the row.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Walk => "walk: list, stat, open, read (cold)",
            Self::SequentialCold => "sequential 1 MiB (cold)",
            Self::SequentialDirect => "sequential 1 MiB O_DIRECT",
            Self::RandomDirect1 => "random 4 KiB O_DIRECT, 1 thread",
            Self::RandomDirect8 => "random 4 KiB O_DIRECT, 8 threads",
            Self::RandomCold1 => "random 4 KiB (cold), 1 thread",
            Self::RandomCold8 => "random 4 KiB (cold), 8 threads",
            Self::Reread => "re-read 1 MiB (cached)",
        }
    }

    /// The unit of the figures.
    pub const fn unit(self) -> &'static str {
        match self {
            Self::Walk => "files/s",
            Self::SequentialCold | Self::SequentialDirect | Self::Reread => "MiB/s",
            _ => "reads/s",
        }
    }
}

/// A piece of the thick file that lies in one piece of an image.
#[derive(Debug, Clone, Copy)]
pub struct Piece {
    /// Offset in the file.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
    /// Offset in the image.
    pub place: u64,
}

/// Where a file system shows the files that the rows read.
#[derive(Debug, Clone)]
pub struct Target {
    /// The thick file, or an image that holds it.
    pub thick: PathBuf,
    /// Bytes of the thick file.
    pub length: u64,
    /// Where in an image the thick file lies; empty for a file.
    pub pieces: Vec<Piece>,
    /// The directory to walk.
    pub directory: PathBuf,
}

/// How long rows last.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Random reads stop after this.
    pub random: Duration,
    /// A walk stops after this, whatever is left of the directory.
    pub walk: Duration,
}

/// Measures `row`; `None` if the file system has no `O_DIRECT`.
///
/// # Errors
/// What the reads fail with, or that they return bytes the file doesn't hold.
pub fn measure(row: Row, target: &Target, limits: Limits) -> Result<Option<f64>> {
    let rate = match row {
        Row::Walk => walk(&target.directory, limits.walk).map(Some),
        Row::SequentialCold => {
            drop_cache(target)?;
            sequential(target, false)
        }
        Row::SequentialDirect => sequential(target, true),
        Row::RandomDirect1 => random(target, true, 1, limits.random),
        Row::RandomDirect8 => random(target, true, 8, limits.random),
        Row::RandomCold1 => random(target, false, 1, limits.random),
        Row::RandomCold8 => random(target, false, 8, limits.random),
        Row::Reread => {
            sequential(target, false)?;
            sequential(target, false)
        }
    };
    let rate = rate.with_context(|| format!("{} of {}", row.title(), target.thick.display()))?;
    drop_cache(target)?;
    Ok(rate)
}

/// Reads the thick file through the page cache and leaves it there.
///
/// A virtual machine gets its memory from its host page by page when it first touches it, which
/// takes far longer than any read; after this on every contender, page caches are made of pages
/// that were touched before.
///
/// # Errors
/// What the reads fail with.
pub fn warm_up(target: &Target) -> Result<()> {
    sequential(target, false)?;
    Ok(())
}

/// Compares parts of the thick file with what it must hold.
///
/// # Errors
/// The first part that differs.
pub fn verify(target: &Target) -> Result<()> {
    let Some(reader) = Reader::open(target, false)? else {
        return Ok(());
    };
    let mut expected = vec![0; SMALL];
    let mut buf = AlignedBuf::new(SMALL);
    let blocks = target.length / SMALL as u64;
    for block in Permutation::new(blocks).take(512).chain([0, blocks - 1]) {
        let offset = block * SMALL as u64;
        reader.read(offset, &mut buf)?;
        content::fill(offset, &mut expected);
        if buf[..] != expected[..] {
            bail!("{}: wrong bytes at {offset:#x}", target.thick.display());
        }
    }
    drop_cache(target)
}

/// Drops what the page cache holds of the thick file. tmpfs holds its files there and ignores this.
fn drop_cache(target: &Target) -> Result<()> {
    let file = File::open(&target.thick)?;
    fadvise(&file, 0, None, Advice::DontNeed)?;
    Ok(())
}

struct Reader<'a> {
    file: File,
    pieces: &'a [Piece],
}

impl<'a> Reader<'a> {
    /// `None` if the file system refuses `O_DIRECT`.
    fn open(target: &'a Target, direct: bool) -> Result<Option<Self>> {
        let flags = if direct {
            OFlags::DIRECT
        } else {
            OFlags::empty()
        };
        let opened = OpenOptions::new()
            .read(true)
            .custom_flags(flags.bits().cast_signed())
            .open(&target.thick);
        match opened {
            Ok(file) => Ok(Some(Self {
                file,
                pieces: &target.pieces,
            })),
            Err(error) if direct && error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => {
                Ok(None)
            }
            Err(error) => Err(error).context("open"),
        }
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        if self.pieces.is_empty() {
            return Ok(self.file.read_exact_at(buf, offset)?);
        }
        let mut done = 0;
        while done < buf.len() {
            let at = offset + done as u64;
            let index = self.pieces.partition_point(|piece| piece.offset <= at);
            let piece = self.pieces[index - 1];
            let inside = at - piece.offset;
            let length = (buf.len() - done).min((piece.length - inside) as usize);
            ensure!(length > 0, "no piece holds {at:#x}");
            let part = &mut buf[done..done + length];
            self.file.read_exact_at(part, piece.place + inside)?;
            done += length;
        }
        Ok(())
    }
}

/// MiB/s of one pass over the thick file.
fn sequential(target: &Target, direct: bool) -> Result<Option<f64>> {
    let Some(reader) = Reader::open(target, direct)? else {
        return Ok(None);
    };
    let mut buf = AlignedBuf::new(LARGE);
    let start = Instant::now();
    let mut offset = 0;
    while offset < target.length {
        reader.read(offset, &mut buf)?;
        ensure!(
            content::starts_right(offset, &buf),
            "wrong bytes at {offset:#x}"
        );
        offset += LARGE as u64;
    }
    let mebibytes = target.length as f64 / f64::from(1 << 20);
    Ok(Some(mebibytes / start.elapsed().as_secs_f64()))
}

/// Reads per second of `threads` threads that never read a block twice.
fn random(target: &Target, direct: bool, threads: u64, limit: Duration) -> Result<Option<f64>> {
    if Reader::open(target, direct)?.is_none() {
        return Ok(None);
    }
    let blocks = target.length / SMALL as u64;
    let barrier = Barrier::new(threads as usize);
    let results: Vec<Result<(u64, Duration)>> = thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|index| {
                let barrier = &barrier;
                scope.spawn(move || {
                    let reader = Reader::open(target, direct);
                    barrier.wait();
                    let reader = reader?.context("open with O_DIRECT")?;
                    let order = Permutation::new(blocks)
                        .skip(index as usize)
                        .step_by(threads as usize);
                    read_blocks(&reader, order, limit)
                })
            })
            .collect();
        workers
            .into_iter()
            .map(|worker| worker.join().unwrap_or_else(|_| bail!("a reader panicked")))
            .collect()
    });
    let mut reads = 0;
    let mut longest = Duration::ZERO;
    for result in results {
        let (count, time) = result?;
        reads += count;
        longest = longest.max(time);
    }
    Ok(Some(reads as f64 / longest.as_secs_f64()))
}

fn read_blocks(
    reader: &Reader<'_>,
    order: impl Iterator<Item = u64>,
    limit: Duration,
) -> Result<(u64, Duration)> {
    let mut buf = AlignedBuf::new(SMALL);
    let start = Instant::now();
    let mut count = 0;
    for block in order {
        let offset = block * SMALL as u64;
        reader.read(offset, &mut buf)?;
        ensure!(
            content::starts_right(offset, &buf),
            "wrong bytes at {offset:#x}"
        );
        count += 1;
        if start.elapsed() >= limit {
            break;
        }
    }
    Ok((count, start.elapsed()))
}

/// Files per second of a walk, which stops early when it takes longer than `limit`.
fn walk(directory: &Path, limit: Duration) -> Result<f64> {
    let start = Instant::now();
    let mut count = 0_u64;
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let stat = fs::symlink_metadata(&path)?;
        let bytes = fs::read(&path)?;
        ensure!(
            bytes.len() as u64 == stat.size(),
            "{}: {} bytes, stat says {}",
            path.display(),
            bytes.len(),
            stat.size()
        );
        count += 1;
        if start.elapsed() >= limit {
            break;
        }
    }
    ensure!(count > 0, "{} is empty", directory.display());
    Ok(count as f64 / start.elapsed().as_secs_f64())
}

/// Every number below a limit once, in an order that no read-ahead guesses, the same in every run.
pub(crate) struct Permutation {
    limit: u64,
    mask: u64,
    state: u64,
    left: u64,
}

impl Permutation {
    pub(crate) fn new(limit: u64) -> Self {
        let size = limit.next_power_of_two();
        Self {
            limit,
            mask: size - 1,
            state: 0x5eed & (size - 1),
            left: size,
        }
    }
}

impl Iterator for Permutation {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        while self.left > 0 {
            self.left -= 1;
            // A linear congruential generator of full period; low bits of the state are regular,
            // so the number given out is the state with its halves mixed, a bijection as well.
            self.state = self
                .state
                .wrapping_mul(0x5851_f42d_4c95_7f2d)
                .wrapping_add(0x1405_7b7e_f767_814f)
                & self.mask;
            let half = self.mask.count_ones().div_ceil(2);
            let mixed = (self.state ^ (self.state >> half)).wrapping_mul(0x9e37_79b1) & self.mask;
            if mixed < self.limit {
                return Some(mixed);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_permutation_gives_every_number_once() {
        for limit in [1, 2, 7, 4096, 5000] {
            let mut seen: Vec<u64> = Permutation::new(limit).collect();
            seen.sort_unstable();
            assert_eq!(seen, (0..limit).collect::<Vec<_>>(), "of {limit}");
        }
    }

    #[test]
    fn neighbours_in_a_permutation_are_apart() {
        let order: Vec<u64> = Permutation::new(1 << 16).take(1000).collect();
        let near = order
            .windows(2)
            .filter(|pair| pair[0].abs_diff(pair[1]) < 64)
            .count();
        assert!(near < 20, "{near} of 999 steps are short");
    }
}
