//! The file system that a front end calls: find, list, read, seek, sizes.

mod attributes;
mod break_lock;
mod changes;
mod content;
mod engine;
mod error;
mod file_system;
mod holds;
mod inspect;
mod locks;
mod mount;
mod names;
mod path;
mod recover;
mod rename;
pub mod rescue;
mod sharing;
mod space;
mod stat;
mod unsynced;
mod upkeep;

pub use crate::cluster::OpenMode;
pub use changes::{Allocate, Changes, Creator, Rename};
pub use error::FsError;
pub use file_system::FileSystem;
pub use inspect::{JournalState, Protected};
pub use stat::Stat;

pub use crate::file::{DirEntry, Inode, SeekTo};
pub use crate::resource::{Place, Run, Space};
