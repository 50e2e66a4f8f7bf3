//! What the tests of the tool share.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;
use vmfs_fixtures::{Fixture, FixtureBuilder, mkfs_vmfs};

/// Runs the tool with `args`.
pub(crate) fn vmfs<S: AsRef<std::ffi::OsStr>>(args: &[S]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vmfs"));
    command
        .args(args)
        .stdin(Stdio::null())
        .output()
        .expect("the tool starts")
}

/// Runs the tool, which must succeed, and returns what it wrote.
pub(crate) fn stdout<S: AsRef<std::ffi::OsStr>>(args: &[S]) -> String {
    let output = vmfs(args);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("UTF-8")
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A small volume as a file: fixtures in memory are only seen by their own process.
pub(crate) fn volume(fill: impl FnOnce(&mut FixtureBuilder)) -> (TempDir, PathBuf, Fixture) {
    let folder = tempfile::tempdir().expect("folder");
    let image = folder.path().join("volume.img");
    let size = 4 << 30;
    let file = fs::File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&image)
        .expect("image");
    file.set_len(size).expect("size");
    let options = mkfs_vmfs::Options::new(vmfs_core::format::Family::Vmfs6, &[size]);
    let mut builder = FixtureBuilder::create(options, vec![file]).expect("fixture");
    fill(&mut builder);
    let fixture = builder.finish().expect("fixture");
    (folder, image, fixture)
}

pub(crate) fn on(image: &Path, path: &str) -> String {
    format!("{}:{path}", image.display())
}
