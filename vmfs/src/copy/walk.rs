use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::OFlags;
use vmfs_core::format::{FdAddr, FileKind};
use vmfs_core::fs::{FileSystem, Inode};

use super::Failures;
use super::file::{self, Copied, Options};
use super::progress::Progress;
use super::{lost, part};

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
    /// Whether the user has named the destination, rather than the volume.
    named: bool,
}

impl Job<'_> {
    /// Copies `source`, at `path` of the volume, to `destination`.
    pub(super) fn run(
        mut self,
        source: &Arc<Inode>,
        path: &str,
        destination: PathBuf,
        named: bool,
    ) -> Vec<Copied> {
        let root = Item {
            inode: Arc::clone(source),
            path: path.to_owned(),
            destination,
            named,
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
            let set = open_directory(&item.destination)
                .and_then(|copy| file::set_attributes(&copy, &item.inode, self.options));
            if let Err(error) = set {
                self.failures
                    .add(self.progress, &item.path, &error.to_string());
            }
        }
        copied
    }

    /// Makes the directories and collects the files; a directory met again is not entered.
    /// Returns the files, and the directories whose attributes are to be the volume's.
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
            let made = make_directory(&item.destination, item.named);
            let (made, listed) = match made {
                Ok(made) => (made, self.list(&item)),
                Err(message) => (false, Err(message)),
            };
            let failed = listed.is_err();
            match listed {
                Ok(below) => queue.extend(below.into_iter().rev()),
                Err(message) => self.failures.add(self.progress, &item.path, &message),
            }
            // One that was there may be what an interrupted copy has made.
            if made || self.options.resume && !item.named && !failed {
                directories.push(item);
            }
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
                        named: false,
                    });
                }
                Err(error) => self.failures.add(self.progress, &path, &error.to_string()),
            }
            true
        });
        match listed {
            // What could be listed is copied all the same.
            Err(error) if !below.is_empty() => {
                self.failures
                    .add(self.progress, &directory.path, &error.to_string());
            }
            other => other.map_err(|error| error.to_string())?,
        }
        self.leave_out(&mut below);
        Ok(below)
    }

    /// Takes out what can't be copied beside its siblings: a file whose part file would have the
    /// name of one of them.
    fn leave_out(&mut self, siblings: &mut Vec<Item>) {
        let names: HashSet<_> = siblings.iter().map(|i| i.destination.clone()).collect();
        siblings.retain(|item| {
            let beside = |suffix| part::beside(&item.destination, suffix);
            let mut others = [part::SUFFIX, lost::SUFFIX].map(beside).into_iter();
            let other = others.find(|name| item.has_part() && names.contains(name));
            if let Some(other) = &other {
                let name = other.file_name().unwrap_or_default().display();
                let message = format!(
                    "left out: while it is copied its data would go by the name {name}, and that \
                     is another file of this directory; copy it alone, to somewhere else"
                );
                self.failures.add(self.progress, &item.path, &message);
            }
            other.is_none()
        });
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

impl Item {
    /// Whether it is copied by way of a part file.
    fn has_part(&self) -> bool {
        let kind = self.inode.kind();
        !self.inode.is_directory() && !matches!(kind, FileKind::Rdm | FileKind::Symlink)
    }
}

/// Makes a directory; returns false if it was there. A symbolic link counts as one only where the
/// user has `named` it: any other leads out of what was named.
fn make_directory(path: &Path, named: bool) -> Result<bool, String> {
    let failed = |error: io::Error| file::at(path, &error);
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        other => return other.map(|()| true).map_err(failed),
    }
    let found = fs::symlink_metadata(path).map_err(failed)?;
    let shown = path.display();
    if found.is_dir() || found.is_symlink() && named && path.is_dir() {
        Ok(false)
    } else if found.is_symlink() {
        Err(format!(
            "left out: {shown} is a symbolic link, and nothing is copied through it"
        ))
    } else {
        Err(format!(
            "left out: {shown} is in the way: it is no directory"
        ))
    }
}

pub(super) fn open_directory(path: &Path) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::DIRECTORY;
    let mut how = File::options();
    how.read(true).custom_flags(flags.bits().cast_signed());
    how.open(path)
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
