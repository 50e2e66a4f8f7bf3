//! A file's bytes, piece by piece, with what is missing.

use std::ops::Range;

use super::Rescue;
use crate::file::Inode;
use crate::format::{BlockAddr, ResourceKind, ZeroLevel};
use crate::lvm::VolumeOffset;
use crate::resource::{BlockMap, ResourceFile};

/// Bytes of a pointer block that are given up when they can't be read.
const UNIT: u64 = 4096;

/// What there is of a stretch of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// Bytes on the volume.
    Data(VolumeOffset),
    /// Zeros: a hole, or a block that was never written.
    Zeros,
    /// Nobody knows: what says where the bytes are is damaged.
    Lost(&'static str),
}

/// A stretch of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stretch {
    /// Offset in the file.
    pub start: u64,
    /// Bytes.
    pub length: u64,
    /// What there is of it.
    pub piece: Piece,
    /// Whether its place was taken from that of its neighbours.
    pub guessed: bool,
}

impl Stretch {
    /// Joins `next` on if it follows in one piece.
    fn join(&mut self, next: &Self) -> bool {
        let follows = self.start + self.length == next.start && self.guessed == next.guessed;
        let same = match (&self.piece, &next.piece) {
            (Piece::Data(a), Piece::Data(b)) => a.0 + self.length == b.0,
            (Piece::Zeros, Piece::Zeros) => true,
            (Piece::Lost(a), Piece::Lost(b)) => a == b,
            _ => false,
        };
        if follows && same {
            self.length += next.length;
        }
        follows && same
    }
}

/// What a look at a file's map counts, apart from the stretches.
struct Look<'a> {
    rescue: &'a Rescue,
    map: &'a BlockMap,
    wanted: Range<u64>,
    pending: Option<Stretch>,
    visit: &'a mut dyn FnMut(&Stretch) -> bool,
    stopped: bool,
}

impl Rescue {
    /// Calls `visit` with the stretches of `range` of `file`, in order and without gaps, until it
    /// returns false.
    pub fn for_each_stretch(
        &self,
        file: &Inode,
        range: Range<u64>,
        visit: &mut dyn FnMut(&Stretch) -> bool,
    ) {
        let map = file.map();
        let end = range.end.min(map.length());
        let mut look = Look {
            rescue: self,
            map,
            wanted: range.start..end,
            pending: None,
            visit,
            stopped: false,
        };
        look.run();
    }

    /// Blocks of data in the map of `file`, as its descriptor counts them, as far as the map can be
    /// read.
    pub fn mapped_blocks(&self, file: &Inode) -> u64 {
        let mut blocks = 0;
        let counted = file.map().for_each_address::<crate::resource::MetaError>(
            self.store.reader(),
            &self.store.resources().sources,
            &mut |_, depth| {
                blocks += u64::from(depth == 0);
                Ok(())
            },
        );
        // What can't be read is lost, and said so elsewhere.
        let _ = counted;
        blocks
    }

    /// Whether any of `length` bytes at `place` lie where neighbours only suggest it.
    fn is_guess(&self, place: VolumeOffset, length: u64) -> bool {
        let end = place.0.saturating_add(length);
        self.guessed
            .iter()
            .any(|range| range.start < end && place.0 < range.end)
    }
}

