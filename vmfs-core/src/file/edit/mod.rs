//! Changing files: their maps, their content and what is allocated for them.
//!
//! A [`FileEdit`] is a file descriptor being changed inside a transaction. Data goes straight to
//! the volume, where nothing refers to it before the transaction is published.

mod clear;
mod descriptor;
mod directory;
mod levels;
mod map;
mod reserve;
mod write;

pub use crate::file::entries::DirHint;
pub use descriptor::{FileEdit, NewFile};
pub use directory::DirectoryEdit;
