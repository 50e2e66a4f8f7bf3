//! Making, linking, removing and renaming.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use fuser::{Errno, INodeNo, RenameFlags, Request};
use vmfs_core::format::FdAddr;
use vmfs_core::fs::{Creator, FsError, Inode, OpenMode, Rename};

use super::Mounted;
use super::files::Files;

const TYPE: u32 = 0o170_000;
const REGULAR: u32 = 0o100_000;
const SET_GROUP_ID: u32 = 0o2000;
const PERMISSIONS: u32 = 0o7777;

/// What is to be made.
#[derive(Debug, Clone, Copy)]
pub(super) enum New<'a> {
    File(u32),
    Directory(u32),
    Symlink(&'a [u8]),
}

impl New<'_> {
    /// What mknod(2) makes of `mode`.
    ///
    /// # Errors
    /// EPERM, as mknod(2) has it, for what the format has no kind of file for.
    pub(super) fn node(mode: u32) -> Result<Self, Errno> {
        match mode & TYPE {
            0 | REGULAR => Ok(Self::File(mode)),
            _ => Err(Errno::EPERM),
        }
    }
}

impl Mounted {
    /// The file called `name`.
    pub(super) fn find(&self, parent: INodeNo, name: &OsStr) -> Result<Arc<Inode>, Errno> {
        let directory = self.files.inode(parent)?;
        // How the kernel asks for what a file handle names, whatever kind of file it is.
        if name == "." {
            let is_known = self.files.told.knows_as(parent, directory.fd());
            return if is_known {
                Ok(directory)
            } else {
                Err(Errno::ESTALE)
            };
        }
        let found = self.files.fs.lookup(&directory, name.as_bytes());
        self.files.heard(directory.fd(), found)
    }

    /// Makes something called `name` for the caller of `request`.
    pub(super) fn make(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new: New<'_>,
    ) -> Result<Arc<Inode>, Errno> {
        let directory = self.files.inode(parent)?;
        let (fd, name) = (directory.fd(), name.as_bytes());
        let creator = |mode| creator(request, &directory, mode);
        self.change_names(fd, || {
            let fs = &self.files.fs;
            match new {
                New::File(mode) => fs.create(fd, name, creator(mode)),
                New::Directory(mode) => {
                    let inherited = directory.mode() & SET_GROUP_ID;
                    fs.make_directory(fd, name, creator(mode | inherited))
                }
                New::Symlink(target) => fs.make_symlink(fd, name, target, creator(0o777)),
            }
        })
    }

    /// Makes a file called `name` and opens it as `mode` says; whether it is open, which else is to be done yet.
    pub(super) fn make_open(
        &self,
        request: &Request,
        (parent, name): (INodeNo, &OsStr),
        permissions: u32,
        mode: OpenMode,
    ) -> Result<(Arc<Inode>, bool), Errno> {
        let directory = self.files.inode(parent)?;
        let (fd, fs) = (directory.fd(), &self.files.fs);
        let mut made = None;
        let done = self.change_names(fd, || {
            let creator = creator(request, &directory, permissions);
            made = Some(fs.create_open(fd, name.as_bytes(), creator, mode)?);
            Ok(())
        });
        match (done, made) {
            (Ok(()), Some(made)) => Ok(made),
            (Err(errno), Some((inode, true))) => {
                fs.close_file(inode.fd(), mode);
                Err(errno)
            }
            (done, _) => Err(done.err().unwrap_or(Errno::EIO)),
        }
    }

    /// Gives a file one more name.
    pub(super) fn make_link(
        &self,
        node: INodeNo,
        parent: INodeNo,
        name: &OsStr,
    ) -> Result<Arc<Inode>, Errno> {
        let (file, directory) = (Files::fd(node)?, Files::fd(parent)?);
        let before = self.files.inode(node)?;
        let after = self.change_names(directory, || {
            self.files.fs.link(file, directory, name.as_bytes())
        })?;
        // The kernel is about to hear of it under the new name, and must take it for the same.
        self.files.told.change(&before, &after, false);
        Ok(after)
    }

    /// Removes a name.
    pub(super) fn remove(
        &self,
        parent: INodeNo,
        name: &OsStr,
        is_directory: bool,
    ) -> Result<(), Errno> {
        let (directory, name) = (Files::fd(parent)?, name.as_bytes());
        self.change_names(directory, || {
            if is_directory {
                self.files.fs.remove_directory(directory, name)
            } else {
                self.files.fs.unlink(directory, name)
            }
        })
    }

    /// Gives what has a name another one.
    pub(super) fn move_name(
        &self,
        (parent, name): (INodeNo, &OsStr),
        (new_parent, new_name): (INodeNo, &OsStr),
        flags: RenameFlags,
    ) -> Result<(), Errno> {
        let how = match flags {
            RenameFlags::RENAME_NOREPLACE => Rename::NoReplace,
            RenameFlags::RENAME_EXCHANGE => Rename::Exchange,
            none if none.is_empty() => Rename::Replace,
            _ => return Err(Errno::EINVAL),
        };
        let (from, to) = (Files::fd(parent)?, Files::fd(new_parent)?);
        self.change_names(from, || {
            let (name, new_name) = (name.as_bytes(), new_name.as_bytes());
            self.files.fs.rename(from, name, to, new_name, how)
        })
    }

    fn change_names<T>(
        &self,
        directory: FdAddr,
        change: impl FnOnce() -> Result<T, FsError>,
    ) -> Result<T, Errno> {
        let Some(changing) = &self.changing else {
            return Err(Errno::EROFS);
        };
        changing.listings.names_change();
        let mut result = change();
        if changing.syncs_names && result.is_ok() {
            result = result.and_then(|done| self.files.fs.sync().map(|()| done));
        }
        self.files.heard(directory, result)
    }
}

/// The owner and mode of what the caller of `request` makes in `directory`.
fn creator(request: &Request, directory: &Inode, mode: u32) -> Creator {
    let inherits = directory.mode() & SET_GROUP_ID != 0;
    Creator {
        mode: mode & PERMISSIONS,
        uid: request.uid(),
        gid: if inherits {
            directory.meta().gid.get()
        } else {
            request.gid()
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_regular_files_can_be_made_as_nodes() {
        for (mode, possible) in [
            (0o644, true),
            (0o100_644, true),
            (0o010_644, false),
            (0o020_644, false),
            (0o060_644, false),
            (0o140_644, false),
        ] {
            assert_eq!(New::node(mode).is_ok(), possible, "{mode:o}");
        }
    }
}
