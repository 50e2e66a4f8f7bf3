use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use vmfs_core::format::{FdAddr, FileKind};
use vmfs_core::fs::{FileSystem, Inode};

use super::Failures;
use super::file::{self, Copied, Options};
use super::progress::Progress;

/// One source and everything below it.
pub(super) struct Job<'a> {
    pub(super) fs: &'a FileSystem,
    pub(super) options: Options,
    /// Whether system files are copied.
    pub(super) system: bool,
    pub(super) progress: &'a Progress,
    pub(super) failures: &'a mut Failures,
}

/// A file to copy.
struct Item {
    inode: Arc<Inode>,
    path: String,
    destination: PathBuf,
}

impl Job<'_> {
    /// Copies `source`, at `path` of the volume, to `destination`.
    pub(super) fn run(
        mut self,
        source: &Arc<Inode>,
        path: &str,
        destination: PathBuf,
    ) -> Vec<Copied> {
        let root = Item {
            inode: Arc::clone(source),
            path: path.to_owned(),
            destination,
        };
        // All that is to be done is found first, so that progress has an end in sight.
        let (items, directories) = self.find(root);
        let mut copied = Vec::new();
        let mut names: HashMap<FdAddr, PathBuf> = HashMap::new();
        for item in &items {
            match self.copy(item, &mut names) {
                Ok(Some(file)) => copied.push(file),
                Ok(None) => {}
                Err(message) => self.failures.add(self.progress, &item.path, &message),
            }
        }
        // Last, since making the files in them changed their times.
        for item in directories.iter().rev() {
            if let Err(error) = file::set_attributes(&item.destination, &item.inode, self.options) {
                self.failures
                    .add(self.progress, &item.path, &error.to_string());
            }
        }
        copied
    }

    /// Makes the directories and collects the files; a directory met again is not entered.
    fn find(&mut self, root: Item) -> (Vec<Item>, Vec<Item>) {
        let (mut items, mut directories) = (Vec::new(), Vec::new());
        let mut visited = HashSet::new();
        let mut queue = vec![root];
        while let Some(item) = queue.pop() {
            if !item.inode.is_directory() {
                self.progress
                    .expect(item.inode.allocated().min(item.inode.length()));
                items.push(item);
                continue;
            }
            if !visited.insert(item.inode.fd()) {
                let message = "a directory inside itself is not entered again";
                self.failures.add(self.progress, &item.path, message);
                continue;
            }
            let made = make_directory(&item.destination);
            let listed = made
                .map_err(|error| error.to_string())
                .and_then(|()| self.list(&item));
            match listed {
                Ok(below) => queue.extend(below.into_iter().rev()),
                Err(message) => self.failures.add(self.progress, &item.path, &message),
            }
            directories.push(item);
        }
        (items, directories)
    }

    fn list(&mut self, directory: &Item) -> Result<Vec<Item>, String> {
        let mut below = Vec::new();
        let (fs, path) = (self.fs, &directory.path);
        let listed = fs.read_dir(&directory.inode, 0, |entry| {
            let path = format!(
                "{}/{}",
                path.trim_end_matches('/'),
                String::from_utf8_lossy(&entry.name)
            );
            if entry.kind == FileKind::System && !self.system {
                return true;
            }
            // The file system leaves out names that could lead elsewhere; a copy must not rely
            // on that alone.
            let name = Path::new(OsStr::from_bytes(&entry.name));
            if name.components().count() != 1 || name.file_name() != Some(name.as_os_str()) {
                self.failures.add(
                    self.progress,
                    &path,
                    "a name that leads out of its directory",
                );
                return true;
            }
            match fs.inode(entry.fd) {
                Ok(inode) => {
                    let destination = directory.destination.join(name);
                    below.push(Item {
                        inode,
                        path,
                        destination,
                    });
                }
                Err(error) => self.failures.add(self.progress, &path, &error.to_string()),
            }
            true
        });
        match listed {
            Ok(()) => Ok(below),
            // What could be listed is copied all the same.
            Err(error) if !below.is_empty() => {
                self.failures
                    .add(self.progress, &directory.path, &error.to_string());
                Ok(below)
            }
            Err(error) => Err(error.to_string()),
        }
    }

    fn copy(
        &mut self,
        item: &Item,
        names: &mut HashMap<FdAddr, PathBuf>,
    ) -> Result<Option<Copied>, String> {
        let inode = &item.inode;
        self.progress.start(&item.path);
        if let Some(first) = names.get(&inode.fd()) {
            return link(first, &item.destination)
                .map(|()| None)
                .map_err(|e| e.to_string());
        }
        match inode.kind() {
            FileKind::Rdm => {
                let disk = inode
                    .rdm()
                    .map(|mapping| mapping.disk.text())
                    .unwrap_or_default();
                return Err(format!(
                    "left out: it points to the raw disk {disk}, whose data is not on this volume"
                ));
            }
            FileKind::Symlink => {
                let target = self
                    .fs
                    .read_link(inode)
                    .map_err(|error| error.to_string())?;
                let made = replace_symlink(OsStr::from_bytes(&target), &item.destination);
                return made.map(|()| None).map_err(|error| error.to_string());
            }
            _ => {}
        }
        let copied = file::copy(
            self.fs,
            inode,
            &item.destination,
            self.options,
            self.progress,
        )?;
        if inode.meta().links.get() > 1 {
            names.insert(inode.fd(), item.destination.clone());
        }
        Ok(copied.map(|bytes| Copied {
            path: item.path.clone(),
            bytes,
        }))
    }
}

fn make_directory(path: &Path) -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        other => other,
    }
}

fn link(first: &Path, destination: &Path) -> io::Result<()> {
    remove_if_there(destination)?;
    fs::hard_link(first, destination)
}

fn replace_symlink(target: &OsStr, destination: &Path) -> io::Result<()> {
    remove_if_there(destination)?;
    symlink(target, destination)
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
