//! Names that files have, and files that have none: docs/fsck/connectivity.md.

mod root;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use vmfs_core::format::{Family, FdAddr, FdImage, FileKind, Layout, SystemFile};

use super::{directories, maps};
use crate::code::Code;
use crate::finding::Finding;
use crate::lost_found;
use crate::plan::Stage;
use crate::round::{Round, Seen, as_resource};

/// Compares what has names with what is in use.
pub(crate) fn run(round: &mut Round<'_, '_>) {
    root::run(round);
    cut_circles(round);
    nameless(round);
    let mut files: Vec<FdAddr> = round.files.keys().copied().collect();
    files.sort_unstable();
    for fd in files {
        if let Some(seen) = round.files.get(&fd).copied() {
            links(round, fd, seen);
            parent(round, fd, seen);
        }
    }
}

/// The system files that have a name in the root directory.
pub(super) fn system_files(layout: &Layout) -> &'static [SystemFile] {
    use SystemFile as S;
    const ALL: [SystemFile; 9] = [
        S::FileBlocks,
        S::FileDescriptors,
        S::PointerBlocks,
        S::SubBlocks,
        S::VolumeHeader,
        S::PointerBlocks2,
        S::SystemData,
        S::Journals,
        S::Unmap,
    ];
    match layout.family {
        Family::Vmfs3 => &ALL[..5],
        // One that was upgraded from VMFS3 has the others elsewhere.
        Family::Vmfs5 if !layout.dense_sub_blocks => &ALL[..5],
        Family::Vmfs5 => &ALL[..7],
        Family::Vmfs6 => &ALL,
    }
}

/// Whether `fd` may be the descriptor of a system file.
pub(super) fn may_be_system(layout: &Layout, fd: FdAddr) -> bool {
    if layout.family == Family::Vmfs5 && !layout.dense_sub_blocks {
        // One that was upgraded from VMFS3 has some of them elsewhere.
        return fd.cluster() == 0 && fd.resource() <= SystemFile::Unmap as u32;
    }
    system_files(layout).iter().any(|file| file.fd() == fd)
}

/// The system file whose descriptor `fd` is.
pub(super) fn system_file(round: &Round<'_, '_>, fd: FdAddr) -> Option<SystemFile> {
    let seen = round.files.get(&fd)?;
    let mut all = system_files(&round.layout).iter();
    let file = all.find(|file| file.fd() == fd).copied();
    file.filter(|_| seen.kind == FileKind::System)
}

/// Directories that have each other and aren't below the root: one entry of each circle goes.
fn cut_circles(round: &mut Round<'_, '_>) {
    let parents: HashMap<FdAddr, FdAddr> = round
        .files
        .iter()
        .filter_map(|(&fd, seen)| Some((fd, seen.found_in?)))
        .collect();
    let mut done: HashSet<FdAddr> = HashSet::new();
    let mut starts: Vec<FdAddr> = parents.keys().copied().collect();
    starts.sort_unstable();
    for start in starts {
        let mut way = Vec::new();
        let mut on_way = HashSet::new();
        let mut at = start;
        while !done.contains(&at) && on_way.insert(at) {
            way.push(at);
            match parents.get(&at) {
                Some(&above) => at = above,
                None => break,
            }
        }
        let is_circle = !done.contains(&at) && parents.contains_key(&at) && way.contains(&at);
        if is_circle && let Some(above) = parents.get(&at).copied() {
            let finding = Finding::new(
                Code::DirectoryLoop,
                format!("directory {at}"),
                format!("it is below itself, through {above}"),
            )
            .repair("take it out of that one; it goes to /lost+found");
            if round.found(finding) {
                directories::take_out(round, above, at);
                if let Some(seen) = round.files.get_mut(&at) {
                    seen.names = 0;
                    seen.found_in = None;
                }
                if let Some(seen) = round.files.get_mut(&above) {
                    seen.subdirectories = seen.subdirectories.saturating_sub(1);
                }
            }
        }
        done.extend(way);
    }
}

/// Files that no directory has.
fn nameless(round: &mut Round<'_, '_>) {
    let files = round.files.iter();
    let nameless = files.filter(|&(&fd, seen)| seen.names == 0 && fd != FdAddr::ROOT);
    let mut nameless: Vec<FdAddr> = nameless.map(|(&fd, _)| fd).collect();
    nameless.sort_unstable();
    // A repair that was cut off may have made the directory and not named it yet.
    if let Some(index) = nameless
        .iter()
        .position(|&fd| lost_found::is_unnamed(round, fd))
    {
        let fd = nameless.remove(index);
        let finding = Finding::new(
            Code::Unreachable,
            format!("directory {fd}"),
            "no directory has it; a repair that was cut off made it",
        )
        .repair("name it /lost+found");
        if round.found(finding) {
            lost_found::adopt(round, fd);
        }
    }
    for fd in nameless {
        let Some(seen) = round.files.get(&fd).copied() else {
            continue;
        };
        if fd.cluster() == 0 && seen.kind == FileKind::System {
            continue;
        }
        if seen.links == 0 {
            unfinished(round, fd);
            continue;
        }
        let name = lost_found::name_for(round, fd);
        let shown = String::from_utf8_lossy(&name).into_owned();
        let place = round.place_of(fd).unwrap_or_default();
        let finding = Finding::new(
            Code::Unreachable,
            format!("file descriptor {fd}"),
            format!("it is a {:?} in use, and no directory has it", seen.kind),
        )
        .at_volume(place.0)
        .repair(format!("give it the name /lost+found/{shown}"));
        if round.found(finding) {
            if let Err(error) = lost_found::attach(round, fd, &name) {
                tracing::warn!(%fd, %error, "it can't go to /lost+found");
            }
        } else {
            round.broken.insert(fd);
            round.usage.mark(as_resource(fd));
        }
    }
}

