//! One file.

use std::fs::{self, File, Permissions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, UNIX_EPOCH};

use serde::Serialize;
use vmfs_core::fs::{FileSystem, Inode, Place};

use super::lost::Lost;
use super::part::{DURABLE_EVERY, Part};
use super::progress::Progress;

/// Bytes read and written at a time.
pub(super) const CHUNK: usize = 1 << 20;
/// Chunks that may be read ahead of writing.
const AHEAD: usize = 4;
/// Bytes that are given up when one of them can't be read.
const LOST_UNIT: u64 = 64 << 10;

/// How files are copied.
#[derive(Debug, Clone, Copy)]
pub(super) struct Options {
    pub(super) sparse: bool,
    pub(super) verify: bool,
    pub(super) resume: bool,
    pub(super) no_clobber: bool,
    pub(super) preserve_owner: bool,
}

/// A file that was copied.
#[derive(Debug, Serialize)]
pub(super) struct Copied {
    pub(super) path: String,
    /// Bytes of data, without holes.
    pub(super) bytes: u64,
}

/// A piece of the file that is to be written.
struct Chunk {
    offset: u64,
    bytes: Vec<u8>,
    length: usize,
    /// What could not be read between the chunk before and this one.
    lost_before: Vec<Range<u64>>,
}

/// Copies `inode` to `destination`; returns the bytes of data, or `None` when it was there
/// already. The error says what is missing.
pub(super) fn copy(
    fs: &FileSystem,
    inode: &Inode,
    destination: &Path,
    options: Options,
    progress: &Progress,
) -> Result<Option<u64>, String> {
    if let Ok(found) = fs::symlink_metadata(destination) {
        if options.no_clobber || options.resume && is_complete(&found, inode) {
            progress.advance(inode.allocated().min(inode.length()));
            return Ok(None);
        }
        if found.is_dir() {
            let shown = destination.display();
            return Err(format!("{shown} is in the way: it is a directory"));
        }
    }
    let part = Part::open(destination, options.resume)?;
    let shown = |error: io::Error| at(&part.path, &error);
    let start = part.resume_point(fs, inode, options.resume)?;
    part.check_size(inode.length(), start).map_err(shown)?;
    progress.advance(start.min(inode.allocated()));
    let (bytes, lost) = transfer(fs, inode, &part, start, options, progress).map_err(shown)?;
    if let Some(lost) = lost.describe() {
        return Err(format!(
            "{lost}; the rest is in {}, and --resume tries this again",
            part.path.display()
        ));
    }
    part.finish(inode.length()).map_err(shown)?;
    if options.verify {
        verify(fs, inode, &part.file)?;
    }
    set_attributes(&part.file, inode, options).map_err(shown)?;
    part.list.remove().map_err(shown)?;
    fs::rename(&part.path, destination).map_err(|error| at(destination, &error))?;
    Ok(Some(bytes))
}

/// Gives a copy the mode, the times and, if wanted, the owner of the original.
pub(super) fn set_attributes(copy: &File, inode: &Inode, options: Options) -> io::Result<()> {
    let meta = inode.meta();
    if options.preserve_owner {
        std::os::unix::fs::fchown(copy, Some(meta.uid.get()), Some(meta.gid.get()))?;
    }
    // Set-user-id bits of a foreign volume have no business here.
    copy.set_permissions(Permissions::from_mode(inode.mode() & 0o777))?;
    let time = |seconds: u32| UNIX_EPOCH + Duration::from_secs(seconds.into());
    let times = fs::FileTimes::new()
        .set_accessed(time(meta.atime.get()))
        .set_modified(time(meta.mtime.get()));
    copy.set_times(times)
}

/// A complete copy has its proper name; one of the same size and time is of the same file.
pub(super) fn is_complete(found: &fs::Metadata, inode: &Inode) -> bool {
    let modified = found
        .modified()
        .ok()
        .and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    found.is_file()
        && found.len() == inode.length()
        && modified.is_some_and(|time| time.as_secs() == u64::from(inode.meta().mtime.get()))
}

