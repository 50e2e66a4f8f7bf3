//! Readers that other people wrote: dissect.vmfs (PyPI), vmfs-tools and vmfs6-tools (Debian).

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;

use crate::images::{cache_folder, workspace};

/// The release of dissect.vmfs that ours is compared with.
const DISSECT: &str = "dissect.vmfs==3.13";

/// A file as dissect.vmfs reads it.
#[derive(Debug, Deserialize)]
pub struct DissectFile {
    /// Path on the volume, names joined by slashes; bytes that aren't UTF-8 don't occur.
    pub path: String,
    /// Raw file descriptor address.
    pub fd: u32,
    /// The descriptor's type number.
    pub kind: u32,
    /// Length in bytes.
    pub length: u64,
    /// Permission bits.
    pub mode: u32,
    /// Names.
    pub links: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification, change and access, in seconds since 1970.
    pub times: [u32; 3],
    /// Where a symbolic link leads.
    pub target: Option<String>,
    /// Why dissect.vmfs can't read the content.
    pub error: Option<String>,
    /// Pieces of the content.
    pub pieces: Vec<Piece>,
}

/// A piece of a file's content as dissect.vmfs reads it: offset, length, CRC-32, where its first
/// byte lies on the volume (0: nowhere), and whether it reads as zeros without being looked at.
pub type Piece = (u64, u64, u32, u64, bool);

/// Everything that dissect.vmfs finds on the volume that `devices` make up.
///
/// Files up to `whole` bytes are read in full; of larger ones `offsets` are read, 64 KiB each.
///
/// # Panics
/// When dissect.vmfs can't be had or fails: it is what the tests compare with.
pub fn dissect(devices: &[PathBuf], whole: u64, offsets: &[u64]) -> Vec<DissectFile> {
    let script = workspace().join("tests/oracle/dissect_read.py");
    let offsets: Vec<_> = offsets.iter().map(ToString::to_string).collect();
    let output = Command::new(python())
        .arg(script)
        .arg(whole.to_string())
        .arg(offsets.join(","))
        .args(devices.iter().map(|device| for_other_process(device)))
        .output()
        .expect("python runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let lines = String::from_utf8(output.stdout).expect("UTF-8");
    lines
        .lines()
        .map(|line| serde_json::from_str(line).expect("a line of JSON"))
        .collect()
}

/// The path under which another process finds what a path means here: a volume in memory is a
/// descriptor of this process.
pub fn for_other_process(device: &Path) -> PathBuf {
    match device.strip_prefix("/proc/self") {
        Ok(below) => Path::new("/proc")
            .join(std::process::id().to_string())
            .join(below),
        Err(_) => device.to_owned(),
    }
}

/// A Python that has dissect.vmfs: `VMFS_TEST_PYTHON`, or one set up on first use.
fn python() -> PathBuf {
    if let Some(python) = env::var_os("VMFS_TEST_PYTHON") {
        return python.into();
    }
    let home = cache_folder().join("dissect-3.13");
    let python = home.join("bin/python");
    if !home.join("ready").exists() {
        // Several test programs may get here at once; pip installing twice does no harm, a venv
        // made under another's feet does.
        let lock = std::fs::File::create(cache_folder().join("dissect.lock")).expect("lock file");
        lock.lock().expect("lock");
        if !home.join("ready").exists() {
            must(
                Command::new("python3").args(["-m", "venv"]).arg(&home),
                "python3-venv",
            );
            must(python_pip(&python).arg(DISSECT), "PyPI");
            std::fs::write(home.join("ready"), "").expect("mark");
        }
    }
    python
}

fn python_pip(python: &Path) -> Command {
    let mut command = Command::new(python);
    command.args(["-m", "pip", "install", "--quiet"]);
    command
}

fn must(command: &mut Command, needs: &str) {
    let status = command.status();
    assert!(
        status.as_ref().is_ok_and(std::process::ExitStatus::success),
        "{command:?} failed ({status:?}); it needs {needs}"
    );
}

/// What a command of vmfs-tools or vmfs6-tools writes to standard output; `None`, said loudly,
/// where the package isn't installed, which in CI is a failure.
///
/// # Panics
/// In CI, when the package isn't installed.
pub fn debian_tool(program: &str, package: &str, args: &[&str]) -> Option<std::process::Output> {
    // Debian puts them where an ordinary user's path doesn't lead.
    let installed = Path::new("/usr/sbin").join(program);
    if !installed.exists() {
        assert!(
            env::var_os("CI").is_none(),
            "{program} is missing: install {package}"
        );
        eprintln!("\n*** NOT COMPARED with {program}: apt-get install {package}\n");
        return None;
    }
    Some(
        Command::new(installed)
            .args(args)
            .output()
            .expect("the tool starts"),
    )
}
