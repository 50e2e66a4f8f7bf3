//! The programs that a run starts: ours, Debian's, and libfuse's example.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// Where Debian's libfuse3-dev has its examples.
const EXAMPLES: &str = "/usr/share/doc/libfuse3-dev/examples";

/// Builds our programs as this one was built, and returns where they are.
///
/// # Errors
/// They don't build.
pub fn build() -> Result<PathBuf> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let packages = [
        "vmfs-benches",
        "vmfs-fuse",
        "vmfs",
        "mkfs-vmfs",
        "fsck-vmfs",
    ];
    let mut command = Command::new(cargo);
    command.args(["build", "--release", "--bins"]);
    command.current_dir(env!("CARGO_MANIFEST_DIR"));
    command.args(packages.map(|package| format!("--package={package}")));
    let status = command.status().context("start cargo")?;
    ensure!(status.success(), "our programs don't build");
    let this = env::current_exe()?;
    Ok(this.parent().unwrap_or(Path::new(".")).to_owned())
}

/// Compiles libfuse's passthrough_ll from Debian's copy of its source.
///
/// # Errors
/// The source, the library or the compiler isn't there.
pub fn passthrough(target: &Path) -> Result<PathBuf> {
    let flags = Command::new("pkg-config")
        .args(["--cflags", "--libs", "fuse3"])
        .output()
        .context("start pkg-config")?;
    ensure!(
        flags.status.success(),
        "pkg-config doesn't know fuse3 (Debian: libfuse3-dev)"
    );
    let output = Command::new("cc")
        .arg("-O2")
        .arg(format!("{EXAMPLES}/passthrough_ll.c"))
        .args(String::from_utf8(flags.stdout)?.split_whitespace())
        .arg("-o")
        .arg(target)
        .output()
        .context("start cc")?;
    ensure!(
        output.status.success(),
        "it doesn't compile: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(target.to_owned())
}

/// One of Debian's tools, never ours of the same name.
///
/// # Errors
/// It isn't installed.
pub fn debian(name: &str) -> Result<PathBuf> {
    let path = Path::new("/usr/sbin").join(name);
    ensure!(path.exists(), "{} isn't there", path.display());
    Ok(path)
}
