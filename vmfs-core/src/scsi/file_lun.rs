use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::Path;

use parking_lot::RwLock;

use super::aligned::AlignedBuf;
use super::array::{LunIdentity, identity_of};
use super::counters::Counters;
use super::error::LunError;
use super::lun::{Access, DeviceOffset, Lun, check_range};

/// A LUN that is an image file or a block device.
///
/// Image files go through the page cache, which every process that opens the same file shares.
/// Block devices are opened `O_DIRECT`, since another host's writes don't pass through ours.
#[derive(Debug)]
pub struct FileLun {
    file: File,
    name: String,
    capacity: u64,
    block_size: u32,
    /// Offsets, lengths and memory must be multiples of this.
    alignment: u64,
    access: Access,
    identity: Option<LunIdentity>,
    counters: Counters,
    /// Held alone while blocks are written in part, which takes a read and a write.
    edges: RwLock<()>,
}

impl FileLun {
    /// Opens the image file or block device at `path`.
    pub fn open(path: &Path, access: Access) -> Result<Self, LunError> {
        let open_error = |source| LunError::Open {
            path: path.to_owned(),
            source,
        };
        let kind = std::fs::metadata(path).map_err(open_error)?.file_type();
        let is_device = kind.is_block_device();
        if !is_device && !kind.is_file() {
            let found = if kind.is_dir() {
                "a directory"
            } else {
                "not a file that holds blocks"
            };
            return Err(LunError::NotALun {
                path: path.to_owned(),
                found,
            });
        }
        let direct = if is_device {
            rustix::fs::OFlags::DIRECT.bits().cast_signed()
        } else {
            0
        };
        let mut file = File::options()
            .read(true)
            .write(access == Access::ReadWrite)
            .custom_flags(direct)
            .open(path)
            .map_err(open_error)?;
        // Seeking tells the size of a block device too, where metadata says zero.
        let capacity = file.seek(SeekFrom::End(0)).map_err(open_error)?;
        let block_size = if is_device {
            rustix::fs::ioctl_blksszget(&file).map_err(|errno| open_error(errno.into()))?
        } else {
            512
        };
        Ok(Self {
            file,
            name: path.display().to_string(),
            capacity,
            block_size,
            alignment: if is_device { block_size.into() } else { 1 },
            access,
            identity: identity_of(path, is_device),
            counters: Counters::default(),
            edges: RwLock::new(()),
        })
    }

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

    fn read_exact(&self, offset: DeviceOffset, buf: &mut [u8]) -> io::Result<()> {
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

    fn write_all(&self, offset: DeviceOffset, data: &[u8]) -> io::Result<()> {
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
    fn zero_all(&self, offset: DeviceOffset, length: u64) -> io::Result<()> {
        use rustix::fs::FallocateFlags;
        const CHUNK: u64 = 1 << 20;
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        if rustix::fs::fallocate(&self.file, flags, offset.0, length).is_ok() {
            return Ok(());
        }
        let zeros = AlignedBuf::new(length.min(CHUNK) as usize);
        for start in (0..length).step_by(CHUNK as usize) {
            let part = CHUNK.min(length - start) as usize;
            self.write_all(offset + start, &zeros[..part])?;
        }
        Ok(())
    }

    fn io_error(
        &self,
        operation: &'static str,
        offset: DeviceOffset,
        length: usize,
    ) -> impl FnOnce(io::Error) -> LunError {
        move |source| LunError::Io {
            lun: self.name.clone(),
            operation,
            offset,
            length,
            source,
        }
    }
}

impl Lun for FileLun {
    fn name(&self) -> &str {
        &self.name
    }

    fn capacity(&self) -> u64 {
        self.capacity
    }

    fn block_size(&self) -> u32 {
        self.block_size
    }

    fn access(&self) -> Access {
        self.access
    }

    fn identity(&self) -> Option<&LunIdentity> {
        self.identity.as_ref()
    }

    fn read(&self, offset: DeviceOffset, buf: &mut [u8]) -> Result<(), LunError> {
        check_range(self, offset, buf.len())?;
        let length = buf.len();
        self.counters
            .reads
            .count(length, || self.read_exact(offset, buf))
            .map_err(self.io_error("read", offset, length))
    }

    fn write(&self, offset: DeviceOffset, data: &[u8]) -> Result<(), LunError> {
        if self.access == Access::ReadOnly {
            return Err(LunError::ReadOnly {
                lun: self.name.clone(),
            });
        }
        check_range(self, offset, data.len())?;
        self.counters
            .writes
            .count(data.len(), || self.write_all(offset, data))
            .map_err(self.io_error("write", offset, data.len()))
    }

    fn write_zeros(&self, offset: DeviceOffset, length: u64) -> Result<(), LunError> {
        if self.access == Access::ReadOnly {
            return Err(LunError::ReadOnly {
                lun: self.name.clone(),
            });
        }
        check_range(self, offset, length as usize)?;
        self.counters
            .zeroings
            .count(length as usize, || self.zero_all(offset, length))
            .map_err(self.io_error("zeroing", offset, length as usize))
    }

    fn flush(&self) -> Result<(), LunError> {
        self.counters
            .flushes
            .count(0, || self.file.sync_data())
            .map_err(self.io_error("flush", DeviceOffset(0), 0))
    }

    fn counters(&self) -> &Counters {
        &self.counters
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lun(access: Access) -> (tempfile::NamedTempFile, FileLun) {
        let file = tempfile::NamedTempFile::new().expect("temporary file");
        file.as_file().write_all_at(&[7; 8192], 0).expect("write");
        let lun = FileLun::open(file.path(), access).expect("open");
        (file, lun)
    }

    #[test]
    fn reads_past_the_end_fail_and_are_not_counted_as_commands() {
        let (_file, lun) = lun(Access::ReadOnly);
        let error = lun
            .read(DeviceOffset(8000), &mut [0; 512])
            .expect_err("past the end");
        assert!(
            matches!(error, LunError::PastEnd { capacity: 8192, .. }),
            "{error}"
        );
        assert_eq!(lun.counters().snapshot().reads.commands, 0);
    }

    #[test]
    fn an_offset_near_the_largest_number_is_past_the_end() {
        let (_file, lun) = lun(Access::ReadOnly);
        assert!(lun.read(DeviceOffset(u64::MAX - 3), &mut [0; 16]).is_err());
    }

    #[test]
    fn a_read_only_lun_refuses_writes() {
        let (file, lun) = lun(Access::ReadOnly);
        assert!(matches!(
            lun.write(DeviceOffset(0), &[1; 512]),
            Err(LunError::ReadOnly { .. })
        ));
        assert_eq!(std::fs::read(file.path()).expect("read"), vec![7; 8192]);
    }

    #[test]
    fn unaligned_ranges_work_on_a_lun_that_needs_alignment() {
        let (file, mut lun) = lun(Access::ReadWrite);
        lun.alignment = 512;
        lun.write(DeviceOffset(1000), &[9; 700]).expect("write");
        let mut back = [0; 702];
        lun.read(DeviceOffset(999), &mut back).expect("read");
        assert_eq!((back[0], back[1], back[700], back[701]), (7, 9, 9, 7));
        assert_eq!(std::fs::read(file.path()).expect("read").len(), 8192);
        assert_eq!(lun.counters().snapshot().writes.bytes, 700);
    }

    #[test]
    fn a_directory_is_not_a_lun() {
        let error = FileLun::open(Path::new("/"), Access::ReadOnly).expect_err("a directory");
        assert!(error.to_string().contains("a directory"), "{error}");
    }
}
