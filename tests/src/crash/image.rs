use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use vmfs_core::scsi::{Access, Counters, DeviceOffset, Lun, LunError, LunIdentity};

/// Bytes kept together.
const PAGE: usize = 16 << 10;
/// What a range that was never written holds, as on a disk that somebody had before: finding it in
/// a file means that a file shows what isn't its own.
pub const STALE: &[u8; 8] = b"OLDOWNER";

/// A LUN in memory of which a copy costs nothing: a [`ImageLun::branch`] shares with its image
/// what it doesn't change.
#[derive(Debug)]
pub struct ImageLun {
    name: String,
    capacity: u64,
    identity: LunIdentity,
    below: Option<Arc<ImageLun>>,
    pages: RwLock<HashMap<u64, Page>>,
    counters: Counters,
}

#[derive(Debug)]
enum Page {
    Zeros,
    Bytes(Box<[u8; PAGE]>),
}

impl ImageLun {
    /// A LUN of `capacity` bytes on which [`STALE`] stands everywhere.
    pub fn new(name: &str, capacity: u64) -> Self {
        Self {
            name: name.to_owned(),
            capacity,
            identity: LunIdentity::new(name),
            below: None,
            pages: RwLock::default(),
            counters: Counters::default(),
        }
    }

    /// The same LUN at another moment, which goes its own way from now on. `below` must not change
    /// as long as the branch is there.
    #[must_use]
    pub fn branch(below: &Arc<Self>) -> Self {
        Self {
            below: Some(Arc::clone(below)),
            ..Self::new(&below.name, below.capacity)
        }
    }

    fn copy(&self, number: u64, inside: usize, part: &mut [u8]) {
        let pages = self.pages.read().unwrap_or_else(PoisonError::into_inner);
        match (pages.get(&number), &self.below) {
            (Some(Page::Zeros), _) => part.fill(0),
            (Some(Page::Bytes(bytes)), _) => {
                part.copy_from_slice(&bytes[inside..inside + part.len()]);
            }
            (None, Some(below)) => below.copy(number, inside, part),
            (None, None) => {
                for (index, byte) in part.iter_mut().enumerate() {
                    *byte = STALE[(inside + index) % STALE.len()];
                }
            }
        }
    }

    fn check(&self, offset: DeviceOffset, length: u64) -> Result<(), LunError> {
        match offset.0.checked_add(length) {
            Some(end) if end <= self.capacity => Ok(()),
            _ => Err(LunError::PastEnd {
                lun: self.name.clone(),
                offset,
                length: length as usize,
                capacity: self.capacity,
            }),
        }
    }

    /// Puts `fill` into the part of page `number` that starts at `inside`.
    fn change(&self, number: u64, inside: usize, length: usize, fill: impl FnOnce(&mut [u8])) {
        let mut page = Box::new([0; PAGE]);
        if length < PAGE {
            self.copy(number, 0, &mut page[..]);
        }
        fill(&mut page[inside..inside + length]);
        let mut pages = self.pages.write().unwrap_or_else(PoisonError::into_inner);
        pages.insert(number, Page::Bytes(page));
    }
}

/// Calls `part` for each page that the range touches: its number, where in it the part starts, and
/// which bytes of the range it is.
fn for_each_page(
    offset: u64,
    length: u64,
    mut part: impl FnMut(u64, usize, std::ops::Range<usize>),
) {
    let mut done = 0;
    while done < length {
        let at = offset + done;
        let inside = at % PAGE as u64;
        let step = (PAGE as u64 - inside).min(length - done);
        part(
            at / PAGE as u64,
            inside as usize,
            done as usize..(done + step) as usize,
        );
        done += step;
    }
}

impl Lun for ImageLun {
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
        self.check(offset, buf.len() as u64)?;
        for_each_page(offset.0, buf.len() as u64, |number, inside, range| {
            self.copy(number, inside, &mut buf[range]);
        });
        Ok(())
    }

    fn write(&self, offset: DeviceOffset, data: &[u8]) -> Result<(), LunError> {
        self.check(offset, data.len() as u64)?;
        for_each_page(offset.0, data.len() as u64, |number, inside, range| {
            let part = &data[range];
            self.change(number, inside, part.len(), |page| {
                page.copy_from_slice(part);
            });
        });
        Ok(())
    }

    fn write_zeros(&self, offset: DeviceOffset, length: u64) -> Result<(), LunError> {
        self.check(offset, length)?;
        for_each_page(offset.0, length, |number, inside, range| {
            if range.len() == PAGE {
                let mut pages = self.pages.write().unwrap_or_else(PoisonError::into_inner);
                pages.insert(number, Page::Zeros);
            } else {
                self.change(number, inside, range.len(), |page| page.fill(0));
            }
        });
        Ok(())
    }

    fn flush(&self) -> Result<(), LunError> {
        Ok(())
    }

    /// Nothing is counted.
    fn counters(&self) -> &Counters {
        &self.counters
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_branch_goes_its_own_way() {
        let image = Arc::new(ImageLun::new("image", 1 << 30));
        image.write(DeviceOffset(4090), b"below").expect("write");
        let branch = ImageLun::branch(&image);
        branch.write(DeviceOffset(4095), b"B").expect("write");
        let page = PAGE as u64;
        branch.write_zeros(DeviceOffset(page), page).expect("zeros");
        let read = |lun: &ImageLun, offset, length| {
            let mut bytes = vec![0; length];
            lun.read(DeviceOffset(offset), &mut bytes).expect("read");
            bytes
        };
        assert_eq!(read(&branch, 4088, 10), b"OLbelowBOL");
        assert_eq!(read(&image, 4088, 10), b"OLbelowROL");
        assert_eq!(read(&image, page, 8), STALE);
        assert_eq!(read(&branch, page, 8), [0; 8]);
    }
}
