//! The volume layer: devices, and the logical volume that they make up
//! (FORMAT.md, "Device header", "Volume table", "Physical extents").

mod device;
mod error;
mod extend;
mod extents;
mod grow;
mod open;
mod rescue;
mod resignature;
mod snapshot;
mod volume;

pub use device::{Device, PhysicalExtent};
pub use error::LvmError;
pub use extend::{Extended, NewDevice, extend};
pub use grow::{Grown, grow};
pub use open::{open_luns, open_paths, open_paths_as, unwrap_partition};
pub use rescue::{Assembled, assemble_damaged};
pub use resignature::{NewSignature, Resignatured, resignature};
pub use snapshot::Origin;
pub use volume::{Extent, Volume, VolumeOffset};
