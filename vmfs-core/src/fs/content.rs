//! Content and length of files: writing, cutting, allocating ahead, copying.

use std::ops::Range;
use std::sync::Arc;

use super::changes::{Allocate, Changes as Attributes};
use super::engine::Engine;
use super::error::FsError;
use super::file_system::FileSystem;
use super::sharing::Files;
use crate::cluster::OpenMode;
use crate::file::Inode;
use crate::file::edit::FileEdit;
use crate::format::{FdAddr, ZeroLevel};
use crate::resource::Place;

/// Bytes that one transaction writes at most.
const MAX_WRITE: usize = 8 << 20;
/// Bytes that a copy moves at a time.
const COPY: u64 = 1 << 20;

/// What a write does with the file's times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Times {
    Change,
    Keep,
}

impl FileSystem {
    /// Writes all of `data` at `offset`.
    ///
    /// # Errors
    /// With no space left nothing of the write, or of the last 8 MiB of a larger one, was done.
    pub fn write(&self, file: FdAddr, offset: u64, data: &[u8]) -> Result<(), FsError> {
        self.write_and(file, offset, data, Times::Change)
    }

    /// [`FileSystem::write`] for a caller that knows when the file was really changed, and says so by
    /// [`FileSystem::set_attributes`]: the file's times stay.
    pub fn write_back(&self, file: FdAddr, offset: u64, data: &[u8]) -> Result<(), FsError> {
        self.write_and(file, offset, data, Times::Keep)
    }

    fn write_and(
        &self,
        file: FdAddr,
        offset: u64,
        data: &[u8],
        times: Times,
    ) -> Result<(), FsError> {
        let (engine, _call) = self.enter()?;
        if data.is_empty() {
            return Ok(());
        }
        engine.unsynced.note(file, self.failures());
        if self.overwrite(engine, file, offset, data, times)? {
            return Ok(());
        }
        let mut done = 0;
        while done < data.len() {
            let part = &data[done..data.len().min(done + MAX_WRITE)];
            let guard = self.lock_files(engine, &[file])?;
            let inode = self.locked_regular(file)?;
            let at = offset.saturating_add(done as u64);
            self.change(engine, &guard, |changes| {
                let mut edit = FileEdit::load(changes, file, inode.offset())?;
                edit.write(at, part)?;
                if times == Times::Change {
                    edit.touch();
                }
                Ok(edit.save()?)
            })?;
            self.refresh(&[file])?;
            done += part.len();
        }
        Ok(())
    }

    /// Writes where blocks are there already: data goes straight to them, side by side with other
    /// writers. False when more is needed.
    fn overwrite(
        &self,
        engine: &Engine,
        file: FdAddr,
        offset: u64,
        data: &[u8],
        times: Times,
    ) -> Result<bool, FsError> {
        let now = engine.now();
        {
            let _guard = engine.locks.read(file);
            let Some(mode) = self.writes_as(engine, file)? else {
                return Ok(false);
            };
            let inode = self.locked_regular(file)?;
            let end = offset.saturating_add(data.len() as u64);
            let level = inode.map().zero_level();
            if end > inode.length() || matches!(level, ZeroLevel::Resident | ZeroLevel::None) {
                return Ok(false);
            }
            let mut runs = Vec::new();
            let mut at = offset;
            while at < end {
                let run = self.store().run_at(&inode, at, end)?;
                let Place::Data(place) = run.place else {
                    return Ok(false);
                };
                let length = run.length.min(end - at);
                runs.push((
                    place,
                    (at - offset) as usize..(at - offset + length) as usize,
                ));
                at += length;
            }
            for (place, range) in runs {
                self.volume().write(place, &data[range])?;
            }
            if let Some(journal) = self.store().reader().journal() {
                journal.data_written();
            }
            let is_now = inode.meta().mtime.get() == now && inode.meta().ctime.get() == now;
            // Beside other hosts nobody may change the descriptor.
            if times == Times::Keep || is_now || mode == OpenMode::MultiWriter {
                return Ok(true);
            }
        }
        let changed = Attributes {
            mtime: Some(now),
            ..Attributes::default()
        };
        self.set_attributes_of(engine, file, &changed)?;
        Ok(true)
    }

