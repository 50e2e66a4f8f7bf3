//! Reads and writes of a shared LUN.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use rustix::fs::FallocateFlags;

use super::lane::MAX_COMMAND;
use super::queue::Ending;
use super::record::{Moved, Revoked};
use super::{Fault, SharedLun};
use crate::scsi::aligned::AlignedBuf;
use crate::scsi::array::rules::Demand;
use crate::scsi::lun::{Access, Comparison};

/// The blocks of a LUN of which some may be beside the image.
#[derive(Debug, Clone, Copy)]
pub(super) struct Blocks<'a> {
    pub(super) image: &'a File,
    pub(super) beside: &'a File,
    /// In the order of their addresses.
    pub(super) moved: &'a [Moved],
}

impl Blocks<'_> {
    pub(super) fn read(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        if self.moved.is_empty() {
            return self.image.read_exact_at(buf, offset);
        }
        self.for_each_piece(offset, buf.len() as u64, |file, at, range| {
            file.read_exact_at(&mut buf[range.start as usize..range.end as usize], at)
        })
    }

    pub(super) fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        if self.moved.is_empty() {
            return self.image.write_all_at(data, offset);
        }
        self.for_each_piece(offset, data.len() as u64, |file, at, range| {
            file.write_all_at(&data[range.start as usize..range.end as usize], at)
        })
    }

    /// Makes a hole, or writes zeros where there can't be one.
    pub(super) fn zero(&self, offset: u64, length: u64) -> io::Result<()> {
        self.for_each_piece(offset, length, |file, at, range| {
            zero_file(file, at, range.end - range.start, |zeros, at| {
                file.write_all_at(zeros, at)
            })
        })
    }

    /// Calls `part` for each piece: its file, where in it, and which bytes of the whole it is.
    fn for_each_piece(
        &self,
        offset: u64,
        length: u64,
        mut part: impl FnMut(&File, u64, Range<u64>) -> io::Result<()>,
    ) -> io::Result<()> {
        let end = offset + length;
        let mut done = offset;
        for moved in self.moved {
            let (start, stop) = (moved.start.max(done), moved.end().min(end));
            if start >= stop {
                continue;
            }
            if done < start {
                part(self.image, done, done - offset..start - offset)?;
            }
            let at = moved.at + (start - moved.start);
            part(self.beside, at, start - offset..stop - offset)?;
            done = stop;
        }
        if done < end {
            part(self.image, done, done - offset..length)?;
        }
        Ok(())
    }
}

/// Makes bytes of a file a hole; where its file system can't, `write` is called for zeros and
/// where to put them.
pub(in crate::scsi) fn zero_file(
    file: &File,
    offset: u64,
    length: u64,
    write: impl Fn(&[u8], u64) -> io::Result<()>,
) -> io::Result<()> {
    const CHUNK: u64 = 1 << 20;
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    if length == 0 || rustix::fs::fallocate(file, flags, offset, length).is_ok() {
        return Ok(());
    }
    let zeros = AlignedBuf::new(length.min(CHUNK) as usize);
    for start in (0..length).step_by(CHUNK as usize) {
        let part = CHUNK.min(length - start) as usize;
        write(&zeros[..part], offset + start)?;
    }
    Ok(())
}

/// Fails a command that its host must not carry out any more. It is in its lane by now: if its
/// process stops from here on the others see to it that it does nothing.
fn refuse_unless(may: &dyn Fn() -> bool) -> io::Result<()> {
    if may() {
        return Ok(());
    }
    Err(io::Error::other(TooLate))
}

/// What a command fails with that came too late.
#[derive(Debug, thiserror::Error)]
#[error("the host lost its right to write")]
pub(super) struct TooLate;

impl SharedLun {
    /// READ.
    pub(in crate::scsi) fn read(&self, offset: u64, buf: &mut [u8]) -> Result<(), Fault> {
        let mut done = offset;
        for part in buf.chunks_mut(MAX_COMMAND as usize) {
            let bytes = done..done + part.len() as u64;
            done = bytes.end;
            self.run(
                &bytes,
                Demand::Read,
                |blocks| blocks.read(bytes.start, part),
                |_, ()| Ok(false),
            )?;
        }
        Ok(())
    }

