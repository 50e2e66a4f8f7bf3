//! What a host does from time to time.

use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use super::engine::Engine;
use super::error::FsError;
use super::file_system::FileSystem;
use crate::cluster::{LockMethod, Renewal};

impl FileSystem {
    /// Does what a host has to do from time to time: renews its heartbeat, looks at those of the
    /// others and takes over from dead ones, makes what is [`crate::cluster::HostConfig::commit`]
    /// old durable, deletes what nobody holds any more. Returns how long to wait before the next
    /// call. An error is worth a line in the log; the next call tries again.
    pub fn keep_up(&self) -> (Duration, Result<(), FsError>) {
        let engine = match self.engine() {
            Ok(engine) => engine,
            Err(FsError::ReadOnly) => return (Duration::from_secs(1), Ok(())),
            Err(error) => return (Duration::from_secs(1), Err(error)),
        };
        let mut result = Ok(());
        let uptime = engine.host.clock.uptime().as_millis() as u64;
        let mut is_due = engine.membership.age() >= engine.host.heartbeat;
        if engine.membership.method() == LockMethod::Scsi2 {
            // With each look, so that there are no more looks than heartbeats.
            let looked = engine.sharing.looked.load(SeqCst);
            is_due |= uptime >= looked + engine.host.heartbeat.as_millis() as u64;
        } else if is_due {
            result = Self::renew(engine);
            is_due = false;
        }
        let mut wait = engine.host.heartbeat.min(engine.host.commit) / 2;
        if engine.membership.method() != LockMethod::Alone {
            match self.watch_others(engine, uptime, is_due) {
                Ok(soon) => wait = wait.min(soon),
                Err(error) => result = result.and(Err(error)),
            }
        }
        let commit = engine.host.commit.as_millis() as u64;
        if uptime.saturating_sub(engine.tidied.load(SeqCst)) >= commit {
            engine.tidied.store(uptime, SeqCst);
            result = result.and(self.tidy(engine));
        }
        (wait.max(Duration::from_millis(1)), result)
    }

    fn tidy(&self, engine: &Engine) -> Result<(), FsError> {
        let _call = engine.sharing.enter();
        self.settle_rest(engine)?;
        engine.sharing.locks.settle_rest();
        self.finish_inherited(engine)?;
        self.reap_unheld(engine);
        let reader = self.store().reader();
        let Some(journal) = reader.journal() else {
            return Ok(());
        };
        if engine.sharing.is_shared() {
            return Ok(journal.settle(reader)?);
        }
        Ok(journal.tidy(reader)?)
    }

    /// Looks at the other hosts once in a heartbeat's time, and does what follows from it; when to
    /// look again at the latest. If this host's own heartbeat `is_due`, it is renewed on the way: the look
    /// shows that it is this host's still, which without COMPARE AND WRITE takes a read.
    fn watch_others(
        &self,
        engine: &Engine,
        uptime: u64,
        is_due: bool,
    ) -> Result<Duration, FsError> {
        let sharing = &engine.sharing;
        let told = sharing.telling_since.load(SeqCst);
        let kept = engine.host.kept.as_millis() as u64;
        if told != 0 && uptime.saturating_sub(told) >= kept {
            engine.membership.set_shares(true)?;
            sharing.telling_since.store(0, SeqCst);
        }
        let interval = engine.host.heartbeat;
        let next = sharing.looked.load(SeqCst) + interval.as_millis() as u64;
        if uptime < next && told == 0 && !is_due {
            return Ok(Duration::from_millis(next - uptime));
        }
        sharing.looked.store(uptime, SeqCst);
        let mut others = self.hosts_there(false)?;
        if is_due {
            let membership = &engine.membership;
            let own = others
                .iter()
                .find(|host| host.offset == membership.offset());
            match membership.renew_as_seen(own)? {
                Renewal::Renewed => {}
                Renewal::Lost => return Err(FsError::Fenced),
            }
        }
        others.retain(|host| host.offset != engine.membership.offset());
        let was_empty = sharing.was_empty.swap(others.is_empty(), SeqCst);
        if others.is_empty() {
            if was_empty && sharing.is_shared() {
                self.stop_sharing(engine)?;
            }
            return Ok(interval);
        }
        self.begin_sharing(engine)?;
        let mut soon = interval;
        let mut ends = interval;
        for other in &others {
            let still = sharing.watch.look(other).still;
            let left = sharing.watch.patience().saturating_sub(still);
            if left.is_zero() {
                let _call = sharing.enter();
                self.recover_from(engine, other)?;
            } else if still >= interval {
                ends = ends.min(left + Duration::from_millis(1));
            }
        }
        if ends < interval {
            // Not a whole interval later.
            let looked =
                (uptime + ends.as_millis() as u64).saturating_sub(interval.as_millis() as u64);
            sharing.looked.store(looked, SeqCst);
            soon = ends;
        }
        if sharing.telling_since.load(SeqCst) != 0 {
            soon = soon.min(engine.host.kept);
        }
        Ok(soon)
    }
}
