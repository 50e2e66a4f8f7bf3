//! What was written: enough to make it again, byte for byte, without having it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use vmfs_fixtures::pattern;
use vmfs_tests::oracle::DissectFile;

/// Bytes that are compared at once.
const PIECE: u64 = 1 << 20;

/// A regular file's content: writes in their order, over zeros.
#[derive(Debug, Clone, Default)]
pub(super) struct Content {
    pub(super) length: u64,
    writes: Vec<(u64, u64, u64)>,
}

impl Content {
    /// Notes a write and returns its bytes.
    pub(super) fn write(&mut self, offset: u64, seed: u64, length: u64) -> Vec<u8> {
        self.writes.push((offset, seed, length));
        self.length = self.length.max(offset + length);
        pattern(seed, length as usize)
    }

    /// Notes a new length.
    pub(super) fn truncate(&mut self, length: u64) {
        for write in &mut self.writes {
            write.2 = write.2.min(length.saturating_sub(write.0));
        }
        self.length = length;
    }

    /// The bytes from `offset` on.
    fn bytes(&self, offset: u64, length: u64) -> Vec<u8> {
        let mut bytes = vec![0; length as usize];
        for &(at, seed, size) in &self.writes {
            let (from, to) = (at.max(offset), (at + size).min(offset + length));
            if from < to {
                let written = pattern(seed, (to - at) as usize);
                bytes[(from - offset) as usize..(to - offset) as usize]
                    .copy_from_slice(&written[(from - at) as usize..]);
            }
        }
        bytes
    }

    /// Where to look at a file that is too large to be read: around each write.
    pub(super) fn places(&self) -> Vec<u64> {
        let writes = self.writes.iter();
        let mut places: Vec<u64> = writes
            .flat_map(|&(at, _, size)| [at.saturating_sub(32 << 10), at, at + size.max(1) - 1])
            .collect();
        places.push(self.length.saturating_sub(1));
        places
    }
}

/// What is under a name.
#[derive(Debug, Clone)]
pub(super) enum Node {
    File(Content),
    Directory,
    Symlink(String),
}

/// Everything below a directory by its path, `a/b`; a hard link is another file with the same
/// content.
#[derive(Debug, Default)]
pub(super) struct Written {
    pub(super) nodes: BTreeMap<String, Node>,
}

/// Files up to this size are compared whole.
pub(super) const WHOLE: u64 = 512 << 20;

impl Written {
    /// Where to look at large files.
    pub(super) fn places(&self) -> Vec<u64> {
        let mut places: Vec<u64> = self
            .nodes
            .values()
            .filter_map(|node| match node {
                Node::File(content) if content.length > WHOLE => Some(content.places()),
                _ => None,
            })
            .flatten()
            .collect();
        places.sort_unstable();
        places.dedup();
        places
    }

    /// Compares with what is mounted on `top`; of files larger than [`WHOLE`] only the places
    /// that were written, and of those that have a `reach` what is below.
    pub(super) fn compare_mount(&self, top: &Path, reach: &BTreeMap<String, u64>) -> Result<()> {
        let mut found = BTreeSet::new();
        list(top, "", &mut found)?;
        self.compare_names(found.iter())?;
        for (path, node) in &self.nodes {
            let there = top.join(path);
            match node {
                Node::Directory => ensure!(there.is_dir(), "{path} is no directory"),
                Node::Symlink(target) => {
                    let found = fs::read_link(&there).with_context(|| path.clone())?;
                    ensure!(
                        found == Path::new(target),
                        "{path} leads to {}",
                        found.display()
                    );
                }
                Node::File(content) => {
                    let reach = reach.get(path).copied().unwrap_or(u64::MAX);
                    compare_file(&there, content, reach).with_context(|| path.clone())?;
                }
            }
        }
        Ok(())
    }

    /// Compares with what dissect.vmfs found.
    pub(super) fn compare_dissect(&self, files: &[DissectFile]) -> Result<()> {
        let found: BTreeMap<String, &DissectFile> = files
            .iter()
            .map(|file| (file.path.trim_start_matches('/').to_owned(), file))
            .filter(|(path, _)| !is_system(path))
            .collect();
        self.compare_names(found.keys())?;
        for (path, node) in &self.nodes {
            let file = found[path];
            ensure!(file.error.is_none(), "{path}: {:?}", file.error);
            match node {
                Node::Directory => {}
                Node::Symlink(target) => {
                    ensure!(
                        file.target.as_ref() == Some(target),
                        "{path}: {:?}",
                        file.target
                    );
                }
                Node::File(content) => {
                    ensure!(
                        file.length == content.length,
                        "{path}: {} bytes",
                        file.length
                    );
                    let mut read = 0;
                    for &(offset, length, crc, ..) in &file.pieces {
                        let wanted = crc32fast::hash(&content.bytes(offset, length));
                        ensure!(crc == wanted, "{path}: {length} bytes at {offset}");
                        read += length;
                    }
                    let enough = content.length > WHOLE || read == content.length;
                    ensure!(enough, "{path}: {read} bytes were read");
                }
            }
        }
        Ok(())
    }

    fn compare_names<'a>(&self, found: impl Iterator<Item = &'a String>) -> Result<()> {
        let found: Vec<_> = found.collect();
        for path in &found {
            ensure!(self.nodes.contains_key(*path), "{path} wasn't written");
        }
        if found.len() == self.nodes.len() {
            return Ok(());
        }
        let lost = self.nodes.keys().find(|path| !found.contains(path));
        bail!(
            "{} of {} names, {lost:?} is missing",
            found.len(),
            self.nodes.len()
        );
    }
}

fn compare_file(path: &Path, content: &Content, reach: u64) -> Result<()> {
    let file = fs::File::open(path)?;
    let length = file.metadata()?.size();
    ensure!(
        length == content.length,
        "{length} bytes, not {}",
        content.length
    );
    let end = length.min(reach);
    let pieces: Vec<(u64, u64)> = if length <= WHOLE {
        let starts = (0..end).step_by(PIECE as usize);
        starts.map(|at| (at, PIECE.min(end - at))).collect()
    } else {
        let places = content.places().into_iter().filter(|&at| at < end);
        places.map(|at| (at, (64 << 10).min(end - at))).collect()
    };
    let mut bytes = vec![0; PIECE as usize];
    for (offset, length) in pieces {
        let found = &mut bytes[..length as usize];
        file.read_exact_at(found, offset)?;
        let wanted = content.bytes(offset, length);
        if let Some(at) = (0..wanted.len()).find(|&at| found[at] != wanted[at]) {
            bail!(
                "byte {} is {:#x}, not {:#x}",
                offset + at as u64,
                found[at],
                wanted[at]
            );
        }
    }
    Ok(())
}

/// What VMFS itself keeps in the root directory.
fn is_system(path: &str) -> bool {
    let top = path.split('/').next().unwrap_or_default();
    let name = top.strip_prefix('.');
    name.and_then(|name| name.strip_suffix(".sf")).is_some()
}

fn list(folder: &Path, below: &str, found: &mut BTreeSet<String>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let entry = entry?;
        let name = entry.file_name().into_string();
        let name = name.map_err(|name| anyhow::anyhow!("{} isn't UTF-8", name.display()))?;
        let path = format!("{below}{name}");
        if is_system(&path) {
            continue;
        }
        if fs::symlink_metadata(entry.path())?.is_dir() {
            list(&entry.path(), &format!("{path}/"), found)?;
        }
        found.insert(path);
    }
    Ok(())
}
