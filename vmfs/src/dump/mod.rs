//! `vmfs dump`: structures as they stand on disk, field by field.
//!
//! - [`fields`]: how structures become lists of fields.
//! - [`structures`]: the structures themselves.

mod fields;
mod structures;

use clap::Subcommand;
use vmfs_core::format::ResourceKind;

use crate::Common;
use crate::error::Error;
use crate::target::{Target, open_volume};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    structure: Structure,
}

#[derive(Debug, Subcommand)]
enum Structure {
    /// Device headers, volume tables and extents
    Device {
        /// The volume
        target: Target,
    },
    /// The file system descriptor
    Fs {
        /// The volume
        target: Target,
    },
    /// The headers of all resource files
    Resources {
        /// The volume
        target: Target,
    },
    /// The header of a resource cluster, its lock and its bitmap
    Cluster {
        /// The volume
        target: Target,
        /// The kind of resource
        #[arg(value_enum)]
        kind: Kind,
        /// The cluster's number
        number: u64,
    },
    /// A file descriptor: lock, metadata and addresses
    Fd {
        /// The file, or the volume with --address
        target: Target,
        /// The file descriptor's address instead of a path, such as 0x00400104
        #[arg(long, value_parser = number)]
        address: Option<u64>,
    },
    /// A directory's entries as they stand, on VMFS6 with its header and hash table
    Dir {
        /// The directory
        target: Target,
    },
    /// Heartbeat slots in use, or one slot
    Heartbeat {
        /// The volume
        target: Target,
        /// A slot's number
        slot: Option<u64>,
    },
    /// What an address means
    Address {
        /// The volume
        target: Target,
        /// The address as a block map holds it, such as 0x15e41
        #[arg(value_parser = number)]
        address: u64,
    },
    /// Bytes of the volume
    Block {
        /// The volume
        target: Target,
        /// Offset on the volume
        #[arg(value_parser = number)]
        offset: u64,
        /// How many bytes
        #[arg(default_value = "512", value_parser = number)]
        length: u64,
    },
}

/// Kinds of resource by short names.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Kind {
    /// File blocks, small ones on VMFS6
    Fb,
    /// Large file blocks
    Lfb,
    /// Sub-blocks
    Sb,
    /// Pointer blocks
    Pb,
    /// Pointer blocks 2
    Pb2,
    /// File descriptors
    Fd,
    /// Journal blocks
    Jb,
}

impl From<Kind> for ResourceKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Fb => Self::FileBlock,
            Kind::Lfb => Self::LargeFileBlock,
            Kind::Sb => Self::SubBlock,
            Kind::Pb => Self::PointerBlock,
            Kind::Pb2 => Self::PointerBlock2,
            Kind::Fd => Self::FileDescriptor,
            Kind::Jb => Self::JournalBlock,
        }
    }
}

/// A number in decimal, or in hexadecimal after `0x`.
fn number(text: &str) -> Result<u64, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    parsed.map_err(|_| format!("{text:?} is not a number"))
}

pub(crate) fn run(args: &Args, common: &Common) -> Result<(), Error> {
    let structures = match &args.structure {
        Structure::Device { target } => structures::devices(&open_volume(&target.devices, common)?),
        Structure::Fs { target } => structures::fs_descriptor(&target.open(common)?),
        Structure::Resources { target } => structures::resources(&target.open(common)?),
        Structure::Cluster {
            target,
            kind,
            number,
        } => structures::cluster(&target.open(common)?, (*kind).into(), *number)?,
        Structure::Fd { target, address } => {
            structures::file_descriptor(&target.open(common)?, target, *address)?
        }
        Structure::Dir { target } => structures::directory(&target.open(common)?, target)?,
        Structure::Heartbeat { target, slot } => {
            structures::heartbeats(&target.open(common)?, *slot)?
        }
        Structure::Address { target, address } => {
            structures::address(&target.open(common)?, *address)
        }
        Structure::Block {
            target,
            offset,
            length,
        } => structures::block(&open_volume(&target.devices, common)?, *offset, *length)?,
    };
    fields::print(&structures, common.json)
}
