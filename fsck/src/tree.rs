//! Every directory from the root: what its entries name, and how many names each file has.

use std::collections::{BTreeMap, HashSet};

use vmfs_core::format::FdAddr;
use vmfs_core::fs::{DirEntry, FsError};

use crate::descriptors::{Found, Seen, as_resource};
use crate::{Check, Code};

/// Walks the tree and compares it with the file descriptors in use.
pub fn run(check: &mut Check<'_>, found: &Found) {
    let mut walk = Walk {
        names: BTreeMap::new(),
        visited: HashSet::new(),
    };
    let mut queue = vec![FdAddr::ROOT];
    // The root is named by its own `..` as other directories are by their parent's entry.
    walk.names.insert(
        FdAddr::ROOT,
        Names {
            entries: 1,
            subdirectories: 0,
        },
    );
    check.usage.mark(as_resource(FdAddr::ROOT));
    while let Some(directory) = queue.pop() {
        if !walk.visited.insert(directory) {
            check
                .report
                .add(Code::DirectoryLoop, format!("directory {directory}"));
            continue;
        }
        if let Err(error) = walk.directory(check, found, directory, &mut queue) {
            let detail = format!("directory {directory}: {error}");
            check.report.add(Code::DirectoryUnreadable, detail);
        }
    }
    for (fd, seen) in found {
        walk.compare(check, *fd, *seen);
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Names {
    entries: u32,
    subdirectories: u32,
}

struct Walk {
    names: BTreeMap<FdAddr, Names>,
    visited: HashSet<FdAddr>,
}

impl Walk {
    fn directory(
        &mut self,
        check: &mut Check<'_>,
        found: &Found,
        fd: FdAddr,
        queue: &mut Vec<FdAddr>,
    ) -> Result<(), FsError> {
        let inode = check.fs.inode(fd)?;
        let mut from = 0;
        loop {
            // In portions, so that memory doesn't grow with the directory.
            let mut entries = Vec::with_capacity(1024);
            check.fs.read_dir(&inode, from, |entry| {
                entries.push(entry);
                entries.len() < 1024
            })?;
            let Some(last) = entries.last() else {
                return Ok(());
            };
            from = last.next;
            for entry in entries {
                check.report.entries += 1;
                let Some(seen) = found.get(&entry.fd) else {
                    check.report.add(Code::EntryDangling, describe(fd, &entry));
                    // It is a reference all the same, free or unreadable though it is.
                    check.usage.mark(as_resource(entry.fd));
                    continue;
                };
                self.entry(check, fd, &entry, *seen, queue);
                let by_name = check.fs.lookup(&inode, &entry.name);
                if by_name.ok().is_none_or(|inode| inode.fd() != entry.fd) {
                    check
                        .report
                        .add(Code::EntryNotFoundByHash, describe(fd, &entry));
                }
            }
        }
    }

    fn entry(
        &mut self,
        check: &mut Check<'_>,
        directory: FdAddr,
        entry: &DirEntry,
        seen: Seen,
        queue: &mut Vec<FdAddr>,
    ) {
        if entry.kind != seen.kind || entry.generation != seen.generation {
            let detail = format!(
                "{}: a {:?} of generation {}, its descriptor is a {:?} of generation {}",
                describe(directory, entry),
                entry.kind,
                entry.generation,
                seen.kind,
                seen.generation
            );
            check.report.add(Code::EntryMismatch, detail);
        }
        let names = self.names.entry(entry.fd).or_default();
        names.entries += 1;
        if names.entries == 1 {
            check.usage.mark(as_resource(entry.fd));
        }
        if seen.is_directory {
            self.names.entry(directory).or_default().subdirectories += 1;
            queue.push(entry.fd);
        }
    }

    fn compare(&self, check: &mut Check<'_>, fd: FdAddr, seen: Seen) {
        let Some(names) = self.names.get(&fd) else {
            check
                .report
                .add(Code::Unreachable, format!("file {fd}, a {:?}", seen.kind));
            return;
        };
        // A directory is also named by its own `.` and the `..` of those below it.
        let expected = names.entries
            + if seen.is_directory {
                1 + names.subdirectories
            } else {
                0
            };
        if expected != seen.links {
            let detail = format!(
                "file {fd} has {expected} names, its descriptor says {}",
                seen.links
            );
            check.report.add(Code::LinkCountWrong, detail);
        }
    }
}

fn describe(directory: FdAddr, entry: &DirEntry) -> String {
    let name = String::from_utf8_lossy(&entry.name);
    format!("{name:?} in directory {directory}, naming {}", entry.fd)
}
