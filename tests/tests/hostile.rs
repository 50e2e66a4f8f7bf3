//! Damaged volumes: whatever the bytes say, no panic, no hang, no memory without bound.
//!
//! `VMFS_HOSTILE_COUNT` volumes (300) are made by damaging real and made ones, from
//! `VMFS_HOSTILE_SEED` on; a failure prints the seed that makes it again alone:
//! `VMFS_HOSTILE_SEED=N VMFS_HOSTILE_COUNT=1 cargo test -p vmfs-tests --test hostile`.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use vmfs_core::format::FileKind;
use vmfs_core::fs::{FileSystem, SeekTo};
use vmfs_core::lvm::open_luns;
use vmfs_core::scsi::{Access, DeviceOffset, FileLun, Lun, OverlayLun};
use vmfs_fixtures::{Fixture, Kind};
use vmfs_tests::images::esxi_volume;
use vmfs_tests::random::{Random, setting};
use vmfs_tests::walk::walk;

/// A volume for which more is read than this hangs, however fast the machine is.
const MOST_READ: u64 = 2 << 30;
const MOST_READS: u64 = 1 << 20;
/// And so does one that takes this long, some hundred times what any does, for a loop that reads nothing.
const PATIENCE: Duration = Duration::from_secs(120);
/// How often that is looked at.
const LOOK: Duration = Duration::from_millis(200);
/// The process never has more memory than this.
const MOST_MEMORY_KIB: u64 = 256 << 10;
/// Files that are looked at on one damaged volume.
const FILES: usize = 2000;
/// Runs that are looked at for one file.
const RUNS: usize = 200;

/// A volume to damage, and where on its devices the metadata is.
struct Victim {
    name: String,
    devices: Vec<PathBuf>,
    /// Device index, offset and length of regions worth damaging.
    regions: Vec<(usize, u64, u64)>,
    _fixture: Option<Fixture>,
}

fn victims() -> Vec<Victim> {
    let mut victims = Vec::new();
    for name in ["vmfs5", "vmfs6", "vmfs5-span", "vmfs6-span"] {
        if let Some(devices) = esxi_volume(name) {
            victims.push(victim(name.to_owned(), devices, None));
        }
    }
    for kind in [Kind::Small5, Kind::Small6, Kind::Vmfs3] {
        let fixture = kind.build().expect("fixture");
        let paths = fixture.paths();
        victims.push(victim(format!("{kind:?}"), paths, Some(fixture)));
    }
    victims
}

/// Finds the metadata through the volume as it should be.
fn victim(name: String, devices: Vec<PathBuf>, fixture: Option<Fixture>) -> Victim {
    let volume = vmfs_core::lvm::open_paths(&devices, Access::ReadOnly).expect("volume");
    let fs = FileSystem::open(volume).expect("file system");
    let mut on_volume = vec![(0x20_0000, 512), (fs.layout().heartbeats, 4096)];
    let store = fs.store();
    for file in store.resources().iter() {
        let first = file
            .map()
            .run_at(store.reader(), file.sources(), 0, 1)
            .expect("first run");
        if let vmfs_core::resource::Place::Data(place) = first.place {
            on_volume.push((place.0, 4096));
        }
        for cluster in 0..file.header().clusters().min(4) {
            if let Ok((_, place)) = file.cluster(store.reader(), cluster) {
                on_volume.push((place.0, fs.layout().cluster_header_size()));
            }
        }
    }
    let mut pointers = Vec::new();
    walk(&fs, 500, &mut |_, inode| {
        on_volume.push((inode.offset().0, fs.layout().fd_size));
        if inode.is_directory() || inode.length() > 1 << 30 {
            pointers.push(Arc::clone(inode));
        }
    });
    for inode in pointers {
        let _ = inode
            .map()
            .for_each_address::<vmfs_core::resource::MetaError>(
                store.reader(),
                &store.resources().sources,
                &mut |addr, depth| {
                    if let vmfs_core::format::BlockAddr::Resource {
                        kind,
                        cluster,
                        resource,
                        ..
                    } = addr
                    {
                        let file = store.resources().iter().find(|file| file.kind() == kind);
                        let place = file.map(|file| file.locate(store.reader(), cluster, resource));
                        if let Some(Ok(place)) = place.filter(|_| depth > 0 || inode.is_directory())
                        {
                            on_volume.push((place.0, 8192));
                        }
                    }
                    Ok(())
                },
            );
    }
    let mut regions: Vec<_> = on_volume
        .iter()
        .filter_map(|&(offset, length)| {
            let extent = fs.volume().locate(vmfs_core::lvm::VolumeOffset(offset))?;
            let (device, start) = extent.place?;
            Some((device, start.0 + offset - extent.logical.0, length))
        })
        .collect();
    for device in 0..fs.volume().devices().len() {
        // Header, volume table, and the first extents of each version.
        regions.extend([(device, 0x10_0000, 8192), (device, 0x18_0000, 16384)]);
    }
    Victim {
        name,
        devices,
        regions,
        _fixture: fixture,
    }
}