    /// Makes a locked file `length` long.
    pub(super) fn set_length(
        &self,
        engine: &Engine,
        guard: &Files<'_>,
        inode: &Arc<Inode>,
        length: u64,
    ) -> Result<(), FsError> {
        let (fd, place) = (inode.fd(), inode.offset());
        if length >= inode.length() {
            return self.change(engine, guard, |changes| {
                let mut edit = FileEdit::load(changes, fd, place)?;
                edit.extend(length)?;
                edit.touch();
                Ok(edit.save()?)
            });
        }
        let mut first = true;
        loop {
            let more = self.change(engine, guard, |changes| {
                let mut edit = FileEdit::load(changes, fd, place)?;
                if first {
                    edit.cut(length);
                    edit.touch();
                }
                let more = edit.trim()?;
                // A file without names is noted until it is deleted.
                let has_name = edit.meta().links.get() > 0;
                edit.save()?;
                if first && more {
                    changes.txn.begin(fd);
                } else if !first && !more && has_name {
                    changes.txn.finish(fd);
                }
                Ok(more)
            })?;
            first = false;
            if !more {
                return Ok(());
            }
        }
    }

    /// Changes what is allocated for a range; the length grows to the range's end unless
    /// `keep_size`. Punching holes never changes the length.
    ///
    /// # Errors
    /// With no space left what was allocated for the call is given back.
    pub fn allocate(
        &self,
        file: FdAddr,
        offset: u64,
        length: u64,
        how: Allocate,
        keep_size: bool,
    ) -> Result<(), FsError> {
        let (engine, _call) = self.enter()?;
        if length == 0 {
            return Err(FsError::Invalid("a range to allocate can't be empty"));
        }
        let end = offset
            .checked_add(length)
            .ok_or(FsError::Invalid("a range behind the largest offset"))?;
        engine.unsynced.note(file, self.failures());
        let guard = self.lock_files(engine, &[file])?;
        let inode = self.locked_regular(file)?;
        let result = self.allocate_locked(engine, &guard, &inode, offset..end, how, keep_size);
        self.refresh(&[file])?;
        result
    }

    fn allocate_locked(
        &self,
        engine: &Engine,
        guard: &Files<'_>,
        inode: &Arc<Inode>,
        range: Range<u64>,
        how: Allocate,
        keep_size: bool,
    ) -> Result<(), FsError> {
        let (fd, place) = (inode.fd(), inode.offset());
        if how != Allocate::Reserve {
            // Behind the end there is nothing to clear but what was allocated ahead, which reads
            // as zeros already.
            let mut left = range.start..range.end;
            while !left.is_empty() {
                left = self.change(engine, guard, |changes| {
                    let mut edit = FileEdit::load(changes, fd, place)?;
                    let left = if how == Allocate::PunchHole {
                        edit.punch(left.clone())?
                    } else {
                        edit.mark_zeros(left.clone())?
                    };
                    edit.touch();
                    edit.save()?;
                    Ok(left)
                })?;
            }
        }
        if how == Allocate::PunchHole {
            return Ok(());
        }
        let fits = inode.map().zero_level() == ZeroLevel::Resident
            && range.end <= self.layout().fd_data_size;
        let mut left = range.start..range.end;
        let mut added = Vec::new();
        while !left.is_empty() && !fits {
            let step = self.change(engine, guard, |changes| {
                let mut edit = FileEdit::load(changes, fd, place)?;
                let step = edit.reserve(left.clone())?;
                edit.save()?;
                Ok(step)
            });
            match step {
                Ok((rest, taken)) => {
                    left = rest;
                    added.extend(taken);
                }
                Err(error) => {
                    self.give_back(engine, guard, inode, &added)?;
                    return Err(error);
                }
            }
        }
        let grown = !keep_size && range.end > inode.length();
        self.change(engine, guard, |changes| {
            let mut edit = FileEdit::load(changes, fd, place)?;
            if grown {
                edit.extend(range.end)?;
                edit.touch();
            }
            edit.meta_mut().ctime = engine.now().into();
            Ok(edit.save()?)
        })
    }

