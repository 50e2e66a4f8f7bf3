//! Directories of both formats: docs/fsck/directories.md.

mod behind;
mod dots;
mod entry;
mod flat;
mod hashed;
mod rebuild;

use vmfs_core::format::{Family, FdAddr};

use crate::code::Code;
use crate::content::Content;
use crate::finding::Finding;
use crate::round::{Round, as_resource};

pub(crate) use dots::{parent_of, set_parent};
pub(crate) use entry::take_out;

/// No directory that a host makes comes near this size; bounds the work that a damaged one causes.
const MAX_DIRECTORY: u64 = 1 << 30;

/// Looks at every directory, also at those that become one on the way.
pub(crate) fn run(round: &mut Round<'_, '_>) {
    if round.files.contains_key(&FdAddr::ROOT) {
        round.usage.mark(as_resource(FdAddr::ROOT));
    }
    let mut next = 0;
    while let Some(&fd) = round.directories.get(next) {
        next += 1;
        directory(round, fd);
    }
}

fn directory(round: &mut Round<'_, '_>, fd: FdAddr) {
    let looked = Content::open(round, fd).and_then(|mut content| {
        length(round, &mut content);
        match round.layout.family {
            Family::Vmfs6 => hashed::run(round, &mut content),
            Family::Vmfs3 | Family::Vmfs5 => flat::run(round, &mut content),
        }
    });
    if let Err(error) = looked {
        let finding = Finding::new(Code::DirectoryUnreadable, format!("directory {fd}"), error);
        round.found(finding);
    }
}

/// A length that no directory has.
fn length(round: &mut Round<'_, '_>, content: &mut Content) {
    let found = content.length();
    let (unit, start) = match round.layout.family {
        Family::Vmfs6 => (round.layout.md_block, vmfs_core::format::DIR_BLOCKS_START),
        Family::Vmfs3 | Family::Vmfs5 => (vmfs_core::format::DirEntry5::SIZE, 0),
    };
    let whole = found >= start && (found - start).is_multiple_of(unit);
    let most = mapped(round, content).min(MAX_DIRECTORY);
    if let Some(told) = behind::length(round, content, most) {
        let finding = Finding::new(
            Code::DirectoryStructure,
            format!("directory {}", content.fd),
            format!("its length is {found:#x}, and entries of it lie behind that, up to {told:#x}"),
        )
        .at_volume(content.place.0)
        .repair(format!("make it {told:#x}"));
        if round.found(finding) {
            return set_length(round, content, told);
        }
    }
    if whole && found <= most {
        return;
    }
    // What lies behind a length that is a little off is still there: blocks and entries tell.
    let up = if found > most { most } else { found };
    let expected = start + up.saturating_sub(start).div_ceil(unit) * unit;
    let expected = if expected > most && expected >= unit {
        expected - unit
    } else {
        expected
    };
    let finding = Finding::new(
        Code::DirectoryStructure,
        format!("directory {}", content.fd),
        format!("its length is {found:#x}, expected {start:#x} and whole units of {unit}, up to {most:#x}"),
    )
    .at_volume(content.place.0)
    .repair(format!("make it {expected:#x}"));
    if round.found(finding) {
        set_length(round, content, expected);
    }
}

/// Writes another length, with what is there already.
fn set_length(round: &mut Round<'_, '_>, content: &mut Content, length: u64) {
    content.image.metadata().length = length.into();
    // It was read a moment ago.
    let _ = content.save(round, crate::plan::Stage::Refer);
    if let Ok(again) = Content::open(round, content.fd) {
        *content = again;
    }
}

/// The end of the last block that the directory has.
fn mapped(round: &Round<'_, '_>, content: &Content) -> u64 {
    super::mend::mapped_length(&round.layout, &content.image)
}
