use crate::file::Inode;
use crate::format::FdAddr;

/// What stat(2) tells of a file. Sizes are bytes, times seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[allow(missing_docs, reason = "the fields are those of stat(2)")]
pub struct Stat {
    /// The raw file descriptor address, which no other file of the volume ever has at a time.
    pub ino: u64,
    pub mode: u32,
    pub nlink: u32,
    pub uid: u32,
    pub gid: u32,
    pub size: u64,
    /// Bytes taken on the volume.
    pub allocated: u64,
    pub block_size: u64,
    pub mtime: u32,
    pub ctime: u32,
    pub atime: u32,
    /// Tells apart files that had the same `ino` one after the other.
    pub generation: u32,
}

impl Stat {
    /// The inode number of the root directory.
    pub const ROOT_INO: u64 = FdAddr::ROOT.raw() as u64;
}

impl From<&Inode> for Stat {
    fn from(inode: &Inode) -> Self {
        let meta = inode.meta();
        Self {
            ino: inode.fd().raw().into(),
            mode: inode.mode(),
            nlink: meta.links.get(),
            uid: meta.uid.get(),
            gid: meta.gid.get(),
            size: inode.length(),
            allocated: inode.allocated(),
            block_size: meta.block_size.get(),
            mtime: meta.mtime.get(),
            ctime: meta.ctime.get(),
            atime: meta.atime.get(),
            generation: meta.generation.get(),
        }
    }
}
