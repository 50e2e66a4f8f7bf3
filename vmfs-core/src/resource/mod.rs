//! Resource files: where file descriptors, sub-blocks, pointer blocks and file blocks lie and
//! which of them are free (FORMAT.md, "Resource files", "Block maps").
//!
//! Resource files are files themselves, so the block maps that both they and all other files
//! have live on this floor.

mod allocator;
mod bits;
mod block_map;
mod blocks;
mod changes;
mod error;
mod grow;
mod hold;
mod placement;
mod pool;
pub mod rescue;
mod resource_file;
mod space;
mod system;

pub use allocator::{AllocError, Allocator, Place as ResourcePlace};
pub use block_map::{BlockMap, Place, Run};
pub use blocks::Wanted;
pub use changes::{Actor, Changes, give_back_in_place};
pub use error::MetaError;
pub use hold::Hold;
pub use resource_file::ResourceFile;
pub use space::Space;
pub use system::{PointerSources, Resources, read_fd};