/// Damage from a seed: some changes at places that matter.
fn damage(victim: &Victim, luns: &[Arc<FileLun>], random: &mut Random) -> Vec<Vec<(u64, Vec<u8>)>> {
    const WORDS: [u64; 12] = [
        0,
        1,
        2,
        0x7f,
        0xff,
        0xffff,
        0x7fff_ffff,
        0xffff_ffff,
        u64::MAX,
        1 << 40,
        1 << 62,
        0x1000_0004,
    ];
    let mut patches = vec![Vec::new(); luns.len()];
    for _ in 0..=random.below(6) {
        let &(device, start, length) = random.one_of(&victim.regions);
        let at = start + random.below(length);
        let patch = match random.below(5) {
            0 => vec![random.bits() as u8],
            1 => random.one_of(&WORDS).to_le_bytes()[..4].to_vec(),
            2 => random.one_of(&WORDS).to_le_bytes().to_vec(),
            3 => {
                // A structure of another place.
                let &(other, from, _) = random.one_of(&victim.regions);
                let mut block = vec![0; 512];
                let _ = luns[other].read(DeviceOffset(from), &mut block);
                patches[device].push((start, block));
                continue;
            }
            _ => (0..16).map(|_| random.bits() as u8).collect(),
        };
        patches[device].push((at, patch));
    }
    patches
}

/// Looks at everything that a reader can look at.
fn use_volume(luns: Vec<Arc<dyn Lun>>) -> u64 {
    let Ok(volume) = open_luns(luns) else {
        return 0;
    };
    let Ok(fs) = FileSystem::open(volume) else {
        return 0;
    };
    let _ = fs.hosts();
    let space = fs.space();
    assert!(space.free_blocks <= space.blocks.max(1 << 40));
    let mut files = Vec::new();
    walk(&fs, FILES, &mut |path, inode| {
        files.push((path.to_owned(), Arc::clone(inode)));
    });
    let mut buf = vec![0; 65536];
    for (path, inode) in &files {
        let _ = fs.resolve(path.as_bytes(), true);
        if inode.kind() == FileKind::Symlink {
            let _ = fs.read_link(inode);
        }
        for offset in [
            0,
            inode.length() / 2,
            inode.length().saturating_sub(4096),
            inode.length(),
        ] {
            let _ = fs.read(inode, offset, &mut buf);
        }
        let mut at = 0;
        for _ in 0..RUNS {
            let Ok(Some(data)) = fs.seek(inode, at, SeekTo::Data) else {
                break;
            };
            let Ok(Some(hole)) = fs.seek(inode, data, SeekTo::Hole) else {
                break;
            };
            assert!(data >= at && hole > data, "{path}: {at} {data} {hole}");
            at = hole;
        }
    }
    let report = fsck_vmfs::check(&fs, &mut |_| {});
    report.descriptors + files.len() as u64
}

/// What was read so far: commands and bytes.
fn read_so_far(luns: &[Vec<Arc<FileLun>>]) -> (u64, u64) {
    luns.iter()
        .flatten()
        .fold((0, 0), |(commands, bytes), lun| {
            let reads = lun.counters().snapshot().reads;
            (commands + reads.commands, bytes + reads.bytes)
        })
}

/// Waits until the worker has `finished` one volume; whether it has, or ends.
fn ends(finished: &mpsc::Receiver<()>, luns: &[Vec<Arc<FileLun>>]) -> bool {
    let (start, before) = (Instant::now(), read_so_far(luns));
    loop {
        match finished.recv_timeout(LOOK) {
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Ok(()) | Err(mpsc::RecvTimeoutError::Disconnected) => return true,
        }
        let now = read_so_far(luns);
        let too_much = now.0 - before.0 > MOST_READS || now.1 - before.1 > MOST_READ;
        if too_much || start.elapsed() > PATIENCE {
            return false;
        }
    }
}

fn peak_memory_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("status");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .expect("VmHWM");
    line.trim()
        .trim_end_matches(" kB")
        .parse()
        .expect("a number")
}

#[test]
fn damaged_volumes_neither_panic_nor_hang_nor_take_all_memory() {
    let victims = victims();
    let luns: Vec<Vec<Arc<FileLun>>> = victims
        .iter()
        .map(|victim| {
            let open = |path: &PathBuf| FileLun::open(path, Access::ReadOnly).expect("device");
            victim
                .devices
                .iter()
                .map(|path| Arc::new(open(path)))
                .collect()
        })
        .collect();
    let before = peak_memory_kib();
    let (first, count) = (
        setting("VMFS_HOSTILE_SEED", 1),
        setting("VMFS_HOSTILE_COUNT", 300),
    );
    let current = Arc::new(AtomicU64::new(first));
    let (done, finished) = mpsc::channel();
    let working_on = Arc::clone(&current);
    let all_luns = luns.clone();
    let worker = std::thread::spawn(move || {
        let mut seen = 0;
        for seed in first..first + count {
            working_on.store(seed, SeqCst);
            let mut random = Random::new(seed);
            let index = random.below(victims.len() as u64) as usize;
            let patches = damage(&victims[index], &luns[index], &mut random);
            let damaged = luns[index].iter().zip(patches).map(|(lun, patches)| {
                Arc::new(OverlayLun::new(Arc::clone(lun), patches)) as Arc<dyn Lun>
            });
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                use_volume(damaged.collect())
            }));
            assert!(
                result.is_ok(),
                "VMFS_HOSTILE_SEED={seed} ({})",
                victims[index].name
            );
            seen += result.unwrap_or(0);
            let _ = done.send(());
        }
        seen
    });
    for _ in 0..count {
        assert!(
            ends(&finished, &all_luns),
            "hangs: VMFS_HOSTILE_SEED={}",
            current.load(SeqCst)
        );
    }
    let seen = worker.join().expect("no panic");
    let peak = peak_memory_kib();
    println!("{count} volumes, {seen} files looked at, memory {before} to {peak} KiB");
    assert!(
        seen > count,
        "most damaged volumes can still be read in part"
    );
    assert!(peak < MOST_MEMORY_KIB, "{peak} KiB of memory");
}
