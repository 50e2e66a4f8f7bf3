//! Files that programs on several hosts write to at a time.

use vmfs_core::format::FdAddr;
use vmfs_core::fs::FileSystem;

/// The files that `-o multi_writer=` names.
#[derive(Debug, Default)]
pub(super) struct SharedFiles {
    /// Paths, counted from the root of the volume.
    paths: Vec<String>,
}

impl SharedFiles {
    pub(super) fn new(paths: &[String]) -> Self {
        Self {
            paths: paths.to_vec(),
        }
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.paths.is_empty()
    }

    /// Whether a file is one of them. A path means what has it at that moment.
    pub(super) fn has(&self, fs: &FileSystem, fd: FdAddr) -> bool {
        self.paths.iter().any(|path| {
            fs.resolve(path.as_bytes(), true)
                .is_ok_and(|inode| inode.fd() == fd)
        })
    }
}
