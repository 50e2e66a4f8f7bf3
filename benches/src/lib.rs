//! Speed of OpenVMFS beside other file systems on the same backing, measured in one run.
//!
//! `read-bench`, `write-bench` and `fsck-bench` are the commands; this library holds their parts: [`content`] makes bytes that can be
//! checked anywhere, [`backing`] puts them on tmpfs, [`contender`] mounts one file system,
//! [`workload`] measures one row, [`report`] and [`chart`] print what came out.

pub mod backing;
pub mod chart;
pub mod checks;
pub mod commands;
pub mod contender;
pub mod content;
pub mod copy;
pub mod large;
pub mod lines;
pub mod machine;
pub mod plot;
pub mod programs;
pub mod report;
pub mod settings;
pub mod volumes;
pub mod workload;
pub mod writes;
