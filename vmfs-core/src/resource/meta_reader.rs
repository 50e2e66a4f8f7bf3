use std::sync::Arc;

use quick_cache::sync::Cache;

use crate::format::Layout;
use crate::lvm::{LvmError, Volume, VolumeOffset};

/// Bytes of a cached piece of metadata.
const BLOCK: u64 = 4096;
/// Bytes read at once where neighbours are wanted too.
const NEIGHBOURHOOD: u64 = 64 << 10;
/// Pieces kept: 16 MiB in all, whatever the size of the volume.
const CACHED_BLOCKS: usize = 4096;

/// A volume with its layout, and a bounded cache for metadata.
#[derive(Debug)]
pub struct MetaReader {
    volume: Volume,
    layout: Layout,
    cache: Cache<u64, Arc<[u8]>>,
}

impl MetaReader {
    /// A reader with an empty cache.
    pub fn new(volume: Volume, layout: Layout) -> Self {
        Self {
            volume,
            layout,
            cache: Cache::new(CACHED_BLOCKS),
        }
    }

    /// The volume below.
    pub fn volume(&self) -> &Volume {
        &self.volume
    }

    /// The volume's geometry.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Empties the cache: what is read from now on is what is on the volume now.
    pub fn forget(&self) {
        self.cache.clear();
    }

    /// Fills `buf` from `offset`, through the cache.
    pub fn read(&self, offset: VolumeOffset, buf: &mut [u8]) -> Result<(), LvmError> {
        let mut done = 0;
        while done < buf.len() {
            let at = offset + done as u64;
            let (block, inside) = self.block(at)?;
            let available = block.get(inside..).unwrap_or_default();
            if available.is_empty() {
                let size = self.volume.size();
                return Err(LvmError::PastEnd {
                    offset,
                    length: buf.len(),
                    size,
                });
            }
            let length = available.len().min(buf.len() - done);
            buf[done..done + length].copy_from_slice(&available[..length]);
            done += length;
        }
        Ok(())
    }

    /// Fills `buf` from `offset`, through the cache; on a miss what lies around is read as well.
    ///
    /// For structures that are mostly wanted together, such as the descriptors of the files in a
    /// directory.
    pub fn read_with_neighbours(
        &self,
        offset: VolumeOffset,
        buf: &mut [u8],
    ) -> Result<(), LvmError> {
        let last = offset.0.saturating_add(buf.len() as u64).saturating_sub(1) / BLOCK;
        if (offset.0 / BLOCK..=last).any(|number| self.cache.peek(&number).is_none()) {
            self.fetch_around(offset);
        }
        self.read(offset, buf)
    }

    /// Puts the pieces around `offset` into the cache; one that can't be read is left to whoever
    /// wants it.
    fn fetch_around(&self, offset: VolumeOffset) {
        let start = offset.0 / NEIGHBOURHOOD * NEIGHBOURHOOD;
        let length = NEIGHBOURHOOD.min(self.volume.size().saturating_sub(start));
        let mut bytes = vec![0; length as usize];
        if self.volume.read(VolumeOffset(start), &mut bytes).is_ok() {
            for (index, piece) in bytes.chunks(BLOCK as usize).enumerate() {
                self.cache
                    .insert(start / BLOCK + index as u64, Arc::from(piece));
            }
        }
    }

    /// The cached piece that holds `offset`, and where in it that is.
    pub fn block(&self, offset: VolumeOffset) -> Result<(Arc<[u8]>, usize), LvmError> {
        let number = offset.0 / BLOCK;
        let inside = (offset.0 % BLOCK) as usize;
        let block = self.cache.get_or_insert_with(&number, || {
            let start = number * BLOCK;
            let length = BLOCK.min(self.volume.size().saturating_sub(start));
            let mut bytes = vec![0; length as usize];
            self.volume.read(VolumeOffset(start), &mut bytes)?;
            Ok::<_, LvmError>(Arc::from(bytes))
        })?;
        Ok((block, inside))
    }
}
