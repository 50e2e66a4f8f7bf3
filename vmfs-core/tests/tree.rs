//! Names against a model: a random tree is changed in every way, listed and compared.

mod common;

use std::collections::BTreeMap;

use common::{Host, Random, fsck, mount, volume};
use vmfs_core::format::{Family, FdAddr, FileKind};
use vmfs_core::fs::{Creator, FileSystem, FsError, Rename};

const CREATOR: Creator = Creator {
    mode: 0o755,
    uid: 0,
    gid: 0,
};

type Entries = BTreeMap<Vec<u8>, (FdAddr, FileKind)>;

/// Directories by their descriptor, and what should be in them.
struct Tree {
    directories: BTreeMap<FdAddr, (FdAddr, Entries)>,
}

impl Tree {
    fn any_directory(&self, random: &mut Random) -> FdAddr {
        let all: Vec<_> = self.directories.keys().copied().collect();
        all[random.below(all.len() as u64) as usize]
    }

    fn any_entry(&self, random: &mut Random) -> Option<(FdAddr, Vec<u8>, FdAddr, FileKind)> {
        let directory = self.any_directory(random);
        let entries = &self.directories[&directory].1;
        let index = random.below(entries.len().max(1) as u64) as usize;
        let (name, &(fd, kind)) = entries.iter().nth(index)?;
        Some((directory, name.clone(), fd, kind))
    }

    fn is_below(&self, directory: FdAddr, file: FdAddr) -> bool {
        let mut at = directory;
        while at != FdAddr::ROOT {
            if at == file {
                return true;
            }
            at = self.directories[&at].0;
        }
        false
    }

    fn entries(&mut self, directory: FdAddr) -> &mut Entries {
        &mut self.directories.get_mut(&directory).expect("there").1
    }

    fn compare(&self, fs: &FileSystem) {
        for (&directory, (parent, entries)) in &self.directories {
            let inode = fs.inode(directory).expect("directory");
            assert_eq!(fs.parent(&inode).expect("parent"), *parent);
            let mut found = Entries::new();
            fs.read_dir(&inode, 0, |entry| {
                if entry.kind != FileKind::System {
                    found.insert(entry.name, (entry.fd, entry.kind));
                }
                true
            })
            .expect("list");
            assert_eq!(&found, entries);
            for (name, (fd, _)) in entries {
                assert_eq!(fs.lookup(&inode, name).expect("lookup").fd(), *fd);
            }
        }
    }
}

fn name(random: &mut Random, max: usize) -> Vec<u8> {
    match random.below(10) {
        // Often the same, so that names meet.
        0..=5 => format!("n{}", random.below(40)).into_bytes(),
        6 => vec![b'x'; max],
        _ => {
            let length = 1 + random.below(max as u64) as usize;
            let mut name = vec![0; length];
            random.fill(&mut name);
            for byte in &mut name {
                if matches!(*byte, 0 | b'/' | b'.') {
                    *byte = b'_';
                }
            }
            name
        }
    }
}

