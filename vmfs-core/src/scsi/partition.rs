//! Partition tables are looked through, so that an image of a whole disk opens like the
//! partition on it.

use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::sync::Arc;

use super::error::LunError;
use super::lun::{Comparison, DeviceOffset, Lun, check_range};

/// GPT partition type of VMFS.
const VMFS_TYPE_GUID: &str = "AA31E02A-400F-11DB-9590-000C2911D1B8";
/// MBR partition type of VMFS.
const VMFS_MBR_TYPE: u8 = 0xfb;
/// Bytes that reading a partition table may take before it is given up as damaged.
const READ_BUDGET: usize = 1 << 20;
/// Entries that a partition table may have.
const MAX_ENTRIES: u32 = 1024;

/// A part of another LUN. Reservations are of the whole LUN.
#[derive(Debug)]
pub struct PartitionLun {
    parent: Arc<dyn Lun>,
    name: String,
    start: u64,
    length: u64,
}

impl PartitionLun {
    /// The `length` bytes of `parent` from `start` on, called partition `number`; shortened if
    /// the parent ends sooner.
    pub fn new(parent: Arc<dyn Lun>, number: u32, start: u64, length: u64) -> Self {
        let start = start.min(parent.capacity());
        let length = length.min(parent.capacity() - start);
        let name = format!("{} partition {number}", parent.name());
        Self {
            parent,
            name,
            start,
            length,
        }
    }

    /// Offset of the partition on its parent.
    pub fn start(&self) -> DeviceOffset {
        DeviceOffset(self.start)
    }
}

impl Lun for PartitionLun {
    crate::forward_lun!(parent: block_size access identity flush capabilities reserve release persistent_reserve reservations reset end_patience attentions counters);

    fn name(&self) -> &str {
        &self.name
    }

    fn capacity(&self) -> u64 {
        self.length
    }

    fn read(&self, offset: DeviceOffset, buf: &mut [u8]) -> Result<(), LunError> {
        check_range(self, offset, buf.len())?;
        self.parent.read(offset + self.start, buf)
    }

    fn next_mapped(&self, offset: DeviceOffset) -> Result<Option<Range<u64>>, LunError> {
        let mapped = self.parent.next_mapped(offset + self.start)?;
        let inside = |mapped: Range<u64>| {
            mapped.start - self.start..self.length.min(mapped.end - self.start)
        };
        Ok(mapped.map(inside).filter(|mapped| !mapped.is_empty()))
    }

    fn write(&self, offset: DeviceOffset, data: &[u8]) -> Result<(), LunError> {
        check_range(self, offset, data.len())?;
        self.parent.write(offset + self.start, data)
    }

    fn write_zeros(&self, offset: DeviceOffset, length: u64) -> Result<(), LunError> {
        check_range(self, offset, length as usize)?;
        self.parent.write_zeros(offset + self.start, length)
    }

    fn write_if(
        &self,
        offset: DeviceOffset,
        data: &[u8],
        may: &dyn Fn() -> bool,
    ) -> Result<(), LunError> {
        check_range(self, offset, data.len())?;
        self.parent.write_if(offset + self.start, data, may)
    }

    fn write_zeros_if(
        &self,
        offset: DeviceOffset,
        length: u64,
        may: &dyn Fn() -> bool,
    ) -> Result<(), LunError> {
        check_range(self, offset, length as usize)?;
        self.parent.write_zeros_if(offset + self.start, length, may)
    }

    fn compare_and_write(
        &self,
        offset: DeviceOffset,
        expected: &[u8],
        new: &[u8],
    ) -> Result<Comparison, LunError> {
        check_range(self, offset, expected.len().max(new.len()))?;
        let offset = offset + self.start;
        self.parent.compare_and_write(offset, expected, new)
    }

    fn unmap(&self, offset: DeviceOffset, length: u64) -> Result<(), LunError> {
        check_range(self, offset, length as usize)?;
        self.parent.unmap(offset + self.start, length)
    }
}

/// The VMFS partitions of `lun`, in table order; empty when it has no partition table, or none
/// of that type.
pub fn look_through(lun: &Arc<dyn Lun>) -> Vec<PartitionLun> {
    let found = gpt_partitions(lun);
    let found = if found.is_empty() {
        mbr_partitions(lun)
    } else {
        found
    };
    found
        .into_iter()
        .filter(|&(_, start, length)| start < lun.capacity() && length > 0)
        .map(|(number, start, length)| PartitionLun::new(Arc::clone(lun), number, start, length))
        .collect()
}

