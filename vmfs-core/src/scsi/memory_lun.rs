use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

use super::array::LunIdentity;
use super::counters::Counters;
use super::error::LunError;
use super::lun::{Access, DeviceOffset, Lun, check_range};

/// Bytes kept or left out together.
const PAGE: usize = 4096;

/// Sparse blocks in memory; what was never written reads as zeros.
#[derive(Debug, Default, Clone)]
pub(super) struct Pages(HashMap<u64, Box<[u8; PAGE]>>);

impl Pages {
    /// Fills `buf` with the bytes at `offset`.
    pub(super) fn read(&self, offset: u64, buf: &mut [u8]) {
        for_each_page(offset, buf.len(), |number, inside, range| {
            let length = range.len();
            let part = &mut buf[range];
            match self.0.get(&number) {
                Some(page) => part.copy_from_slice(&page[inside..inside + length]),
                None => part.fill(0),
            }
        });
    }

    /// Stores `data` at `offset`.
    pub(super) fn write(&mut self, offset: u64, data: &[u8]) {
        for_each_page(offset, data.len(), |number, inside, range| {
            let length = range.len();
            let page = self.0.entry(number).or_insert_with(|| Box::new([0; PAGE]));
            page[inside..inside + length].copy_from_slice(&data[range]);
        });
    }

    /// Stores `length` zeros at `offset`.
    pub(super) fn zero(&mut self, offset: u64, length: u64) {
        for_each_page(offset, length as usize, |number, inside, range| {
            if range.len() == PAGE {
                self.0.remove(&number);
            } else if let Some(page) = self.0.get_mut(&number) {
                page[inside..inside + range.len()].fill(0);
            }
        });
    }
}

/// A sparse LUN in memory, of any size, for one host; [`MemoryArray`](super::MemoryArray) is one
/// for several.
#[derive(Debug)]
pub struct MemoryLun {
    name: String,
    capacity: u64,
    identity: LunIdentity,
    pages: RwLock<Pages>,
    counters: Counters,
}

impl MemoryLun {
    /// An empty LUN of `capacity` bytes; its name is its identity.
    pub fn new(name: &str, capacity: u64) -> Self {
        Self {
            name: name.to_owned(),
            capacity,
            identity: LunIdentity::new(name),
            pages: RwLock::default(),
            counters: Counters::default(),
        }
    }

    /// The LUN after its array has made it `capacity` bytes large, which aren't fewer.
    #[must_use]
    pub fn resized(&self, capacity: u64) -> Self {
        Self {
            capacity: capacity.max(self.capacity),
            ..self.replica(&self.name)
        }
    }

    /// What is on it now, for an array that is to have the same.
    pub(super) fn pages(&self) -> Pages {
        self.pages
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Another LUN, called `name`, that has the same content now: what an array's replication
    /// makes.
    #[must_use]
    pub fn replica(&self, name: &str) -> Self {
        Self {
            pages: RwLock::new(self.pages()),
            ..Self::new(name, self.capacity)
        }
    }
}

/// Calls `part` with each page that `len` bytes at `offset` touch: its number, where in it the
/// part starts, and which of the bytes it is.
fn for_each_page(
    offset: u64,
    len: usize,
    mut part: impl FnMut(u64, usize, std::ops::Range<usize>),
) {
    let mut done = 0;
    while done < len {
        let at = offset + done as u64;
        let inside = (at % PAGE as u64) as usize;
        let length = (PAGE - inside).min(len - done);
        part(at / PAGE as u64, inside, done..done + length);
        done += length;
    }
}

impl Lun for MemoryLun {
    fn name(&self) -> &str {
        &self.name
    }

    fn capacity(&self) -> u64 {
        self.capacity
    }

    fn block_size(&self) -> u32 {
        512
    }

    fn access(&self) -> Access {
        Access::ReadWrite
    }

    fn identity(&self) -> Option<&LunIdentity> {
        Some(&self.identity)
    }

    fn read(&self, offset: DeviceOffset, buf: &mut [u8]) -> Result<(), LunError> {
        check_range(self, offset, buf.len())?;
        self.counters.reads.count(buf.len(), || {
            let pages = self.pages.read().unwrap_or_else(PoisonError::into_inner);
            pages.read(offset.0, buf);
            Ok(())
        })
    }

    fn write(&self, offset: DeviceOffset, data: &[u8]) -> Result<(), LunError> {
        check_range(self, offset, data.len())?;
        self.counters.writes.count(data.len(), || {
            let mut pages = self.pages.write().unwrap_or_else(PoisonError::into_inner);
            pages.write(offset.0, data);
            Ok(())
        })
    }

    fn write_zeros(&self, offset: DeviceOffset, length: u64) -> Result<(), LunError> {
        check_range(self, offset, length as usize)?;
        self.counters.zeroings.count(length as usize, || {
            let mut pages = self.pages.write().unwrap_or_else(PoisonError::into_inner);
            pages.zero(offset.0, length);
            Ok(())
        })
    }

    fn flush(&self) -> Result<(), LunError> {
        self.counters.flushes.count(0, || Ok(()))
    }

    fn counters(&self) -> &Counters {
        &self.counters
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_what_is_written_across_page_borders() {
        let lun = MemoryLun::new("memory", 64 << 40);
        let data: Vec<u8> = (0..10_000_u32).map(|i| (i % 251) as u8).collect();
        let offset = DeviceOffset((60 << 40) + 4000);
        lun.write(offset, &data).expect("write");
        let mut back = vec![1; data.len() + 2];
        lun.read(DeviceOffset(offset.0 - 1), &mut back)
            .expect("read");
        assert_eq!(back[1..=data.len()], data);
        assert_eq!((back[0], back[data.len() + 1]), (0, 0));
    }
}
