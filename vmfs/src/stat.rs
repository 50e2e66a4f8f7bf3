//! `vmfs stat`.

use std::io::{self, Write};

use serde::Serialize;
use vmfs_core::format::{FileKind, LockMode, ZeroLevel};
use vmfs_core::fs::{FileSystem, Inode, Place, Stat};
use vmfs_core::lvm::VolumeOffset;
use vmfs_core::scsi::DeviceOffset;

use crate::Common;
use crate::error::Error;
use crate::output::{human, json, mode_text, timestamp};
use crate::target::Target;

/// Runs of a block map that are shown unless all are asked for.
const SHOWN_RUNS: usize = 64;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The file
    #[arg(value_name = "DEVICE:/PATH")]
    target: Target,
    /// Follow a symbolic link
    #[arg(short = 'L')]
    follow: bool,
    /// Show the whole block map, however long
    #[arg(long)]
    full: bool,
}

#[derive(Debug, Serialize)]
struct FileInfo {
    path: String,
    fd: String,
    fd_offset: VolumeOffset,
    kind: FileKind,
    #[serde(flatten)]
    stat: Stat,
    flags: u32,
    blocks: u64,
    zero_level: ZeroLevel,
    to_be_zeroed_blocks: u64,
    parent: String,
    raw_disk: Option<String>,
    lock_mode: LockMode,
    lock_owner: Option<String>,
    lock_token: u64,
    map: Vec<MapRun>,
    /// Whether the map goes on.
    map_cut: bool,
    map_error: Option<String>,
}

#[derive(Debug, Serialize)]
struct MapRun {
    offset: u64,
    length: u64,
    kind: &'static str,
    volume_offset: Option<VolumeOffset>,
    device: Option<String>,
    device_offset: Option<DeviceOffset>,
}

pub(crate) fn run(args: &Args, common: &Common) -> Result<(), Error> {
    let fs = args.target.open(common)?;
    let inode = args.target.resolve(&fs, args.follow)?;
    let limit = if args.full { usize::MAX } else { SHOWN_RUNS };
    let info = describe(&fs, &inode, &args.target.path, limit);
    if common.json {
        json(&info)?;
    } else {
        print(&mut io::stdout().lock(), &info)?;
    }
    match &info.map_error {
        Some(error) => {
            eprintln!("vmfs: {}: block map: {error}", args.target.path);
            Err(Error::Reported)
        }
        None => Ok(()),
    }
}

fn describe(fs: &FileSystem, inode: &Inode, path: &str, limit: usize) -> FileInfo {
    let (meta, lock) = (inode.meta(), inode.lock());
    let mut info = FileInfo {
        path: path.to_owned(),
        fd: format!("{:#010x}", inode.fd().raw()),
        fd_offset: inode.offset(),
        kind: inode.kind(),
        stat: Stat::from(inode),
        flags: meta.flags.get(),
        blocks: meta.blocks.get(),
        zero_level: meta.zero_level(),
        to_be_zeroed_blocks: meta.tbz_blocks(),
        parent: format!("{:#010x}", meta.parent_fd.get()),
        raw_disk: inode.rdm().map(|mapping| mapping.disk.text()),
        lock_mode: lock.mode(),
        lock_owner: (!lock.owner.is_zero()).then(|| lock.owner.to_string()),
        lock_token: lock.token.get(),
        map: Vec::new(),
        map_cut: false,
        map_error: None,
    };
    let mut at = 0;
    while at < inode.length() && inode.kind() != FileKind::Rdm {
        if info.map.len() == limit {
            info.map_cut = true;
            break;
        }
        match fs.run_at(inode, at, u64::MAX) {
            Ok(run) => {
                at = run.end();
                info.map
                    .push(map_run(fs, run.offset, run.length, run.place));
            }
            Err(error) => {
                info.map_error = Some(error.to_string());
                break;
            }
        }
    }
    info
}

fn map_run(fs: &FileSystem, offset: u64, length: u64, place: Place) -> MapRun {
    let (kind, at) = match place {
        Place::Data(at) => ("data", Some(at)),
        Place::ToBeZeroed(at) => ("to-be-zeroed", Some(at)),
        Place::Hole => ("hole", None),
    };
    let located = at.and_then(|at| {
        let extent = fs.volume().locate(at)?;
        let (device, start) = extent.place?;
        let name = fs.volume().luns().get(device)?.name().to_owned();
        Some((name, start + (at.0 - extent.logical.0)))
    });
    let (device, device_offset) = located.unzip();
    MapRun {
        offset,
        length,
        kind,
        volume_offset: at,
        device,
        device_offset,
    }
}

fn print(out: &mut dyn Write, info: &FileInfo) -> Result<(), Error> {
    let stat = &info.stat;
    writeln!(out, "file           {}", info.path)?;
    writeln!(
        out,
        "  descriptor   {} at {} of the volume",
        info.fd, info.fd_offset
    )?;
    writeln!(
        out,
        "  kind         {:?}, generation {}",
        info.kind, stat.generation
    )?;
    writeln!(
        out,
        "  mode         {} ({:04o})",
        mode_text(stat.mode),
        stat.mode & 0o7777
    )?;
    writeln!(
        out,
        "  owner        {}:{}, {} name(s)",
        stat.uid, stat.gid, stat.nlink
    )?;
    writeln!(
        out,
        "  size         {} ({} bytes)",
        human(stat.size),
        stat.size
    )?;
    writeln!(
        out,
        "  allocated    {} ({} blocks of {})",
        human(stat.allocated),
        info.blocks,
        human(stat.block_size)
    )?;
    if info.to_be_zeroed_blocks > 0 {
        writeln!(out, "  to be zeroed {} blocks", info.to_be_zeroed_blocks)?;
    }
    writeln!(out, "  modified     {} UTC", timestamp(stat.mtime.into()))?;
    writeln!(out, "  changed      {} UTC", timestamp(stat.ctime.into()))?;
    writeln!(out, "  accessed     {} UTC", timestamp(stat.atime.into()))?;
    writeln!(
        out,
        "  flags        {:#x}, parent {}",
        info.flags, info.parent
    )?;
    if let Some(disk) = &info.raw_disk {
        writeln!(out, "  raw disk     {disk}")?;
    }
    let owner = info.lock_owner.as_deref().unwrap_or("nobody");
    writeln!(
        out,
        "  lock         {:?}, {owner}, token {}",
        info.lock_mode, info.lock_token
    )?;
    writeln!(out, "  map          {:?}", info.zero_level)?;
    for run in &info.map {
        let place = match (run.volume_offset, &run.device, run.device_offset) {
            (Some(at), Some(device), Some(offset)) => {
                format!("volume {at}, {device} at {offset}")
            }
            (Some(at), ..) => format!("volume {at}, on a MISSING device"),
            _ => String::new(),
        };
        let kind = run.kind;
        writeln!(
            out,
            "    {:>#16x} {:>11} {kind:<12} {place}",
            run.offset,
            human(run.length)
        )?;
    }
    if info.map_cut {
        writeln!(out, "    … (--full shows all)")?;
    }
    Ok(())
}
