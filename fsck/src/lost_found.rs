//! /lost+found: where files go that have lost their names.

use std::sync::Arc;

use vmfs_core::file::FileError;
use vmfs_core::file::entries::{self, DirHint, NewEntry};
use vmfs_core::format::{DiskLock, Family, FdAddr, FdImage, FileKind, FileMetadata, LockKind};
use zerocopy::FromBytes;

use crate::alloc;
use crate::content::{Content, Editing};
use crate::plan::Stage;
use crate::round::{Round, Seen, as_resource};

/// Its name in the root directory.
const NAME: &[u8] = b"lost+found";
/// Its permissions: what is in it may have been anyone's.
const MODE: u32 = 0o700;
/// How the names in it begin.
const PREFIX: u8 = b'#';

/// What a file is called there: its descriptor, and its name if that is known.
pub(crate) fn name_for(round: &Round<'_, '_>, fd: FdAddr) -> Vec<u8> {
    let mut name = vec![PREFIX];
    name.extend_from_slice(format!("{:08x}", fd.raw()).as_bytes());
    if let Some(known) = round.known_names.get(&fd) {
        name.push(b'-');
        let room = round.layout.max_name() - name.len();
        let clean = known.iter().filter(|&&byte| byte != b'/' && byte != 0);
        name.extend(clean.take(room));
    }
    name
}

/// Whether `fd` is a directory that a repair made and had no time to name.
pub(crate) fn is_unnamed(round: &Round<'_, '_>, fd: FdAddr) -> bool {
    let Some(seen) = round.files.get(&fd) else {
        return false;
    };
    if !seen.is_directory || fd.cluster() == 0 && fd.resource() <= 10 {
        return false;
    }
    let Ok(content) = Content::open(round, fd) else {
        return false;
    };
    let meta = content.image.meta();
    meta.mode.get() == MODE
        && meta.uid.get() == 0
        && meta.mtime == meta.ctime
        && meta.ctime == meta.atime
        && crate::passes::parent_of(round, fd) == Some(FdAddr::ROOT)
        && find(round).is_none()
}

/// /lost+found, if there is one.
fn find(round: &Round<'_, '_>) -> Option<FdAddr> {
    let mut root = Content::open(round, FdAddr::ROOT).ok()?;
    let found = lookup(round, &mut root, NAME)?;
    round.files.get(&found)?.is_directory.then_some(found)
}

fn lookup(round: &Round<'_, '_>, content: &mut Content, name: &[u8]) -> Option<FdAddr> {
    /// A directory that is only looked at.
    struct Looking<'e, 'r, 'c, 'a>(&'e Content, &'r Round<'c, 'a>);
    impl entries::DirContent for Looking<'_, '_, '_, '_> {
        fn length(&self) -> u64 {
            self.0.length()
        }
        fn read(&self, offset: u64, buf: &mut [u8]) -> Result<(), FileError> {
            Ok(self.0.read(self.1, offset, buf)?)
        }
        fn write(&mut self, _: u64, _: &[u8]) -> Result<(), FileError> {
            Err(FileError::DirectoryFull)
        }
        fn set_length(&mut self, _: u64) -> Result<(), FileError> {
            Err(FileError::DirectoryFull)
        }
    }
    let in_root = content.fd == FdAddr::ROOT;
    let looking = Looking(content, round);
    let hint = &mut DirHint::default();
    let found = entries::lookup(&looking, &round.layout, in_root, name, hint);
    Some(found.ok()??.fd)
}

/// Makes /lost+found, or finds it.
fn ensure(round: &mut Round<'_, '_>) -> Result<FdAddr, String> {
    if let Some(found) = find(round) {
        return Ok(found);
    }
    let (fd, generation) = make(round, FileKind::Directory, |meta| {
        meta.links = 2.into();
        meta.mode = MODE.into();
    })?;
    let layout = Arc::clone(&round.layout);
    let mut content = Content::open(round, fd)?;
    let root = round
        .files
        .get(&FdAddr::ROOT)
        .map_or(1, |seen| seen.generation);
    let mut editing = Editing {
        content: &mut content,
        round,
        stage: Stage::New,
    };
    let (this, parent) = ((fd, generation), (FdAddr::ROOT, root));
    entries::initialise(&mut editing, &layout, this, parent).map_err(|error| error.to_string())?;
    let seen = Seen {
        kind: FileKind::Directory,
        is_directory: true,
        generation,
        links: 2,
        parent: FdAddr::ROOT.raw(),
        names: 0,
        subdirectories: 0,
        found_in: None,
        named_in: None,
    };
    round.files.insert(fd, seen);
    round.check.new_folder = Some(fd);
    adopt(round, fd);
    Ok(fd)
}

/// Gives the directory `fd` the name /lost+found.
pub(crate) fn adopt(round: &mut Round<'_, '_>, fd: FdAddr) {
    let mut name = NAME.to_vec();
    let taken = |round: &Round<'_, '_>, name: &[u8]| {
        let root = Content::open(round, FdAddr::ROOT).ok();
        root.is_some_and(|mut root| lookup(round, &mut root, name).is_some())
    };
    // A file may have that name.
    let mut number = 1;
    while taken(round, &name) && number < 100 {
        name = format!("lost+found.{number}").into_bytes();
        number += 1;
    }
    if let Err(error) = add(round, FdAddr::ROOT, fd, &name, Stage::Refer) {
        tracing::warn!(error, "/lost+found can't be named");
    }
    // Its one name and those below it.
    if let Some(seen) = round.files.get(&fd).copied() {
        save_links(round, fd, seen.names + 1 + seen.subdirectories);
    }
}

