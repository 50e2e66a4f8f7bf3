//! Files: their descriptors, their content and directories
//! (FORMAT.md, "File descriptors", "Directories of VMFS5", "Directories of VMFS6").

mod content;
mod directory;
mod directory5;
mod directory6;
pub mod edit;
#[cfg(test)]
mod edit_directory;
pub mod entries;
mod error;
mod inode;
mod store;

pub use content::SeekTo;
pub use directory::{DirEntry, Directory, is_valid_name};
pub use error::FileError;
pub use inode::Inode;
pub use store::FileStore;
