//! A copy that isn't complete yet: `NAME.vmfs-part`.

use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use vmfs_core::fs::{FileSystem, Inode};

use super::file::{CHUNK, at};
use super::lost::List;

/// A resumed copy trusts what is further than this from the end of the part file: a host that
/// lost power may have lost what wasn't durable yet, and every so often it is made so.
pub(super) const DURABLE_EVERY: u64 = 256 << 20;

/// What is appended to the name of a copy while it isn't complete.
pub(super) const SUFFIX: &str = ".vmfs-part";

/// A copy that isn't complete yet.
pub(super) struct Part {
    pub(super) path: PathBuf,
    pub(super) file: File,
    /// What it lacks.
    pub(super) list: List,
    /// What the list said when this copy began.
    pub(super) lost: Vec<Range<u64>>,
}

impl Part {
    /// Makes the part file of the copy at `destination`, or opens the one that an interrupted
    /// copy left if this one is to go on with it.
    pub(super) fn open(destination: &Path, resume: bool) -> Result<Self, String> {
        let list = List::of(destination);
        let path = beside(destination, SUFFIX);
        let mut how = File::options();
        how.read(true).write(true);
        // The list goes last: a part file must not lose the list of what it lacks.
        let lost = list.read(resume)?;
        let old = open_own(&path, &how).map_err(|error| at(&path, &error))?;
        let file = match old {
            Some(old) if resume => old,
            old => {
                if old.is_some() {
                    fs::remove_file(&path).map_err(|error| at(&path, &error))?;
                }
                let made = how.create_new(true).open(&path);
                made.map_err(|error| at(&path, &error))?
            }
        };
        if !resume {
            list.remove().map_err(|error| at(&path, &error))?;
        }
        Ok(Self {
            path,
            file,
            list,
            lost,
        })
    }

    /// Finds out whether the destination can hold so large a file before hours are spent on it;
    /// the part file's own length says how far the copy has come, so it is put back.
    pub(super) fn check_size(&self, length: u64, start: u64) -> io::Result<()> {
        self.file
            .set_len(length)
            .map_err(|error| match error.kind() {
                io::ErrorKind::FileTooLarge => {
                    let size = crate::output::human(length);
                    io::Error::other(format!("the file system there can't hold a file of {size}"))
                }
                _ => error,
            })?;
        self.file.set_len(start)
    }

    /// Where to go on: before what may not have been durable, after a look that the part file is
    /// of this file.
    pub(super) fn resume_point(
        &self,
        fs: &FileSystem,
        inode: &Inode,
        resume: bool,
    ) -> Result<u64, String> {
        if !resume {
            return Ok(0);
        }
        let found = self.file.metadata().map_err(|error| error.to_string())?;
        let have = found.len().min(inode.length());
        let start = have.saturating_sub(DURABLE_EVERY) / CHUNK as u64 * CHUNK as u64;
        if start == 0 {
            return Ok(0);
        }
        let (mut ours, mut theirs) = (vec![0; CHUNK], vec![0; CHUNK]);
        let mut compared = false;
        for offset in [0, start / 2, start - CHUNK as u64] {
            let length = (start - offset).min(CHUNK as u64) as usize;
            let end = offset + length as u64;
            let lost = self.lost.iter().any(|r| r.start < end && offset < r.end);
            if lost || fs.read(inode, offset, &mut theirs[..length]).is_err() {
                continue;
            }
            let read = self.file.read_exact_at(&mut ours[..length], offset);
            if read.is_err() || ours[..length] != theirs[..length] {
                return Err(
                    "the part file is of something else: remove it, or copy without --resume"
                        .to_owned(),
                );
            }
            compared = true;
        }
        if !compared {
            return Err(
                "what tells whether the part file is of this file can't be read: copy without \
                 --resume"
                    .to_owned(),
            );
        }
        Ok(start)
    }

    /// Gives the part file its length and makes it durable.
    pub(super) fn finish(&self, length: u64) -> io::Result<()> {
        self.file.set_len(length)?;
        self.file.sync_all()
    }
}

/// A name beside that of the copy.
pub(super) fn beside(destination: &Path, suffix: &str) -> PathBuf {
    let mut name = destination.file_name().unwrap_or_default().to_owned();
    name.push(suffix);
    destination.with_file_name(name)
}

/// Opens a file that an earlier copy has left; `None` if there is none. What no copy can have left
/// is in the way: writing to it would change what somebody else means by another name.
pub(super) fn open_own(path: &Path, how: &fs::OpenOptions) -> io::Result<Option<File>> {
    // A FIFO must not make the copy wait.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let opened = how
        .clone()
        .custom_flags(flags.bits().cast_signed())
        .open(path);
    let found = match &opened {
        Ok(file) => file.metadata()?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        // What can't be opened so may tell why.
        Err(_) => fs::symlink_metadata(path)?,
    };
    let kind = found.file_type();
    let what = if kind.is_symlink() {
        "a symbolic link"
    } else if kind.is_dir() {
        "a directory"
    } else if !kind.is_file() {
        "no regular file"
    } else if found.nlink() != 1 {
        "a file that has another name"
    } else if !is_owner_trusted(path, &found) {
        "somebody else's file"
    } else {
        return opened.map(Some);
    };
    Err(io::Error::other(format!(
        "it is in the way, being {what}: move it, or copy to somewhere else"
    )))
}

/// Whether a file is ours: where all files have one owner (FAT, an NFS server that squashes root),
/// that of the folder counts as well; who owns the folder can put anything in place of the copy.
fn is_owner_trusted(path: &Path, found: &fs::Metadata) -> bool {
    let folder = path.parent().filter(|folder| *folder != Path::new(""));
    let owner = fs::metadata(folder.unwrap_or(Path::new("."))).map(|folder| folder.uid());
    found.uid() == rustix::process::geteuid().as_raw() || owner.is_ok_and(|uid| uid == found.uid())
}
