//! Everything on a volume, found without trusting it.

use std::collections::HashSet;
use std::sync::Arc;

use vmfs_core::fs::{FileSystem, FsError, Inode};

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
