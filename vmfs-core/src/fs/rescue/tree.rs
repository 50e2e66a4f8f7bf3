//! Paths, from the names that can be read.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::Rescue;
use crate::file::Inode;
use crate::format::{FdAddr, FileKind};

/// A path and the file that it leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// The names on the way from the root; of what no name leads to, from [`Tree::ORPHANS`].
    pub path: Vec<Vec<u8>>,
    /// The file.
    pub fd: FdAddr,
    /// What its descriptor says it is.
    pub kind: FileKind,
    /// Whether it is a directory.
    pub is_directory: bool,
    /// Whether it, or a directory above it, has lost its name.
    pub is_orphan: bool,
}

/// A name whose descriptor can't be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gone {
    /// The names on the way.
    pub path: Vec<Vec<u8>>,
    /// The descriptor that the name leads to.
    pub fd: FdAddr,
    /// What the name says that it is.
    pub kind: FileKind,
}

/// All paths of a volume. Memory grows with the number of files.
#[derive(Debug, Default)]
pub struct Tree {
    /// Directories before what is in them.
    pub items: Vec<Item>,
    /// Names of what is gone.
    pub gone: Vec<Gone>,
}

/// What is known of a file.
struct Known {
    kind: FileKind,
    is_directory: bool,
    generation: u32,
}

struct Builder<'a> {
    rescue: &'a Rescue,
    files: BTreeMap<FdAddr, Known>,
    below: HashMap<FdAddr, Vec<(Vec<u8>, FdAddr, FileKind)>>,
    entered: HashSet<FdAddr>,
    named: HashSet<FdAddr>,
    tree: Tree,
}

impl Tree {
    /// The folder of what no name leads to.
    pub const ORPHANS: &'static [u8] = b"lost+found";

    /// Finds every file of the volume and every name that leads to one. System files are left out but
    /// for those below the root's names.
    pub fn of(rescue: &Rescue) -> Self {
        let mut files = BTreeMap::new();
        let mut directories: Vec<Arc<Inode>> = Vec::new();
        rescue.for_each_file(&mut |inode| {
            let known = Known {
                kind: inode.kind(),
                is_directory: inode.is_directory(),
                generation: inode.meta().generation.get(),
            };
            if known.is_directory {
                directories.push(Arc::clone(inode));
            }
            files.insert(inode.fd(), known);
        });
        // Names also lead to descriptors that a damaged bitmap calls free.
        let mut builder = Builder {
            rescue,
            files,
            below: HashMap::new(),
            entered: HashSet::new(),
            named: HashSet::new(),
            tree: Self::default(),
        };
        while let Some(directory) = directories.pop() {
            builder.list(&directory, &mut directories);
        }
        builder.build();
        builder.tree
    }
}

impl Builder<'_> {
    fn list(&mut self, directory: &Inode, directories: &mut Vec<Arc<Inode>>) {
        let mut below = Vec::new();
        for entry in self.rescue.names(directory) {
            if !self.files.contains_key(&entry.fd)
                && let Some(inode) = self.rescue.inode(entry.fd)
                && inode.meta().generation.get() == entry.generation
                && inode.kind() == entry.kind
            {
                if inode.is_directory() {
                    directories.push(Arc::clone(&inode));
                }
                self.files.insert(
                    entry.fd,
                    Known {
                        kind: inode.kind(),
                        is_directory: inode.is_directory(),
                        generation: inode.meta().generation.get(),
                    },
                );
            }
            // The name of a file that was there before is not this one's.
            let other = self.files.get(&entry.fd).is_some_and(|known| {
                known.generation != entry.generation || known.kind != entry.kind
            });
            if !other {
                self.named.insert(entry.fd);
                below.push((entry.name, entry.fd, entry.kind));
            }
        }
        self.below.insert(directory.fd(), below);
    }

    fn build(&mut self) {
        self.named.insert(FdAddr::ROOT);
        self.enter(FdAddr::ROOT, Vec::new(), false);
        // What no name leads to, then what only lies in a circle of directories.
        for only_unnamed in [true, false] {
            let orphans: Vec<_> = self
                .files
                .iter()
                .filter(|(fd, known)| {
                    let unnamed = !self.named.contains(fd);
                    known.is_directory
                        && known.kind != FileKind::System
                        && (unnamed || !only_unnamed)
                })
                .map(|(&fd, _)| fd)
                .collect();
            for fd in orphans {
                if !self.entered.contains(&fd) {
                    self.orphan(fd);
                }
            }
        }
        let placed: HashSet<_> = self.tree.items.iter().map(|item| item.fd).collect();
        let orphans: Vec<_> = self
            .files
            .iter()
            .filter(|(fd, known)| {
                !known.is_directory && known.kind != FileKind::System && !placed.contains(fd)
            })
            .map(|(&fd, _)| fd)
            .collect();
        for fd in orphans {
            self.orphan(fd);
        }
    }

    fn orphan(&mut self, fd: FdAddr) {
        let name = format!("fd-{:08x}", fd.raw()).into_bytes();
        let path = vec![Tree::ORPHANS.to_vec(), name];
        self.place(path, fd, true);
    }

    /// Puts `fd` at `path`, with everything below it.
    fn place(&mut self, path: Vec<Vec<u8>>, fd: FdAddr, is_orphan: bool) {
        let Some(known) = self.files.get(&fd) else {
            return;
        };
        let (kind, is_directory) = (known.kind, known.is_directory);
        if is_directory && self.entered.contains(&fd) {
            return;
        }
        self.tree.items.push(Item {
            path: path.clone(),
            fd,
            kind,
            is_directory,
            is_orphan,
        });
        if is_directory {
            self.enter(fd, path, is_orphan);
        }
    }

    fn enter(&mut self, top: FdAddr, path: Vec<Vec<u8>>, is_orphan: bool) {
        let mut queue = vec![(top, path)];
        while let Some((directory, path)) = queue.pop() {
            if !self.entered.insert(directory) {
                continue;
            }
            let mut last: Option<Vec<u8>> = None;
            for (mut name, fd, kind) in self.below.remove(&directory).unwrap_or_default() {
                if last.as_ref() == Some(&name) {
                    // Two files of one name: only damage makes that.
                    name.extend(format!("~fd-{:08x}", fd.raw()).into_bytes());
                } else {
                    last = Some(name.clone());
                }
                let mut path = path.clone();
                path.push(name);
                let Some(known) = self.files.get(&fd) else {
                    self.tree.gone.push(Gone { path, fd, kind });
                    continue;
                };
                let (kind, is_directory) = (known.kind, known.is_directory);
                if is_directory && self.entered.contains(&fd) {
                    continue;
                }
                self.tree.items.push(Item {
                    path: path.clone(),
                    fd,
                    kind,
                    is_directory,
                    is_orphan,
                });
                if is_directory {
                    queue.push((fd, path));
                }
            }
        }
    }
}
