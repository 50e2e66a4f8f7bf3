use std::sync::Arc;

use super::changes::Changes;
use super::engine::Engine;
use super::error::FsError;
use super::file_system::FileSystem;
use crate::file::Inode;
use crate::file::edit::FileEdit;
use crate::format::FdAddr;

/// Permission bits, set-user-ID, set-group-ID and sticky bit.
const PERMISSIONS: u32 = 0o7777;

impl FileSystem {
    /// Changes attributes, the length included; ctime is now unless it is given.
    pub fn set_attributes(&self, file: FdAddr, changes: &Changes) -> Result<Arc<Inode>, FsError> {
        let (engine, _call) = self.enter()?;
        self.set_attributes_of(engine, file, changes)
    }

    /// The part of [`FileSystem::set_attributes`] that is a part of other calls.
    pub(super) fn set_attributes_of(
        &self,
        engine: &Engine,
        file: FdAddr,
        changes: &Changes,
    ) -> Result<Arc<Inode>, FsError> {
        let guard = self.lock_files(engine, &[file])?;
        let inode = self.locked_changeable(file)?;
        if let Some(size) = changes.size {
            let inode = self.locked_regular(file)?;
            engine.unsynced.note(file, self.failures());
            let result = self.set_length(engine, &guard, &inode, size);
            self.refresh(&[file])?;
            result?;
        }
        let rest = Changes {
            size: None,
            ..*changes
        };
        if rest != Changes::default() {
            self.change(engine, &guard, |transaction| {
                let now = transaction.now();
                let mut edit = FileEdit::load(transaction, file, inode.offset())?;
                let meta = edit.meta_mut();
                if let Some(mode) = rest.mode {
                    meta.mode = (meta.mode.get() & !PERMISSIONS | mode & PERMISSIONS).into();
                }
                let fields = [
                    (&mut meta.uid, rest.uid),
                    (&mut meta.gid, rest.gid),
                    (&mut meta.atime, rest.atime),
                    (&mut meta.mtime, rest.mtime),
                    (&mut meta.ctime, Some(rest.ctime.unwrap_or(now))),
                ];
                for (field, value) in fields {
                    if let Some(value) = value {
                        *field = value.into();
                    }
                }
                Ok(edit.save()?)
            })?;
        }
        Ok(self.store().refresh(file)?)
    }
}
