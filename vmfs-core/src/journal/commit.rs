use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use super::codec::{Image, Redo};
use super::error::JournalError;
use super::log::Log;
use super::meta_reader::MetaReader;
use crate::lvm::{LvmError, VolumeOffset};
use crate::sync::Mutex;

/// Longest write that brings metadata in place.
const MAX_WRITE: usize = 1 << 20;

/// A host's journal: how what was published becomes durable.
#[derive(Debug)]
pub struct Journal {
    log: Mutex<Log>,
    limit: u64,
    /// Data writes so far.
    writes: AtomicU64,
    /// Data writes that a flush has made durable.
    flushed: AtomicU64,
    /// Flushes that failed.
    failures: AtomicU64,
}

impl Journal {
    /// A journal that goes on in `log`.
    pub fn new(log: Log) -> Self {
        Self {
            limit: log.limit(),
            log: Mutex::new(log),
            writes: AtomicU64::new(0),
            flushed: AtomicU64::new(0),
            failures: AtomicU64::new(0),
        }
    }

    /// Bytes that one transaction may change.
    pub fn limit(&self) -> u64 {
        self.limit / 2
    }

    /// Notes that data was written.
    pub fn data_written(&self) {
        self.writes.fetch_add(1, SeqCst);
    }

    /// Flushes that failed so far. What was written and not flushed before one may be lost, though
    /// a later one succeeds: an image file's page cache drops what can't be written.
    pub fn failures(&self) -> u64 {
        self.failures.load(SeqCst)
    }

    pub(super) fn writes(&self) -> u64 {
        self.writes.load(SeqCst)
    }

    /// Number of the last compound transaction that is durable.
    pub fn durable(&self, reader: &MetaReader) -> u64 {
        reader.overlay().state().durable
    }

    /// Waits until a transaction of `bytes` fits into the running compound transaction.
    pub(super) fn make_room(&self, reader: &MetaReader, bytes: u64) -> Result<(), JournalError> {
        if bytes > self.limit {
            let capacity = self.limit;
            return Err(JournalError::TooLarge { bytes, capacity });
        }
        // A sector that stands alone takes a header of its own: 16 bytes more.
        while reader.overlay().state().running_bytes() + bytes > self.limit / 10 * 9 {
            self.commit(reader)?;
            if reader.overlay().state().running_bytes() == 0 {
                break;
            }
        }
        Ok(())
    }

    /// Returns once everything published before is durable, and all data written before.
    ///
    /// # Errors
    /// When the volume fails. What was published stays, and the next commit tries again.
    pub fn commit(&self, reader: &MetaReader) -> Result<(), JournalError> {
        let target = reader.overlay().state().newest();
        let writes = self.writes();
        let mut log = self.log.lock();
        while reader.overlay().state().durable < target {
            self.commit_one(&mut log, reader)?;
        }
        self.flush_up_to(reader, writes)?;
        Ok(())
    }

    /// Returns once everything published before is durable and in place, where other hosts see it.
    ///
    /// Then the log has nothing that a replay would have to look at but what was committed last.
    ///
    /// # Errors
    /// As for [`Journal::commit`].
    pub fn settle(&self, reader: &MetaReader) -> Result<(), JournalError> {
        let target = reader.overlay().state().newest();
        let writes = self.writes();
        let mut log = self.log.lock();
        if reader.overlay().state().settled < target {
            while reader.overlay().state().durable < target {
                self.commit_one(&mut log, reader)?;
            }
            self.checkpoint_locked(&mut log, reader)?;
        }
        self.flush_up_to(reader, writes)?;
        Ok(())
    }

    /// Makes what was committed before no part of the log any more, which it must all be in place
    /// for: a replay finds nothing.
    ///
    /// # Errors
    /// As for [`Journal::commit`].
    pub fn start_over(&self, reader: &MetaReader) -> Result<(), JournalError> {
        let mut log = self.log.lock();
        while reader.overlay().state().has_unfinished() {
            self.commit_one(&mut log, reader)?;
        }
        self.checkpoint_locked(&mut log, reader)?;
        reader.overlay().state().mark();
        self.commit_one(&mut log, reader)?;
        self.checkpoint_locked(&mut log, reader)
    }

    /// Brings everything that is committed in place, durably.
    pub fn checkpoint(&self, reader: &MetaReader) -> Result<(), JournalError> {
        self.checkpoint_locked(&mut self.log.lock(), reader)
    }

    /// What the host does from time to time: commits, and brings changes in place when there are
    /// many.
    pub fn tidy(&self, reader: &MetaReader) -> Result<(), JournalError> {
        self.commit(reader)?;
        let mut log = self.log.lock();
        if log.is_getting_full() {
            self.checkpoint_locked(&mut log, reader)?;
        }
        Ok(())
    }

    fn commit_one(&self, log: &mut Log, reader: &MetaReader) -> Result<(), JournalError> {
        let Some(compound) = reader.overlay().state().start_commit() else {
            return Ok(());
        };
        let images = compound.patches.runs(MAX_WRITE).into_iter();
        let redo = Redo {
            images: images
                .map(|(offset, bytes)| Image { offset, bytes })
                .collect(),
            revoked: compound
                .revoked
                .iter()
                .map(|range| (range.start, range.end - range.start))
                .collect(),
            pending: compound.pending.clone(),
            locks: compound.locks.clone(),
        };
        let mut bytes = log.encode(&redo, compound.sequence);
        if bytes.is_none() {
            // The log starts again.
            self.checkpoint_locked(log, reader)?;
            bytes = log.encode(&redo, compound.sequence);
        }
        let bytes = bytes.ok_or(JournalError::TooLarge {
            bytes: compound.patches.bytes(),
            capacity: self.limit,
        })?;
        let mut after_write = compound.after_write;
        for range in compound.zeroed.lost(self.failures()) {
            let (volume, length) = (reader.volume(), range.end - range.start);
            volume.write_zeros(VolumeOffset(range.start), length)?;
            self.data_written();
            after_write = self.writes();
        }
        self.flush_up_to(reader, after_write)?;
        let writes = self.writes();
        log.append(reader.volume(), &bytes)?;
        self.flush(reader)?;
        self.flushed.fetch_max(writes, SeqCst);
        log.advance(bytes.len());
        reader.overlay().state().finish_commit();
        Ok(())
    }

    fn checkpoint_locked(&self, log: &mut Log, reader: &MetaReader) -> Result<(), JournalError> {
        let committed = reader.overlay().state().committed.clone();
        if committed.is_empty() {
            log.restart();
            return Ok(());
        }
        let writes = self.writes();
        for (offset, bytes) in committed.runs(MAX_WRITE) {
            reader.volume().write(VolumeOffset(offset), &bytes)?;
        }
        self.flush(reader)?;
        self.flushed.fetch_max(writes, SeqCst);
        reader.overlay().checkpointed();
        log.restart();
        Ok(())
    }

    /// Makes the data writes up to number `write` durable, if they aren't.
    fn flush_up_to(&self, reader: &MetaReader, write: u64) -> Result<(), LvmError> {
        if self.flushed.load(SeqCst) >= write {
            return Ok(());
        }
        let writes = self.writes();
        self.flush(reader)?;
        self.flushed.fetch_max(writes, SeqCst);
        Ok(())
    }

    fn flush(&self, reader: &MetaReader) -> Result<(), LvmError> {
        let flushed = reader.volume().flush();
        if flushed.is_err() {
            self.failures.fetch_add(1, SeqCst);
        }
        flushed
    }
}
