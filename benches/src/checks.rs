//! What a check of a volume costs: volumes full of files, and how a checker is measured.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Serialize;
use vmfs_core::cluster::HostConfig;
use vmfs_core::format::{Family, FdAddr, Uuid};
use vmfs_core::fs::{Allocate, Creator, FileSystem};
use vmfs_core::lvm::open_paths;
use vmfs_core::scsi::Access;
use vmfs_fixtures::FixtureBuilder;
use vmfs_fixtures::mkfs_vmfs::Options;

const MIB: u64 = 1 << 20;
/// Files of one directory.
const PER_DIRECTORY: u32 = 1000;
/// Bytes of a small file: resident on VMFS6, in a sub-block on VMFS5.
const SMALL: usize = 2000;
/// A checker that takes longer is stopped.
const PATIENCE: Duration = Duration::from_secs(600);
/// How often a checker's memory is looked at.
const LOOK: Duration = Duration::from_millis(1);

/// Makes a volume in `image` with `files` files, half of them small and half with a file block, and a last
/// one that has all the blocks that are left.
///
/// # Errors
/// No room.
pub fn make_full(image: &Path, family: Family, files: u32) -> Result<()> {
    // VMFS5 has as many descriptors as its size gives it, so small volumes have few.
    let bytes = (u64::from(files) * MIB + (4 << 30)).next_multiple_of(256 * MIB);
    let file = fs::File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(image)
        .with_context(|| format!("create {}", image.display()))?;
    FixtureBuilder::create(Options::new(family, &[bytes]), vec![file])?.finish()?;
    let uuid = Uuid {
        time_lo: 1.into(),
        ..Uuid::default()
    };
    let volume = open_paths(&[image], Access::ReadWrite)?;
    let fs = FileSystem::open_for_writing(volume, HostConfig::new(uuid, "fsck-bench"))?;
    let creator = Creator {
        mode: 0o644,
        uid: 0,
        gid: 0,
    };
    let content = vec![0x5a; SMALL];
    let mut directory = FdAddr::ROOT;
    for number in 0..files {
        if number % PER_DIRECTORY == 0 {
            let name = format!("directory-{:04}", number / PER_DIRECTORY);
            let made = fs.make_directory(FdAddr::ROOT, name.as_bytes(), creator)?;
            directory = made.fd();
            fs.keep_up().1?;
        }
        let made = fs.create(directory, format!("file-{number:06}").as_bytes(), creator)?;
        if number % 2 == 0 {
            fs.write(made.fd(), 0, &content)?;
        } else {
            fs.allocate(made.fd(), 0, MIB, Allocate::Reserve, false)?;
        }
    }
    let rest = fs.create(FdAddr::ROOT, b"rest", creator)?;
    let mut offset = 0;
    let mut step = 256 * MIB;
    // Until not even one block is left.
    while step >= MIB {
        match fs.allocate(rest.fd(), offset, step, Allocate::Reserve, false) {
            Ok(()) => offset += step,
            Err(_) => step /= 2,
        }
    }
    fs.close()?;
    Ok(())
}

/// What one run of a checker took.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Cost {
    /// Seconds from its start to its end.
    pub seconds: f64,
    /// Most memory that was resident, in KiB.
    pub peak_kib: u64,
    /// Its exit code.
    pub code: i32,
}

/// Runs `program` on `image`; an error when it takes too long or dies.
///
/// # Errors
/// It can't be started, hangs or is killed.
pub fn measure(program: &Path, arguments: &[&str], image: &Path) -> Result<Cost> {
    let start = Instant::now();
    let mut child = Command::new(program)
        .args(arguments)
        .arg(image)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| program.display().to_string())?;
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    loop {
        if let Some(ended) = child.try_wait()? {
            let seconds = start.elapsed().as_secs_f64();
            let code = ended.code().with_context(|| ended.to_string())?;
            return Ok(Cost {
                seconds,
                peak_kib: peak,
                code,
            });
        }
        peak = peak_of(&status).unwrap_or(0).max(peak);
        if start.elapsed() > PATIENCE {
            let _ = child.kill();
            let _ = child.wait();
            bail!("{} takes more than {PATIENCE:?}", program.display());
        }
        std::thread::sleep(LOOK);
    }
}

fn peak_of(status: &str) -> Option<u64> {
    let text = fs::read_to_string(status).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().trim_end_matches(" kB").parse().ok()
}
