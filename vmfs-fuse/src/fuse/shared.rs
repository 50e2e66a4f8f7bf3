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

    /// Whether a file is one of them. A path means what has it at that moment.
    pub(super) fn has(&self, fs: &FileSystem, fd: FdAddr) -> bool {
        self.paths.iter().any(|path| {
            fs.resolve(path.as_bytes(), true)
                .is_ok_and(|inode| inode.fd() == fd)
        })
    }
}