type Found = Vec<(u32, u64, u64)>;

fn gpt_partitions(lun: &Arc<dyn Lun>) -> Found {
    // Images don't tell their sector size, and one of a 4K disk has its table at 4096.
    let sizes = [
        (512, gpt::disk::LogicalBlockSize::Lb512),
        (4096, gpt::disk::LogicalBlockSize::Lb4096),
    ];
    sizes
        .into_iter()
        .find_map(|(sector, size)| read_gpt(lun, sector, size))
        .unwrap_or_default()
}

fn read_gpt(lun: &Arc<dyn Lun>, sector: u64, size: gpt::disk::LogicalBlockSize) -> Option<Found> {
    // One good header is enough: a disk that has grown, or an image that was cut short, has its
    // backup elsewhere or not at all.
    let last = lun.capacity().checked_sub(sector)? / sector * sector;
    let headers = [gpt_header(&**lun, sector), gpt_header(&**lun, last)];
    let there = headers.contains(&Header::Sane);
    if !there || headers.contains(&Header::Unsafe) {
        return None;
    }
    let disk = gpt::GptConfig::new()
        .writable(false)
        .logical_block_size(size)
        .only_valid_headers(false)
        .readonly_backup(true)
        .open_from_device(LunCursor::new(Arc::clone(lun)))
        .ok()?;
    let partitions = disk.partitions().iter();
    Some(
        partitions
            .filter(|(_, entry)| {
                entry
                    .part_type_guid
                    .guid
                    .to_string()
                    .eq_ignore_ascii_case(VMFS_TYPE_GUID)
            })
            .filter_map(|(&number, entry)| {
                let sectors = entry
                    .last_lba
                    .checked_sub(entry.first_lba)?
                    .checked_add(1)?;
                Some((
                    number,
                    entry.first_lba.checked_mul(sector)?,
                    sectors.checked_mul(sector)?,
                ))
            })
            .collect(),
    )
}

/// What stands where a GPT header may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Header {
    Absent,
    Sane,
    /// A header that the crate can't be given: it trusts the entry count and asserts the size.
    Unsafe,
}

fn gpt_header(lun: &dyn Lun, offset: u64) -> Header {
    let mut header = [0; 96];
    if lun.read(DeviceOffset(offset), &mut header).is_err() || &header[..8] != b"EFI PART" {
        return Header::Absent;
    }
    let word = |at: usize| {
        header[at..at + 4]
            .iter()
            .rev()
            .fold(0_u32, |value, &byte| value << 8 | u32::from(byte))
    };
    let (entries, entry_size) = (word(80), word(84));
    if entries > MAX_ENTRIES || entry_size != 128 {
        return Header::Unsafe;
    }
    Header::Sane
}

fn mbr_partitions(lun: &Arc<dyn Lun>) -> Found {
    // VMFS partitions are primary ones: the header alone is read, chains of logical partitions
    // are not followed.
    let Ok(header) = mbrman::MBRHeader::read_from(&mut LunCursor::new(Arc::clone(lun))) else {
        return Vec::new();
    };
    header
        .iter()
        .filter(|(_, entry)| entry.sys == VMFS_MBR_TYPE)
        .map(|(number, entry)| {
            (
                number as u32,
                u64::from(entry.starting_lba) * 512,
                u64::from(entry.sectors) * 512,
            )
        })
        .collect()
}

/// A reader over a LUN that gives up after [`READ_BUDGET`] bytes.
#[derive(Debug)]
struct LunCursor {
    lun: Arc<dyn Lun>,
    position: u64,
    budget: usize,
}

impl LunCursor {
    fn new(lun: Arc<dyn Lun>) -> Self {
        Self {
            lun,
            position: 0,
            budget: READ_BUDGET,
        }
    }
}

impl Read for LunCursor {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let left = self.lun.capacity().saturating_sub(self.position);
        let length = buf.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        self.budget = self
            .budget
            .checked_sub(length)
            .ok_or_else(|| io::Error::other("the partition table is too large to be one"))?;
        self.lun
            .read(DeviceOffset(self.position), &mut buf[..length])
            .map_err(io::Error::other)?;
        self.position += length as u64;
        Ok(length)
    }
}

impl Seek for LunCursor {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let target = match to {
            SeekFrom::Start(offset) => Some(offset),
            SeekFrom::End(delta) => self.lun.capacity().checked_add_signed(delta),
            SeekFrom::Current(delta) => self.position.checked_add_signed(delta),
        };
        self.position = target.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}

impl Write for LunCursor {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
