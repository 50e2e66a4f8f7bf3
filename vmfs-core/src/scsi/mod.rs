//! The LUN as the rest of the house sees it: identity, reads, writes, counters.
//!
//! Everything above works the same on any [`Lun`]: an image file or block device
//! ([`FileLun`]), a LUN of an iSCSI target ([`IscsiLun`]), a partition of one ([`PartitionLun`]),
//! one in memory for one host ([`MemoryLun`]) or several ([`MemoryArray`]), one with changed bytes
//! ([`OverlayLun`]), one whose commands fail ([`FaultLun`]) or one whose writes are recorded
//! ([`RecorderLun`]). [`open()`] opens what a user names.

mod aligned;
mod array;
mod clock;
mod counters;
mod error;
mod fault_lun;
mod file_lun;
mod forward;
mod holder;
mod iscsi;
mod lun;
mod memory_array;
mod memory_lun;
mod open;
mod overlay;
mod pace;
mod partition;
mod patient_lun;
mod persistent;
mod recorder_lun;
mod turns;

pub use aligned::AlignedBuf;
pub use array::{ArrayState, Attention, LunIdentity, MAX_IDENTITY, Personality};
pub use array::{Demand, HostStatus, Nexus, Refusal, ReservationState, SharedStatus};
pub use clock::{Clock, SystemClock};
pub use counters::{Counters, OpSnapshot, Snapshot};
pub use error::LunError;
pub use fault_lun::{FaultLun, Faults};
pub use file_lun::FileLun;
pub use iscsi::{IscsiLun, IscsiTimeouts, IscsiUrl};
pub use lun::{Access, Capabilities, Comparison, DeviceOffset, Lun};
pub use memory_array::{MemoryArray, MemoryPort};
pub use memory_lun::MemoryLun;
pub use open::{name_of, open};
pub use overlay::OverlayLun;
pub(crate) use pace::Tries;
pub use partition::{PartitionLun, look_through};
pub use patient_lun::PatientLun;
pub(crate) use patient_lun::jitter;
pub use persistent::{Key, PersistentReserve, Registration, ReservationType, Reservations};
pub use recorder_lun::{Recorded, RecorderLun};
