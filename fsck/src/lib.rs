//! Checks and repairs VMFS volumes (docs/fsck/).
//!
//! [`check`] looks at a file system that is open, and only reads. [`run`] is what `fsck.vmfs` does
//! with devices: all passes, repairs planned in memory until nothing more is found, then written in
//! stages of which any part leaves a volume that another run repairs. [`undo::undo`] puts back what
//! a repair has overwritten.
//!
//! - [`Code`] names what can be wrong, [`Pass`] the passes; `passes/` has a module for each.
//! - [`Finding`] is one thing that is wrong, [`Report`] all of them.
//! - [`plan::Plan`] keeps what will be written.

mod account;
mod alloc;
mod check;
mod code;
mod content;
mod finding;
mod journals;
mod judge;
mod lost_found;
mod passes;
pub mod plan;
mod repair;
mod round;
pub mod undo;
mod usage;

pub use check::check;
pub use code::{Code, Pass, Progress, Severity};
pub use finding::{Finding, Report, ResourceCount};
pub use judge::{Answer, Mode};
pub use repair::{FsckError, Options, Outcome, run};
