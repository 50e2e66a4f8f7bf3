//! Random damage: whatever the bytes say, fsck.vmfs ends, within 512 MiB and without a panic; what it has
//! repaired is clean; where it refuses to repair it has written nothing; and files that the damage didn't touch stay as they are.
//!
//! `VMFS_RANDOM_COUNT` volumes (200) are damaged, from `VMFS_RANDOM_SEED` on; a failure prints the seed that
//! makes it again alone: `VMFS_RANDOM_SEED=N VMFS_RANDOM_COUNT=1 cargo test -p vmfs-tests --test fsck_random`.
//! With `VMFS_RANDOM_SHOW=1` each volume that isn't repaired is shown: what was damaged, and what was said.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use vmfs_core::format::{FdAddr, ResourceKind};
use vmfs_core::fs::{FileSystem, Place};
use vmfs_core::lvm::{VolumeOffset, open_paths};
use vmfs_core::scsi::Access;
use vmfs_fixtures::What;
use vmfs_tests::corpus::base::{self, Base};
use vmfs_tests::corpus::trial::{Programs, copy_sparse, same};
use vmfs_tests::random::{Random, setting};
use vmfs_tests::walk::pointer_blocks;

/// A run that takes longer than this hangs.
const PATIENCE: Duration = Duration::from_secs(120);
/// Address space that a run may have: more than it may have memory.
const MOST_MEMORY_KIB: u64 = 512 << 10;
const SECTOR: u64 = 512;

/// A volume to damage.
struct Victim {
    base: Base,
    /// Offsets of metadata on the first device, and lengths.
    regions: Vec<(u64, u64)>,
    /// What each of them is.
    names: Vec<String>,
    /// Where the resource files lie.
    places: Places,
    /// Whether they must lie there after a repair as well.
    exact: bool,
    /// What leads to each file's bytes, on the first device.
    files: BTreeMap<FdAddr, Vec<(u64, u64)>>,
}

/// Volume offsets of clusters and of some resources in each file block, by kind.
type Places = BTreeMap<ResourceKind, Vec<Option<u64>>>;

/// Where the resource files lie.
fn places(fs: &FileSystem) -> Places {
    let store = fs.store();
    let reader = store.reader();
    let mut places = Places::new();
    for file in store.resources().iter() {
        let all = places.entry(file.kind()).or_default();
        for cluster in 0..file.header().clusters() {
            let place = file.cluster_place(reader, cluster);
            all.push(place.ok().map(|place| place.0));
            if file.header().resource_size.get() == 0 {
                continue;
            }
            // A file block has 16 of the largest.
            for resource in (0..file.shape(cluster).total).step_by(8) {
                let place = file.locate(reader, cluster, resource);
                all.push(place.ok().map(|place| place.0));
            }
        }
    }
    places
}

impl Victim {
    fn new(base: Base) -> Self {
        let volume = open_paths(&base.devices, Access::ReadOnly).expect("volume");
        let fs = FileSystem::open(volume).expect("file system");
        let at = |offset: u64| fs.volume().place(VolumeOffset(offset)).expect("place").1.0;
        let layout = fs.layout();
        let mut regions = vec![(0x10_0000, 8192), (0x18_0000, 16384)];
        let mut names = vec!["device header".to_owned(), "extents".to_owned()];
        let mut region = |name: String, at: u64, length: u64| {
            regions.push((at, length));
            names.push(name);
        };
        region("fs descriptor".to_owned(), at(0x20_0000), 512);
        region("heartbeats".to_owned(), at(layout.heartbeats), 4096);
        let store = fs.store();
        for file in store.resources().iter() {
            let kind = file.kind();
            region(format!("header of {kind}s"), at(file.header_place().0), 512);
            for cluster in 0..file.header().clusters().min(4) {
                if let Ok((_, place)) = file.cluster(store.reader(), cluster) {
                    let name = format!("cluster {cluster} of {kind}s");
                    region(name, at(place.0), layout.cluster_header_size());
                }
            }
        }
        let mut files = BTreeMap::new();
        for known in &base.manifest {
            let inode = fs.resolve(known.path.as_bytes(), false).expect("file");
            let own = (at(inode.offset().0), layout.fd_size);
            region(format!("descriptor of {}", known.path), own.0, own.1);
            let mut parts = vec![own];
            parts.extend(
                pointer_blocks(&fs, &inode)
                    .expect("map")
                    .iter()
                    .map(|place| (at(place.0), fs.layout().pointer_block_size())),
            );
            let mut offset = 0;
            while !matches!(known.what, What::Rdm(_)) && offset < inode.length() {
                let run = fs.run_at(&inode, offset, inode.length()).expect("run");
                if let Place::Data(place) = run.place {
                    parts.push((at(place.0), run.length));
                    if inode.is_directory() {
                        let name = format!("directory {}", known.path);
                        region(name, at(place.0), run.length.min(16384));
                    }
                }
                offset = run.end();
            }
            files.insert(inode.fd(), parts);
        }
        for system in [
            FdAddr::ROOT,
            FdAddr::new(0, 1),
            FdAddr::new(0, 2),
            FdAddr::new(0, 4),
        ] {
            let inode = fs.inode(system).expect("system file");
            region(
                format!("descriptor {system}"),
                at(inode.offset().0),
                layout.fd_size,
            );
        }
        let places = places(&fs);
        Self {
            base,
            regions,
            names,
            places,
            exact: false,
            files,
        }
    }

