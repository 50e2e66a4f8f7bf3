//! The files that every contender reads, on tmpfs.

use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process;

use anyhow::{Context, Result, bail};
use vmfs_core::fs::FileSystem;
use vmfs_core::lvm::open_paths;
use vmfs_core::resource::Place;
use vmfs_core::scsi::Access;

use crate::contender::unmount;
use crate::content;
use crate::workload::Piece;

/// The thick file's name in every tree.
pub const THICK: &str = "thick.bin";
/// The name of the directory with small files in every tree.
pub const SMALL_FILES: &str = "small";
const PREFIX: &str = "vmfs-read-bench-";

/// What the trees hold.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// Bytes of the thick file, whole MiB.
    pub thick: u64,
    /// How many small files there are.
    pub files: u32,
    /// Bytes of a small file.
    pub file: u32,
}

/// A directory on tmpfs that goes away with the value, and with it every mount below it.
#[derive(Debug)]
pub struct Workspace {
    root: PathBuf,
}

impl Workspace {
    /// A new directory below `parent`. What a run that was killed left there is removed first.
    ///
    /// # Errors
    /// The directory can't be made.
    pub fn new(parent: &Path) -> Result<Self> {
        for entry in fs::read_dir(parent)?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let owner = name.strip_prefix(PREFIX).and_then(|pid| pid.parse().ok());
            if owner.is_some_and(|pid: u32| !Path::new(&format!("/proc/{pid}")).exists()) {
                drop(Self { root: entry.path() });
            }
        }
        let root = parent.join(format!("{PREFIX}{}", process::id()));
        fs::create_dir(&root).with_context(|| format!("create {}", root.display()))?;
        Ok(Self { root })
    }

    /// A path in the directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        for point in mounts.lines().filter_map(|line| line.split(' ').nth(1)) {
            if Path::new(point).starts_with(&self.root) {
                unmount(Path::new(point));
            }
        }
        if let Err(error) = fs::remove_dir_all(&self.root) {
            eprintln!("{}: {error}", self.root.display());
        }
    }
}

/// Makes the plain tree: what raw reads and passthrough_ll see.
///
/// # Errors
/// tmpfs is full.
pub fn plain_tree(root: &Path, sizes: Sizes) -> Result<()> {
    let small = root.join(SMALL_FILES);
    fs::create_dir_all(&small)?;
    let mut thick = BufWriter::with_capacity(1 << 20, File::create(root.join(THICK))?);
    let mut buf = vec![0; 1 << 20];
    for offset in (0..sizes.thick).step_by(buf.len()) {
        content::fill(offset, &mut buf);
        thick.write_all(&buf)?;
    }
    thick.flush()?;
    for index in 0..sizes.files {
        fs::write(small.join(small_name(index)), small_content(index, sizes))?;
    }
    Ok(())
}

/// Name of a small file.
pub fn small_name(index: u32) -> String {
    format!("file-{index:05}.dat")
}

/// Bytes of a small file.
pub fn small_content(index: u32, sizes: Sizes) -> Vec<u8> {
    let mut bytes = vec![0; sizes.file as usize];
    content::fill(small_offset(index), &mut bytes);
    bytes
}

/// Where in the stream of the thick file a small file's bytes are.
pub const fn small_offset(index: u32) -> u64 {
    index as u64 * 4096
}

/// Where in `image` the data of the thick file lies.
///
/// # Errors
/// The image can't be read as VMFS, or the file isn't thick or not in file blocks.
pub fn pieces(image: &Path) -> Result<Vec<Piece>> {
    let fs = FileSystem::open(open_paths(&[image], Access::ReadOnly)?)?;
    let inode = fs.resolve(THICK.as_bytes(), true)?;
    let length = inode.length();
    let mut found = Vec::new();
    let mut offset = 0;
    while offset < length {
        let run = fs.run_at(&inode, offset, length)?;
        let (Place::Data(place) | Place::ToBeZeroed(place)) = run.place else {
            bail!("{THICK} in {} has a hole at {offset:#x}", image.display());
        };
        let mut at = offset;
        while at < run.end() {
            let inside = place + (at - offset);
            let extent = fs.volume().locate(inside).context("behind the volume")?;
            let (_, start) = extent.place.context("a missing device")?;
            let skip = inside.0 - extent.logical.0;
            let piece = Piece {
                offset: at,
                length: (extent.length - skip).min(run.end() - at).min(length - at),
                place: start.0 + skip,
            };
            at += piece.length;
            found.push(piece);
        }
        offset = run.end();
    }
    Ok(found)
}

/// Writes the thick file's bytes to its `pieces` of `image`.
///
/// # Errors
/// tmpfs is full.
pub fn stamp(image: &Path, pieces: &[Piece]) -> Result<()> {
    let file = OpenOptions::new().write(true).open(image)?;
    let mut buf = vec![0; 1 << 20];
    for piece in pieces {
        for inside in (0..piece.length).step_by(buf.len()) {
            let length = buf.len().min((piece.length - inside) as usize);
            content::fill(piece.offset + inside, &mut buf[..length]);
            file.write_all_at(&buf[..length], piece.place + inside)?;
        }
    }
    Ok(())
}
