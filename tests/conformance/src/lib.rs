//! Whether a mount does what file systems do: other people's tests of file systems, other people's
//! readers of VMFS, and programs that people use, on our writable mounts and on others to compare.
//!
//! `vmfs-conformance` is the command. [`suites`] are what it runs, each on a [`place`] of its own;
//! [`process`] and [`mount`] start what must end; [`expected`] and [`outcome`] judge.

pub mod expected;
pub mod mount;
pub mod outcome;
pub mod place;
pub mod process;
pub mod suites;
