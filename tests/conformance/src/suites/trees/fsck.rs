//! vmfs-tools' fsck.vmfs, with the two things accounted for that it doesn't know.
//!
//! It takes the start of a resident file's data for a block address, and doesn't find a
//! to-be-zeroed block again under the address without the mark (docs/READERS.md). All that it
//! reports must be one or the other; what it takes for addresses is worked out here as it does it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

use vmfs_core::format::{BlockAddr, FileKind, LockKind, ZeroLevel};
use vmfs_core::fs::{FileSystem, Inode, Place};
use vmfs_tests::oracle::debian_tool;
use vmfs_tests::walk;

/// Checks an unmounted VMFS5 volume.
pub(super) fn check(image: &Path) -> Result<()> {
    let name = image.to_str().context("a path in UTF-8")?;
    let output = debian_tool("fsck.vmfs", "vmfs-tools", &[name]).context("not installed")?;
    ensure!(output.status.success(), "{}", output.status);
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(said.contains("Directory errors"), "it says: {said}");
    let excused = Excused::find(image)?;
    let mut orphans = excused.orphans();
    let mut lines = said.lines();
    while let Some(line) = lines.next() {
        let words: Vec<_> = line.split_whitespace().collect();
        match words[..] {
            ["Block", address, "is", "used", ..] => excused.resident(address, line)?,
            ["Block", address, "is", "referenced", ..] => {
                excused.resident(address, line)?;
                // Who refers to it.
                lines.next();
            }
            ["File", "Block", address, "is", "lost."] => excused.marked(address, line)?,
            ["Orphaned", "inode", address] => {
                let address = number(address)?;
                let place = orphans.iter().position(|&orphan| orphan == address);
                orphans.swap_remove(place.with_context(|| line.to_owned())?);
            }
            ["Undefined" | "Directory", _, ":", count] => ensure!(count == "0", "{line}"),
            [_, "Block", ..] | ["Sub-Block", ..] => bail!("{line}"),
            _ => {}
        }
    }
    ensure!(orphans.is_empty(), "it doesn't report {orphans:x?}");
    Ok(())
}

/// What fsck.vmfs gets wrong on a volume.
#[derive(Debug, Default)]
struct Excused {
    /// What it takes for block addresses, and the descriptors that it has them from, in its order.
    resident: BTreeMap<u32, Vec<u32>>,
    /// Addresses of to-be-zeroed blocks, without the mark.
    marked: BTreeSet<u32>,
    /// Descriptors with names.
    named: BTreeSet<u32>,
}

/// The last three bits of a file descriptor's address.
const DESCRIPTOR: u32 = 4;
/// It keeps who refers to a block where it keeps a descriptor: the number of the one that has this
/// place among them is what it prints as the descriptor's own, 0 if there are fewer.
const PRINTED: usize = 18;

impl Excused {
    fn find(image: &Path) -> Result<Self> {
        let volume = walk::open(&[image]);
        let mut excused = Self::default();
        excused.find_resident(&volume)?;
        for inode in walk::all_files(&volume).values() {
            if inode.map().zero_level() != ZeroLevel::Resident {
                excused.find_marked(&volume, inode)?;
            }
        }
        Ok(excused)
    }

    /// Goes through all descriptors as fsck.vmfs does. It reads each into the same memory, of
    /// resident data only as much as there is: the rest of an address is that of the one before.
    fn find_resident(&mut self, volume: &FileSystem) -> Result<()> {
        let layout = volume.layout();
        let (reader, resources) = (volume.store().reader(), volume.store().resources());
        let file = &resources.file_descriptors;
        let header = file.header();
        let per_cluster = u64::from(header.resources_per_cluster.get());
        let mut bytes = vec![0; layout.fd_size as usize];
        let mut address = [0; 4];
        for index in 0..header.resources() {
            let resource = (index % per_cluster) as u32;
            let place = file.locate(reader, index / per_cluster, resource)?;
            volume.volume().read(place, &mut bytes)?;
            let word = |at: u64| {
                let at = at as usize;
                u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
            };
            let meta = layout.fd_meta;
            let (fd, links, kind) = (word(meta), word(meta + 8), word(meta + 12));
            let is_resident = word(meta + 0x44) == ZeroLevel::Resident.raw();
            if word(0) != LockKind::FileDescriptor as u32 || kind == FileKind::Rdm as u32 {
                continue;
            }
            let length = if is_resident { word(meta + 0x14) } else { 4 };
            let start = layout.fd_data as usize;
            for (at, byte) in address.iter_mut().take(length as usize).enumerate() {
                *byte = bytes[start + at];
            }
            if links == 0 {
                continue;
            }
            self.named.insert(fd);
            let address = u32::from_le_bytes(address);
            if is_resident && length > 0 && address != 0 {
                self.resident.entry(address).or_default().push(fd);
            }
        }
        Ok(())
    }

    /// What it says of addresses that look like those of descriptors and aren't.
    fn orphans(&self) -> Vec<u32> {
        let descriptors = self
            .resident
            .iter()
            .filter(|(address, _)| **address & 7 == DESCRIPTOR && !self.named.contains(address));
        descriptors
            .map(|(_, from)| from.get(PRINTED).copied().unwrap_or(0))
            .collect()
    }

    fn find_marked(&mut self, volume: &FileSystem, inode: &Inode) -> Result<()> {
        let layout = volume.layout();
        let mut at = 0;
        while at < inode.length() {
            let run = volume.run_at(inode, at, u64::MAX)?;
            at = run.end();
            if let Place::ToBeZeroed(place) = run.place {
                let first = place.0 / layout.file_block_size();
                for block in first..first + run.length.div_ceil(layout.file_block_size()) {
                    let address = BlockAddr::FileBlock {
                        block,
                        tbz: 0,
                        cow: false,
                    };
                    self.marked.insert(address.encode(layout) as u32);
                }
            }
        }
        Ok(())
    }

    fn resident(&self, address: &str, line: &str) -> Result<()> {
        ensure!(self.resident.contains_key(&number(address)?), "{line}");
        Ok(())
    }

    fn marked(&self, address: &str, line: &str) -> Result<()> {
        ensure!(self.marked.contains(&number(address)?), "{line}");
        Ok(())
    }
}

fn number(address: &str) -> Result<u32> {
    let digits = address.trim_start_matches("0x");
    u32::from_str_radix(digits, 16).with_context(|| address.to_owned())
}
