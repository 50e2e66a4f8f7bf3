//! Everything on a volume, found without trusting it.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use vmfs_core::format::{BlockAddr, FileKind};
use vmfs_core::fs::{FileSystem, FsError, Inode};
use vmfs_core::lvm::{VolumeOffset, open_paths};
use vmfs_core::resource::MetaError;
use vmfs_core::scsi::Access;

/// The file system on `devices`, opened to be read.
///
/// # Panics
/// When it can't be.
pub fn open<P: AsRef<Path>>(devices: &[P]) -> FileSystem {
    let volume = open_paths(devices, Access::ReadOnly).expect("volume");
    FileSystem::open(volume).expect("file system")
}

/// Every file below the root by its path, directories included.
///
/// # Panics
/// When one can't be read.
pub fn all_files(fs: &FileSystem) -> BTreeMap<String, Arc<Inode>> {
    let mut files = BTreeMap::new();
    let errors = walk(fs, usize::MAX, &mut |path, inode| {
        files.insert(path.to_owned(), Arc::clone(inode));
    });
    assert!(errors.is_empty(), "{errors:?}");
    files
}

/// Where the pointer blocks of a file lie, in the order of its map.
///
/// # Errors
/// When the map can't be read.
///
/// # Panics
/// When the volume has no resource file for them.
pub fn pointer_blocks(fs: &FileSystem, inode: &Inode) -> Result<Vec<VolumeOffset>, MetaError> {
    let store = fs.store();
    let mut places = Vec::new();
    inode.map().for_each_address::<MetaError>(
        store.reader(),
        &store.resources().sources,
        &mut |addr, depth| {
            let BlockAddr::Resource {
                kind,
                cluster,
                resource,
                ..
            } = addr
            else {
                return Ok(());
            };
            if depth > 0 {
                let file = store.resources().file(kind).expect("a resource file");
                places.push(file.locate(store.reader(), cluster, resource)?);
            }
            Ok(())
        },
    )?;
    Ok(places)
}

/// A number for everything that a file system holds: metadata, and contents at both ends.
///
/// # Panics
/// When a file can't be read.
pub fn fingerprint(fs: &FileSystem) -> u32 {
    const PIECE: usize = 1 << 20;
    let mut hasher = crc32fast::Hasher::new();
    for (path, inode) in all_files(fs) {
        hasher.update(format!("{path} {:?} {:?}", inode.fd(), inode.meta()).as_bytes());
        if inode.kind() == FileKind::Rdm {
            continue;
        }
        let mut bytes = vec![0; PIECE];
        for offset in [0, inode.length().saturating_sub(PIECE as u64)] {
            let read = fs.read(&inode, offset, &mut bytes).expect("read");
            hasher.update(&bytes[..read]);
        }
    }
    hasher.finalize()
}

/// Calls `visit` with the path and the descriptor of each file below the root, directories
/// included, until `limit` were seen; returns what could not be read on the way.
pub fn walk(
    fs: &FileSystem,
    limit: usize,
    visit: &mut dyn FnMut(&str, &Arc<Inode>),
) -> Vec<FsError> {
    let mut errors = Vec::new();
    let mut entered = HashSet::new();
    let mut left = limit;
    let mut queue = match fs.root() {
        Ok(root) => vec![(String::new(), root)],
        Err(error) => return vec![error],
    };
    while let Some((path, directory)) = queue.pop() {
        if !entered.insert(directory.fd()) {
            continue;
        }
        let mut entries = Vec::new();
        let listed = fs.read_dir(&directory, 0, |entry| {
            entries.push(entry);
            entries.len() < left
        });
        errors.extend(listed.err());
        for entry in entries {
            if left == 0 {
                return errors;
            }
            left -= 1;
            let path = format!("{path}/{}", String::from_utf8_lossy(&entry.name));
            match fs.inode(entry.fd) {
                Ok(inode) => {
                    visit(&path, &inode);
                    if inode.is_directory() {
                        queue.push((path, inode));
                    }
                }
                Err(error) => errors.push(error),
            }
        }
    }
    errors
}
