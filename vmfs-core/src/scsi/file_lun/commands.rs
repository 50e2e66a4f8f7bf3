//! The commands that a [`FileLun`] answers.

use std::ops::Range;

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

use super::FileLun;
use crate::scsi::array::{Attention, Fault, LunIdentity, Personality, SharedLun};
use crate::scsi::counters::Counters;
use crate::scsi::error::LunError;
use crate::scsi::lun::{Access, Capabilities, Comparison, DeviceOffset, Lun};
use crate::scsi::lun::{check_comparison, check_range};
use crate::scsi::persistent::{PersistentReserve, Reservations};
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
        self.command(
            "read",
            &self.counters.reads,
            offset,
            buf.len(),
            || match self.shared() {
                Some(shared) => shared.read(offset.0, buf),
                None => Ok(self.read_exact(offset, buf)?),
            },
        )
    }

    /// A file system tells which parts of an image are holes; of a block device everything is there.
    fn next_mapped(&self, offset: DeviceOffset) -> Result<Option<Range<u64>>, LunError> {
        let rest = offset.0..self.capacity;
        let tells = self.shared().is_none_or(SharedLun::is_all_in_image);
        let mapped = if rest.is_empty() || !tells {
            rest
        } else {
            match seek(&*self.file, SeekFrom::Data(rest.start)) {
                Ok(start) => {
                    let end = seek(&*self.file, SeekFrom::Hole(start)).unwrap_or(rest.end);
                    start..end.min(rest.end)
                }
                // No data up to the end.
                Err(Errno::NXIO) => return Ok(None),
                Err(_) => rest,
            }
        };
        Ok(Some(mapped).filter(|mapped| !mapped.is_empty()))
    }

    fn write(&self, offset: DeviceOffset, data: &[u8]) -> Result<(), LunError> {
        self.write_if(offset, data, &|| true)
    }

    fn write_zeros(&self, offset: DeviceOffset, length: u64) -> Result<(), LunError> {
        self.write_zeros_if(offset, length, &|| true)
    }

    fn write_if(
        &self,
        offset: DeviceOffset,
        data: &[u8],
        may: &dyn Fn() -> bool,
    ) -> Result<(), LunError> {
        self.check_writable()?;
        check_range(self, offset, data.len())?;
        let op = &self.counters.writes;
        self.command("write", op, offset, data.len(), || match self.shared() {
            Some(shared) => shared.write(offset.0, data, may),
            None if may() => Ok(self.write_all(offset, data)?),
            None => Err(Fault::TooLate),
        })
    }

    fn write_zeros_if(
        &self,
        offset: DeviceOffset,
        length: u64,
        may: &dyn Fn() -> bool,
    ) -> Result<(), LunError> {
        const CHUNK: u64 = 1 << 20;
        self.check_writable()?;
        check_range(self, offset, length as usize)?;
        if self.personality == Personality::Legacy {
            // Such an array has no WRITE SAME, so it gets zeros.
            let zeros = vec![0; length.min(CHUNK) as usize];
            return (0..length).step_by(CHUNK as usize).try_for_each(|start| {
                let part = CHUNK.min(length - start) as usize;
                self.write_if(offset + start, &zeros[..part], may)
            });
        }
        let (op, bytes) = (&self.counters.zeroings, length as usize);
        self.command("zeroing", op, offset, bytes, || match self.shared() {
            Some(shared) => shared.zero(offset.0, length, may),
            None if may() => Ok(self.zero_all(offset, length)?),
            None => Err(Fault::TooLate),
        })
    }

    fn flush(&self) -> Result<(), LunError> {
        let none = DeviceOffset(0);
        self.command("flush", &self.counters.flushes, none, 0, || {
            match self.shared() {
                Some(shared) => shared.flush(),
                None => Ok(self.file.sync_data()?),
            }
        })
    }

    fn capabilities(&self) -> Capabilities {
        match self.shared() {
            Some(shared) if shared.has_seat() => self.personality.capabilities(),
            _ => Capabilities::default(),
        }
    }

    fn compare_and_write(
        &self,
        offset: DeviceOffset,
        expected: &[u8],
        new: &[u8],
    ) -> Result<Comparison, LunError> {
        const COMMAND: &str = "COMPARE AND WRITE";
        self.check_writable()?;
        let shared = self.hosts(COMMAND, self.capabilities().compare_and_write)?;
        check_comparison(self, offset, expected, new)?;
        let op = &self.counters.compare_and_writes;
        let comparison = self.command(COMMAND, op, offset, new.len(), || {
            shared.compare_and_write(offset.0, expected, new)
        })?;
        if comparison != Comparison::Written {
            self.counters.count_miscompare();
        }
        Ok(comparison)
    }

    fn reserve(&self) -> Result<(), LunError> {
        const COMMAND: &str = "RESERVE";
        let shared = self.hosts(COMMAND, true)?;
        let op = &self.counters.reserves;
        self.command(COMMAND, op, DeviceOffset(0), 0, || shared.reserve())
    }

    fn release(&self) -> Result<(), LunError> {
        const COMMAND: &str = "RELEASE";
        let shared = self.hosts(COMMAND, true)?;
        let op = &self.counters.releases;
        self.command(COMMAND, op, DeviceOffset(0), 0, || shared.release())
    }

    fn persistent_reserve(&self, action: PersistentReserve) -> Result<(), LunError> {
        const COMMAND: &str = "PERSISTENT RESERVE OUT";
        let shared = self.hosts(COMMAND, self.capabilities().persistent_reserve)?;
        let op = &self.counters.persistent_outs;
        self.command(COMMAND, op, DeviceOffset(0), 0, || {
            shared.persistent(action)
        })
    }

    fn reservations(&self) -> Result<Reservations, LunError> {
        const COMMAND: &str = "PERSISTENT RESERVE IN";
        let shared = self.hosts(COMMAND, self.capabilities().persistent_reserve)?;
        let op = &self.counters.persistent_ins;
        self.command(COMMAND, op, DeviceOffset(0), 0, || {
            shared.persistent_status()
        })
    }

    fn unmap(&self, offset: DeviceOffset, length: u64) -> Result<(), LunError> {
        const COMMAND: &str = "UNMAP";
        self.check_writable()?;
        let shared = self.hosts(COMMAND, self.capabilities().unmap)?;
        check_range(self, offset, length as usize)?;
        let op = &self.counters.unmaps;
        self.command(COMMAND, op, offset, length as usize, || {
            shared.zero(offset.0, length, &|| true)
        })
    }

    fn reset(&self) -> Result<(), LunError> {
        const COMMAND: &str = "LOGICAL UNIT RESET";
        let shared = self.hosts(COMMAND, true)?;
        let op = &self.counters.resets;
        self.command(COMMAND, op, DeviceOffset(0), 0, || shared.reset())
    }

    fn attentions(&self) -> Vec<Attention> {
        self.shared().map(SharedLun::attentions).unwrap_or_default()
    }

    fn counters(&self) -> &Counters {
        &self.counters
    }
}
