//! Writes trees, large files, sparse disks and names that collide.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;

use anyhow::{Context, Result};
use vmfs_fixtures::{colliding_names, names_in_one_slot};
use vmfs_tests::random::Random;

use super::written::{Content, Node, Written};

/// How much of each.
#[derive(Debug, Clone, Copy)]
pub(super) struct Amounts {
    pub(super) files: u64,
    pub(super) large: u64,
    pub(super) disk_writes: u64,
    pub(super) names: usize,
    pub(super) pairs: usize,
}

/// Virtual size of a disk.
const DISK: u64 = 200 << 30;

/// Writes everything below `top`.
pub(super) fn write(top: &Path, amounts: Amounts, random: &mut Random) -> Result<Written> {
    let mut written = Written::default();
    let mut writer = Writer {
        top,
        random,
        written: &mut written,
    };
    writer.tree(amounts.files)?;
    writer.churn(amounts.files)?;
    writer.large("large-in-order", amounts.large, false)?;
    writer.large("large-by-chance", amounts.large, true)?;
    writer.disk("disk", amounts.disk_writes)?;
    writer.disk("preallocated-start", amounts.disk_writes)?;
    writer.collisions(amounts)?;
    Ok(written)
}

struct Writer<'a> {
    top: &'a Path,
    random: &'a mut Random,
    written: &'a mut Written,
}

