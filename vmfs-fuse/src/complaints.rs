//! Says once what is wrong with the volume, not at every read.

use std::collections::HashSet;
use std::sync::Mutex;

use rustix::io::Errno;
use vmfs_core::format::FdAddr;
use vmfs_core::fs::FsError;

/// Distinct complaints that are logged and remembered.
const MAX: usize = 1000;

/// What has been complained about.
#[derive(Debug, Default)]
pub(crate) struct Complaints {
    made: Mutex<HashSet<String>>,
}

impl Complaints {
    /// Logs `error`, met at the file `fd`, unless the same structure has been logged before; of
    /// errors that aren't damage, the first for each file.
    pub(crate) fn hear(&self, fd: FdAddr, error: &FsError) {
        if is_an_answer(error) {
            return;
        }
        let key = match error.damage() {
            Some(damage) => format!("{} {} {}", damage.structure, damage.at, damage.field),
            None => fd.to_string(),
        };
        let Ok(mut made) = self.made.lock() else {
            return;
        };
        if made.len() > MAX || !made.insert(key) {
            return;
        }
        let many = made.len() > MAX;
        drop(made);
        if many {
            tracing::warn!("more is damaged than is logged; `fsck.vmfs -n` lists everything");
        } else {
            tracing::warn!(file = %fd, "{error}");
        }
    }
}

/// Whether an error tells a caller what it did, and nothing of the volume.
fn is_an_answer(error: &FsError) -> bool {
    matches!(
        error.errno(),
        Errno::NOENT
            | Errno::NAMETOOLONG
            | Errno::LOOP
            | Errno::EXIST
            | Errno::NOTEMPTY
            | Errno::NOTDIR
            | Errno::ISDIR
            | Errno::INVAL
            | Errno::PERM
            | Errno::ROFS
            | Errno::OPNOTSUPP
            | Errno::FBIG
            | Errno::MLINK
    )
}
