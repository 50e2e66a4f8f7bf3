//! open(2) with O_CREAT where the kernel found no file: another host may make it meanwhile.

use std::ffi::OsStr;
use std::sync::Arc;

use fuser::{Errno, FileAttr, FileHandle, FopenFlags, INodeNo, OpenAccMode, OpenFlags, Request};
use rustix::fs::OFlags;
use vmfs_core::format::FileKind;
use vmfs_core::fs::{Changes, Inode};

use super::Mounted;
use super::names::New;
use super::opens::open_mode;

/// How often a file is made and looked for that other hosts make and delete at the same time.
const TRIES: u32 = 64;
/// Permissions, as a class of users has them.
const READ: u16 = 4;
const WRITE: u16 = 2;
const STICKY: u16 = 0o1000;

/// A file that was made, or found, and opened.
pub(super) struct Created {
    pub(super) inode: Arc<Inode>,
    /// The kernel's number of it.
    pub(super) number: INodeNo,
    pub(super) handle: FileHandle,
    pub(super) how: FopenFlags,
    /// It was made.
    pub(super) is_new: bool,
}

impl Mounted {
    /// Makes a file called `name` and opens it, or opens what another host has made by now.
    ///
    /// # Errors
    /// ESTALE if the kernel has to say whether the caller may open that: it looks the name up again, and opens
    /// what it finds.
    pub(super) fn create_or_open(
        &self,
        request: &Request,
        (parent, name): (INodeNo, &OsStr),
        mode: u32,
        flags: OpenFlags,
    ) -> Result<Created, Errno> {
        let exclusive = has(flags, OFlags::EXCL);
        for _ in 0..TRIES {
            let alone = self.files.fs.alone();
            let made = self.make_and_perhaps_open(request, (parent, name), mode, flags);
            let (inode, is_new, is_open) = match made {
                Err(Errno::EEXIST) if !exclusive => match self.find(parent, name) {
                    Err(Errno::ENOENT) => continue,
                    found => (found?, false, false),
                },
                made => made.map(|(inode, is_open)| (inode, true, is_open))?,
            };
            if !is_new && !self.surely_may_open(request, parent, &inode, flags)? {
                return Err(Errno::ESTALE);
            }
            let number = self.looked_up(&inode);
            let opened = if is_open {
                Ok(self.count_new(inode.fd(), flags, false))
            } else if is_new {
                self.open_new(inode.fd(), flags)
            } else {
                self.open_found(number, flags)
            };
            let opened = opened.and_then(|(handle, how)| {
                let inode = if is_open {
                    inode
                } else {
                    let inode = self.as_opened(number, inode);
                    inode.inspect_err(|_| self.close_file(number, handle, flags))?
                };
                if let Some(number) = alone.filter(|_| alone == self.files.fs.alone()) {
                    self.files.told.trust(inode.fd(), number);
                }
                Ok(Created {
                    inode,
                    number,
                    handle,
                    how,
                    is_new,
                })
            });
            match opened {
                Err(errno) => {
                    self.forgotten(number, 1);
                    // Another host has deleted or changed it.
                    if errno != Errno::ESTALE {
                        return Err(errno);
                    }
                }
                opened => return opened,
            }
        }
        Err(Errno::ESTALE)
    }

    /// Makes a file, and opens it in the same step where its path needn't be known for that; whether it is open.
    fn make_and_perhaps_open(
        &self,
        request: &Request,
        name: (INodeNo, &OsStr),
        mode: u32,
        flags: OpenFlags,
    ) -> Result<(Arc<Inode>, bool), Errno> {
        let changing = self.changing.as_ref();
        if changing.is_some_and(|changing| changing.shared.is_empty()) {
            return self.make_open(request, name, mode, open_mode(flags, false));
        }
        let made = self.make(request, name.0, name.1, New::File(mode))?;
        Ok((made, false))
    }

    /// A file that was found or made as `inode`, as it is since it was opened: before that another host may have
    /// written to it. The kernel, which is about to be told of it, appends where it believes the end to be.
    ///
    /// # Errors
    /// ESTALE when another host has deleted it.
    fn as_opened(&self, node: INodeNo, inode: Arc<Inode>) -> Result<Arc<Inode>, Errno> {
        if !self.caching.is_shared() {
            return Ok(inode);
        }
        let inode = self.files.inode(node)?;
        self.files.told.settle(&inode);
        Ok(inode)
    }

