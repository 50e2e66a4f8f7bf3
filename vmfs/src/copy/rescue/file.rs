use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use vmfs_core::fs::Inode;
use vmfs_core::fs::rescue::{Piece, Rescue, Stretch};
use vmfs_core::lvm::VolumeOffset;

use super::super::Args;
use super::super::file::{self, Options, is_complete};
use super::super::part::{SUFFIX, beside};
use super::super::progress::Progress;
use super::plan::Planned;
use super::report::{Record, Status};

/// Bytes read and written at a time.
const CHUNK: usize = 1 << 20;
/// Bytes that are given up when one of them can't be read.
const LOST_UNIT: usize = 4096;

/// Copies `inode` into a part file beside the item's destination, which gets its name if it is exact.
pub(super) fn copy(
    rescue: &Rescue,
    item: &Planned<'_>,
    inode: &Inode,
    args: &Args,
    progress: &Progress,
) -> Record {
    let part_path = beside(&item.destination, SUFFIX);
    let list_path = beside(&item.destination, ".vmfs-lost");
    if let Ok(found) = fs::symlink_metadata(&item.destination) {
        if args.resume && is_complete(&found, inode) {
            return Record::of(item, Status::ThereAlready).with_length(inode.length());
        }
        let error = io::Error::from(io::ErrorKind::AlreadyExists);
        return Record::failed(item, &error);
    }
    if args.resume {
        // What an earlier run could not read is tried again, all of it: damage has no order.
        for path in [&part_path, &list_path] {
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Record::failed(item, &error);
                }
                _ => {}
            }
        }
    }
    let mut record = Record::of(item, Status::Exact).with_length(inode.length());
    let mut transfer = Transfer {
        rescue,
        inode,
        args,
        progress,
        record: &mut record,
        lost: Vec::new(),
    };
    let done = transfer.run(&part_path);
    let lost = transfer.lost;
    let done = done.and_then(|()| {
        check_blocks(rescue, inode, &mut record);
        finish(&part_path, &list_path, item, inode, args, &lost, &record)
    });
    match done {
        Ok(()) if record.status == Status::Exact => record,
        Ok(()) => {
            let note = format!("what there is of it is in {}", part_path.display());
            record.note(note)
        }
        Err(error) => Record::failed(item, &error),
    }
}

/// Gives a copy the mode and the times of the original.
pub(super) fn set_attributes(copy: &File, inode: &Inode, args: &Args) -> io::Result<()> {
    file::set_attributes(copy, inode, options(args))
}

fn options(args: &Args) -> Options {
    Options {
        sparse: !args.no_sparse,
        verify: args.verify,
        resume: args.resume,
        no_clobber: args.no_clobber,
        preserve_owner: args.preserve_owner,
    }
}

/// Every block that the descriptor counts must be in the map: zeros over a pointer block look like a hole.
fn check_blocks(rescue: &Rescue, inode: &Inode, record: &mut Record) {
    let stored = inode.meta().blocks.get();
    if record.status != Status::Exact || inode.length() == 0 {
        return;
    }
    let mapped = rescue.mapped_blocks(inode);
    if mapped != stored {
        let why = format!("its map has {mapped} blocks, its descriptor says {stored}");
        record.doubt(0..inode.length(), &why);
    }
}

fn finish(
    part: &Path,
    list: &Path,
    item: &Planned<'_>,
    inode: &Inode,
    args: &Args,
    lost: &[Range<u64>],
    record: &Record,
) -> io::Result<()> {
    set_attributes(&File::open(part)?, inode, args)?;
    if record.status != Status::Exact {
        let text = lost.iter().fold(String::new(), |mut text, range| {
            let _ = writeln!(text, "{:#x} {:#x}", range.start, range.end);
            text
        });
        let mut file = File::options().write(true).create_new(true).open(list)?;
        return file.write_all(text.as_bytes());
    }
    rename_to_new(part, &item.destination)
}

/// Renames without replacing anything.
fn rename_to_new(from: &Path, to: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // File systems that don't know it.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) if !to.exists() => {
            fs::rename(from, to)
        }
        other => Ok(other?),
    }
}

/// One file on its way.
struct Transfer<'a> {
    rescue: &'a Rescue,
    inode: &'a Inode,
    args: &'a Args,
    progress: &'a Progress,
    record: &'a mut Record,
    lost: Vec<Range<u64>>,
}

impl Transfer<'_> {
    fn run(&mut self, part_path: &Path) -> io::Result<()> {
        let part = File::options()
            .write(true)
            .create_new(true)
            .open(part_path)?;
        let length = self.inode.length();
        part.set_len(length)?;
        let (inode, mut buf) = (self.inode, vec![0; CHUNK]);
        let mut result = Ok(());
        let rescue = self.rescue;
        rescue.for_each_stretch(inode, 0..length, &mut |stretch| {
            result = self.stretch(&part, stretch, &mut buf);
            result.is_ok()
        });
        result?;
        part.sync_all()
    }

    fn stretch(&mut self, part: &File, stretch: &Stretch, buf: &mut [u8]) -> io::Result<()> {
        let range = stretch.start..stretch.start + stretch.length;
        match &stretch.piece {
            Piece::Zeros if !self.args.no_sparse => {}
            Piece::Zeros => {
                buf.fill(0);
                let mut at = range.start;
                while at < range.end {
                    let length = (range.end - at).min(buf.len() as u64) as usize;
                    part.write_all_at(&buf[..length], at)?;
                    at += length as u64;
                }
            }
            Piece::Lost(why) => self.lose(range, why),
            Piece::Data(place) => {
                if stretch.guessed {
                    let why = "where it lies was taken from its neighbours";
                    self.record.doubt(range, why);
                }
                self.data(part, stretch, *place, buf)?;
            }
        }
        Ok(())
    }

    fn data(
        &mut self,
        part: &File,
        stretch: &Stretch,
        place: VolumeOffset,
        buf: &mut [u8],
    ) -> io::Result<()> {
        let mut done = 0;
        while done < stretch.length {
            let length = (stretch.length - done).min(buf.len() as u64) as usize;
            let bytes = &mut buf[..length];
            let at = stretch.start + done;
            let from = VolumeOffset(place.0 + done);
            if self.rescue.read(self.inode, from, bytes).is_ok() {
                part.write_all_at(bytes, at)?;
                self.record.bytes += length as u64;
            } else {
                self.piecewise(part, at, from, bytes)?;
            }
            self.progress.advance(length as u64);
            done += length as u64;
        }
        Ok(())
    }

    /// Takes what there is before and behind a bad spot.
    fn piecewise(
        &mut self,
        part: &File,
        at: u64,
        from: VolumeOffset,
        bytes: &mut [u8],
    ) -> io::Result<()> {
        let mut done = 0;
        while done < bytes.len() {
            // Up to where the unit ends on the volume.
            let inside = (from.0 + done as u64) as usize % LOST_UNIT;
            let length = (LOST_UNIT - inside).min(bytes.len() - done);
            let piece = &mut bytes[done..done + length];
            let start = at + done as u64;
            let from = VolumeOffset(from.0 + done as u64);
            match self.rescue.read(self.inode, from, piece) {
                Ok(()) => {
                    part.write_all_at(piece, start)?;
                    self.record.bytes += length as u64;
                }
                Err(_) => self.lose(start..start + length as u64, "can't be read"),
            }
            done += length;
        }
        Ok(())
    }

    fn lose(&mut self, range: Range<u64>, why: &str) {
        match self.lost.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => self.lost.push(range.clone()),
        }
        self.record.miss(range, why);
    }
}
