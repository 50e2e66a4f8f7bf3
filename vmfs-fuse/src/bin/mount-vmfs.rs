//! `mount.vmfs`: what mount(8) calls for `mount -t vmfs`.

use std::process::ExitCode;

fn main() -> ExitCode {
    vmfs_fuse::cli::mount_vmfs()
}