    /// Offsets and new bytes.
    fn damage(&self, random: &mut Random) -> Vec<(u64, Vec<u8>)> {
        const WORDS: [u64; 10] = [
            0,
            1,
            2,
            0x7f,
            0xff,
            0xffff,
            0x7fff_ffff,
            u64::MAX,
            1 << 40,
            0x1000_0004,
        ];
        let image = File::open(&self.base.devices[0]).expect("base");
        let mut patches = Vec::new();
        for _ in 0..=random.below(5) {
            let &(start, length) = random.one_of(&self.regions);
            let at = start + random.below(length - 16);
            patches.push(match random.below(6) {
                0 => (at, vec![random.bits() as u8]),
                1 => (at, random.one_of(&WORDS).to_le_bytes()[..4].to_vec()),
                2 => (at, random.one_of(&WORDS).to_le_bytes().to_vec()),
                3 => (at / SECTOR * SECTOR, vec![0; SECTOR as usize]),
                4 => {
                    // A structure of another place.
                    let &(other, _) = random.one_of(&self.regions);
                    let mut sector = vec![0; SECTOR as usize];
                    image.read_exact_at(&mut sector, other).expect("read");
                    (start, sector)
                }
                _ => (at, (0..16).map(|_| random.bits() as u8).collect()),
            });
        }
        patches
    }
}

/// What a volume was damaged with, and what `fsck.vmfs -y` says of it; for people.
fn show(victim: &Victim, patches: &[(u64, Vec<u8>)], programs: &Programs, image: &Path) -> String {
    let mut lines = Vec::new();
    for (at, bytes) in patches {
        let regions = victim.regions.iter().zip(&victim.names);
        let mut hit = regions.filter(|((start, length), _)| (*start..start + length).contains(at));
        let (start, name) = hit
            .next()
            .map_or((0, "?"), |((start, _), name)| (*start, name.as_str()));
        let (offset, length) = (at - start, bytes.len());
        let some = &bytes[..length.min(8)];
        lines.push(format!("{name} + {offset:#x}: {length} bytes, {some:02x?}"));
    }
    let mut command = Command::new(&programs.fsck);
    command.args(["-y", "--lease", "20"]).arg(image);
    let said = command.output();
    for said in said.iter().flat_map(|said| [&said.stdout, &said.stderr]) {
        let said = String::from_utf8_lossy(said);
        lines.extend(said.lines().map(|line| format!("  {line}")));
    }
    lines.join("\n  ")
}

/// Runs fsck.vmfs within its limits; the exit code.
fn fsck(programs: &Programs, arguments: &str, image: &Path) -> Result<i32, String> {
    // The limit is of address space, which is more than memory.
    let script =
        format!("ulimit -v {MOST_MEMORY_KIB}; exec \"$0\" {arguments} --lease 20 --json \"$1\"");
    let mut child = Command::new("sh")
        .args(["-c", &script])
        .arg(&programs.fsck)
        .arg(image)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| error.to_string())?;
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait().map_err(|error| error.to_string())? {
            let code = status.code().filter(|&code| code & !0x3f == 0);
            return code.ok_or_else(|| {
                let mut said = String::new();
                if let Some(mut errors) = child.stderr.take() {
                    let _ = std::io::Read::read_to_string(&mut errors, &mut said);
                }
                format!("{arguments}: {status}: {said}")
            });
        }
        if Instant::now() > end {
            let _ = child.kill();
            let _ = child.wait();
            return Err(format!("{arguments}: hangs"));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// What became of a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fate {
    /// Nothing that the check knows was damaged.
    Clean,
    /// All was repaired.
    Repaired,
    /// Something was left, and is left by a second run too.
    Left,
    /// Nothing was repaired.
    Refused,
}