    /// WRITE.
    pub(in crate::scsi) fn write(
        &self,
        offset: u64,
        data: &[u8],
        may: &dyn Fn() -> bool,
    ) -> Result<(), Fault> {
        let mut done = offset;
        for part in data.chunks(MAX_COMMAND as usize) {
            let bytes = done..done + part.len() as u64;
            done = bytes.end;
            self.run(
                &bytes,
                Demand::Write,
                |blocks| {
                    refuse_unless(may)?;
                    blocks.write(bytes.start, part)
                },
                |revoked, ()| {
                    self.had_become(revoked, bytes.start, part.iter().copied(), part.len())
                },
            )?;
        }
        Ok(())
    }

    /// WRITE SAME with zeros, or UNMAP.
    pub(in crate::scsi) fn zero(
        &self,
        offset: u64,
        length: u64,
        may: &dyn Fn() -> bool,
    ) -> Result<(), Fault> {
        for start in (0..length).step_by(MAX_COMMAND as usize) {
            let part = MAX_COMMAND.min(length - start);
            let bytes = offset + start..offset + start + part;
            self.run(
                &bytes,
                Demand::Write,
                |blocks| {
                    refuse_unless(may)?;
                    blocks.zero(bytes.start, part)
                },
                |revoked, ()| {
                    let zeros = std::iter::repeat_n(0, part as usize);
                    self.had_become(revoked, bytes.start, zeros, part as usize)
                },
            )?;
        }
        Ok(())
    }

    /// COMPARE AND WRITE.
    pub(in crate::scsi) fn compare_and_write(
        &self,
        offset: u64,
        expected: &[u8],
        new: &[u8],
    ) -> Result<Comparison, Fault> {
        let bytes = offset..offset + new.len() as u64;
        let mut found = vec![0; expected.len()];
        self.run(
            &bytes,
            Demand::Write,
            |blocks| {
                blocks.read(offset, &mut found)?;
                let comparison = Comparison::of(expected, &found);
                if comparison == Comparison::Written {
                    blocks.write(offset, new)?;
                }
                Ok(comparison)
            },
            // A miscompare that was revoked may have seen what was moved away.
            |revoked, comparison| {
                let wrote = *comparison == Comparison::Written;
                Ok(wrote && self.had_become(revoked, offset, new.iter().copied(), new.len())?)
            },
        )
    }

    /// SYNCHRONIZE CACHE.
    pub(in crate::scsi) fn flush(&self) -> Result<(), Fault> {
        if self.access == Access::ReadWrite && self.check(Demand::Write)? {
            self.memory.file().sync_data()?;
        }
        self.image.sync_data()?;
        Ok(())
    }

    /// Runs a command on `bytes` by `work`, again and again as long as it is revoked.
    ///
    /// `counts` tells whether a command whose blocks were moved had done its work before.
    pub(super) fn run<T>(
        &self,
        bytes: &Range<u64>,
        demand: Demand,
        mut work: impl FnMut(Blocks<'_>) -> io::Result<T>,
        counts: impl Fn(&Revoked, &T) -> io::Result<bool>,
    ) -> Result<T, Fault> {
        loop {
            let writes = demand == Demand::Write;
            let permit = match &self.seat {
                Some(seat) if !bytes.is_empty() => Some(self.acquire(seat, bytes, writes)?),
                _ => None,
            };
            let moved = self.check(demand)?;
            let done = if moved {
                work(self.blocks(&self.view().moved))?
            } else {
                work(self.blocks(&[]))?
            };
            let Some(mut permit) = permit else {
                return Ok(done);
            };
            let counts = match permit.end()? {
                Ending::Done => true,
                Ending::Redo => false,
                Ending::Moved(revoked) => counts(&revoked, &done)?,
            };
            drop(permit);
            if moved || !counts {
                self.bring_back();
            }
            if counts {
                return Ok(done);
            }
        }
    }
}
