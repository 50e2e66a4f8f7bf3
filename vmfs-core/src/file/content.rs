use super::error::FileError;
use super::inode::Inode;
use super::store::FileStore;
use crate::format::{FileKind, ZeroLevel};
use crate::resource::{Place, Run};

/// What to look for in a sparse file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SeekTo {
    /// Bytes that are stored.
    Data,
    /// Bytes that read as zeros without being stored, or the end of the file.
    Hole,
}

impl FileStore {
    /// Reads up to `buf.len()` bytes at `offset`; returns how many, fewer only at the end.
    pub fn read(&self, inode: &Inode, offset: u64, buf: &mut [u8]) -> Result<usize, FileError> {
        refuse_raw_disk(inode)?;
        let left = inode.length().saturating_sub(offset);
        let wanted = buf.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let is_metadata = self.reader().is_layered()
            && (inode.is_directory() || inode.map().zero_level() == ZeroLevel::Resident);
        let mut done = 0;
        while done < wanted {
            let at = offset + done as u64;
            let run = self.run_at(inode, at, offset + wanted as u64)?;
            let length = (wanted - done).min(usize::try_from(run.length).unwrap_or(usize::MAX));
            let part = &mut buf[done..done + length];
            match run.place {
                // What a journal may hold newer than the volume.
                Place::Data(place) if is_metadata => self.reader().read(place, part)?,
                Place::Data(place) => self.reader().volume().read(place, part)?,
                Place::ToBeZeroed(_) | Place::Hole => part.fill(0),
            }
            done += length;
        }
        Ok(wanted)
    }

    /// The run of `inode` that starts at `offset`, before its end, merged up to `limit`.
    pub fn run_at(&self, inode: &Inode, offset: u64, limit: u64) -> Result<Run, FileError> {
        if inode.map().zero_level() == ZeroLevel::None {
            // An empty address array: nothing is allocated.
            return Ok(Run {
                offset,
                length: inode.length() - offset,
                place: Place::Hole,
            });
        }
        let sources = &self.resources().sources;
        Ok(inode.map().run_at(self.reader(), sources, offset, limit)?)
    }

    /// The first offset from `offset` on where there is data or a hole, as lseek(2) defines them.
    ///
    /// `None`: `offset` is at or behind the end, or no data follows.
    pub fn seek(&self, inode: &Inode, offset: u64, to: SeekTo) -> Result<Option<u64>, FileError> {
        refuse_raw_disk(inode)?;
        let length = inode.length();
        let found = if inode.map().zero_level() == ZeroLevel::None {
            (to == SeekTo::Hole && offset < length).then_some(offset)
        } else {
            let sources = &self.resources().sources;
            inode.map().find(self.reader(), sources, offset, |place| {
                matches!(place, Place::Data(_)) == (to == SeekTo::Data)
            })?
        };
        // Every file ends in a hole.
        let end = (to == SeekTo::Hole && offset < length).then_some(length);
        Ok(found.or(end))
    }
}

/// The data of an RDM pointer isn't on the volume; zeros in its place would be a lie.
fn refuse_raw_disk(inode: &Inode) -> Result<(), FileError> {
    if inode.kind() == FileKind::Rdm {
        let disk = inode
            .rdm()
            .map(|mapping| mapping.disk.text())
            .unwrap_or_default();
        return Err(FileError::RawDisk {
            fd: inode.fd(),
            disk,
        });
    }
    Ok(())
}
