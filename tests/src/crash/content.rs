use std::collections::BTreeMap;
use std::ops::Range;

/// Where written bytes come from: a stream of bytes that no other write has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Source {
    seed: u64,
    /// What to add to an offset in the file to have the place in the stream.
    shift: u64,
}

impl Source {
    /// The stream of write number `seed`.
    pub fn new(seed: u64) -> Self {
        Self { seed, shift: 0 }
    }

    /// The bytes that belong at `offset` of the file.
    pub fn fill(self, offset: u64, buf: &mut [u8]) {
        let mut at = offset.wrapping_add(self.shift);
        let mut done = 0;
        while done < buf.len() {
            let word = mix(self.seed ^ (at / 8).wrapping_mul(0xd6e8_feb8_6659_fd93)).to_le_bytes();
            let inside = (at % 8) as usize;
            let length = (8 - inside).min(buf.len() - done);
            buf[done..done + length].copy_from_slice(&word[inside..inside + length]);
            done += length;
            at = at.wrapping_add(length as u64);
        }
    }
}

/// Numbers close to each other come out far apart, and never zero in all bytes.
fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z ^ (z >> 31)) | 0x0101_0101_0101_0101
}

/// What a file should hold: its length, and which of its bytes come from which write; the others
/// are zeros.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Content {
    length: u64,
    /// Start, end and source of what was written.
    pieces: BTreeMap<u64, (u64, Source)>,
}

impl Content {
    /// Bytes.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Cuts off what is behind, or adds zeros.
    pub fn set_length(&mut self, length: u64) {
        if length < self.length {
            self.clear(length..u64::MAX);
        }
        self.length = length;
    }

    /// Puts bytes of `source` into a range; the length grows.
    pub fn write(&mut self, range: Range<u64>, source: Source) {
        self.clear(range.clone());
        self.length = self.length.max(range.end);
        if !range.is_empty() {
            self.pieces.insert(range.start, (range.end, source));
        }
    }

    /// Makes a range zeros, as far as the file goes.
    pub fn zero(&mut self, range: Range<u64>) {
        self.clear(range);
    }

    /// Puts what `from` has in `range` to offset `to`; the length grows.
    pub fn copy(&mut self, from: &Self, range: Range<u64>, to: u64) {
        let length = range.end - range.start;
        self.clear(to..to + length);
        self.length = self.length.max(to + length);
        let pieces: Vec<_> = from.pieces_in(&range).collect();
        for (piece, source) in pieces {
            let moved = piece.start - range.start + to..piece.end - range.start + to;
            let shift = source.shift.wrapping_add(range.start).wrapping_sub(to);
            self.pieces
                .insert(moved.start, (moved.end, Source { shift, ..source }));
        }
    }

    /// Fills `buf` with what belongs at `offset`.
    pub fn expected(&self, offset: u64, buf: &mut [u8]) {
        buf.fill(0);
        for (piece, source) in self.pieces_in(&(offset..offset + buf.len() as u64)) {
            let range = (piece.start - offset) as usize..(piece.end - offset) as usize;
            source.fill(piece.start, &mut buf[range]);
        }
    }

    /// The byte at `offset`; `None` behind the end.
    pub fn byte(&self, offset: u64) -> Option<u8> {
        let mut byte = [0];
        self.expected(offset, &mut byte);
        (offset < self.length).then_some(byte[0])
    }

    /// The first range inside `range` that was written, if there is one.
    pub fn first_written(&self, range: &Range<u64>) -> Option<Range<u64>> {
        self.pieces_in(range).next().map(|(piece, _)| piece)
    }

    fn pieces_in(&self, range: &Range<u64>) -> impl Iterator<Item = (Range<u64>, Source)> {
        let (start, end) = (range.start, range.end);
        let before = self.pieces.range(..start).next_back();
        let inside = self.pieces.range(start..end.max(start));
        before
            .into_iter()
            .chain(inside)
            .map(move |(&from, &(to, source))| (from.max(start)..to.min(end), source))
            .filter(|(piece, _)| !piece.is_empty())
    }

    fn clear(&mut self, range: Range<u64>) {
        let hit: Vec<_> = self.pieces_in(&range).collect();
        for (piece, source) in hit {
            let (&start, &(end, _)) = self
                .pieces
                .range(..=piece.start)
                .next_back()
                .expect("the piece that was hit");
            self.pieces.remove(&start);
            if start < piece.start {
                self.pieces.insert(start, (piece.start, source));
            }
            if piece.end < end {
                self.pieces.insert(piece.end, (end, source));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    #[test]
    fn says_the_same_as_bytes_in_memory() {
        let mut random = Random::new(1);
        let (mut content, mut bytes) = (Content::default(), Vec::new());
        for step in 0..2000 {
            let (start, length) = (random.below(300), random.below(200));
            let range = start..start + length;
            let inside = |bytes: &Vec<u8>| {
                let end = bytes.len().min(range.end as usize);
                bytes.len().min(start as usize)..end
            };
            match random.below(5) {
                0 => {
                    content.set_length(start);
                    bytes.resize(start as usize, 0);
                }
                1 => {
                    content.zero(range.clone());
                    let inside = inside(&bytes);
                    bytes[inside].fill(0);
                }
                2 => {
                    let inside = inside(&bytes);
                    let to = random.below(300) as usize;
                    let from = content.clone();
                    let range = inside.start as u64..inside.end as u64;
                    content.copy(&from, range, to as u64);
                    let copied = bytes[inside].to_vec();
                    let end = to + copied.len();
                    bytes.resize(bytes.len().max(end), 0);
                    bytes[to..end].copy_from_slice(&copied);
                }
                _ => {
                    let source = Source::new(step);
                    content.write(range.clone(), source);
                    bytes.resize(bytes.len().max(range.end as usize), 0);
                    source.fill(start, &mut bytes[start as usize..range.end as usize]);
                }
            }
            let mut expected = vec![1; bytes.len()];
            content.expected(0, &mut expected);
            assert_eq!(expected, bytes, "step {step}");
            assert_eq!(content.length(), bytes.len() as u64);
        }
    }
}
