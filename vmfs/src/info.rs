//! `vmfs info`.

use std::io::{self, Write};
use std::path::PathBuf;

use serde::Serialize;
use vmfs_core::cluster::Host;
use vmfs_core::format::{ResourceKind, text};
use vmfs_core::fs::{FileSystem, Space};
use vmfs_core::lvm::{Device, Extent, Origin, Volume};

use crate::Common;
use crate::error::Error;
use crate::output::{human, json, timestamp};
use crate::target::open_volume;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The volume: one device, or all of them in any order
    #[arg(required = true, value_name = "DEVICE")]
    devices: Vec<PathBuf>,
}

/// Everything that `info` tells.
#[derive(Debug, Serialize)]
struct Info {
    volume: VolumeInfo,
    devices: Vec<DeviceInfo>,
    missing_devices: usize,
    missing_names: Vec<String>,
    extents: Vec<Extent>,
    file_system: Option<FileSystemInfo>,
    /// Why there is no file system to tell of.
    problem: Option<String>,
}

#[derive(Debug, Serialize)]
struct VolumeInfo {
    uuid: Option<String>,
    name: Option<String>,
    size: u64,
    lvm: bool,
}

#[derive(Debug, Serialize)]
struct DeviceInfo {
    device: String,
    uuid: String,
    lvm_version: String,
    size: u64,
    capacity: u64,
    stored_identity: String,
    own_identity: Option<String>,
    origin: Origin,
    extended_regions: usize,
}

#[derive(Debug, Serialize)]
struct FileSystemInfo {
    family: String,
    version: String,
    local: bool,
    uuid: String,
    label: String,
    created: u32,
    config: String,
    config_flags: Vec<&'static str>,
    file_block_size: u64,
    large_file_block_size: u64,
    sub_block_size: u64,
    metadata_block_size: u64,
    space: Space,
    resources: Vec<ResourceInfo>,
    hosts: Vec<Host>,
    damaged_system_files: Vec<String>,
}

#[derive(Debug, Serialize)]
struct ResourceInfo {
    kind: ResourceKind,
    resources: u64,
    resource_size: u32,
    per_cluster: u32,
    clusters: u64,
}

pub(crate) fn run(args: &Args, common: &Common) -> Result<(), Error> {
    let volume = open_volume(&args.devices, common)?;
    let mut info = Info {
        volume: volume_info(&volume),
        devices: volume.devices().iter().map(device_info).collect(),
        missing_devices: volume.missing_devices(),
        missing_names: volume.missing_names(),
        extents: volume.extents().to_vec(),
        file_system: None,
        problem: None,
    };
    let device_names: Vec<String> = volume
        .luns()
        .iter()
        .map(|lun| lun.name().to_owned())
        .collect();
    match FileSystem::open(volume) {
        Ok(fs) => info.file_system = Some(file_system_info(&fs)?),
        Err(error) => info.problem = Some(error.to_string()),
    }
    if common.json {
        return json(&info);
    }
    print(&mut io::stdout().lock(), &info, &device_names)
}

fn volume_info(volume: &Volume) -> VolumeInfo {
    let entry = volume.entry();
    VolumeInfo {
        uuid: volume.uuid().map(|uuid| uuid.to_string()),
        name: entry.map(|entry| String::from_utf8_lossy(text(&entry.name)).into_owned()),
        size: volume.size(),
        lvm: entry.is_some(),
    }
}

fn device_info(device: &Device) -> DeviceInfo {
    let metadata = device.metadata();
    DeviceInfo {
        device: device.name().to_owned(),
        uuid: metadata.uuid.to_string(),
        lvm_version: format!("{}.{}", metadata.major_version, metadata.minor_version),
        size: metadata.total_bytes.get(),
        capacity: device.lun().capacity(),
        stored_identity: device.stored_identity(),
        own_identity: device.lun().identity().map(ToString::to_string),
        origin: device.origin(),
        extended_regions: device.regions(),
    }
}

fn file_system_info(fs: &FileSystem) -> Result<FileSystemInfo, Error> {
    let (fsd, layout) = (fs.descriptor(), fs.layout());
    let resources = fs.store().resources();
    Ok(FileSystemInfo {
        family: layout.family.to_string(),
        version: format!("{}.{}", fsd.major_version, fsd.minor_version),
        local: fsd.is_local(),
        uuid: fsd.uuid.to_string(),
        label: fsd.label(),
        created: fsd.creation_time.get(),
        config: format!("{:#x}", fsd.config),
        config_flags: fsd.config().names(),
        file_block_size: layout.file_block_size(),
        large_file_block_size: layout.large_block_size(),
        sub_block_size: layout.sub_block_size(),
        metadata_block_size: layout.md_block,
        space: fs.space(),
        resources: resources
            .iter()
            .map(|file| ResourceInfo {
                kind: file.kind(),
                resources: file.header().resources(),
                resource_size: file.header().resource_size.get(),
                per_cluster: file.header().resources_per_cluster.get(),
                clusters: file.header().clusters(),
            })
            .collect(),
        hosts: fs.hosts()?,
        damaged_system_files: resources
            .problems
            .iter()
            .map(|(file, error)| format!("{}: {error}", file.name()))
            .collect(),
    })
}

