//! Directories being changed: their entries through the code that knows their structure, their
//! content through the journal.

use std::sync::Arc;

use super::descriptor::FileEdit;
use super::map::Slot;
use crate::file::entries::{self as entries, DirContent, DirHint, NewEntry};
use crate::file::error::FileError;
use crate::file::{DirEntry, FileStore, Inode};
use crate::format::{FdAddr, FileKind};
use crate::resource::Place;
use crate::sync::Mutex;

/// A directory whose entries are being changed.
#[derive(Debug)]
pub struct DirectoryEdit<'c, 'a> {
    file: FileEdit<'c, 'a>,
    hint: Arc<Mutex<DirHint>>,
}

impl<'c, 'a> DirectoryEdit<'c, 'a> {
    /// The directory that `file` is, with what is known of it.
    pub fn new(file: FileEdit<'c, 'a>, hint: Arc<Mutex<DirHint>>) -> Self {
        Self { file, hint }
    }

    /// Makes the new file `file` an empty directory below `parent`.
    pub fn create(
        mut file: FileEdit<'c, 'a>,
        generation: u32,
        parent: (FdAddr, u32),
    ) -> Result<FileEdit<'c, 'a>, FileError> {
        let this = (file.fd(), generation);
        let layout = file.layout();
        entries::initialise(&mut Content(&mut file), layout, this, parent)?;
        Ok(file)
    }

    /// Lets `..` of the directory `file` lead to `parent`.
    pub fn set_parent(
        mut file: FileEdit<'c, 'a>,
        parent: (FdAddr, u32),
    ) -> Result<FileEdit<'c, 'a>, FileError> {
        let layout = file.layout();
        entries::set_parent(&mut Content(&mut file), layout, parent)?;
        Ok(file)
    }

    /// Adds a name that isn't there.
    pub fn add(
        &mut self,
        name: &[u8],
        (fd, kind, generation): (FdAddr, FileKind, u32),
    ) -> Result<(), FileError> {
        let entry = NewEntry {
            name,
            kind,
            fd,
            generation,
        };
        let (layout, in_root) = (self.file.layout(), self.is_root());
        let hint = &mut self.hint.lock();
        entries::add(&mut Content(&mut self.file), layout, in_root, &entry, hint)
    }

    /// Removes a name.
    pub fn remove(&mut self, name: &[u8]) -> Result<(), FileError> {
        let (layout, in_root) = (self.file.layout(), self.is_root());
        let hint = &mut self.hint.lock();
        entries::remove(&mut Content(&mut self.file), layout, in_root, name, hint)?;
        Ok(())
    }

    /// Gives a name to another file.
    pub fn replace(&mut self, name: &[u8], new: (FdAddr, FileKind, u32)) -> Result<(), FileError> {
        let (layout, in_root) = (self.file.layout(), self.is_root());
        let hint = &mut self.hint.lock();
        entries::replace(
            &mut Content(&mut self.file),
            layout,
            in_root,
            name,
            new,
            hint,
        )?;
        Ok(())
    }

    /// Adds to the number of links, one for each subdirectory.
    pub fn add_links(&mut self, more: i32) {
        let meta = self.file.meta_mut();
        meta.links = meta.links.get().saturating_add_signed(more).into();
    }

    /// Makes the changes part of the transaction.
    pub fn save(mut self) -> Result<(), FileError> {
        self.file.touch();
        self.file.save()
    }

    /// The entry called `name` of a directory as it stands.
    pub fn lookup(
        store: &FileStore,
        directory: &Inode,
        name: &[u8],
        hint: &Mutex<DirHint>,
    ) -> Result<Option<DirEntry>, FileError> {
        let content = Stored { store, directory };
        let layout = store.reader().layout();
        let in_root = directory.fd() == FdAddr::ROOT;
        entries::lookup(&content, layout, in_root, name, &mut hint.lock())
    }

    fn is_root(&self) -> bool {
        self.file.fd() == FdAddr::ROOT
    }
}

/// A directory's content inside a transaction.
struct Content<'f, 'c, 'a>(&'f mut FileEdit<'c, 'a>);

impl DirContent for Content<'_, '_, '_> {
    fn length(&self) -> u64 {
        self.0.length()
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<(), FileError> {
        self.0.read_content(offset, buf)
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), FileError> {
        self.0.write_metadata(offset, bytes)
    }

    fn set_length(&mut self, length: u64) -> Result<(), FileError> {
        if length < self.0.length() {
            self.0.cut(length);
            return Ok(());
        }
        self.0.fit(length)?;
        self.0.clear_gap(length)?;
        self.0.meta_mut().length = length.into();
        Ok(())
    }
}

/// A directory's content as it stands.
struct Stored<'s> {
    store: &'s FileStore,
    directory: &'s Inode,
}

impl DirContent for Stored<'_> {
    fn length(&self) -> u64 {
        self.directory.length()
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<(), FileError> {
        let mut done = 0;
        while done < buf.len() {
            let at = offset + done as u64;
            if at >= self.directory.length() {
                buf[done..].fill(0);
                break;
            }
            let end = offset + buf.len() as u64;
            let run = self.store.run_at(self.directory, at, end)?;
            let length = (buf.len() - done).min(run.length as usize);
            let part = &mut buf[done..done + length];
            match run.place {
                Place::Data(place) => self.store.reader().read(place, part)?,
                _ => part.fill(0),
            }
            done += length;
        }
        Ok(())
    }

    fn write(&mut self, _: u64, _: &[u8]) -> Result<(), FileError> {
        unreachable!("a lookup writes nothing")
    }

    fn set_length(&mut self, _: u64) -> Result<(), FileError> {
        unreachable!("a lookup writes nothing")
    }
}

impl FileEdit<'_, '_> {
    /// Makes what a directory that grows takes in again read as zeros.
    fn clear_gap(&mut self, length: u64) -> Result<(), FileError> {
        if self.meta().zero_level() == crate::format::ZeroLevel::Resident {
            return Ok(());
        }
        let shift = self.block_shift();
        let mut at = self.length();
        while at < length {
            let stop = (((at >> shift) + 1) << shift).min(length);
            if let Slot::Block { place, .. } = self.slot(at >> shift)? {
                let inside = at & ((1 << shift) - 1);
                let zeros = vec![0; (stop - at) as usize];
                self.changes.txn.write(place + inside, &zeros)?;
            }
            at = stop;
        }
        Ok(())
    }

    /// Writes content that is metadata: through the transaction, blocks being allocated.
    fn write_metadata(&mut self, offset: u64, bytes: &[u8]) -> Result<(), FileError> {
        let layout = self.layout();
        if self.meta().zero_level() == crate::format::ZeroLevel::Resident {
            let room = self.image.data_mut(layout);
            room[offset as usize..][..bytes.len()].copy_from_slice(bytes);
            return Ok(());
        }
        let shift = self.block_shift();
        let mut done = 0;
        while done < bytes.len() {
            let at = offset + done as u64;
            let inside = at & ((1 << shift) - 1);
            let length = (bytes.len() - done).min(((1 << shift) - inside) as usize);
            let index = at >> shift;
            let place = match self.slot(index)? {
                Slot::Block { place, .. } => place,
                Slot::Hole => {
                    let taken = self.allocate(index, 1, false)?;
                    let first = taken.first().map(|&(_, place)| place);
                    first.ok_or_else(|| self.damage(0, "a block for the directory"))?
                }
            };
            self.changes
                .txn
                .write(place + inside, &bytes[done..done + length])?;
            done += length;
        }
        Ok(())
    }
}