impl Writer<'_> {
    fn directory(&mut self, path: &str) -> Result<()> {
        if !self.written.nodes.contains_key(path) {
            fs::create_dir(self.top.join(path)).with_context(|| path.to_owned())?;
            self.written.nodes.insert(path.into(), Node::Directory);
        }
        Ok(())
    }

    /// A length: often small enough for the descriptor, sometimes several blocks.
    fn length(&mut self) -> u64 {
        let most = *self
            .random
            .one_of(&[1, 64, 1024, 3584, 4096, 9000, 65_536, 65_536, 200_000]);
        if self.random.below(200) == 0 {
            self.random.below(5 << 20)
        } else {
            self.random.below(most + 1)
        }
    }

    fn tree(&mut self, files: u64) -> Result<()> {
        self.directory("tree")?;
        for index in 0..files {
            let (outer, inner) = (index % 17, index % 40);
            self.directory(&format!("tree/{outer}"))?;
            self.directory(&format!("tree/{outer}/{inner}"))?;
            let folder = format!("tree/{outer}/{inner}");
            let path = format!("{folder}/file-{index}");
            let file = File::create(self.top.join(&path))?;
            let mut content = Content::default();
            for _ in 0..=self.random.below(3) {
                let offset = match self.random.below(4) {
                    0 => self.random.below(content.length + 1),
                    1 => content.length + self.random.below(5000),
                    _ => content.length,
                };
                let length = self.length();
                if length > 0 {
                    let bytes = content.write(offset, self.random.bits() >> 40, length);
                    file.write_all_at(&bytes, offset)?;
                }
            }
            self.written.nodes.insert(path, Node::File(content.clone()));
            if index % 50 == 0 {
                let (link, other) = (
                    format!("{folder}/link-{index}"),
                    format!("{folder}/hard-{index}"),
                );
                // Most are alike, as in real trees; some are too long for a descriptor.
                let depth = if index / 50 % 4 == 3 { 700 } else { 0 };
                let target = "a/".repeat(depth) + "target";
                symlink(&target, self.top.join(&link))?;
                fs::hard_link(
                    self.top.join(format!("{folder}/file-{index}")),
                    self.top.join(&other),
                )?;
                self.written.nodes.insert(link, Node::Symlink(target));
                self.written.nodes.insert(other, Node::File(content));
            }
        }
        Ok(())
    }

    /// Removes, moves, cuts and continues some files of the tree.
    fn churn(&mut self, files: u64) -> Result<()> {
        self.directory("moved")?;
        for index in (0..files).filter(|index| index % 50 != 0) {
            let path = format!("tree/{}/{}/file-{index}", index % 17, index % 40);
            let there = self.top.join(&path);
            match self.random.below(10) {
                0 => {
                    fs::remove_file(there)?;
                    self.written.nodes.remove(&path);
                }
                1 => {
                    let to = format!("moved/{}", index % (files / 20 + 1));
                    fs::rename(there, self.top.join(&to))?;
                    if let Some(node) = self.written.nodes.remove(&path) {
                        self.written.nodes.insert(to, node);
                    }
                }
                2 | 3 => {
                    let Some(Node::File(content)) = self.written.nodes.get_mut(&path) else {
                        continue;
                    };
                    let file = OpenOptions::new().write(true).open(there)?;
                    let length = self.random.below(content.length + 100);
                    file.set_len(length)?;
                    content.truncate(length);
                    let offset = length + self.random.below(2) * self.random.below(100_000);
                    let bytes = content.write(offset, index, 1 + self.random.below(3000));
                    file.write_all_at(&bytes, offset)?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn large(&mut self, path: &str, length: u64, by_chance: bool) -> Result<()> {
        const CHUNK: u64 = 192 << 10;
        let file = File::create(self.top.join(path))?;
        let mut content = Content::default();
        let mut chunks: Vec<u64> = (0..length / CHUNK).collect();
        if by_chance {
            for index in 0..chunks.len() {
                let other = self.random.below(chunks.len() as u64) as usize;
                chunks.swap(index, other);
            }
        }
        for chunk in chunks {
            let bytes = content.write(chunk * CHUNK, self.random.bits() >> 40, CHUNK);
            file.write_all_at(&bytes, chunk * CHUNK)?;
        }
        let last = content.length;
        let bytes = content.write(last, 1, 12_345);
        file.write_all_at(&bytes, last)?;
        self.written.nodes.insert(path.into(), Node::File(content));
        Ok(())
    }

    /// A sparse disk; one whose name says so has its start allocated beforehand.
    fn disk(&mut self, path: &str, writes: u64) -> Result<()> {
        let file = File::create(self.top.join(path))?;
        let mut content = Content::default();
        file.set_len(DISK)?;
        content.truncate(DISK);
        if path.starts_with("preallocated") {
            use rustix::fs::{FallocateFlags, fallocate};
            // A directory on something else than VMFS or ext4 may not have it.
            let _ = fallocate(&file, FallocateFlags::empty(), 0, 40 << 20);
        }
        for index in 0..writes {
            // A third of them close together, as a guest's file system does it.
            let near = if index % 3 == 0 {
                64 << 20
            } else {
                DISK - (1 << 20)
            };
            let offset = self.random.below(near) / 512 * 512;
            let length = 512 << self.random.below(10);
            let bytes = content.write(offset, self.random.bits() >> 40, length);
            file.write_all_at(&bytes, offset)?;
        }
        file.sync_all()?;
        self.written.nodes.insert(path.into(), Node::File(content));
        Ok(())
    }

    /// Directories whose names share a slot of VMFS6's hash table, or all of their hash; half of
    /// the first are removed again.
    fn collisions(&mut self, amounts: Amounts) -> Result<()> {
        self.directory("slot")?;
        for (index, name) in names_in_one_slot("s", amounts.names)
            .into_iter()
            .enumerate()
        {
            self.named("slot", &name, index as u64)?;
        }
        for name in names_in_one_slot("s", amounts.names).iter().step_by(2) {
            fs::remove_file(self.top.join("slot").join(name))?;
            self.written.nodes.remove(&format!("slot/{name}"));
        }
        self.directory("pairs")?;
        for index in 0..amounts.pairs {
            let prefix = format!("pair-{index}-");
            let (one, other) = colliding_names(&prefix).context("two names that collide")?;
            self.named("pairs", &one, 2 * index as u64)?;
            self.named("pairs", &other, 2 * index as u64 + 1)?;
            if index % 3 == 0 {
                fs::remove_file(self.top.join("pairs").join(&one))?;
                self.written.nodes.remove(&format!("pairs/{one}"));
            }
        }
        Ok(())
    }

    fn named(&mut self, folder: &str, name: &str, seed: u64) -> Result<()> {
        let path = format!("{folder}/{name}");
        let mut content = Content::default();
        let bytes = content.write(0, seed, 1 + seed % 90);
        fs::write(self.top.join(&path), bytes).with_context(|| path.clone())?;
        self.written.nodes.insert(path, Node::File(content));
        Ok(())
    }
}