impl Look<'_> {
    fn run(&mut self) {
        match self.map.zero_level() {
            ZeroLevel::Resident => self.resident(),
            ZeroLevel::None => self.add(self.wanted.start, self.wanted.end, Piece::Zeros, false),
            _ => self.addresses(),
        }
        if let Some(last) = self.pending.take()
            && !self.stopped
        {
            (self.visit)(&last);
        }
    }

    fn resident(&mut self) {
        let layout = self.rescue.layout();
        let stored = layout.fd_data_size.min(self.map.length());
        let wanted = self.wanted.clone();
        let place = self.map.fd_offset() + layout.fd_data + wanted.start;
        self.add(
            wanted.start,
            wanted.end.min(stored),
            Piece::Data(place),
            false,
        );
        let too_long = Piece::Lost("longer than a descriptor has room for");
        self.add(stored.max(wanted.start), wanted.end, too_long, false);
    }

    /// Adds the part of `start..end` that is wanted; the place of data is that of `start`.
    fn add(&mut self, start: u64, end: u64, piece: Piece, guessed: bool) {
        let from = start.max(self.wanted.start);
        let to = end.min(self.wanted.end);
        if from >= to || self.stopped {
            return;
        }
        let piece = match piece {
            Piece::Data(place) => Piece::Data(place + (from - start)),
            other => other,
        };
        let next = Stretch {
            start: from,
            length: to - from,
            piece,
            guessed,
        };
        if let Some(pending) = &mut self.pending
            && pending.join(&next)
        {
            return;
        }
        if let Some(ready) = self.pending.replace(next) {
            self.stopped = !(self.visit)(&ready);
        }
    }

    fn addresses(&mut self) {
        let depth = self.map.zero_level().depth();
        let pointers = self.rescue.layout().pointers_per_block.trailing_zeros();
        let shift = self.map.block_shift() + depth * pointers;
        let last = self.wanted.end;
        let mut index = self.wanted.start >> shift;
        while index << shift < last && !self.stopped {
            let start = index << shift;
            let end = (start + (1 << shift)).min(last);
            match self.map.addresses().get(index as usize) {
                Some(&raw) => self.entry(raw, start, end, depth),
                None if index < self.rescue.layout().fd_address_count => {
                    // Nothing follows in the array: the rest is one hole.
                    self.add(start, last, Piece::Zeros, false);
                    return;
                }
                None => {
                    let why = "longer than its map can be";
                    self.add(start, last, Piece::Lost(why), false);
                    return;
                }
            }
            index += 1;
        }
    }

    /// What the entry `raw`, `depth` levels above the data, says of `start..end`.
    fn entry(&mut self, raw: u64, start: u64, end: u64, depth: u32) {
        if end <= self.wanted.start || self.stopped {
            return;
        }
        let layout = self.rescue.layout();
        let addr = BlockAddr::decode(raw, layout);
        if addr == BlockAddr::Hole {
            return self.add(start, end, Piece::Zeros, false);
        }
        if depth > 0 {
            return self.pointer_block(addr, start, end, depth);
        }
        let (unit, place, tbz, guessed) = match addr {
            BlockAddr::FileBlock { block, tbz, .. } => {
                let unit = layout.file_block_size();
                (unit, block.saturating_mul(unit), tbz, false)
            }
            BlockAddr::LargeFileBlock { block, tbz, .. } => {
                let unit = layout.large_block_size();
                (unit, block.saturating_mul(unit), tbz, false)
            }
            BlockAddr::Resource {
                kind: ResourceKind::SubBlock,
                cluster,
                resource,
                ..
            } => {
                let Some(place) = self.locate(addr, cluster, resource) else {
                    let why = "its sub-block isn't to be found";
                    return self.add(start, end, Piece::Lost(why), false);
                };
                let unit = layout.sub_block_size();
                (unit, place.0, 0, self.rescue.is_guess(place, unit))
            }
            _ => return self.add(start, end, Piece::Lost("an address of no block"), false),
        };
        let volume = self.rescue.volume();
        if 1 << self.map.block_shift() > unit || place.saturating_add(unit) > volume.size() {
            return self.add(start, end, Piece::Lost("a block outside the volume"), false);
        }
        let piece = if tbz == 0 {
            Piece::Data(VolumeOffset(place + (start & (unit - 1))))
        } else {
            Piece::Zeros
        };
        self.add(start, end, piece, guessed);
    }

    fn pointer_block(&mut self, addr: BlockAddr, start: u64, end: u64, depth: u32) {
        let layout = self.rescue.layout().clone();
        let shift =
            self.map.block_shift() + (depth - 1) * layout.pointers_per_block.trailing_zeros();
        let place = match addr {
            BlockAddr::Resource {
                cluster, resource, ..
            } => self.locate(addr, cluster, resource),
            _ => None,
        };
        let Some(place) = place else {
            let why = "its pointer block isn't to be found";
            return self.add(start, end, Piece::Lost(why), false);
        };
        if self.rescue.is_guess(place, layout.pointer_block_size()) {
            let why = "its pointer block may be elsewhere";
            return self.add(start, end, Piece::Lost(why), false);
        }
        let first = self.wanted.start.saturating_sub(start) >> shift;
        let per_unit = UNIT / layout.address_size;
        let mut index = first / per_unit * per_unit;
        let mut bytes = [0; UNIT as usize];
        while start + (index << shift) < end && !self.stopped {
            let at = start + (index << shift);
            let read = (layout.pointers_per_block - index).min(per_unit) * layout.address_size;
            let bytes = &mut bytes[..read as usize];
            let reader = self.rescue.store.reader();
            if reader
                .read(place + index * layout.address_size, bytes)
                .is_err()
            {
                let to = (at + (per_unit << shift)).min(end);
                let why = "its pointer block can't be read";
                self.add(at, to, Piece::Lost(why), false);
                index += per_unit;
                continue;
            }
            for raw in bytes.chunks_exact(layout.address_size as usize) {
                let raw = raw.iter().rev().fold(0, |v, &b| v << 8 | u64::from(b));
                let at = start + (index << shift);
                if at >= end || self.stopped {
                    return;
                }
                self.entry(raw, at, (at + (1 << shift)).min(end), depth - 1);
                index += 1;
            }
        }
    }

    fn locate(&self, addr: BlockAddr, cluster: u64, resource: u32) -> Option<VolumeOffset> {
        let BlockAddr::Resource { kind, .. } = addr else {
            return None;
        };
        let sources = &self.rescue.store.resources().sources;
        let file: &ResourceFile = match kind {
            ResourceKind::PointerBlock => sources.pointer_blocks.as_deref(),
            ResourceKind::PointerBlock2 => sources.pointer_blocks2.as_deref(),
            ResourceKind::SubBlock => sources.sub_blocks.as_deref(),
            _ => None,
        }?;
        let reader = self.rescue.store.reader();
        file.locate(reader, cluster, resource).ok()
    }
}