fn try_one(victim: &Victim, seed: u64, programs: &Programs, image: &Path) -> Result<Fate, String> {
    let fate = fate_of(victim, seed, programs, image);
    let unrepaired = matches!(fate, Ok(Fate::Refused | Fate::Left) | Err(_));
    if unrepaired && setting("VMFS_RANDOM_SHOW", 0) != 0 {
        let patches = victim.damage(&mut Random::new(seed));
        damaged(victim, &patches, image).map_err(|error| error.to_string())?;
        let (name, shown) = (&victim.base.name, show(victim, &patches, programs, image));
        println!("{seed} ({name}): {fate:?}\n  {shown}");
    }
    fate
}

/// Makes the damaged volume.
fn damaged(victim: &Victim, patches: &[(u64, Vec<u8>)], image: &Path) -> anyhow::Result<()> {
    copy_sparse(&victim.base.devices[0], image)?;
    let file = File::options().write(true).open(image)?;
    for (at, bytes) in patches {
        file.write_all_at(bytes, *at)?;
    }
    Ok(())
}

fn fate_of(victim: &Victim, seed: u64, programs: &Programs, image: &Path) -> Result<Fate, String> {
    let patches = victim.damage(&mut Random::new(seed));
    let make = |image: &Path| damaged(victim, &patches, image);
    make(image).map_err(|error| error.to_string())?;
    let check = fsck(programs, "-n", image)?;
    let first = fsck(programs, "-y", image)?;
    if first & 8 != 0 {
        let again = image.with_extension("again");
        let unchanged = make(&again).and_then(|()| same(image, &again));
        let _ = fs::remove_file(&again);
        return match unchanged {
            Ok(true) => Ok(Fate::Refused),
            // A dead host's journal is replayed and its slot freed before the check.
            Ok(false) if first & 1 != 0 => Ok(Fate::Refused),
            Ok(false) => Err(format!("-y exits with {first} and has written")),
            Err(error) => Err(error.to_string()),
        };
    }
    let second = fsck(programs, "-y", image)?;
    let fate = match (first, second) {
        (0, 0) => Fate::Clean,
        (1, 0) => Fate::Repaired,
        (4.., 4) => Fate::Left,
        _ => {
            return Err(format!(
                "-n exits with {check}, -y with {first}, then {second}"
            ));
        }
    };
    let volume = open_paths(&[image], Access::ReadOnly).map_err(|error| error.to_string());
    let fs = volume.and_then(|volume| FileSystem::open(volume).map_err(|error| error.to_string()));
    let fs = match fs {
        Ok(fs) => fs,
        Err(_) if fate == Fate::Left => return Ok(fate),
        Err(error) => return Err(format!("clean, but doesn't open: {error}")),
    };
    if victim.exact && fate == Fate::Repaired && places(&fs) != victim.places {
        return Err("resource files lie elsewhere after -y".to_owned());
    }
    for known in &victim.base.manifest {
        let What::File(content) = &known.what else {
            continue;
        };
        let parts = &victim.files[&known.fd];
        let hit = patches.iter().any(|(at, bytes)| {
            let end = at + bytes.len() as u64;
            parts
                .iter()
                .any(|&(start, length)| *at < start + length && start < end)
        });
        if hit {
            continue;
        }
        // By its descriptor: the name may have been hit.
        let same = fs.inode(known.fd).ok().is_some_and(|inode| {
            let mut found = vec![0; content.length() as usize];
            inode.length() == content.length()
                && fs.read(&inode, 0, &mut found).is_ok()
                && found == content.expected(0..content.length(), fs.layout().file_block_size())
        });
        if !same {
            return Err(format!(
                "{} wasn't hit and is damaged after -y ({fate:?})",
                known.path
            ));
        }
    }
    Ok(fate)
}

