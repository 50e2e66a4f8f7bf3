//! Disk locks: docs/fsck/hosts.md.

use vmfs_core::format::{DiskLock, LockKind, LockMode, Uuid};
use vmfs_core::lvm::VolumeOffset;
use zerocopy::{FromBytes, IntoBytes};

use crate::code::Code;
use crate::finding::Finding;
use crate::plan::Stage;
use crate::round::Round;

/// Checks the lock that `bytes` begin with, which lie at `offset` and belong to `owner`.
pub(crate) fn examine(
    round: &mut Round<'_, '_>,
    bytes: &mut [u8],
    kind: LockKind,
    offset: VolumeOffset,
    owner: &dyn Fn() -> String,
) {
    let Ok((lock, _)) = DiskLock::mut_from_prefix(bytes) else {
        return;
    };
    let wrong = damage(lock, kind, offset);
    if let Some(wrong) = wrong {
        let finding = Finding::new(Code::LockDamaged, format!("lock of {}", owner()), wrong)
            .at_volume(offset.0)
            .repair("write a free lock");
        if round.found(finding) {
            let token = lock.token.get();
            *lock = DiskLock::fresh(kind, offset.0);
            // Who remembers the lock must see that it is another one.
            lock.token = token.wrapping_add(1).max(1).into();
            round.put(Stage::Refer, offset, lock.as_bytes());
        }
        return;
    }
    if lock.mode() == LockMode::Free || is_held(round, lock) {
        return;
    }
    let finding = Finding::new(
        Code::LockStale,
        format!("lock of {}", owner()),
        format!(
            "{:?} of a host that isn't there, heartbeat {:#x} generation {}",
            lock.mode(),
            lock.heartbeat,
            lock.heartbeat_generation
        ),
    )
    .at_volume(offset.0)
    .repair("free the lock");
    if round.found(finding) {
        lock.mode = 0.into();
        lock.owner = Uuid::default();
        lock.holder_count = 0.into();
        lock.holders = zerocopy::FromZeros::new_zeroed();
        lock.token = lock.token.get().wrapping_add(1).into();
        round.put(Stage::Refer, offset, lock.as_bytes());
    }
}

fn damage(lock: &DiskLock, kind: LockKind, offset: VolumeOffset) -> Option<String> {
    if lock.kind.get() != kind as u32 {
        let expected = kind as u32;
        return Some(format!("kind is {:#x}, expected {expected:#x}", lock.kind));
    }
    if lock.address.get() != offset.0 {
        return Some(format!(
            "own address is {:#x}, expected {:#x}",
            lock.address, offset.0
        ));
    }
    if let LockMode::Unknown(mode) = lock.mode() {
        return Some(format!("mode is {mode:#x}, expected 0 to 3"));
    }
    if lock.holder_count.get() as usize > lock.holders.len() {
        return Some(format!(
            "{} hosts share it, expected at most 8",
            lock.holder_count
        ));
    }
    None
}

/// Whether a host that is there may have the lock.
fn is_held(round: &Round<'_, '_>, lock: &DiskLock) -> bool {
    let there = |heartbeat: u64, generation: u64| {
        let mut hosts = round.hosts.iter();
        hosts.any(|host| host.offset.0 == heartbeat && host.generation == generation)
    };
    let used = lock.holder_count.get() as usize;
    let holders = lock.holders.iter().take(used);
    there(lock.heartbeat.get(), lock.heartbeat_generation.get()) || { holders }
        .any(|holder| there(holder.heartbeat.get(), holder.generation.get()))
}
