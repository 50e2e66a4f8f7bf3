//! Resource files of volumes that are too damaged to say where they lie.
//!
//! - [`scan`]: what a look at every sector finds: clusters and file descriptors name themselves.
//! - [`rebuild`]: resource files from what their descriptors still say and from such a scan.

mod rebuild;
mod scan;

pub use rebuild::{Rebuilt, rebuild};
pub use scan::{Evidence, scan};
