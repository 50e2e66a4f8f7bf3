use std::sync::{Mutex, MutexGuard, PoisonError};

use super::error::LunError;
use super::lun::{Comparison, DeviceOffset, Lun};

/// A command that changed a LUN, or made changes durable. Offsets and lengths are bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recorded {
    /// Bytes were stored, by WRITE or by a COMPARE AND WRITE that found what it expected.
    Write {
        /// Where.
        offset: u64,
        /// What.
        bytes: Box<[u8]>,
    },
    /// Zeros were stored, by WRITE SAME or by UNMAP, after which our LUNs read as zeros.
    WriteZeros {
        /// Where.
        offset: u64,
        /// How many.
        length: u64,
    },
    /// A flush was answered.
    Flush {
        /// How many commands had been answered when it was sent: it has made those durable, and
        /// says nothing of those that came meanwhile.
        covers: usize,
    },
}

/// A LUN that keeps a record of every command that changes it, in the order in which they were
/// answered: from it follows what a disk may hold when the power goes.
///
/// Commands that fail aren't recorded.
#[derive(Debug)]
pub struct RecorderLun<L> {
    base: L,
    record: Mutex<Vec<Recorded>>,
}

impl<L: Lun> RecorderLun<L> {
    /// `base`, with nothing recorded yet.
    pub fn new(base: L) -> Self {
        Self {
            base,
            record: Mutex::default(),
        }
    }

    /// Commands recorded so far.
    pub fn len(&self) -> usize {
        self.record().len()
    }

    /// Whether nothing is recorded.
    pub fn is_empty(&self) -> bool {
        self.record().is_empty()
    }

    /// The record so far; recording goes on with an empty one.
    pub fn take(&self) -> Vec<Recorded> {
        std::mem::take(&mut self.record())
    }

    fn record(&self) -> MutexGuard<'_, Vec<Recorded>> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<L: Lun> Lun for RecorderLun<L> {
    crate::forward_lun!(base: name capacity block_size access identity next_mapped read capabilities reserve release persistent_reserve reservations reset attentions counters);

    fn write(&self, offset: DeviceOffset, data: &[u8]) -> Result<(), LunError> {
        // Locked meanwhile, so that the record has overlapping writes as the LUN took them.
        let mut record = self.record();
        self.base.write(offset, data)?;
        record.push(Recorded::Write {
            offset: offset.0,
            bytes: data.into(),
        });
        Ok(())
    }

    fn write_zeros(&self, offset: DeviceOffset, length: u64) -> Result<(), LunError> {
        let mut record = self.record();
        self.base.write_zeros(offset, length)?;
        record.push(Recorded::WriteZeros {
            offset: offset.0,
            length,
        });
        Ok(())
    }

    fn flush(&self) -> Result<(), LunError> {
        // Other commands go on meanwhile, as they do on a real LUN.
        let covers = self.len();
        self.base.flush()?;
        self.record().push(Recorded::Flush { covers });
        Ok(())
    }

    fn compare_and_write(
        &self,
        offset: DeviceOffset,
        expected: &[u8],
        new: &[u8],
    ) -> Result<Comparison, LunError> {
        let mut record = self.record();
        let comparison = self.base.compare_and_write(offset, expected, new)?;
        if comparison == Comparison::Written {
            record.push(Recorded::Write {
                offset: offset.0,
                bytes: new.into(),
            });
        }
        Ok(comparison)
    }

    fn unmap(&self, offset: DeviceOffset, length: u64) -> Result<(), LunError> {
        let mut record = self.record();
        self.base.unmap(offset, length)?;
        record.push(Recorded::WriteZeros {
            offset: offset.0,
            length,
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::array::Personality;
    use super::super::memory_array::MemoryArray;
    use super::super::memory_lun::MemoryLun;
    use super::*;

    #[test]
    fn records_what_succeeded_in_order() {
        let lun = RecorderLun::new(MemoryLun::new("memory", 8192));
        lun.write(DeviceOffset(100), b"abc").expect("write");
        lun.write(DeviceOffset(8190), b"abc")
            .expect_err("past the end");
        lun.flush().expect("flush");
        lun.write_zeros(DeviceOffset(101), 1).expect("zeros");
        let mut bytes = [0; 3];
        lun.read(DeviceOffset(100), &mut bytes).expect("read");
        assert_eq!(&bytes, b"a\0c");
        assert_eq!(lun.len(), 3);
        let write = Recorded::Write {
            offset: 100,
            bytes: (*b"abc").into(),
        };
        let zeros = Recorded::WriteZeros {
            offset: 101,
            length: 1,
        };
        assert_eq!(lun.take(), [write, Recorded::Flush { covers: 1 }, zeros]);
        assert!(lun.is_empty());
    }

    #[test]
    fn records_compare_and_write_only_if_it_wrote() {
        let array = MemoryArray::new("array", 8192, Personality::Vaai);
        let lun = RecorderLun::new(array.port("host"));
        let (old, new) = ([0; 512], [1; 512]);
        let offset = DeviceOffset(512);
        assert!(lun.capabilities().compare_and_write);
        let first = lun.compare_and_write(offset, &old, &new).expect("command");
        assert_eq!(first, Comparison::Written);
        let second = lun.compare_and_write(offset, &old, &new).expect("command");
        assert_eq!(second, Comparison::Miscompare { at: 0 });
        lun.unmap(offset, 512).expect("unmap");
        let write = Recorded::Write {
            offset: 512,
            bytes: new.into(),
        };
        let zeros = Recorded::WriteZeros {
            offset: 512,
            length: 512,
        };
        assert_eq!(lun.take(), [write, zeros]);
    }
}
