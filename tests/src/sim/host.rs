//! A host: it mounts the volume, works, unmounts, dies, comes back.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use vmfs_core::cluster::HostConfig;
use vmfs_core::fs::{FileSystem, FsError};
use vmfs_core::lvm::open_luns;
use vmfs_core::scsi::{Lun, PatientLun};

use super::broken::Broken;
use super::client::Client;
use super::clock::HostClock;
use super::lun::SimLun;
use super::scheduler::{Baton, HostId};
use super::watcher;
use super::world::MountId;

/// How long a LUN that others reserve is tried before it is known how they lock.
const RESERVED: Duration = Duration::from_secs(30);
/// Waiting for threads to end.
const TICK: Duration = Duration::from_millis(20);

/// A host's life, until the run is over.
pub fn live(baton: &Arc<Baton>, host: HostId) {
    let start = {
        let mut world = baton.world();
        world.between(Duration::ZERO, Duration::from_secs(6))
    };
    baton.sleep(start);
    loop {
        if is_over(baton) {
            break;
        }
        let (mount, opened) = mount(baton, host);
        if let Ok(fs) = opened {
            stay(baton, mount, Arc::new(fs));
        }
        let rest = {
            let mut world = baton.world();
            world.between(Duration::from_millis(100), Duration::from_secs(20))
        };
        baton.sleep(rest);
    }
    baton.world().done.insert(host);
}

fn is_over(baton: &Baton) -> bool {
    let world = baton.world();
    world.ending || world.turns.now >= world.settings.work_until
}

/// Mounts the volume as a host.
pub fn mount(baton: &Arc<Baton>, host: HostId) -> (MountId, Result<FileSystem, String>) {
    let (mount, config) = {
        let mut world = baton.world();
        let mount = world.begin_mount(host);
        let mut config = HostConfig::new(world.mounts[mount].uuid, &format!("host{host}"));
        config.clock = Arc::new(HostClock {
            baton: Arc::clone(baton),
            host,
            rate: 985_000 + world.random.below(30_000) as u32,
            boot: Duration::from_secs(world.random.below(1_000_000)),
            date: Duration::from_secs(1_800_000_000 + world.random.below(1_000_000)),
        });
        config.journal = 128 << 10;
        if world.settings.broken.contains(&Broken::Patience) && world.random.below(2) == 0 {
            config.lease /= 3;
        }
        (mount, config)
    };
    let (clock, seed) = (Arc::clone(&config.clock), mount as u64);
    let lun = Arc::new(SimLun::new(Arc::clone(baton), mount));
    // As `open_paths` does.
    let lun = Arc::new(PatientLun::for_reading(lun, clock, RESERVED, seed)) as Arc<dyn Lun>;
    let opened = open_luns(vec![lun])
        .map_err(|error| error.to_string())
        .and_then(|volume| {
            FileSystem::open_for_writing(volume, config).map_err(|error| error.to_string())
        });
    (mount, opened)
}

/// Works with a mount until it is to end, or does.
fn stay(baton: &Arc<Baton>, mount: MountId, fs: Arc<FileSystem>) {
    let (host, clients, leaves) = {
        let mut world = baton.world();
        let (host, clients) = (world.mounts[mount].host, world.settings.clients);
        let Range { start, end } = world.settings.stays.clone();
        let stays = world.between(start, end);
        world.busy.insert(mount, clients as u32);
        (host, clients, world.turns.now + stays)
    };
    let leaving = Arc::new(std::sync::atomic::AtomicBool::new(false));
    for _ in 0..clients {
        let (its, fs, leaving) = (Arc::clone(baton), Arc::clone(&fs), Arc::clone(&leaving));
        baton.spawn(Some(host), move || {
            if let Some(mut client) = Client::new(Arc::clone(&its), mount, fs) {
                client.work_until(&leaving);
            }
            if let Some(busy) = its.world().busy.get_mut(&mount) {
                *busy -= 1;
            }
        });
    }
    let mut fenced = false;
    loop {
        let (wait, result) = fs.keep_up();
        if matches!(result, Err(FsError::Fenced)) {
            watcher::gives_up(&mut baton.world(), mount);
        }
        fenced |= matches!(result, Err(FsError::Fenced)) || !fs.is_writable();
        let busy = {
            let world = baton.world();
            let over = world.mounts[mount].is_dead || fenced;
            if over || world.turns.now >= leaves || world.turns.now >= world.settings.work_until {
                leaving.store(true, std::sync::atomic::Ordering::SeqCst);
            }
            // Its registration is what keeps out those that were fenced and don't know it yet:
            // docs/SHARING.md, "What this doesn't do".
            world.busy[&mount] > 0 || !over && world.has_sleepers()
        };
        if !busy {
            break;
        }
        baton.sleep(wait.min(Duration::from_secs(1)));
    }
    baton.world().busy.remove(&mount);
    if !baton.world().mounts[mount].is_dead {
        // If that fails, the next host puts in order what is left.
        let _ = fs.close();
    }
    let mut fs = Some(fs);
    while let Some(shared) = fs.take() {
        if let Err(shared) = Arc::try_unwrap(shared).map(drop) {
            // A client is about to let go.
            fs = Some(shared);
            baton.sleep(TICK);
        }
    }
}
