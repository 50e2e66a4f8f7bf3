//! The root directory: made anew when it is lost, and the names of the system files in it.

use std::sync::Arc;

use vmfs_core::file::entries::{self, DirHint, NewEntry};
use vmfs_core::format::{FdAddr, FdImage, FileKind};

use crate::code::Code;
use crate::content::{Content, Editing};
use crate::finding::Finding;
use crate::plan::Stage;
use crate::round::{Round, Seen, as_resource};

/// Permissions of every root directory seen.
const MODE: u32 = 0o1755;

pub(super) fn run(round: &mut Round<'_, '_>) {
    let usable = round
        .files
        .get(&FdAddr::ROOT)
        .is_some_and(|seen| seen.is_directory);
    if !usable && !anew(round) {
        return;
    }
    names(round);
}

/// Makes an empty root directory in the place where it must be; whether it is there now.
fn anew(round: &mut Round<'_, '_>) -> bool {
    let Some(place) = round.place_of(FdAddr::ROOT) else {
        return false;
    };
    let finding = Finding::new(
        Code::RootDamaged,
        "root directory",
        "its file descriptor is no directory's",
    )
    .at_volume(place.0)
    .repair("make an empty one; all files go to /lost+found")
    .loses("the names of the files in it");
    if !round.found(finding) {
        return false;
    }
    let layout = Arc::clone(&round.layout);
    let now = round.check.now;
    let mut image = FdImage::new(&layout, FdAddr::ROOT, place.0, FileKind::Directory, now);
    let meta = image.metadata();
    meta.links = 2.into();
    meta.mode = MODE.into();
    round.put(Stage::New, place, image.bytes());
    let made = Content::open(round, FdAddr::ROOT).and_then(|mut content| {
        let mut editing = Editing {
            content: &mut content,
            round,
            stage: Stage::New,
        };
        let own = (FdAddr::ROOT, 1);
        entries::initialise(&mut editing, &layout, own, own).map_err(|error| error.to_string())
    });
    if let Err(error) = made {
        tracing::warn!(error, "the root directory can't be made anew");
        return false;
    }
    let seen = Seen {
        kind: FileKind::Directory,
        is_directory: true,
        generation: 1,
        links: 2,
        parent: 0,
        names: 0,
        subdirectories: 0,
        found_in: None,
        named_in: None,
    };
    round.files.insert(FdAddr::ROOT, seen);
    round.broken.remove(&FdAddr::ROOT);
    round.usage.mark(as_resource(FdAddr::ROOT));
    true
}

/// Adds the names of system files that the root directory doesn't have.
fn names(round: &mut Round<'_, '_>) {
    let layout = Arc::clone(&round.layout);
    for file in super::system_files(&layout) {
        let fd = file.fd();
        let Some(seen) = round.files.get(&fd).copied() else {
            continue;
        };
        if seen.names > 0 || seen.kind != FileKind::System {
            continue;
        }
        let finding = Finding::new(
            Code::SystemNameMissing,
            format!("system file {}", file.name()),
            "the root directory doesn't have it",
        )
        .repair("add its name");
        if !round.found(finding) {
            round.usage.mark(as_resource(fd));
            continue;
        }
        let Ok(mut content) = Content::open(round, FdAddr::ROOT) else {
            return;
        };
        let mut editing = Editing {
            content: &mut content,
            round,
            stage: Stage::Refer,
        };
        let entry = NewEntry {
            name: file.name().as_bytes(),
            kind: seen.kind,
            fd,
            generation: seen.generation,
        };
        let hint = &mut DirHint::default();
        if let Err(error) = entries::add(&mut editing, &layout, true, &entry, hint) {
            tracing::warn!(%error, "a system file's name can't be added");
            return;
        }
        if let Some(seen) = round.files.get_mut(&fd) {
            seen.name_in(FdAddr::ROOT);
        }
        if seen.is_directory
            && let Some(root) = round.files.get_mut(&FdAddr::ROOT)
        {
            root.subdirectories += 1;
        }
        round.usage.mark(as_resource(fd));
    }
}
