use super::{Host, LockError, disk, host_at, sector};
use crate::format::{Layout, LockMode, Uuid};
use crate::lvm::{Volume, VolumeOffset};

/// A disk lock as it stands, for people to look at.
#[derive(Debug, Clone, serde::Serialize)]
pub struct LockView {
    /// Where it lies.
    pub place: VolumeOffset,
    /// How it is held; a lock that only hosts which are gone hold may be taken as if it were free.
    pub mode: LockMode,
    /// Counts the lock's changes.
    pub token: u64,
    /// It is held for an open file, not for one call.
    pub is_open: bool,
    /// Who holds it.
    pub holders: Vec<HolderView>,
}

/// A host that holds a lock.
#[derive(Debug, Clone, serde::Serialize)]
pub struct HolderView {
    /// Volume offset of its heartbeat.
    pub heartbeat: VolumeOffset,
    /// Generation of that heartbeat when it took the lock.
    pub generation: u64,
    /// Its UUID.
    #[serde(serialize_with = "super::as_text")]
    pub uuid: Uuid,
    /// The host, as its heartbeat stands; `None` if it is gone, which makes its hold stale.
    pub host: Option<Host>,
}

impl LockView {
    /// Reads the lock at `place`.
    ///
    /// # Errors
    /// When the volume fails, or no lock lies there.
    pub fn read(volume: &Volume, layout: &Layout, place: VolumeOffset) -> Result<Self, LockError> {
        let block = sector::read(volume, place)?;
        let lock = disk::parse(place, &block)?;
        let mut holders = Vec::new();
        for holder in disk::listed(place, lock)? {
            let heartbeat = VolumeOffset(holder.heartbeat.get());
            let generation = holder.generation.get();
            let host = host_at(volume, layout, heartbeat)?;
            holders.push(HolderView {
                heartbeat,
                generation,
                uuid: holder.host,
                host: host.filter(|host| (host.host, host.generation) == (holder.host, generation)),
            });
        }
        Ok(Self {
            place,
            mode: lock.mode(),
            token: lock.token.get(),
            is_open: lock.mode() != LockMode::Exclusive || lock.holder_count.get() > 0,
            holders,
        })
    }

    /// Whether a host has it that isn't gone.
    pub fn is_held(&self) -> bool {
        self.holders.iter().any(|holder| holder.host.is_some())
    }

    /// Whether only hosts have it that are gone.
    pub fn is_stale(&self) -> bool {
        self.mode != LockMode::Free && !self.is_held()
    }
}
