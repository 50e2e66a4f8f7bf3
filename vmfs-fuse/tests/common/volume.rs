//! Fresh volumes, and what they must still be after a mount has written to them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use vmfs_core::format::Family;
use vmfs_fixtures::FixtureBuilder;
use vmfs_fixtures::mkfs_vmfs::Options;
use vmfs_tests::oracle;

use super::Mount;

pub(crate) const MIB: u64 = 1 << 20;
pub(crate) const GIB: u64 = 1 << 30;

/// Files up to this size are compared in full, of larger ones the [`PLACES`].
const WHOLE: u64 = 64 * MIB;
/// Where larger files are compared, 64 KiB at each.
const PLACES: [u64; 6] = [0, MIB, 3 * GIB, 42 * GIB, 300 * GIB, 5 << 40];

/// A volume in an image file.
pub(crate) struct Volume {
    folder: TempDir,
}

/// Runs a test on a volume of each format that can be written to.
pub(crate) fn each_format(test: impl Fn(&Volume)) {
    for family in [Family::Vmfs5, Family::Vmfs6] {
        eprintln!("{family}");
        test(&Volume::new(family, 4 * GIB));
    }
}

impl Volume {
    /// Makes a volume of `size` bytes.
    pub(crate) fn new(family: Family, size: u64) -> Self {
        Self::with(Options::new(family, &[size]))
    }

    /// Makes a volume.
    pub(crate) fn with(options: Options) -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let volume = Self { folder };
        let image = File::create_new(volume.image()).expect("image");
        let builder = FixtureBuilder::create(options, vec![image]).expect("builder");
        builder.finish().expect("volume");
        volume
    }

    /// The image file.
    pub(crate) fn image(&self) -> PathBuf {
        self.folder.path().join("volume.img")
    }

    /// Mounts it read-write.
    pub(crate) fn mount(&self, options: &[&str]) -> Mount {
        Mount::writable(&[&self.image()], options)
    }

    /// Mounts it read-only.
    pub(crate) fn mount_to_read(&self) -> Mount {
        Mount::new(&[&self.image()], &[])
    }

    /// Checks the volume, which must be clean.
    #[track_caller]
    pub(crate) fn check(&self) {
        let fs = vmfs_tests::walk::open(&[self.image()]);
        let report = fsck_vmfs::check(&fs, &mut |_| {});
        assert!(report.is_clean(), "{:#?}", report.findings);
        assert_eq!(fs.hosts().expect("hosts").len(), 0, "a heartbeat was left");
    }

    /// Unmounts, and compares what the mount showed with what the volume holds: as another mount
    /// shows it, and as dissect.vmfs reads it.
    #[track_caller]
    pub(crate) fn survives(&self, mount: Mount) {
        let written = tree(mount.path());
        drop(mount);
        self.check();
        let again = self.mount_to_read();
        assert_same(&written, &tree(again.path()), "another mount");
        drop(again);
        let read = oracle::dissect(&[self.image()], WHOLE, &PLACES);
        let read = read.into_iter().filter(|file| !is_system(&file.path));
        let read = read.map(|file| {
            assert_eq!(file.error, None, "{}", file.path);
            let node = Node::from(&file);
            (file.path.trim_start_matches('/').to_owned(), node)
        });
        assert_same(&written, &read.collect(), "dissect.vmfs");
    }
}

#[track_caller]
fn assert_same(written: &Tree, read: &Tree, reader: &str) {
    for (path, node) in written {
        assert_eq!(read.get(path), Some(node), "{path} as {reader} reads it");
    }
    let more = read.keys().find(|path| !written.contains_key(*path));
    assert_eq!(more, None, "{reader} reads more");
}

/// All files by their paths.
type Tree = BTreeMap<String, Node>;

/// What all readers tell of a file.
#[derive(Debug, PartialEq, Eq)]
struct Node {
    mode: u32,
    links: u32,
    owner: (u32, u32),
    mtime: u32,
    length: u64,
    target: Option<String>,
    /// CRC-32 of pieces, with their offsets and lengths.
    pieces: Vec<(u64, u64, u32)>,
}

impl From<&oracle::DissectFile> for Node {
    fn from(file: &oracle::DissectFile) -> Self {
        const DIRECTORY: u32 = 2;
        const SYMLINK: u32 = 4;
        let pieces = file.pieces.iter().map(|piece| (piece.0, piece.1, piece.2));
        Self {
            mode: file.mode,
            links: file.links,
            owner: (file.uid, file.gid),
            mtime: file.times[0],
            length: if file.kind == DIRECTORY {
                0
            } else {
                file.length
            },
            target: file.target.clone(),
            pieces: if matches!(file.kind, DIRECTORY | SYMLINK) {
                Vec::new()
            } else {
                pieces.collect()
            },
        }
    }
}

fn is_system(path: &str) -> bool {
    let name = path.trim_start_matches('/').split('/').next();
    name.is_some_and(|name| name.starts_with('.') && name.strip_suffix(".sf").is_some())
}

fn tree(root: &Path) -> Tree {
    let mut found = Tree::new();
    let mut queue = vec![String::new()];
    while let Some(path) = queue.pop() {
        for entry in fs::read_dir(root.join(&path)).expect("list") {
            let name = entry.expect("entry").file_name();
            let name = name.into_string().expect("UTF-8");
            let path = if path.is_empty() {
                name
            } else {
                format!("{path}/{name}")
            };
            if is_system(&path) {
                continue;
            }
            let node = look_at(&root.join(&path));
            if root.join(&path).symlink_metadata().expect("stat").is_dir() {
                queue.push(path.clone());
            }
            assert!(found.insert(path.clone(), node).is_none(), "{path} twice");
        }
    }
    found
}

fn look_at(path: &Path) -> Node {
    let metadata = path.symlink_metadata().expect("stat");
    let kind = metadata.file_type();
    assert!(!kind.is_fifo() && !kind.is_socket());
    let target = kind.is_symlink().then(|| {
        let target = fs::read_link(path).expect("target");
        target.into_os_string().into_string().expect("UTF-8")
    });
    Node {
        mode: metadata.mode() & 0o7777,
        links: metadata.nlink() as u32,
        owner: (metadata.uid(), metadata.gid()),
        mtime: metadata.mtime().unsigned_abs() as u32,
        length: if kind.is_dir() { 0 } else { metadata.len() },
        target,
        pieces: if kind.is_file() {
            pieces(path, metadata.len())
        } else {
            Vec::new()
        },
    }
}

fn pieces(path: &Path, length: u64) -> Vec<(u64, u64, u32)> {
    let spans: Vec<(u64, u64)> = if length <= WHOLE {
        let starts = (0..length).step_by(MIB as usize);
        starts.map(|at| (at, MIB.min(length - at))).collect()
    } else {
        let starts = PLACES.into_iter().filter(|&at| at < length);
        starts.map(|at| (at, (64 << 10).min(length - at))).collect()
    };
    let file = File::open(path).expect("open");
    spans
        .into_iter()
        .map(|(at, size)| {
            let mut bytes = vec![0; size as usize];
            file.read_exact_at(&mut bytes, at).expect("read");
            (at, size, crc32fast::hash(&bytes))
        })
        .collect()
}
