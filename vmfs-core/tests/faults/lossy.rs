//! A LUN that forgets.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use vmfs_core::scsi::{DeviceOffset, Lun, LunError, MemoryLun};

/// A LUN that loses, at one flush that fails, all that was written since the one before: what
/// Linux' page cache does to an image file whose disk fails.
#[derive(Debug)]
pub(crate) struct LossyLun {
    base: Arc<MemoryLun>,
    /// What was there before each write since the last flush.
    before: Mutex<Vec<(DeviceOffset, Vec<u8>)>>,
    /// Flushes until the one that fails.
    left: AtomicU64,
}

impl LossyLun {
    pub(crate) fn new(base: Arc<MemoryLun>) -> Self {
        Self {
            base,
            before: Mutex::default(),
            left: AtomicU64::new(u64::MAX),
        }
    }

    /// The flush after so many more fails.
    pub(crate) fn lose(&self, after: u64) {
        self.left.store(after, SeqCst);
    }
}

impl Lun for LossyLun {
    vmfs_core::forward_lun!(base: name capacity block_size access identity read counters);

    fn write(&self, offset: DeviceOffset, data: &[u8]) -> Result<(), LunError> {
        let mut before = self.before.lock().expect("lock");
        let mut old = vec![0; data.len()];
        self.base.read(offset, &mut old)?;
        before.push((offset, old));
        self.base.write(offset, data)
    }

    fn write_zeros(&self, offset: DeviceOffset, length: u64) -> Result<(), LunError> {
        // Where nobody had anything yet there can be anything.
        let mut before = self.before.lock().expect("lock");
        before.push((offset, vec![0xee; length as usize]));
        self.base.write_zeros(offset, length)
    }

    fn flush(&self) -> Result<(), LunError> {
        let mut before = self.before.lock().expect("lock");
        if self.left.fetch_sub(1, SeqCst) > 0 {
            before.clear();
            return Ok(());
        }
        while let Some((offset, old)) = before.pop() {
            self.base.write(offset, &old)?;
        }
        Err(LunError::Io {
            lun: self.name().to_owned(),
            operation: "flush",
            offset: DeviceOffset(0),
            length: 0,
            source: std::io::Error::other("the LUN lost it on purpose"),
        })
    }
}