fn run(family: Family, seed: u64, steps: u32) {
    let lun = volume(family);
    let mut fs = mount(&lun, &Host::new(1));
    let max = fs.layout().max_name();
    let mut random = Random::new(seed);
    let root = (FdAddr::ROOT, Entries::new());
    let mut tree = Tree {
        directories: BTreeMap::from([(FdAddr::ROOT, root)]),
    };
    for step in 0..steps {
        let directory = tree.any_directory(&mut random);
        let new = name(&mut random, max);
        let taken = tree.entries(directory).get(&new).copied();
        match random.below(12) {
            0..=4 => {
                let kind = [FileKind::Regular, FileKind::Directory, FileKind::Symlink];
                let kind = kind[random.below(3) as usize];
                let made = match kind {
                    FileKind::Directory => fs.make_directory(directory, &new, CREATOR),
                    FileKind::Symlink => fs.make_symlink(directory, &new, b"target", CREATOR),
                    _ => fs.create(directory, &new, CREATOR),
                };
                if taken.is_some() {
                    let error = made.expect_err("the name is taken");
                    assert!(matches!(error, FsError::Exists { .. }), "{error}");
                    continue;
                }
                let fd = made.expect("made").fd();
                tree.entries(directory).insert(new, (fd, kind));
                if kind == FileKind::Directory {
                    tree.directories.insert(fd, (directory, Entries::new()));
                }
            }
            5 => {
                let Some((_, _, fd, kind)) = tree.any_entry(&mut random) else {
                    continue;
                };
                let linked = fs.link(fd, directory, &new);
                if taken.is_some() || kind == FileKind::Directory {
                    linked.expect_err("a name that is taken, or a directory");
                } else {
                    linked.expect("linked");
                    tree.entries(directory).insert(new, (fd, kind));
                }
            }
            6..=7 => {
                let Some((directory, name, fd, kind)) = tree.any_entry(&mut random) else {
                    continue;
                };
                if kind == FileKind::Directory {
                    let result = fs.remove_directory(directory, &name);
                    if tree.directories[&fd].1.is_empty() {
                        result.expect("removed");
                        tree.directories.remove(&fd);
                    } else {
                        let error = result.expect_err("not empty");
                        assert!(matches!(error, FsError::NotEmpty { .. }), "{error}");
                        continue;
                    }
                } else {
                    fs.unlink(directory, &name).expect("unlinked");
                }
                tree.entries(directory).remove(&name);
            }
            8..=10 => {
                let Some((from, old, fd, kind)) = tree.any_entry(&mut random) else {
                    continue;
                };
                let how = [Rename::Replace, Rename::NoReplace, Rename::Exchange];
                let how = how[random.below(3) as usize];
                rename(&fs, &mut tree, (from, old, fd, kind), (directory, new), how);
            }
            _ if step % 5 == 0 => {
                fs.sync().expect("sync");
                if random.below(2) == 0 {
                    fs.close().expect("close");
                    fsck(&lun);
                }
                fs = mount(&lun, &Host::new(2 + step));
            }
            _ => tree.compare(&fs),
        }
    }
    tree.compare(&fs);
    fs.close().expect("close");
    fsck(&lun);
    tree.compare(&mount(&lun, &Host::new(9999)));
}

fn rename(
    fs: &FileSystem,
    tree: &mut Tree,
    (from, old, fd, kind): (FdAddr, Vec<u8>, FdAddr, FileKind),
    (to, new): (FdAddr, Vec<u8>),
    how: Rename,
) {
    let target = tree.entries(to).get(&new).copied();
    let result = fs.rename(from, &old, to, &new, how);
    let is_directory = kind == FileKind::Directory;
    let allowed = match (how, target) {
        (Rename::NoReplace, Some(_)) | (Rename::Exchange, None) => false,
        (Rename::Exchange, Some((other, _))) => {
            !tree.is_below(to, fd) && !tree.is_below(from, other)
        }
        (Rename::Replace, Some((other, _))) if other == fd => true,
        (Rename::Replace, Some((other, other_kind))) => {
            let other_directory = other_kind == FileKind::Directory;
            is_directory == other_directory
                && (!other_directory || tree.directories[&other].1.is_empty())
                && !tree.is_below(to, fd)
        }
        (_, None) => !tree.is_below(to, fd),
    };
    assert_eq!(result.is_ok(), allowed, "{how:?} {result:?}");
    if !allowed || target.is_some_and(|(other, _)| other == fd) {
        return;
    }
    tree.entries(from).remove(&old);
    tree.entries(to).insert(new, (fd, kind));
    if is_directory {
        tree.directories.get_mut(&fd).expect("there").0 = to;
    }
    match (how, target) {
        (Rename::Exchange, Some((other, other_kind))) => {
            tree.entries(from).insert(old, (other, other_kind));
            if other_kind == FileKind::Directory {
                tree.directories.get_mut(&other).expect("there").0 = from;
            }
        }
        (_, Some((other, FileKind::Directory))) => {
            tree.directories.remove(&other);
        }
        _ => {}
    }
}

#[test]
fn trees_on_vmfs5_come_out_as_the_model_has_them() {
    (0..6).for_each(|seed| run(Family::Vmfs5, seed, 600));
}

#[test]
fn trees_on_vmfs6_come_out_as_the_model_has_them() {
    (0..6).for_each(|seed| run(Family::Vmfs6, seed, 600));
}