    /// Opens a file that the kernel believes to be new, so that it leaves what O_TRUNC says to this.
    fn open_found(
        &self,
        node: INodeNo,
        flags: OpenFlags,
    ) -> Result<(FileHandle, FopenFlags), Errno> {
        let opened = self.open_file(node, flags)?;
        if has(flags, OFlags::TRUNC) {
            let nothing = Changes {
                size: Some(0),
                ..Changes::default()
            };
            if let Err(errno) = self.set_attributes(node, &nothing) {
                self.close_file(node, opened.0, flags);
                return Err(errno);
            }
        }
        Ok(opened)
    }

    /// Whether there is no doubt that the kernel would let the caller open a file, which it doesn't ask for
    /// those it believes to be new.
    fn surely_may_open(
        &self,
        request: &Request,
        parent: INodeNo,
        file: &Inode,
        flags: OpenFlags,
    ) -> Result<bool, Errno> {
        let directory = self.attributes(&*self.files.inode(parent)?).0;
        let attributes = self.attributes(file).0;
        let user = (request.uid(), request.gid());
        Ok(file.kind() == FileKind::Regular && may_open(user, &directory, &attributes, flags))
    }
}

fn may_open(
    (user, group): (u32, u32),
    directory: &FileAttr,
    file: &FileAttr,
    flags: OpenFlags,
) -> bool {
    // Where everybody may make files, others' may be a trap: fs.protected_regular.
    let is_trap = directory.perm & STICKY != 0 && directory.perm & 0o022 != 0;
    if is_trap && file.uid != user && file.uid != directory.uid {
        return false;
    }
    let mut wanted = match flags.acc_mode() {
        OpenAccMode::O_RDONLY => READ,
        OpenAccMode::O_WRONLY => WRITE,
        OpenAccMode::O_RDWR => READ | WRITE,
    };
    if has(flags, OFlags::TRUNC) {
        wanted |= WRITE;
    }
    let class = if file.uid == user {
        file.perm >> 6
    } else if file.gid == group {
        file.perm >> 3
    } else {
        // The file's group may be one more of the user's.
        file.perm & file.perm >> 3
    };
    user == 0 || class & wanted == wanted
}

fn has(flags: OpenFlags, flag: OFlags) -> bool {
    flags.0 & flag.bits().cast_signed() != 0
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use fuser::FileType;

    use super::*;

    fn attributes(perm: u16, uid: u32, gid: u32) -> FileAttr {
        FileAttr {
            ino: INodeNo(1),
            size: 0,
            blocks: 0,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH + Duration::from_secs(1),
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: FileType::RegularFile,
            perm,
            nlink: 1,
            uid,
            gid,
            rdev: 0,
            blksize: 512,
            flags: 0,
        }
    }

    #[test]
    fn files_of_others_are_opened_only_where_there_is_no_doubt() {
        let folder = attributes(0o755, 0, 0);
        let flags = |flags: OFlags| OpenFlags(flags.bits().cast_signed());
        let (read, write) = (flags(OFlags::RDONLY), flags(OFlags::WRONLY));
        let cut = flags(OFlags::RDONLY | OFlags::TRUNC);
        let file = attributes(0o640, 7, 8);
        for (user, may_read, may_write) in [
            ((7, 1), true, true),
            ((1, 8), true, false),
            // Whether 1 is in group 8 besides isn't known here.
            ((1, 1), false, false),
            ((0, 0), true, true),
        ] {
            assert_eq!(may_open(user, &folder, &file, read), may_read, "{user:?}");
            assert_eq!(may_open(user, &folder, &file, write), may_write, "{user:?}");
            assert_eq!(may_open(user, &folder, &file, cut), may_write, "{user:?}");
        }
        let open_to_all = attributes(0o666, 7, 8);
        assert!(may_open((1, 1), &folder, &open_to_all, write));
        let tmp = attributes(0o1777, 0, 0);
        assert!(!may_open((0, 0), &tmp, &open_to_all, write));
        assert!(may_open((7, 1), &tmp, &open_to_all, write));
        // The root of a VMFS volume, where only its owner makes files.
        let root = attributes(0o1755, 0, 0);
        assert!(may_open((0, 0), &root, &open_to_all, write));
    }
}