    /// Gives back the entries that an allocation got before it failed.
    fn give_back(
        &self,
        engine: &Engine,
        guard: &Files<'_>,
        inode: &Inode,
        added: &[Range<u64>],
    ) -> Result<(), FsError> {
        for entries in added {
            let mut left = entries.clone();
            while !left.is_empty() {
                left = self.change(engine, guard, |changes| {
                    let mut edit = FileEdit::load(changes, inode.fd(), inode.offset())?;
                    let left = edit.clear(left.clone())?;
                    edit.save()?;
                    Ok(left)
                })?;
            }
        }
        Ok(())
    }

    /// Copies bytes from one file to another or itself; how many, fewer at the end of the source.
    /// Holes of the source become holes.
    pub fn copy_range(
        &self,
        from: FdAddr,
        from_offset: u64,
        to: FdAddr,
        to_offset: u64,
        length: u64,
    ) -> Result<u64, FsError> {
        self.engine()?;
        // A file that is copied behind its own end doesn't get longer under the copy.
        let length = length.min(self.inode(from)?.length().saturating_sub(from_offset));
        let mut done = 0;
        let mut buffer = Vec::new();
        while done < length {
            let at = from_offset.saturating_add(done);
            let source = self.inode(from)?;
            if at >= source.length() {
                break;
            }
            let run = self.run_at(&source, at, at + COPY)?;
            let target = to_offset.saturating_add(done);
            let left = (length - done).min(source.length() - at);
            if run.place == Place::Hole {
                let part = left.min(run.length);
                let old = self.inode(to)?.length();
                if target < old {
                    let end = (target + part).min(old);
                    self.allocate(to, target, end - target, Allocate::PunchHole, true)?;
                }
                if target + part > old {
                    let (engine, _call) = self.enter()?;
                    let guard = self.lock_files(engine, &[to])?;
                    let inode = self.locked_regular(to)?;
                    if target + part > inode.length() {
                        self.set_length(engine, &guard, &inode, target + part)?;
                        self.refresh(&[to])?;
                    }
                }
                done += part;
                continue;
            }
            buffer.resize(left.min(COPY) as usize, 0);
            let read = self.read(&source, at, &mut buffer)?;
            if read == 0 {
                break;
            }
            self.write(to, target, &buffer[..read])?;
            done += read as u64;
        }
        Ok(done)
    }

    /// Returns once the file's content and metadata are durable.
    ///
    /// # Errors
    /// [`FsError::Lost`], once, if the LUN failed to make earlier writes durable when nobody waited
    /// for that.
    pub fn sync_file(&self, file: FdAddr) -> Result<(), FsError> {
        let Some(engine) = &self.engine else {
            return Ok(());
        };
        let (noted, failures) = (engine.unsynced.noted(file), self.failures());
        // One commit makes all files durable that changed since the last one.
        let synced = self.sync();
        let Some(noted) = noted else {
            return synced;
        };
        let is_lost = noted.failures < self.failures();
        engine.unsynced.told(file, noted, failures);
        match synced {
            Ok(()) if is_lost => Err(FsError::Lost { fd: file }),
            synced => synced,
        }
    }

    /// Flushes of the LUN that failed.
    pub(super) fn failures(&self) -> u64 {
        let journal = self.store().reader().journal();
        journal.map_or(0, crate::journal::Journal::failures)
    }

    /// Returns once everything is durable.
    pub fn sync(&self) -> Result<(), FsError> {
        let Some(engine) = &self.engine else {
            return Ok(());
        };
        if engine.membership.is_lost() {
            return Err(FsError::Fenced);
        }
        let _call = engine.sharing.enter_again();
        let reader = self.store().reader();
        match reader.journal() {
            Some(journal) if engine.sharing.is_shared() => Ok(journal.settle(reader)?),
            Some(journal) => Ok(journal.commit(reader)?),
            None => Ok(()),
        }
    }
}
