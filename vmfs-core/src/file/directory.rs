use super::error::FileError;
use super::inode::Inode;
use super::store::FileStore;
use super::{directory5, directory6};
use crate::format::{Family, FdAddr, FileKind};

/// A name in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    /// The name; bytes, since nothing makes it UTF-8.
    pub name: Vec<u8>,
    /// The file descriptor that it names.
    pub fd: FdAddr,
    /// What the entry says the file is.
    pub kind: FileKind,
    /// The file descriptor's generation when the entry was made.
    pub generation: u32,
    /// Where to go on listing after this entry.
    pub next: u64,
}

/// No directory that ESXi makes comes near this size; bounds the work that a damaged one can cause.
pub(super) const MAX_DIRECTORY: u64 = 1 << 30;

/// A directory of either format.
#[derive(Debug)]
pub struct Directory<'a> {
    store: &'a FileStore,
    inode: &'a Inode,
}

impl<'a> Directory<'a> {
    /// Looks at `inode` as a directory.
    ///
    /// # Errors
    /// [`FileError::WrongKind`] when it isn't one.
    pub fn new(store: &'a FileStore, inode: &'a Inode) -> Result<Self, FileError> {
        if !inode.is_directory() {
            let (fd, found) = (inode.fd(), inode.kind());
            return Err(FileError::WrongKind {
                fd,
                found,
                wanted: "directory",
            });
        }
        Ok(Self { store, inode })
    }

    /// Calls `visit` with the entries from position `from` on, 0 being the first, until it
    /// returns false. `.` and `..` are left out, as are names that no file can have, which only
    /// a damaged directory holds.
    pub fn for_each(
        &self,
        from: u64,
        visit: &mut dyn FnMut(DirEntry) -> bool,
    ) -> Result<(), FileError> {
        let mut checked = |entry: DirEntry| {
            if entry.name == b"." || entry.name == b".." {
                return true;
            }
            if !is_valid_name(&entry.name) {
                let name = String::from_utf8_lossy(&entry.name).into_owned();
                tracing::warn!(directory = %self.inode.fd(), name, "a name that no file can have");
                return true;
            }
            visit(entry)
        };
        if self.store.reader().layout().family == Family::Vmfs6 {
            directory6::for_each(self.store, self.inode, from, &mut checked)
        } else {
            directory5::for_each(self.store, self.inode, from, &mut checked)
        }
    }

    /// The entry called `name`.
    ///
    /// On VMFS6 through the hash table; on VMFS3 and VMFS5, which have none, by looking at every
    /// entry.
    pub fn lookup(&self, name: &[u8]) -> Result<Option<DirEntry>, FileError> {
        if !is_valid_name(name) {
            return Ok(None);
        }
        if self.store.reader().layout().family == Family::Vmfs6 {
            return directory6::lookup(self.store, self.inode, name);
        }
        let mut found = None;
        self.for_each(0, &mut |entry| {
            if entry.name == name {
                found = Some(entry);
            }
            found.is_none()
        })?;
        Ok(found)
    }

    /// The directory above, as the directory itself says.
    pub fn parent(&self) -> Result<FdAddr, FileError> {
        if self.store.reader().layout().family == Family::Vmfs6 {
            return directory6::parent(self.store, self.inode);
        }
        directory5::parent(self.store, self.inode)
    }
}

/// What an entry's fields say, the same in both formats; `None`, with a warning, when they name no
/// file. `next` is where to go on listing.
pub(super) fn entry_of(
    directory: &Inode,
    next: u64,
    name: &[u8],
    (raw_kind, raw_fd, generation): (u32, u32, u32),
) -> Option<DirEntry> {
    let (Some(fd), Some(kind)) = (FdAddr::from_raw(raw_fd), FileKind::from_raw(raw_kind)) else {
        tracing::warn!(
            directory = %directory.fd(),
            position = next - 1,
            fd = %format_args!("{raw_fd:#x}"),
            kind = raw_kind,
            "a directory entry that names no file is left out"
        );
        return None;
    };
    Some(DirEntry {
        name: name.to_vec(),
        fd,
        kind,
        generation,
        next,
    })
}

/// Whether a name can be one of a file: not empty, without slash, and not `.` or `..`.
pub fn is_valid_name(name: &[u8]) -> bool {
    !name.is_empty() && !name.contains(&b'/') && name != b"." && name != b".."
}
