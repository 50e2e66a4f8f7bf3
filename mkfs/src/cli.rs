use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;
use clap::{Parser, ValueEnum};
use mkfs_vmfs::{DeviceSpec, Options, PartitionTable};
use vmfs_core::format::{Family, Uuid};
use vmfs_core::scsi::Personality;

use super::device::Opened;
use super::size;

const EXAMPLES: &str = "\
Examples:
  mkfs.vmfs /dev/sdb                              VMFS6 on a whole LUN
  mkfs.vmfs --partition gpt -L ssd1 /dev/sdb      as ESXi does it, in a GPT partition
  mkfs.vmfs --size 100G store.img                 an image file, made if it isn't there
  mkfs.vmfs --type vmfs5 /dev/sdb /dev/sdc        VMFS5 spanned over two LUNs
  mkfs.vmfs iscsi://192.0.2.7/iqn.2001-04.com.example:disk1/1  on a LUN of an iSCSI target
  mkfs.vmfs --dry-run --json --size 64T new.img   only tell what would be made

Exit status: 0 made (or, with --dry-run, possible), 1 refused or failed, 2 wrong usage.";

/// Which VMFS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Type {
    /// VMFS6 on LVM 6
    Vmfs6,
    /// VMFS5 on LVM 5
    Vmfs5,
}

/// Partition table or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Table {
    /// A GPT with one VMFS partition
    Gpt,
    /// The volume has the whole device
    None,
}

/// What the array of an image file can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Array {
    /// COMPARE AND WRITE and the other offloads
    Vaai,
    /// SCSI-2 reservations only
    Legacy,
}

impl From<Array> for Personality {
    fn from(array: Array) -> Self {
        match array {
            Array::Vaai => Self::Vaai,
            Array::Legacy => Self::Legacy,
        }
    }
}

/// Makes a VMFS volume, laid out as ESXi does.
///
/// Refuses a device that is in use or that holds anything it knows, unless --force is given.
/// Several devices make one volume spanned over them.
#[derive(Debug, Parser)]
#[command(name = "mkfs.vmfs", version, after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// Which VMFS to make
    #[arg(short = 't', long = "type", value_enum, default_value = "vmfs6")]
    pub(crate) family: Type,
    /// Label of the volume, at most 127 bytes
    #[arg(short = 'L', long, default_value = "")]
    pub(crate) label: String,
    /// File block size: 1M, with VMFS5 a power of two from 512K to 8M
    #[arg(long, value_name = "SIZE", default_value = "1M", value_parser = size::parse)]
    pub(crate) block_size: u64,
    /// Size of each image file, like 10G or 1TiB; needed for one that isn't there
    #[arg(long, value_parser = size::parse)]
    pub(crate) size: Option<u64>,
    /// Logical sector size of image files: 512 or 4096; devices tell their own
    #[arg(long, value_name = "BYTES", value_parser = ["512", "4096"])]
    pub(crate) sector_size: Option<String>,
    /// Whether to make a partition table
    #[arg(long, value_enum, default_value = "none")]
    pub(crate) partition: Table,
    /// For image files: what the array that holds them can do, recorded beside each
    #[arg(long, value_enum)]
    pub(crate) array: Option<Array>,
    /// VMFS-L, for one host
    #[arg(long)]
    pub(crate) local: bool,
    /// UUID of the file system, like 68626efc-2ea12e18-b4ef-bc2411b17e28
    #[arg(long, value_parser = parse_uuid)]
    pub(crate) uuid: Option<Uuid>,
    /// Time of creation in seconds since 1970, instead of now
    #[arg(long, value_name = "SECONDS")]
    pub(crate) time: Option<u32>,
    /// Seed for UUIDs: with --time, makes the same volume each time
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// Change nothing, only check and tell
    #[arg(short = 'n', long)]
    pub(crate) dry_run: bool,
    /// Print what was made as one JSON object
    #[arg(long)]
    pub(crate) json: bool,
    /// Overwrite whatever the devices hold
    #[arg(short = 'F', long)]
    pub(crate) force: bool,
    /// Print nothing if all goes well
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Image files, block devices or iSCSI LUNs, 1 to 32, in the order of the volume
    #[arg(required = true, value_name = "DEVICE")]
    pub(crate) devices: Vec<PathBuf>,
}

impl Arguments {
    /// The library's options for these devices.
    pub(crate) fn options(&self, opened: &[Opened]) -> anyhow::Result<Options> {
        let family = match self.family {
            Type::Vmfs6 => Family::Vmfs6,
            Type::Vmfs5 => Family::Vmfs5,
        };
        let mut options = Options::new(family, &[]);
        options.label.clone_from(&self.label);
        options.file_block_size = self.block_size;
        options.local = self.local;
        options.uuid = self.uuid;
        options.partition = match self.partition {
            Table::Gpt => PartitionTable::Gpt,
            Table::None => PartitionTable::None,
        };
        options.time_us = match self.time {
            Some(seconds) => u64::from(seconds) * 1_000_000,
            None => now_us()?,
        };
        options.seed = match self.seed {
            Some(seed) => seed,
            None => random_seed()?,
        };
        let chosen = self
            .sector_size
            .as_deref()
            .map(|text| if text == "4096" { 4096 } else { 512 });
        options.sector_size = chosen.unwrap_or(512);
        for device in opened {
            if device.sector_size == Some(4096) {
                options.sector_size = 4096;
            }
            options.devices.push(DeviceSpec {
                size: device.size,
                disk_id: device.identity(self.array.map(Into::into), self.dry_run)?,
                name: None,
            });
        }
        Ok(options)
    }
}

fn now_us() -> anyhow::Result<u64> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.context("the clock is before 1970; set it or give --time")?;
    Ok(u64::try_from(now.as_micros()).unwrap_or(u64::MAX))
}

fn random_seed() -> anyhow::Result<u64> {
    let mut bytes = [0; 8];
    let mut source = std::fs::File::open("/dev/urandom").context("/dev/urandom")?;
    std::io::Read::read_exact(&mut source, &mut bytes).context("/dev/urandom")?;
    Ok(u64::from_le_bytes(bytes))
}

/// Reads a UUID as VMware writes it: 8, 8, 4 and 12 hexadecimal digits.
fn parse_uuid(text: &str) -> Result<Uuid, String> {
    let parts: Vec<&str> = text.split('-').collect();
    let hex = |part: &str, digits: usize| {
        let valid = part.len() == digits && part.bytes().all(|byte| byte.is_ascii_hexdigit());
        valid.then(|| u64::from_str_radix(part, 16).ok()).flatten()
    };
    let parsed = match parts[..] {
        [a, b, c, d] => hex(a, 8).zip(hex(b, 8)).zip(hex(c, 4).zip(hex(d, 12))),
        _ => None,
    };
    let ((time_lo, time_hi), (random, mac)) =
        parsed.ok_or("a UUID looks like 68626efc-2ea12e18-b4ef-bc2411b17e28")?;
    let mut address = [0; 6];
    address.copy_from_slice(&mac.to_be_bytes()[2..]);
    Ok(Uuid {
        time_lo: (time_lo as u32).into(),
        time_hi: (time_hi as u32).into(),
        random: (random as u16).into(),
        mac: address,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuids_are_read_as_they_are_written() {
        let text = "68626efc-2ea12e18-b4ef-bc2411b17e28";
        assert_eq!(parse_uuid(text).expect("valid").to_string(), text);
        assert!(parse_uuid("68626efc-2ea12e18-b4ef").is_err());
        assert!(parse_uuid("68626efc-2ea12e18-b4ef-bc2411b17e2g").is_err());
    }
}
