//! `vmfs-fuse`: mounts a VMFS volume.

use std::process::ExitCode;

fn main() -> ExitCode {
    vmfs_fuse::cli::vmfs_fuse()
}
