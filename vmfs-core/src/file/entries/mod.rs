//! Changing the entries of directories, whatever holds their bytes.
//!
//! Each call fails with a [`FileError`] when the content can't be read or written, or the directory
//! is damaged where it looks.

mod content;
mod flat;
mod groups;
mod hashed;

pub use content::{DirContent, NewEntry};
pub use flat::DirHint;

use super::directory::DirEntry;
use super::error::FileError;
use crate::format::{Family, FdAddr, FileKind, Layout};

/// Makes the empty `content` that of a new directory.
pub fn initialise(
    content: &mut dyn DirContent,
    layout: &Layout,
    this: (FdAddr, u32),
    parent: (FdAddr, u32),
) -> Result<(), FileError> {
    match layout.family {
        Family::Vmfs6 => hashed::initialise(content, layout, this, parent),
        Family::Vmfs3 | Family::Vmfs5 => flat::initialise(content, this, parent),
    }
}

/// Adds an entry whose name isn't there.
pub fn add(
    content: &mut dyn DirContent,
    layout: &Layout,
    in_root: bool,
    entry: &NewEntry<'_>,
    hint: &mut DirHint,
) -> Result<(), FileError> {
    match layout.family {
        Family::Vmfs6 => hashed::add(content, layout, in_root, entry, hint),
        Family::Vmfs3 | Family::Vmfs5 => flat::add(content, entry, hint),
    }
}

/// Removes the entry called `name`, if there is one.
pub fn remove(
    content: &mut dyn DirContent,
    layout: &Layout,
    in_root: bool,
    name: &[u8],
    hint: &mut DirHint,
) -> Result<(), FileError> {
    match layout.family {
        Family::Vmfs6 => hashed::remove(content, layout, in_root, name, hint),
        Family::Vmfs3 | Family::Vmfs5 => flat::remove(content, name, hint),
    }
}

/// Lets the entry called `name`, if there is one, lead to another file.
pub fn replace(
    content: &mut dyn DirContent,
    layout: &Layout,
    in_root: bool,
    name: &[u8],
    new: (FdAddr, FileKind, u32),
    hint: &mut DirHint,
) -> Result<(), FileError> {
    match layout.family {
        Family::Vmfs6 => hashed::replace(content, layout, in_root, name, new),
        Family::Vmfs3 | Family::Vmfs5 => flat::replace(content, name, new, hint),
    }
}

/// Lets `..` lead to `parent`.
pub fn set_parent(
    content: &mut dyn DirContent,
    layout: &Layout,
    parent: (FdAddr, u32),
) -> Result<(), FileError> {
    match layout.family {
        Family::Vmfs6 => hashed::set_parent(content, parent),
        Family::Vmfs3 | Family::Vmfs5 => flat::set_parent(content, parent),
    }
}

/// The entry called `name`; `next` of it means nothing.
pub fn lookup(
    content: &dyn DirContent,
    layout: &Layout,
    in_root: bool,
    name: &[u8],
    hint: &mut DirHint,
) -> Result<Option<DirEntry>, FileError> {
    match layout.family {
        Family::Vmfs6 => hashed::lookup(content, layout, in_root, name),
        Family::Vmfs3 | Family::Vmfs5 => flat::lookup(content, name, hint),
    }
}
