//! The GPT that ESXi puts on a device, made in memory.

use std::collections::BTreeMap;
use std::io::{self, Read, Seek, SeekFrom, Write};

use gpt::GptConfig;
use gpt::disk::LogicalBlockSize;
use gpt::mbr::ProtectiveMBR;
use gpt::partition_types::VMWARE_VMFS;

use super::devices::DeviceLayout;
use super::identity::Identity;
use super::options::{Options, PlanError};

/// A device of which only what is written is kept.
#[derive(Debug)]
struct Recorder {
    size: u64,
    position: u64,
    sectors: BTreeMap<u64, [u8; 512]>,
}

impl Recorder {
    /// The part of `length` bytes that lies in the current sector: its number and range.
    fn step(&self, length: usize) -> (u64, std::ops::Range<usize>) {
        let start = (self.position % 512) as usize;
        let left = usize::try_from(self.size.saturating_sub(self.position)).unwrap_or(usize::MAX);
        (
            self.position / 512,
            start..start + length.min(512 - start).min(left),
        )
    }
}

impl Read for Recorder {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let (sector, range) = self.step(buf.len());
        let length = range.len();
        match self.sectors.get(&sector) {
            Some(bytes) => buf[..length].copy_from_slice(&bytes[range]),
            None => buf[..length].fill(0),
        }
        self.position += length as u64;
        Ok(length)
    }
}

impl Write for Recorder {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let (sector, range) = self.step(buf.len());
        let length = range.len();
        if length > 0 {
            let bytes = self.sectors.entry(sector).or_insert([0; 512]);
            bytes[range].copy_from_slice(&buf[..length]);
        }
        self.position += length as u64;
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for Recorder {
    fn seek(&mut self, pos: SeekFrom) -> io::Result<u64> {
        let target = match pos {
            SeekFrom::Start(offset) => Some(offset),
            SeekFrom::End(delta) => self.size.checked_add_signed(delta),
            SeekFrom::Current(delta) => self.position.checked_add_signed(delta),
        };
        self.position = target.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}

/// The sectors of device `index`'s partition table, as offsets and bytes.
pub(crate) fn sectors(
    options: &Options,
    index: usize,
    device: &DeviceLayout,
    identity: &mut Identity,
) -> Result<Vec<(u64, Vec<u8>)>, PlanError> {
    let failed = |reason: String| PlanError::PartitionTable {
        device: index,
        reason,
    };
    let sector = u64::from(options.sector_size);
    let size = options.devices[index].size;
    let block_size = if sector == 4096 {
        LogicalBlockSize::Lb4096
    } else {
        LogicalBlockSize::Lb512
    };
    let mut recorder = Recorder {
        size: size - size % sector,
        position: 0,
        sectors: BTreeMap::new(),
    };
    let last = u32::try_from(size / sector - 1).unwrap_or(u32::MAX);
    ProtectiveMBR::with_lb_size(last)
        .overwrite_lba0(&mut recorder)
        .map_err(|error| failed(error.to_string()))?;
    let guid = |identity: &mut Identity| {
        let random = u128::from(identity.random()) << 64 | u128::from(identity.random());
        uuid::Builder::from_random_bytes(random.to_le_bytes()).into_uuid()
    };
    let mut disk = GptConfig::new()
        .writable(true)
        .logical_block_size(block_size)
        .create_from_device(recorder, Some(guid(identity)))
        .map_err(|error| failed(error.to_string()))?;
    let (first, count) = (device.start / sector, device.length / sector);
    let number = disk
        .add_partition_at("", 1, first, count, VMWARE_VMFS, 0)
        .map_err(|error| failed(error.to_string()))?;
    let mut partitions = disk.take_partitions();
    if let Some(partition) = partitions.get_mut(&number) {
        partition.part_guid = guid(identity);
    }
    disk.update_partitions(partitions)
        .map_err(|error| failed(error.to_string()))?;
    let recorder = disk.write().map_err(|error| failed(error.to_string()))?;
    let mut writes: Vec<(u64, Vec<u8>)> = Vec::new();
    for (number, bytes) in recorder.sectors {
        let offset = number * 512;
        match writes.last_mut() {
            Some((start, run)) if *start + run.len() as u64 == offset => run.extend(bytes),
            _ => writes.push((offset, bytes.to_vec())),
        }
    }
    Ok(writes)
}
