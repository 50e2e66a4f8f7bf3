//! What a descriptor is of: its type, and what else tells.
//!
//! Believed alone a wrong one would have a file's data written over as if it were a directory.

use vmfs_core::format::{
    DIR_BLOCKS_START, DirEntry5, Family, FdAddr, FdImage, FileKind, FileMetadata, Layout, ZeroLevel,
};

use super::level;
use crate::passes::connectivity;

/// Permissions of every symbolic link.
const LINK_MODE: u32 = 0o777;
/// Bytes of the longest target.
const MAX_TARGET: u64 = 4095;

/// The type, by the descriptor alone.
pub(super) fn by_descriptor(layout: &Layout, fd: FdAddr, image: &FdImage) -> FileKind {
    let said = FileKind::from_raw(image.meta().kind.get());
    let mut system = connectivity::system_files(layout).iter();
    if system.any(|file| file.fd() == fd) {
        FileKind::System
    } else if fd == FdAddr::ROOT {
        FileKind::Directory
    } else if connectivity::may_be_system(layout, fd) {
        said.unwrap_or(FileKind::System)
    } else if is_rdm(layout, said, image) {
        FileKind::Rdm
    } else {
        said.filter(|&said| said != FileKind::Rdm)
            .unwrap_or_else(|| likely(image.meta()))
    }
}

/// Whether it is an RDM pointer, by two of its marks: the type, no addresses, and a length that isn't here.
fn is_rdm(layout: &Layout, said: Option<FileKind>, image: &FdImage) -> bool {
    let meta = image.meta();
    let says = said == Some(FileKind::Rdm);
    let maps_nothing = meta.zero_level.get() == ZeroLevel::None.raw();
    let is_elsewhere = meta.blocks.get() == 0 && meta.length.get() > layout.fd_data_size;
    let marks = [says, maps_nothing, is_elsewhere];
    marks.iter().filter(|&&mark| mark).count() >= 2
        && (says && maps_nothing || level::holds_data(layout, image))
}

fn likely(meta: &FileMetadata) -> FileKind {
    match meta.mode.get() & 0o170_000 {
        0o040_000 => FileKind::Directory,
        0o120_000 => FileKind::Symlink,
        // Directories are executable and hold whole blocks; files are rarely both.
        _ if meta.links.get() >= 2 && meta.mode.get() & 0o111 != 0 => FileKind::Directory,
        _ => FileKind::Regular,
    }
}

/// Whether nothing but its type speaks against a symbolic link.
pub(crate) fn may_be_link(meta: &FileMetadata) -> bool {
    meta.mode.get() & 0o7777 == LINK_MODE
        && meta.links.get() < 2
        && (1..=MAX_TARGET).contains(&meta.length.get())
}

/// The type of a file that says it is of `kind` and isn't a system file; `begins_as_directory` looks at what is in it.
pub(crate) fn by_content(
    layout: &Layout,
    kind: FileKind,
    meta: &FileMetadata,
    begins_as_directory: &dyn Fn() -> bool,
) -> FileKind {
    let may_be = meta.links.get() >= 2 && is_whole(layout, meta.length.get());
    match kind {
        FileKind::Directory => {
            // One whose beginning is lost is one still.
            if may_be || begins_as_directory() {
                kind
            } else {
                // Or a symbolic link, which its name tells.
                FileKind::Regular
            }
        }
        _ if may_be && begins_as_directory() => FileKind::Directory,
        _ => kind,
    }
}

/// Whether a directory can have this length.
fn is_whole(layout: &Layout, length: u64) -> bool {
    match layout.family {
        Family::Vmfs6 => length
            .checked_sub(DIR_BLOCKS_START)
            .is_some_and(|blocks| blocks.is_multiple_of(layout.md_block)),
        Family::Vmfs3 | Family::Vmfs5 => length.is_multiple_of(DirEntry5::SIZE),
    }
}