/// A file whose last name is gone and whose space a dead host was giving back.
fn unfinished(round: &mut Round<'_, '_>, fd: FdAddr) {
    let Some(place) = round.place_of(fd) else {
        return;
    };
    let finding = Finding::new(
        Code::DeletionUnfinished,
        format!("file descriptor {fd}"),
        "it has no name and says so: its host died while it deleted it",
    )
    .at_volume(place.0)
    .repair("give its blocks and descriptor back");
    if !round.found(finding) {
        round.usage.mark(as_resource(fd));
        return;
    }
    let Ok(bytes) = round.read_fd(place) else {
        return;
    };
    let layout = Arc::clone(&round.layout);
    maps::release(round, &FdImage::from_bytes(&layout, bytes));
    let zeros = vec![0; (layout.fd_size - layout.fd_meta) as usize];
    round.put(Stage::Remove, place + layout.fd_meta, &zeros);
    round.usage.give(as_resource(fd));
    round.files.remove(&fd);
}

/// Names that a file has against those that it says it has.
fn links(round: &mut Round<'_, '_>, fd: FdAddr, seen: Seen) {
    if seen.names == 0 && fd != FdAddr::ROOT {
        return;
    }
    // A directory is also named by its own `.` and the `..` of those below it; the root by its own
    // `..` as others are by their parent's entry.
    let names = seen.names.max(u32::from(fd == FdAddr::ROOT));
    let expected = names
        + if seen.is_directory {
            1 + seen.subdirectories
        } else {
            0
        };
    if expected == seen.links {
        return;
    }
    let Some(place) = round.place_of(fd) else {
        return;
    };
    let finding = Finding::new(
        Code::LinkCountWrong,
        format!("file descriptor {fd}"),
        format!("it has {expected} names and says {}", seen.links),
    )
    .at_volume(place.0)
    .repair(format!("write {expected}"));
    if round.found(finding) {
        let field = std::mem::offset_of!(vmfs_core::format::FileMetadata, links) as u64;
        let at = place + round.layout.fd_meta + field;
        round.put(Stage::Refer, at, &expected.to_le_bytes());
    }
}

/// Whether a directory's `..` and each descriptor lead to the directory that has it.
fn parent(round: &mut Round<'_, '_>, fd: FdAddr, seen: Seen) {
    if round.broken.contains(&fd) {
        return;
    }
    let above = if fd == FdAddr::ROOT {
        FdAddr::ROOT
    } else {
        let found = if seen.is_directory {
            seen.found_in
        } else {
            seen.named_in
        };
        match found {
            Some(above) => above,
            None => return,
        }
    };
    if seen.is_directory && !dots(round, fd, above) {
        return;
    }
    let says_so = seen.parent == above.raw();
    // Where one of several names was taken out, nothing says which directories have the others.
    let unsaid = seen.parent == 0 && !seen.is_directory;
    let system = fd.cluster() == 0 && seen.kind == FileKind::System || fd == FdAddr::ROOT;
    if round.layout.family != Family::Vmfs6 || says_so || unsaid || system {
        return;
    }
    let Some(place) = round.place_of(fd) else {
        return;
    };
    let finding = Finding::new(
        Code::ParentWrong,
        format!("file descriptor {fd}"),
        format!(
            "it names {:#x} as its directory, expected {above}",
            seen.parent
        ),
    )
    .at_volume(place.0)
    .repair("write the directory that has it");
    if round.found(finding) {
        lost_found::save_parent(round, fd, above);
    }
}

/// Whether a directory's `..` leads to the directory that has it.
fn dots(round: &mut Round<'_, '_>, fd: FdAddr, above: FdAddr) -> bool {
    let generation = round.files.get(&above).map_or(1, |seen| seen.generation);
    let found = directories::parent_of(round, fd);
    if found.is_some() && found != Some(above) {
        let finding = Finding::new(
            Code::DotsWrong,
            format!("directory {fd}"),
            format!(
                ".. leads to {}, expected {above}",
                found.map_or_else(|| "nowhere".to_owned(), |found| found.to_string())
            ),
        )
        .repair("let it lead there");
        if round.found(finding) {
            directories::set_parent(round, fd, (above, generation));
        }
        return false;
    }
    true
}
