//! Hosts as real processes on one image or one LUN of an iSCSI target: what they do to each other, and what must be true afterwards.
//!
//! - [`history`]: what a host notes of each call, before and after it.
//! - [`host`]: a host: mounts the volume and works on it until it is told to end.
//! - [`ground`]: makes a volume, where hosts meet; cuts their links, and restarts their target.
//! - [`mounts`]: a host that is a mount, and works through the kernel.
//! - `process`: the processes that are a host.
//! - [`run`]: starts hosts, kills and stops some of them.
//! - [`register`]: whether the calls on a name can have happened one after the other.
//! - [`verdict`]: everything that must be true of a volume after a run.
//! - [`fence`]: a host that is stopped anywhere, taken over from, and goes on.

pub mod fence;
pub mod ground;
pub mod history;
pub mod host;
pub mod mounts;
mod process;
pub mod register;
pub mod run;
pub mod verdict;
