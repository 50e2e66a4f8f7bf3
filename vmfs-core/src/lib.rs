//! OpenVMFS: the VMFS on-disk format, the volume layer below it and the file system engine
//! above it.
//!
//! The modules are the floors of the house, from the bottom up; a floor uses only those below
//! it. `docs/ARCHITECTURE.md` has the tour, `docs/FORMAT.md` the format.
//!
//! - [`sync`]: locks between threads.
//! - [`scsi`]: the LUN: identity, reads, counters; image files and block devices.
//! - [`lvm`]: devices and the logical volume that they make up.
//! - [`format`]: on-disk structures and addresses.
//! - [`cluster`]: the hosts that have the volume mounted.
//! - [`journal`]: metadata, read through a cache and changed in transactions.
//! - [`resource`]: resource files: where file descriptors, sub-blocks and pointer blocks lie.
//! - [`file`]: file descriptors, block maps and directories.
//! - [`fs`]: the file system that a front end calls.

pub mod cluster;
pub mod file;
pub mod format;
pub mod fs;
pub mod journal;
pub mod lvm;
pub mod resource;
pub mod scsi;
pub mod sync;
