use std::fmt;

use mkfs_vmfs::Plan;
use serde::Serialize;
use vmfs_core::format::{Family, ResourceKind};

use super::cli::Arguments;
use super::device::Opened;
use super::size::show;

/// What was made, for people and machines; sizes in bytes.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    #[serde(rename = "type")]
    family: Family,
    label: String,
    uuid: String,
    volume_uuid: String,
    size: u64,
    free: u64,
    file_block_size: u64,
    sub_block_size: u64,
    sector_size: u32,
    file_descriptors: u64,
    sub_blocks: u64,
    pointer_blocks: u64,
    devices: Vec<DeviceReport>,
    dry_run: bool,
}

#[derive(Debug, Serialize)]
struct DeviceReport {
    path: String,
    uuid: String,
    size: u64,
    /// Where the volume's part begins on the device.
    start: u64,
    extents: u64,
}

impl Report {
    pub(crate) fn new(plan: &Plan, arguments: &Arguments, opened: &[Opened]) -> Self {
        let options = plan.options();
        let count = |kind| {
            plan.resource(kind)
                .map_or(0, |file| file.header.resources())
        };
        let used: u64 = plan
            .files()
            .iter()
            .map(mkfs_vmfs::SystemFileLayout::blocks)
            .sum();
        let devices = opened.iter().zip(plan.devices()).zip(&options.devices);
        Self {
            family: options.family,
            label: options.label.clone(),
            uuid: plan.uuid().to_string(),
            volume_uuid: plan.volume_uuid().to_string(),
            size: plan.volume_size(),
            free: plan.volume_size() - used * options.file_block_size,
            file_block_size: options.file_block_size,
            sub_block_size: plan.layout().sub_block_size(),
            sector_size: options.sector_size,
            file_descriptors: count(ResourceKind::FileDescriptor),
            sub_blocks: count(ResourceKind::SubBlock),
            pointer_blocks: count(ResourceKind::PointerBlock) + count(ResourceKind::PointerBlock2),
            devices: devices
                .map(|((opened, device), spec)| DeviceReport {
                    path: opened.name().to_string(),
                    uuid: device.uuid.to_string(),
                    size: spec.size,
                    start: device.start,
                    extents: device.extents,
                })
                .collect(),
            dry_run: arguments.dry_run,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = if self.dry_run {
            "would be made"
        } else {
            "made"
        };
        let label = match &*self.label {
            "" => String::new(),
            label => format!(" '{label}'"),
        };
        writeln!(
            f,
            "{} volume{label} {verb}, UUID {}",
            self.family, self.uuid
        )?;
        writeln!(
            f,
            "  {} in all, {} free, blocks of {}",
            show(self.size),
            show(self.free),
            show(self.file_block_size)
        )?;
        writeln!(
            f,
            "  room for {} files and directories",
            self.file_descriptors
        )?;
        for device in &self.devices {
            let at = match device.start {
                0 => String::new(),
                start => format!(", VMFS partition from {}", show(start)),
            };
            let (path, size) = (&device.path, show(device.size));
            writeln!(f, "  {path}: {size}, {} extents{at}", device.extents)?;
        }
        Ok(())
    }
}
