//! What one entry says, against the descriptor that it names.

mod types;

use std::collections::HashMap;

use vmfs_core::file::entries::{self, DirHint};
use vmfs_core::format::{FdAddr, FileKind};

use crate::code::Code;
use crate::content::{Content, Editing};
use crate::finding::Finding;
use crate::passes::{connectivity, descriptors};
use crate::plan::Stage;
use crate::round::{Round, as_resource};

/// An entry as it stands in a directory.
pub(super) struct Entry<'e> {
    pub(super) name: &'e [u8],
    pub(super) kind: u32,
    pub(super) fd: u32,
    pub(super) generation: u32,
    /// Where it lies in the directory.
    pub(super) offset: u64,
    /// What is wrong with its own fields, if it is no entry at all.
    pub(super) damage: Option<String>,
}

/// What becomes of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It stays.
    Keep,
    /// It stays, with this type and generation.
    Fix(FileKind, u32),
    /// It goes.
    Remove,
}

/// Names met so far in one directory, by a hash of each.
pub(super) type Names = HashMap<u64, FdAddr>;

/// Judges an entry of the directory `content`.
pub(super) fn judge(
    round: &mut Round<'_, '_>,
    content: &Content,
    entry: &Entry<'_>,
    names: &mut Names,
) -> Verdict {
    round.check.report.entries += 1;
    let directory = content.fd;
    let shown = String::from_utf8_lossy(entry.name).into_owned();
    let structure = format!("entry {shown:?} of directory {directory}");
    let at = vmfs_core::format::At::File {
        fd: directory.raw(),
        offset: entry.offset,
    };
    let fd = FdAddr::from_raw(entry.fd);
    let name = name_damage(entry.name);
    let damage = entry.damage.clone().or(name).or_else(|| {
        fd.is_none()
            .then(|| format!("it names {:#x}, which is no file descriptor", entry.fd))
    });
    let (Some(fd), None) = (fd, &damage) else {
        let finding = Finding::new(Code::EntryDamaged, structure, damage.unwrap_or_default())
            .at(at)
            .repair("take it out; its file goes to /lost+found")
            .loses("the name");
        return removed(round, finding);
    };
    let known = round.files.contains_key(&fd) || descriptors::promote(round, fd, entry.generation);
    if !known {
        if round.broken.contains(&fd) {
            // It is a reference all the same.
            round.usage.mark(as_resource(fd));
            return Verdict::Keep;
        }
        let finding = Finding::new(
            Code::EntryDangling,
            structure,
            format!("it names file descriptor {fd}, which isn't in use"),
        )
        .at(at)
        .repair("take it out")
        .loses("the name; there is no file that it could be of");
        return match removed(round, finding) {
            Verdict::Keep => {
                round.usage.mark(as_resource(fd));
                Verdict::Keep
            }
            verdict => verdict,
        };
    }
    if let Some(system) = connectivity::system_file(round, fd)
        && (directory != FdAddr::ROOT || entry.name != system.name().as_bytes())
    {
        let finding = Finding::new(
            Code::EntryDamaged,
            structure.as_str(),
            format!(
                "it names the system file {}, which has this name in the root directory only",
                system.name()
            ),
        )
        .at(at)
        .repair("take it out")
        .loses("the name, if another file should have it");
        if removed(round, finding) == Verdict::Remove {
            return Verdict::Remove;
        }
    }
    if let Some(verdict) = twice(round, entry, fd, names, &structure, at) {
        return verdict;
    }
    let Some(seen) = round.files.get(&fd).copied() else {
        return Verdict::Keep;
    };
    if seen.is_directory && (fd == FdAddr::ROOT || fd == directory || seen.found_in.is_some()) {
        if let Some(verdict) = second_name(round, directory, fd, entry, &structure, at) {
            return verdict;
        }
    } else {
        claim(round, directory, fd, seen.is_directory);
    }
    if entry.kind == seen.kind as u32 && entry.generation == seen.generation {
        return Verdict::Keep;
    }
    if entry.generation == seen.generation
        && let Some(kind) = FileKind::from_raw(entry.kind)
        && types::is_likelier(round, fd, seen.kind, kind)
    {
        types::write(round, fd, &structure, kind);
        return Verdict::Keep;
    }
    let finding = Finding::new(
        Code::EntryMismatch,
        structure,
        format!(
            "it says type {} and generation {}, its descriptor {fd} type {} and generation {}",
            entry.kind, entry.generation, seen.kind as u32, seen.generation
        ),
    )
    .at(at)
    .repair("write what the descriptor says");
    if round.found(finding) {
        Verdict::Fix(seen.kind, seen.generation)
    } else {
        Verdict::Keep
    }
}

