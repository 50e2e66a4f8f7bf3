//! Taking a file's lock from whoever has it, for an administrator.

use std::collections::BTreeSet;

use super::engine::Engine;
use super::error::FsError;
use super::file_system::FileSystem;
use crate::cluster::{HolderView, Host, LockView, evict, host_at};
use crate::format::FdAddr;

impl FileSystem {
    /// Takes the lock of `file` from all other hosts that hold it, and frees it. A host that is
    /// gone just loses it. A dead one is taken over from first; whether it is dead may take a
    /// lease to see. One that lives is taken over from as well, but only with `force`: it
    /// then loses its hold on the whole volume, and all that it had not written. Returns who held the lock.
    ///
    /// [`FileSystem::keep_up`] has to be called meanwhile by another thread.
    ///
    /// # Errors
    /// [`FsError::Busy`] when a host that lives holds it, and `force` isn't given; then nothing
    /// has changed, or hosts that were dead are taken over from.
    pub fn break_lock(&self, file: FdAddr, force: bool) -> Result<Vec<HolderView>, FsError> {
        let engine = self.engine()?;
        let place = self.store().place_of(file)?;
        let look = || LockView::read(self.volume(), self.layout(), place);
        let held_by = look()?.holders;
        let me = engine.membership.offset();
        loop {
            let holders = look()?.holders.into_iter().filter_map(|holder| holder.host);
            let Some(holder) = holders.into_iter().find(|host| host.offset != me) else {
                break;
            };
            match self.lives(engine, &holder)? {
                None => {}
                Some(false) => {
                    let _call = engine.sharing.enter();
                    self.recover_from(engine, &holder)?;
                }
                Some(true) if force => self.evict(engine, &holder)?,
                Some(true) => {
                    let by = holder.shown();
                    return Err(FsError::Busy { by });
                }
            }
        }
        let _call = engine.sharing.enter();
        // Taken and given back it is free.
        drop(self.lock_places(engine, &BTreeSet::from([place]))?);
        Ok(held_by)
    }

    /// Whether a host lives; `None` if it has gone by itself. Waits until that is certain.
    fn lives(&self, engine: &Engine, host: &Host) -> Result<Option<bool>, FsError> {
        let watch = &engine.sharing.watch;
        loop {
            let found = host_at(self.volume(), self.layout(), host.offset)?;
            let same =
                |found: &Host| (found.host, found.generation) == (host.host, host.generation);
            let Some(found) = found.filter(same) else {
                return Ok(None);
            };
            if watch.look(&found).still >= watch.patience() {
                return Ok(Some(false));
            }
            if found.stamp_us != host.stamp_us {
                return Ok(Some(true));
            }
            self.engine()?;
            engine.host.clock.sleep(engine.host.heartbeat / 8);
        }
    }

    /// Takes over from a host that lives.
    fn evict(&self, engine: &Engine, host: &Host) -> Result<(), FsError> {
        let _call = engine.sharing.enter();
        let _one = engine.sharing.recovering.lock();
        super::recover::check_others(self.volume(), self.layout(), std::slice::from_ref(host))?;
        let watch = &engine.sharing.watch;
        let taken = evict(&engine.membership, self.layout(), watch, host)?;
        let Some(takeover) = taken else {
            return Ok(());
        };
        self.recover(engine, takeover)
    }
}
