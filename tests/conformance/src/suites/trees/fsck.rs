//! vmfs-tools' fsck.vmfs, with the two things accounted for that it doesn't know.
//!
//! It takes the start of a resident file's data for a block address, and doesn't find a
//! to-be-zeroed block again under the address without the mark (docs/READERS.md). All that it
//! reports must be one or the other.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

use vmfs_core::format::{BlockAddr, ZeroLevel};
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
            // It numbers what it took for a descriptor with zero.
            ["Orphaned", "inode", "0x00000000"] => {}
            ["Undefined" | "Directory", _, ":", count] => ensure!(count == "0", "{line}"),
            [_, "Block", ..] | ["Sub-Block", ..] | ["Orphaned", "inode", ..] => bail!("{line}"),
            _ => {}
        }
    }
    Ok(())
}

/// What fsck.vmfs gets wrong on a volume.
#[derive(Debug, Default)]
struct Excused {
    /// First words of resident data, and how many bits of each belong to the file.
    resident: BTreeSet<(u32, u32)>,
    /// Addresses of to-be-zeroed blocks, without the mark.
    marked: BTreeSet<u32>,
}

impl Excused {
    fn find(image: &Path) -> Result<Self> {
        let volume = walk::open(&[image]);
        let mut excused = Self::default();
        for inode in walk::all_files(&volume).values() {
            if inode.map().zero_level() == ZeroLevel::Resident {
                let mut word = [0; 4];
                let read = volume.read(inode, 0, &mut word)? as u32;
                let word = u32::from_le_bytes(word);
                excused.resident.insert((word, 8 * read));
            } else {
                excused.find_marked(&volume, inode)?;
            }
        }
        Ok(excused)
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
        let address = number(address)?;
        let known = (1..=4).any(|bytes| {
            let mask = u32::MAX >> (32 - 8 * bytes);
            self.resident.contains(&(address & mask, 8 * bytes))
        });
        ensure!(known, "{line}");
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