fn print(out: &mut dyn Write, info: &Info, device_names: &[String]) -> Result<(), Error> {
    let volume = &info.volume;
    match (&volume.uuid, &volume.name) {
        (Some(uuid), Some(name)) if name != uuid => {
            writeln!(out, "volume         {uuid} ({name})")?;
        }
        (Some(uuid), _) => writeln!(out, "volume         {uuid}")?,
        _ => writeln!(out, "volume         imaged above LVM")?,
    }
    writeln!(
        out,
        "  size         {} ({} bytes)",
        human(volume.size),
        volume.size
    )?;
    if info.missing_devices > 0 {
        writeln!(
            out,
            "  DEGRADED     {} device(s) missing",
            info.missing_devices
        )?;
        for name in &info.missing_names {
            writeln!(out, "  missing      {name}")?;
        }
    }
    for device in &info.devices {
        writeln!(out, "device         {}", device.device)?;
        writeln!(out, "  uuid         {}", device.uuid)?;
        writeln!(out, "  LVM          {}", device.lvm_version)?;
        writeln!(
            out,
            "  size         {} ({} bytes)",
            human(device.size),
            device.size
        )?;
        if device.capacity < device.size.saturating_sub(512) {
            writeln!(out, "  CUT SHORT    has only {} bytes", device.capacity)?;
        }
        let origin = match device.origin {
            Origin::Original => "this LUN",
            Origin::Snapshot => "another LUN: a snapshot or replica",
            Origin::Unknown => "a LUN, this one or another",
        };
        writeln!(out, "  written on   {} ({origin})", device.stored_identity)?;
    }
    writeln!(out, "extents")?;
    for extent in &info.extents {
        let place = match extent.place {
            Some((device, offset)) => {
                let name = device_names.get(device).map_or("", String::as_str);
                format!("{name} at {offset}")
            }
            None => "MISSING".to_owned(),
        };
        writeln!(
            out,
            "  {:<18} {:>11}  {place}",
            extent.logical.to_string(),
            human(extent.length)
        )?;
    }
    if let Some(fs) = &info.file_system {
        return print_file_system(out, fs);
    }
    let problem = info.problem.as_deref().unwrap_or("none");
    writeln!(out, "file system    none readable: {problem}")?;
    Ok(())
}

fn print_file_system(out: &mut dyn Write, fs: &FileSystemInfo) -> Result<(), Error> {
    let local = if fs.local { " (VMFS-L, local)" } else { "" };
    writeln!(out, "file system    {} {}{local}", fs.family, fs.version)?;
    writeln!(out, "  label        {}", fs.label)?;
    writeln!(out, "  uuid         {}", fs.uuid)?;
    writeln!(out, "  created      {} UTC", timestamp(fs.created.into()))?;
    writeln!(
        out,
        "  config       {} ({})",
        fs.config,
        fs.config_flags.join(", ")
    )?;
    let large = if fs.large_file_block_size > fs.file_block_size {
        format!(", large {}", human(fs.large_file_block_size))
    } else {
        String::new()
    };
    writeln!(out, "  file block   {}{large}", human(fs.file_block_size))?;
    writeln!(out, "  sub-block    {}", human(fs.sub_block_size))?;
    let space = &fs.space;
    let free = space.free_blocks * space.block_size;
    writeln!(
        out,
        "  free         {} of {}",
        human(free),
        human(space.blocks * space.block_size)
    )?;
    writeln!(
        out,
        "  files        {} of {} file descriptors used",
        space.file_descriptors - space.free_file_descriptors,
        space.file_descriptors
    )?;
    for problem in &fs.damaged_system_files {
        writeln!(out, "  DAMAGED      {problem}")?;
    }
    writeln!(out, "resources")?;
    for file in &fs.resources {
        writeln!(
            out,
            "  {:<18} {:>10} in {} clusters",
            file.kind.to_string(),
            file.resources,
            file.clusters
        )?;
    }
    writeln!(
        out,
        "hosts{}",
        if fs.hosts.is_empty() {
            "          none"
        } else {
            ""
        }
    )?;
    for host in &fs.hosts {
        writeln!(
            out,
            "  slot {:<6}  {} {} driver {}, generation {}, renewed {} s after its boot",
            host.slot,
            host.host,
            host.ip,
            host.driver,
            host.generation,
            host.stamp_us / 1_000_000
        )?;
    }
    Ok(())
}
