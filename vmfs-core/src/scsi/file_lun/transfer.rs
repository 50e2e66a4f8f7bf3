//! Bytes between the file and memory, which a device wants aligned.

use std::io;
use std::os::unix::fs::FileExt;

use super::FileLun;
use crate::scsi::aligned::AlignedBuf;
use crate::scsi::array::zero_file;
use crate::scsi::lun::DeviceOffset;

impl FileLun {
    /// Whether the bytes can move straight between the device and memory at `pointer`.
    fn is_aligned(&self, offset: DeviceOffset, pointer: *const u8, len: usize) -> bool {
        let unit = self.alignment;
        unit == 1
            || offset.0.is_multiple_of(unit)
                && (len as u64).is_multiple_of(unit)
                && (pointer.addr() as u64).is_multiple_of(unit)
    }

    /// The smallest aligned range around `len` bytes at `offset`: its start and length.
    fn widen(&self, offset: DeviceOffset, len: usize) -> (u64, usize) {
        let start = offset.0 - offset.0 % self.alignment;
        let end = (offset.0 + len as u64).next_multiple_of(self.alignment);
        (start, (end - start) as usize)
    }

    pub(super) fn read_exact(&self, offset: DeviceOffset, buf: &mut [u8]) -> io::Result<()> {
        if self.is_aligned(offset, buf.as_ptr(), buf.len()) {
            return self.file.read_exact_at(buf, offset.0);
        }
        let (start, len) = self.widen(offset, buf.len());
        let mut bounce = AlignedBuf::new(len);
        self.file.read_exact_at(&mut bounce, start)?;
        let skip = (offset.0 - start) as usize;
        buf.copy_from_slice(&bounce[skip..skip + buf.len()]);
        Ok(())
    }

    pub(super) fn write_all(&self, offset: DeviceOffset, data: &[u8]) -> io::Result<()> {
        let (start, len) = self.widen(offset, data.len());
        let whole_blocks = (start, len) == (offset.0, data.len());
        if whole_blocks && self.is_aligned(offset, data.as_ptr(), data.len()) {
            let _edges = self.edges.read();
            return self.file.write_all_at(data, offset.0);
        }
        let mut bounce = AlignedBuf::new(len);
        let skip = (offset.0 - start) as usize;
        if whole_blocks {
            let _edges = self.edges.read();
            bounce.copy_from_slice(data);
            return self.file.write_all_at(&bounce, start);
        }
        // Blocks that are written in part keep the rest, which nobody may change meanwhile.
        let _edges = self.edges.write();
        let unit = self.alignment as usize;
        self.file.read_exact_at(&mut bounce[..unit], start)?;
        if len > unit {
            let last = len - unit;
            self.file
                .read_exact_at(&mut bounce[last..], start + last as u64)?;
        }
        bounce[skip..skip + data.len()].copy_from_slice(data);
        self.file.write_all_at(&bounce, start)
    }

    /// An image gets a hole, a device zeros it by itself; where neither works zeros are written.
    pub(super) fn zero_all(&self, offset: DeviceOffset, length: u64) -> io::Result<()> {
        zero_file(&self.file, offset.0, length, |zeros, offset| {
            self.write_all(DeviceOffset(offset), zeros)
        })
    }
}