/// Damages a volume by each of the seeds; what became of them. `exact` if resource files must be as they were.
fn run(seeds: &[u64], exact: bool) -> BTreeMap<Fate, u64> {
    let programs = vmfs_tests::corpus::trial::programs();
    let folder = tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .expect("folder");
    let victims: Vec<_> = ["vmfs6", "vmfs5"]
        .iter()
        .map(|name| Victim {
            exact,
            ..Victim::new(base::build(name, folder.path()).expect("base"))
        })
        .collect();
    let next = AtomicUsize::new(0);
    let fates = Mutex::new(BTreeMap::<Fate, u64>::new());
    let failures = Mutex::new(Vec::new());
    let unrepaired = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for worker in 0..2 {
            let image: PathBuf = folder.path().join(format!("worker-{worker}.img"));
            let (next, fates, failures) = (&next, &fates, &failures);
            let unrepaired = &unrepaired;
            let (victims, programs) = (&victims, &programs);
            scope.spawn(move || {
                while let Some(&seed) = seeds.get(next.fetch_add(1, SeqCst)) {
                    let victim = &victims[(seed % 2) as usize];
                    match try_one(victim, seed, programs, &image) {
                        Ok(fate) => {
                            *fates.lock().expect("fates").entry(fate).or_default() += 1;
                            if matches!(fate, Fate::Left | Fate::Refused) {
                                unrepaired.lock().expect("unrepaired").push((seed, fate));
                            }
                        }
                        Err(error) => {
                            let name = &victim.base.name;
                            let line = format!("VMFS_RANDOM_SEED={seed} ({name}): {error}");
                            eprintln!("{line}");
                            failures.lock().expect("failures").push(line);
                        }
                    }
                    let _ = fs::remove_file(&image);
                }
            });
        }
    });
    let fates = fates.into_inner().expect("fates");
    let failures = failures.into_inner().expect("failures");
    let count = seeds.len();
    let unrepaired = unrepaired.into_inner().expect("unrepaired");
    println!("{count} volumes: {fates:?}; not repaired: {unrepaired:?}");
    assert!(
        failures.is_empty(),
        "{} of {count}:\n{}",
        failures.len(),
        failures.join("\n")
    );
    fates
}

#[test]
fn whatever_is_damaged_is_repaired_or_left() {
    let first = setting("VMFS_RANDOM_SEED", 1);
    let count = setting("VMFS_RANDOM_COUNT", 200);
    let seeds: Vec<u64> = (first..first + count).collect();
    let fates = run(&seeds, false);
    let repaired = fates.get(&Fate::Repaired).copied().unwrap_or(0);
    assert!(
        count < 50 || repaired > count / 3,
        "much damage can be repaired: {fates:?}"
    );
}

/// Seeds of volumes that were refused or left once: addresses behind the ends of resource files, the header of
/// `.pbc.sf`, and descriptors behind the system files'; then all others of 100,000 to 109,999. The last but one was
/// given a longer `.sbc.sf` than it had; the last lost what a resource file named as a pointer block behind its end.
const KEPT: [u64; 50] = [
    100_045, 100_047, 100_062, 100_128, 100_236, 100_322, 100_421, 100_447, 100_449, 100_452,
    100_499, 100_529, 100_577, 100_635, 100_675, 100_718, 100_782, 100_876, 100_918, 101_066,
    101_138, 102_435, 102_503, 103_522, //
    100_803, 101_713, 101_817, 102_230, 103_239, 104_466, 104_571, 104_875, 104_970, 105_337,
    105_734, 105_775, 105_869, 106_153, 107_197, 107_466, 107_955, 108_040, 108_339, 108_704,
    109_077, 109_451, 400_461, 401_579, 103_545, 202_622,
];

/// What is put together of resource files is as it was. `VMFS_RANDOM_KEPT` has other seeds, with commas.
#[test]
fn what_was_refused_once_is_repaired() {
    let kept: Vec<u64> = std::env::var("VMFS_RANDOM_KEPT").map_or_else(
        |_| KEPT.to_vec(),
        |seeds| {
            let seeds = seeds.split(',').map(|seed| seed.trim().parse());
            seeds.collect::<Result<_, _>>().expect("seeds")
        },
    );
    let fates = run(&kept, true);
    let repaired = fates.get(&Fate::Repaired).copied().unwrap_or(0);
    assert_eq!(repaired, kept.len() as u64, "{fates:?}");
}
