//! Whether other hosts are there, and what this one does when they come and go.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::SeqCst;

use super::opens::Opens;
use crate::cluster::{Host, LockMethod};
use crate::format::FdAddr;
use crate::fs::engine::Engine;
use crate::fs::error::FsError;
use crate::fs::file_system::FileSystem;

impl FileSystem {
    /// From now on everything is locked and in place before a call returns.
    ///
    /// If calls are under way that don't end soon nothing happens yet.
    pub(in crate::fs) fn begin_sharing(&self, engine: &Engine) -> Result<(), FsError> {
        let sharing = &engine.sharing;
        if sharing.is_shared() {
            return Ok(());
        }
        let Some(_alone) = sharing.calls.try_write_for(engine.host.heartbeat / 2) else {
            return Ok(());
        };
        let reader = self.store().reader();
        if let Some(journal) = reader.journal() {
            journal.start_over(reader)?;
        }
        self.forget_everything(engine);
        let opens: BTreeMap<FdAddr, Opens> = sharing
            .opens
            .iter()
            .map(|open| (*open.key(), *open))
            .collect();
        for (file, opens) in opens {
            let place = self.store().place_of(file)?;
            if let Some(mode) = opens.strongest()
                && let Err(error) = sharing.locks.open(place, mode)
            {
                tracing::error!("open file {file} can't be locked: {error}");
            }
        }
        sharing.shared.store(true, SeqCst);
        let now = engine.host.clock.uptime().as_millis() as u64;
        sharing.telling_since.store(now.max(1), SeqCst);
        tracing::info!("another host is there: the volume is shared from now on");
        Ok(())
    }

    /// Locks nothing any more and keeps what was read, if no other host is there.
    pub(in crate::fs) fn stop_sharing(&self, engine: &Engine) -> Result<(), FsError> {
        let sharing = &engine.sharing;
        let Some(_alone) = sharing.calls.try_write_for(engine.host.heartbeat / 2) else {
            return Ok(());
        };
        if !sharing.is_shared() || sharing.telling_since.load(SeqCst) != 0 {
            return Ok(());
        }
        self.settle_rest(engine)?;
        engine.membership.set_shares(false)?;
        // Who comes now sees that. Who came before is seen here.
        if !self
            .other_hosts(engine, engine.membership.method() == LockMethod::Alone)?
            .is_empty()
        {
            engine.membership.set_shares(true)?;
            return Ok(());
        }
        self.forget_everything(engine);
        sharing.alone.fetch_add(1, SeqCst);
        sharing.shared.store(false, SeqCst);
        tracing::debug!("no other host is there");
        Ok(())
    }

    fn forget_everything(&self, engine: &Engine) {
        engine.sharing.locks.forget();
        engine.allocator.forget_clusters();
        engine.forget_all_hints();
        self.store().forget();
    }

    /// The other hosts that have a slot; with `all`, in those behind the first as well.
    pub(in crate::fs) fn other_hosts(
        &self,
        engine: &Engine,
        all: bool,
    ) -> Result<Vec<Host>, FsError> {
        let mut hosts = self.hosts_there(all)?;
        hosts.retain(|host| host.offset != engine.membership.offset());
        Ok(hosts)
    }

    /// The same with this host, if its slot is among them.
    pub(in crate::fs) fn hosts_there(&self, all: bool) -> Result<Vec<Host>, FsError> {
        /// As many hosts can share a volume.
        const WATCHED: u64 = 128;
        let count = if all { u64::MAX } else { WATCHED };
        Ok(crate::cluster::first_hosts(
            self.volume(),
            self.layout(),
            count,
        )?)
    }
}
