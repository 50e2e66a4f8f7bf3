//! `.` and `..`.

use vmfs_core::file::entries;
use vmfs_core::format::{DirEntry5, DirEntry6, DirHeader, Family, FdAddr, FileKind};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use super::hashed::header_of;
use crate::code::Code;
use crate::content::{Content, Editing};
use crate::finding::Finding;
use crate::plan::Stage;
use crate::round::Round;

/// Where a directory's own `..` leads; `None` if it leads nowhere.
pub(crate) fn parent_of(round: &Round<'_, '_>, fd: FdAddr) -> Option<FdAddr> {
    let content = Content::open(round, fd).ok()?;
    if round.layout.family == Family::Vmfs6 {
        let mut header = DirHeader::new_zeroed();
        content.read(round, 0, header.as_mut_bytes()).ok()?;
        return FdAddr::from_raw(header.parent.fd.get());
    }
    let mut entry = DirEntry5::new_zeroed();
    content
        .read(round, DirEntry5::SIZE, entry.as_mut_bytes())
        .ok()?;
    FdAddr::from_raw(entry.fd.get())
}

/// The first two entries of a VMFS5 directory: `.` must lead to itself. Where `..` must lead is known
/// when all directories were looked at.
pub(super) fn flat(round: &mut Round<'_, '_>, content: &mut Content) -> Result<(), String> {
    let text = |error: vmfs_core::resource::MetaError| error.to_string();
    let fd = content.fd;
    let generation = round.files.get(&fd).map_or(0, |seen| seen.generation);
    let size = DirEntry5::SIZE;
    if content.length() < 2 * size {
        let finding = Finding::new(
            Code::DotsWrong,
            format!("directory {fd}"),
            format!(
                "its length is {:#x}, expected room for . and ..",
                content.length()
            ),
        )
        .at_volume(content.place.0)
        .repair("write both");
        if round.found(finding) {
            content
                .set_length(round, Stage::Refer, 2 * size)
                .map_err(text)?;
            write_flat(round, content, 0, b".", (fd, generation)).map_err(text)?;
            let parent = (FdAddr::ROOT, 1);
            write_flat(round, content, 1, b"..", parent).map_err(text)?;
        }
        return Ok(());
    }
    let mut bytes = vec![0; 2 * size as usize];
    content.read(round, 0, &mut bytes).map_err(text)?;
    let names: [&[u8]; 2] = [b".", b".."];
    for (index, name) in names.into_iter().enumerate() {
        let raw = &bytes[index * size as usize..][..size as usize];
        let Ok(raw) = DirEntry5::ref_from_bytes(raw) else {
            continue;
        };
        let named = FdAddr::from_raw(raw.fd.get());
        let right = raw.name() == name
            && (raw.kind.get() == FileKind::Directory as u32
                || raw.kind.get() == content.image.meta().kind.get())
            && if index == 0 {
                named == Some(fd)
            } else {
                named.is_some()
            };
        if right {
            continue;
        }
        // A file's name in this place would be lost with it.
        let other = raw.name().to_vec();
        let finding = Finding::new(
            Code::DotsWrong,
            format!("directory {fd}"),
            format!(
                "entry {index} is {:?} of type {} naming {:#x}, expected {:?}",
                String::from_utf8_lossy(&other),
                raw.kind,
                raw.fd,
                String::from_utf8_lossy(name)
            ),
        )
        .at_volume(content.place.0)
        .repair("write it anew");
        if round.found(finding) {
            let target = if index == 0 {
                (fd, generation)
            } else {
                (FdAddr::ROOT, 1)
            };
            write_flat(round, content, index as u64, name, target).map_err(text)?;
        }
    }
    Ok(())
}

