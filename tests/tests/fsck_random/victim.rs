//! Volumes to damage, and what is done to them.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use vmfs_core::format::{FdAddr, ResourceKind};
use vmfs_core::fs::{FileSystem, Place};
use vmfs_core::lvm::{VolumeOffset, open_paths};
use vmfs_core::scsi::Access;
use vmfs_fixtures::What;
use vmfs_tests::corpus::base::Base;
use vmfs_tests::corpus::trial::copy_sparse;
use vmfs_tests::random::Random;
use vmfs_tests::walk::pointer_blocks;

const SECTOR: u64 = 512;

/// A volume to damage.
pub(crate) struct Victim {
    pub(crate) base: Base,
    /// Offsets of metadata on the first device, and lengths.
    pub(crate) regions: Vec<(u64, u64)>,
    /// What each of them is.
    pub(crate) names: Vec<String>,
    /// Where the resource files lie.
    pub(crate) places: Places,
    /// Whether they must lie there after a repair as well.
    pub(crate) exact: bool,
    /// What leads to each file's bytes, on the first device.
    files: BTreeMap<FdAddr, Vec<(u64, u64)>>,
}

/// Offsets on the first device, and what is written there.
pub(crate) type Patches = [(u64, Vec<u8>)];

/// Volume offsets of clusters and of some resources in each file block, by kind.
pub(crate) type Places = BTreeMap<ResourceKind, Vec<Option<u64>>>;

/// Where the resource files lie.
pub(crate) fn places(fs: &FileSystem) -> Places {
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
    /// What there is to damage of a volume; `exact` if its resource files must lie where they did after a repair.
    pub(crate) fn new(base: Base, exact: bool) -> Self {
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
            exact,
            files,
        }
    }

    /// Offsets and new bytes.
    pub(crate) fn damage(&self, random: &mut Random) -> Vec<(u64, Vec<u8>)> {
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

/// The first file that the damage didn't touch and that isn't as it was, if any.
pub(crate) fn lost(victim: &Victim, patches: &Patches, fs: &FileSystem) -> Option<String> {
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
            return Some(known.path.clone());
        }
    }
    None
}

/// Makes the damaged volume.
pub(crate) fn damaged(victim: &Victim, patches: &Patches, image: &Path) -> anyhow::Result<()> {
    copy_sparse(&victim.base.devices[0], image)?;
    let file = File::options().write(true).open(image)?;
    for (at, bytes) in patches {
        file.write_all_at(bytes, *at)?;
    }
    Ok(())
}