/// Moves the data from `start` on, and what is lost before that; reading is ahead of writing by
/// some chunks.
fn transfer(
    fs: &FileSystem,
    inode: &Inode,
    part: &Part,
    start: u64,
    options: Options,
    progress: &Progress,
) -> io::Result<(u64, Lost)> {
    let (full, filled) = mpsc::sync_channel::<Chunk>(AHEAD);
    let (empty, emptied) = mpsc::channel::<Vec<u8>>();
    for _ in 0..AHEAD {
        // The other end lives as long as this function.
        let _ = empty.send(vec![0; CHUNK]);
    }
    let again = part.lost.iter().filter(|range| range.start < start);
    let mut ranges: Vec<_> = again
        .map(|range| range.start..range.end.min(start))
        .collect();
    ranges.push(start..inode.length());
    thread::scope(|scope| {
        let reader = scope.spawn(move || read_all(fs, inode, ranges, options, &full, &emptied));
        let mut undurable = 0;
        let mut written = 0;
        for chunk in filled {
            // First, so that what a killed copy leaves is never taken for more than it is.
            part.list.add(&chunk.lost_before)?;
            part.file
                .write_all_at(&chunk.bytes[..chunk.length], chunk.offset)?;
            progress.advance(chunk.length as u64);
            written += chunk.length as u64;
            undurable += chunk.length as u64;
            if undurable >= DURABLE_EVERY {
                part.file.sync_data()?;
                undurable = 0;
            }
            // The reader may have come to its end.
            let _ = empty.send(chunk.bytes);
        }
        let mut lost = reader
            .join()
            .map_err(|_| io::Error::other("reading came to a bad end"))?;
        part.list.add(&lost.news())?;
        Ok((written, lost))
    })
}

/// Reads every run of data in `ranges` and sends it on; stops early when nobody takes it any more.
fn read_all(
    fs: &FileSystem,
    inode: &Inode,
    ranges: Vec<Range<u64>>,
    options: Options,
    full: &mpsc::SyncSender<Chunk>,
    emptied: &mpsc::Receiver<Vec<u8>>,
) -> Lost {
    let mut lost = Lost::default();
    // A buffer that wasn't sent on: the other side only gives back what it was given.
    let mut unused = None;
    for range in ranges {
        let mut at = range.start;
        // What is given up when the byte at an offset can't be read.
        let unit = |at: u64| at..((at / LOST_UNIT + 1) * LOST_UNIT).min(range.end);
        while at < range.end {
            let run = match fs.run_at(inode, at, at + CHUNK as u64) {
                Ok(run) => run,
                Err(error) => {
                    lost.add(unit(at), &error);
                    at = unit(at).end;
                    continue;
                }
            };
            if options.sparse && !matches!(run.place, Place::Data(_)) {
                at = run.end();
                continue;
            }
            let Some(mut bytes) = unused.take().or_else(|| emptied.recv().ok()) else {
                return lost;
            };
            // Chunks stay on their own borders, so that most writes are of whole aligned ones.
            let border = (at / CHUNK as u64 + 1) * CHUNK as u64;
            let length = (run.end().min(border).min(range.end) - at) as usize;
            let read = fs.read(inode, at, &mut bytes[..length]).or_else(|error| {
                // Take what there is before and behind the bad spot, piece by piece.
                let piece = length.min(LOST_UNIT as usize);
                let read = fs.read(inode, at, &mut bytes[..piece]);
                read.map_err(|_| error)
            });
            match read {
                Ok(length) => {
                    let chunk = Chunk {
                        offset: at,
                        bytes,
                        length,
                        lost_before: lost.news(),
                    };
                    if full.send(chunk).is_err() {
                        return lost;
                    }
                    at += length as u64;
                }
                Err(error) => {
                    unused = Some(bytes);
                    lost.add(unit(at), &error);
                    at = unit(at).end;
                }
            }
        }
    }
    lost
}

/// Reads the original and the copy and compares them.
fn verify(fs: &FileSystem, inode: &Inode, part: &File) -> Result<(), String> {
    // What the disk has is to be compared, not what memory still has of it.
    let _ = rustix::fs::fadvise(part, 0, None, rustix::fs::Advice::DontNeed);
    let (mut ours, mut theirs) = (vec![0; CHUNK], vec![0; CHUNK]);
    let mut at = 0;
    while at < inode.length() {
        let run = fs
            .run_at(inode, at, at + CHUNK as u64)
            .map_err(|error| error.to_string())?;
        if run.place == Place::Hole && is_hole(part, at, run.end()) {
            at = run.end();
            continue;
        }
        let length = (inode.length() - at).min(CHUNK as u64) as usize;
        fs.read(inode, at, &mut theirs[..length])
            .map_err(|error| error.to_string())?;
        part.read_exact_at(&mut ours[..length], at)
            .map_err(|error| error.to_string())?;
        if let Some(first) = (0..length).find(|&i| ours[i] != theirs[i]) {
            return Err(format!(
                "the copy differs from byte {:#x} on",
                at + first as u64
            ));
        }
        at += length as u64;
    }
    Ok(())
}

/// Whether the copy has no data from `start` to `end`.
fn is_hole(part: &File, start: u64, end: u64) -> bool {
    match rustix::fs::seek(part, rustix::fs::SeekFrom::Data(start)) {
        Ok(data) => data >= end,
        Err(rustix::io::Errno::NXIO) => true,
        Err(_) => false,
    }
}

/// `error`, with the path that it is about.
pub(super) fn at(path: &Path, error: &io::Error) -> String {
    format!("{}: {error}", path.display())
}