/// `.` must lead to the directory itself, `..` to some directory; where it must lead is known when
/// all were looked at.
pub(super) fn hashed(round: &mut Round<'_, '_>, content: &Content) -> Result<(), String> {
    let text = |error: vmfs_core::resource::MetaError| error.to_string();
    let mut head = vec![0; DirHeader::SIZE as usize];
    content.read(round, 0, &mut head).map_err(text)?;
    let header = header_of(&head)?;
    let generation = round
        .files
        .get(&content.fd)
        .map_or(0, |seen| seen.generation);
    let this_at = std::mem::offset_of!(DirHeader, this) as u64;
    let parent_at = std::mem::offset_of!(DirHeader, parent) as u64;
    let mut this = header.this.clone();
    let expected = (content.fd.raw(), generation, this_at);
    let found = (this.fd.get(), this.generation.get(), this.offset.get());
    // The system file that is a directory is called one here or a system file.
    let kind = this.kind.get();
    let right = kind == FileKind::Directory as u32 || kind == content.image.meta().kind.get();
    if found != expected || !right || this.name() != b"." {
        let finding = Finding::new(
            Code::DotsWrong,
            format!("directory {}", content.fd),
            format!(
                ". is {:?} naming {:#x} of generation {}, expected {:#x} of generation {generation}",
                String::from_utf8_lossy(this.name()),
                this.fd,
                this.generation,
                content.fd.raw()
            ),
        )
        .at_volume(content.place.0)
        .repair("write it anew");
        if round.found(finding) {
            this = entry_of(".", content.fd, generation, this_at);
            content
                .write(round, Stage::Refer, this_at, this.as_bytes())
                .map_err(text)?;
        }
    }
    let parent = &header.parent;
    if FdAddr::from_raw(parent.fd.get()).is_none() || parent.name() != b".." {
        let finding = Finding::new(
            Code::DotsWrong,
            format!("directory {}", content.fd),
            format!(
                ".. is {:?} naming {:#x}",
                String::from_utf8_lossy(parent.name()),
                parent.fd
            ),
        )
        .at_volume(content.place.0)
        .repair("write it anew");
        if round.found(finding) {
            // The pass over connectivity has it lead to where it must.
            let parent = entry_of("..", FdAddr::ROOT, 1, parent_at);
            content
                .write(round, Stage::Refer, parent_at, parent.as_bytes())
                .map_err(text)?;
        }
    }
    Ok(())
}

fn entry_of(name: &str, fd: FdAddr, generation: u32, offset: u64) -> DirEntry6 {
    let mut entry = DirEntry6::new_zeroed();
    entry.kind = (FileKind::Directory as u32).into();
    entry.fd = fd.raw().into();
    entry.generation = generation.into();
    entry.offset = offset.into();
    entry.name[..name.len()].copy_from_slice(name.as_bytes());
    entry
}

fn write_flat(
    round: &mut Round<'_, '_>,
    content: &Content,
    index: u64,
    name: &[u8],
    (fd, generation): (FdAddr, u32),
) -> Result<(), vmfs_core::resource::MetaError> {
    let mut entry = DirEntry5::new_zeroed();
    entry.kind = (FileKind::Directory as u32).into();
    entry.fd = fd.raw().into();
    entry.generation = generation.into();
    entry.name[..name.len()].copy_from_slice(name);
    let offset = index * DirEntry5::SIZE;
    content.write(round, Stage::Refer, offset, entry.as_bytes())
}

/// Lets `..` of `fd` lead to `parent`, silently.
pub(crate) fn set_parent(round: &mut Round<'_, '_>, fd: FdAddr, parent: (FdAddr, u32)) {
    let Ok(mut content) = Content::open(round, fd) else {
        return;
    };
    let layout = std::sync::Arc::clone(&round.layout);
    if layout.family == Family::Vmfs6 {
        content.image.metadata().parent_fd = parent.0.raw().into();
        // Both were read a moment ago.
        let _ = content.save(round, Stage::Refer);
    }
    let mut editing = Editing {
        content: &mut content,
        round,
        stage: Stage::Refer,
    };
    let _ = entries::set_parent(&mut editing, &layout, parent);
}
