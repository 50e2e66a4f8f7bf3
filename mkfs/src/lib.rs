//! Lays out fresh VMFS volumes, byte for byte as ESXi does where a volume of ESXi's shows how.
//!
//! [`Options`] say what the volume shall be, [`Plan::new`] turns them into a layout, and
//! [`Plan::steps`] gives the writes that make it, in an order that is safe to interrupt.
//! [`apply`] carries them out on files or block devices.
//!
//! ```no_run
//! use mkfs_vmfs::{Options, Plan};
//! use vmfs_core::format::Family;
//!
//! let file = std::fs::File::create("volume.img")?;
//! file.set_len(10 << 30)?;
//! let plan = Plan::new(Options::new(Family::Vmfs6, &[10 << 30]))?;
//! mkfs_vmfs::apply(&plan, &[file])?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # How sizes follow from the volume's
//!
//! | | VMFS5 | VMFS6 |
//! |---|---|---|
//! | file descriptors | 2 % of the volume, at most 256 file blocks of them | 16384 |
//! | sub-blocks | 1/32 of the volume, at most 32000 | 16384 (a volume below 1.75 GiB: 8192) |
//! | pointer blocks | 256 file blocks of them, at most 1/8 of the volume | none |
//! | second pointer blocks | 256 | 256, more if the system files need them |
//! | journal blocks | none | 128 (VMFS-L: 2) |
//!
//! The 2 GiB and 4 GiB volumes of ESXi have these numbers; the caps of VMFS5 are VMware's
//! documented limits. What no volume shows: on VMFS6 at most [`MAX_CONVERTED`] large file blocks
//! are broken up into small ones beforehand, so that a large volume needs 8 KiB of metadata for
//! each 8 GiB and not for each 512 MiB; and a system file that outgrows its descriptor is mapped
//! through pointer blocks, as ESXi does with `.sbc.sf`.

mod apply;
mod descriptors;
mod devices;
mod directories;
mod grow;
mod identity;
mod lvm_headers;
mod options;
mod partition_table;
mod plan;
mod resources;
mod signatures;
mod steps;
mod system_files;

pub use apply::{Target, apply};
pub use devices::{DeviceLayout, Segment};
pub use directories::{DirBlock, entry6};
pub use grow::{GrowError, GrownFileSystem, contents_of, grow_file_system, refuse_in_use};
pub use identity::Identity;
pub use options::{DeviceSpec, LvmVersion, Options, PartitionTable, PlanError};
pub use plan::Plan;
pub use resources::{MAX_CONVERTED, ResourceFileLayout};
pub use steps::Step;
pub use system_files::SystemFileLayout;