fn removed(round: &mut Round<'_, '_>, finding: Finding) -> Verdict {
    if round.found(finding) {
        Verdict::Remove
    } else {
        Verdict::Keep
    }
}

/// Why no file can have this name.
fn name_damage(name: &[u8]) -> Option<String> {
    if name.is_empty() {
        return Some("it has no name".to_owned());
    }
    if name == b"." || name == b".." || name.contains(&b'/') {
        return Some("no file can have this name".to_owned());
    }
    None
}

/// Notes that `directory` has `fd`.
fn claim(round: &mut Round<'_, '_>, directory: FdAddr, fd: FdAddr, is_directory: bool) {
    let Some(seen) = round.files.get_mut(&fd) else {
        return;
    };
    seen.name_in(directory);
    if seen.names == 1 {
        round.usage.mark(as_resource(fd));
    }
    if is_directory && let Some(parent) = round.files.get_mut(&directory) {
        parent.subdirectories += 1;
    }
}

/// The same name met a second time.
fn twice(
    round: &mut Round<'_, '_>,
    entry: &Entry<'_>,
    fd: FdAddr,
    names: &mut Names,
    structure: &str,
    at: vmfs_core::format::At,
) -> Option<Verdict> {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    entry.name.hash(&mut hasher);
    let first = match names.entry(hasher.finish()) {
        std::collections::hash_map::Entry::Vacant(vacant) => {
            vacant.insert(fd);
            return None;
        }
        std::collections::hash_map::Entry::Occupied(occupied) => *occupied.get(),
    };
    let finding = Finding::new(
        Code::EntryTwice,
        structure,
        format!("the name is there twice, for {first} and {fd}"),
    )
    .at(at);
    let finding = if first == fd {
        finding.repair("take out the second")
    } else {
        finding
            .repair("take out the second; its file goes to /lost+found")
            .loses("the name of the second file")
    };
    let verdict = removed(round, finding);
    if verdict == Verdict::Remove {
        round.remember_name(fd, entry.name);
        return Some(verdict);
    }
    None
}

/// A directory met a second time: one of the two entries goes.
fn second_name(
    round: &mut Round<'_, '_>,
    directory: FdAddr,
    fd: FdAddr,
    entry: &Entry<'_>,
    structure: &str,
    at: vmfs_core::format::At,
) -> Option<Verdict> {
    let first = round.files.get(&fd).and_then(|seen| seen.found_in);
    let finding = Finding::new(
        Code::DirectoryLoop,
        structure,
        match first {
            Some(first) => format!("directory {fd} has a name in {first} already"),
            None => format!("directory {fd} is above this one"),
        },
    )
    .at(at);
    let parent = super::dots::parent_of(round, fd);
    // Its own `..` tells which of the two is the right one.
    let Some(first) = first.filter(|&first| parent == Some(directory) && first != directory) else {
        let verdict = removed(round, finding.repair("take this entry out"));
        return (verdict == Verdict::Remove).then_some(verdict);
    };
    if round.found(finding.repair("take the other entry out, since its .. leads here")) {
        take_out(round, first, fd);
        if let Some(seen) = round.files.get_mut(&fd) {
            seen.names -= 1;
        }
        if let Some(other) = round.files.get_mut(&first) {
            other.subdirectories = other.subdirectories.saturating_sub(1);
        }
        claim(round, directory, fd, true);
    }
    let _ = entry;
    None
}

/// Takes the entry of `fd` out of `directory`.
pub(crate) fn take_out(round: &mut Round<'_, '_>, directory: FdAddr, fd: FdAddr) {
    let Ok(mut content) = Content::open(round, directory) else {
        return;
    };
    let name = match round.layout.family {
        vmfs_core::format::Family::Vmfs6 => super::hashed::name_of(round, &content, fd),
        _ => super::flat::name_of(round, &content, fd),
    };
    let Some(name) = name else {
        return;
    };
    let layout = std::sync::Arc::clone(&round.layout);
    let mut editing = Editing {
        content: &mut content,
        round,
        stage: Stage::Remove,
    };
    let in_root = directory == FdAddr::ROOT;
    // If it can't be taken out now, the next round finds it again.
    let _ = entries::remove(
        &mut editing,
        &layout,
        in_root,
        &name,
        &mut DirHint::default(),
    );
}
