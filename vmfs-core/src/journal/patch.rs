use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// Bytes of a piece of metadata, the unit of the cache.
pub(super) const PIECE: u64 = 4096;
/// Bytes of a sector, the unit of a change: what a disk writes whole or not at all.
pub(super) const SECTOR: usize = 512;

/// Changed sectors of one piece.
#[derive(Debug, Clone)]
pub(super) struct Patch {
    /// One bit a sector, set = changed.
    mask: u8,
    bytes: Box<[u8; PIECE as usize]>,
}

impl Default for Patch {
    fn default() -> Self {
        Self {
            mask: 0,
            bytes: Box::new([0; PIECE as usize]),
        }
    }
}

impl Patch {
    pub(super) fn sectors(&self) -> u32 {
        self.mask.count_ones()
    }

    /// The changed sector `number`, if it is one.
    pub(super) fn sector(&self, number: usize) -> Option<&[u8]> {
        let bytes = &self.bytes[number * SECTOR..(number + 1) * SECTOR];
        (self.mask >> number & 1 != 0).then_some(bytes)
    }

    /// Makes `bytes` the changed content of sector `number`.
    pub(super) fn set(&mut self, number: usize, bytes: &[u8]) {
        self.mask |= 1 << number;
        self.bytes[number * SECTOR..(number + 1) * SECTOR].copy_from_slice(bytes);
    }

    /// Puts the changed sectors into `piece`, which may end early.
    pub(super) fn apply(&self, piece: &mut [u8]) {
        for number in 0..PIECE as usize / SECTOR {
            if let Some(sector) = self.sector(number) {
                let range = number * SECTOR..(number + 1) * SECTOR;
                if let Some(target) = piece.get_mut(range) {
                    target.copy_from_slice(sector);
                }
            }
        }
    }

    /// Takes over the changed sectors of `newer`.
    fn merge(&mut self, newer: &Self) {
        for number in 0..PIECE as usize / SECTOR {
            if let Some(sector) = newer.sector(number) {
                self.set(number, sector);
            }
        }
    }
}

/// Changed sectors by the number of their piece.
#[derive(Debug, Clone, Default)]
pub(super) struct PatchMap {
    pieces: BTreeMap<u64, Arc<Patch>>,
    sectors: u64,
}

impl PatchMap {
    pub(super) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Bytes of all changed sectors.
    pub(super) fn bytes(&self) -> u64 {
        self.sectors * SECTOR as u64
    }

    pub(super) fn get(&self, piece: u64) -> Option<&Arc<Patch>> {
        self.pieces.get(&piece)
    }

    /// Numbers of the pieces with changes.
    pub(super) fn numbers(&self) -> impl Iterator<Item = u64> {
        self.pieces.keys().copied()
    }

    pub(super) fn set(&mut self, piece: u64, sector: usize, bytes: &[u8]) {
        let patch = Arc::make_mut(self.pieces.entry(piece).or_default());
        let before = patch.sectors();
        patch.set(sector, bytes);
        self.sectors += u64::from(patch.sectors() - before);
    }

    /// Takes over what `newer` has.
    pub(super) fn merge(&mut self, newer: &Self) {
        for (&number, patch) in &newer.pieces {
            match self.pieces.entry(number) {
                std::collections::btree_map::Entry::Vacant(entry) => {
                    self.sectors += u64::from(patch.sectors());
                    entry.insert(Arc::clone(patch));
                }
                std::collections::btree_map::Entry::Occupied(mut entry) => {
                    let old = Arc::make_mut(entry.get_mut());
                    let before = old.sectors();
                    old.merge(patch);
                    self.sectors += u64::from(old.sectors() - before);
                }
            }
        }
    }

    /// Drops what lies in a range of whole pieces of the volume.
    pub(super) fn forget(&mut self, range: &Range<u64>) {
        let numbers: Vec<u64> = self
            .pieces
            .range(range.start / PIECE..range.end.div_ceil(PIECE))
            .map(|(&number, _)| number)
            .collect();
        for number in numbers {
            if let Some(patch) = self.pieces.remove(&number) {
                self.sectors -= u64::from(patch.sectors());
            }
        }
    }

    pub(super) fn apply(&self, number: u64, piece: &mut [u8]) {
        if let Some(patch) = self.pieces.get(&number) {
            patch.apply(piece);
        }
    }

    /// The changed bytes as runs that are in one piece on the volume: offset and content. No run
    /// is longer than `longest`, which is a multiple of a sector.
    pub(super) fn runs(&self, longest: usize) -> Vec<(u64, Vec<u8>)> {
        let mut runs: Vec<(u64, Vec<u8>)> = Vec::new();
        for (&number, patch) in &self.pieces {
            for index in 0..PIECE as usize / SECTOR {
                let Some(sector) = patch.sector(index) else {
                    continue;
                };
                let offset = number * PIECE + (index * SECTOR) as u64;
                match runs.last_mut() {
                    Some((start, bytes))
                        if *start + bytes.len() as u64 == offset && bytes.len() < longest =>
                    {
                        bytes.extend_from_slice(sector);
                    }
                    _ => runs.push((offset, sector.to_vec())),
                }
            }
        }
        runs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbouring_sectors_become_one_run_and_newer_ones_win() {
        let mut map = PatchMap::default();
        map.set(1, 7, &[1; SECTOR]);
        map.set(2, 0, &[2; SECTOR]);
        let mut newer = PatchMap::default();
        newer.set(2, 0, &[3; SECTOR]);
        newer.set(2, 2, &[4; SECTOR]);
        map.merge(&newer);
        assert_eq!(map.bytes(), 3 * 512);
        let runs = map.runs(1 << 20);
        assert_eq!(runs.len(), 2);
        assert_eq!(runs[0].0, 4096 + 7 * 512);
        assert_eq!(runs[0].1[512..], [3; SECTOR]);
        map.forget(&(8192..12288));
        assert_eq!(map.bytes(), 512);
    }
}