/// Gives `fd` the name `name` in /lost+found.
pub(crate) fn attach(round: &mut Round<'_, '_>, fd: FdAddr, name: &[u8]) -> Result<(), String> {
    let folder = ensure(round)?;
    if folder == fd {
        return Ok(());
    }
    let mut name = name.to_vec();
    let mut content = Content::open(round, folder)?;
    let mut number = 1;
    while lookup(round, &mut content, &name).is_some() && number < 100 {
        let end = format!(".{number}");
        name.truncate(round.layout.max_name() - end.len());
        name.extend_from_slice(end.as_bytes());
        number += 1;
    }
    let stage = stage_of(round, folder);
    add(round, folder, fd, &name, stage)?;
    let Some(seen) = round.files.get(&fd).copied() else {
        return Ok(());
    };
    if seen.is_directory {
        let generation = round.files.get(&folder).map_or(0, |seen| seen.generation);
        crate::passes::set_parent(round, fd, (folder, generation));
        if let Some(seen) = round.files.get_mut(&fd) {
            seen.parent = folder.raw();
        }
        // It has one directory more.
        let count = round
            .files
            .get(&folder)
            .map_or(2, |seen| seen.names + 1 + seen.subdirectories);
        save_links(round, folder, count);
    } else if round.layout.family == Family::Vmfs6 {
        save_parent(round, fd, folder);
    }
    let count = if seen.is_directory {
        2 + seen.subdirectories
    } else {
        1
    };
    save_links(round, fd, count);
    Ok(())
}

fn add(
    round: &mut Round<'_, '_>,
    folder: FdAddr,
    fd: FdAddr,
    name: &[u8],
    stage: Stage,
) -> Result<(), String> {
    let seen = round.files.get(&fd).copied().ok_or("no such file")?;
    let mut content = Content::open(round, folder)?;
    let layout = Arc::clone(&round.layout);
    let mut editing = Editing {
        content: &mut content,
        round,
        stage,
    };
    let entry = NewEntry {
        name,
        kind: seen.kind,
        fd,
        generation: seen.generation,
    };
    let in_root = folder == FdAddr::ROOT;
    let hint = &mut DirHint::default();
    entries::add(&mut editing, &layout, in_root, &entry, hint)
        .map_err(|error| error.to_string())?;
    round.usage.mark(as_resource(fd));
    if let Some(seen) = round.files.get_mut(&fd) {
        seen.name_in(folder);
    }
    if seen.is_directory
        && let Some(folder) = round.files.get_mut(&folder)
    {
        folder.subdirectories += 1;
    }
    if folder == FdAddr::ROOT
        && seen.is_directory
        && let Some(root) = round.files.get(&FdAddr::ROOT).copied()
    {
        save_links(
            round,
            FdAddr::ROOT,
            root.names.max(1) + 1 + root.subdirectories,
        );
    }
    Ok(())
}

/// When a file is written to: one that this run made has no name yet.
fn stage_of(round: &Round<'_, '_>, fd: FdAddr) -> Stage {
    if round.check.new_folder == Some(fd) {
        Stage::New
    } else {
        Stage::Refer
    }
}

/// Writes how many names a file has.
fn save_links(round: &mut Round<'_, '_>, fd: FdAddr, links: u32) {
    if let Some(seen) = round.files.get_mut(&fd) {
        seen.links = links;
    }
    let Some(place) = round.place_of(fd) else {
        return;
    };
    let field = std::mem::offset_of!(FileMetadata, links) as u64;
    let at = place + round.layout.fd_meta + field;
    let stage = stage_of(round, fd);
    round.put(stage, at, &links.to_le_bytes());
}

/// Writes which directory has a file.
pub(crate) fn save_parent(round: &mut Round<'_, '_>, fd: FdAddr, folder: FdAddr) {
    if let Some(seen) = round.files.get_mut(&fd) {
        seen.parent = folder.raw();
    }
    if let Some(place) = round.place_of(fd) {
        let field = std::mem::offset_of!(FileMetadata, parent_fd) as u64;
        let at = place + round.layout.fd_meta + field;
        round.put(Stage::Refer, at, &folder.raw().to_le_bytes());
    }
}

/// A new empty file, which no directory has yet.
pub(crate) fn make(
    round: &mut Round<'_, '_>,
    kind: FileKind,
    edit: impl FnOnce(&mut FileMetadata),
) -> Result<(FdAddr, u32), String> {
    let (fd, place, generation) = alloc::descriptor(round).ok_or("no free file descriptor")?;
    let layout = Arc::clone(&round.layout);
    let before = round.read_fd(place).map_err(|error| error.to_string())?;
    let mut image = FdImage::new(&layout, fd, place.0, kind, round.check.now);
    // A free descriptor keeps its lock.
    let lock = DiskLock::ref_from_prefix(&before)
        .ok()
        .map(|(lock, _)| lock);
    let kept = lock.is_some_and(|lock| {
        lock.address.get() == place.0 && lock.kind.get() == LockKind::FileDescriptor as u32
    });
    if kept {
        let meta = layout.fd_meta as usize;
        let mut bytes = image.bytes().to_vec();
        bytes[..meta].copy_from_slice(&before[..meta]);
        image.replace_bytes(bytes);
    }
    let resident = vmfs_core::format::ZeroLevel::Resident;
    if layout.family != Family::Vmfs3 {
        image.set_block_shift(layout.sub_block_shift);
        image.metadata().zero_level = resident.raw().into();
    }
    let meta = image.metadata();
    meta.generation = generation.into();
    meta.mode = 0o600.into();
    if layout.family == Family::Vmfs6 {
        meta.parent_fd = FdAddr::ROOT.raw().into();
    }
    edit(meta);
    round.put(Stage::New, place, image.bytes());
    Ok((fd, generation))
}
