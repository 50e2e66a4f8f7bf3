use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use vmfs_core::scsi::{DeviceOffset, Lun, Recorded};

use super::image::ImageLun;
use crate::random::Random;

/// Bytes that a disk writes whole or not at all.
const SECTOR: u64 = 512;

/// Which of the writes that no flush covers have reached the disk when the power goes. Numbers
/// count those writes, in the order in which they were answered; seeds choose among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrived {
    /// All: the disk had no cache.
    All,
    /// None.
    None,
    /// Whole writes, every second one or so.
    Some(u64),
    /// All but one.
    AllBut(usize),
    /// All, but of one only a part of its sectors.
    Torn(usize, u64),
    /// Of one a part of its sectors, of those before all, of those behind none.
    TornLast(usize, u64),
    /// Sectors, every second one or so.
    Sectors(u64),
}

/// The power goes before command number `position`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// Commands that were answered before it.
    pub position: usize,
    /// What of their writes is there.
    pub arrived: Arrived,
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "before command {}, unflushed writes: {:?}",
            self.position, self.arrived
        )
    }
}

impl Arrived {
    /// One of the ways, for so many unflushed writes.
    pub fn random(random: &mut Random, unflushed: usize) -> Self {
        let one = random.below(unflushed.max(1) as u64) as usize;
        let seed = random.bits();
        match random.below(if unflushed > 0 { 10 } else { 1 }) {
            0 => Self::All,
            1 => Self::None,
            2 | 3 => Self::Some(seed),
            4 => Self::AllBut(one),
            5 | 6 => Self::Torn(one, seed),
            7 | 8 => Self::TornLast(one, seed),
            _ => Self::Sectors(seed),
        }
    }
}

/// Sectors of a write that arrive.
#[derive(Clone, Copy)]
enum Part {
    Whole,
    Before(u64),
    From(u64),
    Random(u64),
}

impl Part {
    /// A torn write of so many sectors.
    fn torn(seed: u64, sectors: u64) -> Self {
        let mut random = Random::new(seed);
        match random.below(3) {
            0 => Self::Before(random.below(sectors.max(1))),
            1 => Self::From(1 + random.below(sectors.max(1))),
            _ => Self::Random(random.bits()),
        }
    }
}

/// A record, played onto an image up to one position after the other.
#[derive(Debug)]
pub struct Player<'a> {
    record: &'a [Recorded],
    /// Everything that is durable at the position.
    durable: Arc<ImageLun>,
    position: usize,
    /// Commands before the position that no flush covers.
    unflushed: BTreeSet<usize>,
}

impl<'a> Player<'a> {
    /// At the start of `record`, which began on an image with the content of `image`.
    pub fn new(record: &'a [Recorded], image: &Arc<ImageLun>) -> Self {
        Self {
            record,
            durable: Arc::new(ImageLun::branch(image)),
            position: 0,
            unflushed: BTreeSet::new(),
        }
    }

    /// Goes on to `position`, which is not before the one it is at.
    pub fn advance(&mut self, position: usize) {
        for (number, command) in self
            .record
            .iter()
            .enumerate()
            .take(position)
            .skip(self.position)
        {
            let Recorded::Flush { covers } = command else {
                self.unflushed.insert(number);
                continue;
            };
            let left = self.unflushed.split_off(covers);
            for number in std::mem::replace(&mut self.unflushed, left) {
                store(&self.record[number], &self.durable, Part::Whole);
            }
        }
        self.position = self.position.max(position);
    }

    /// Writes that no flush covers.
    pub fn unflushed(&self) -> usize {
        self.unflushed.len()
    }

    /// What the disk has after a cut here.
    pub fn image(&self, arrived: Arrived) -> ImageLun {
        let image = ImageLun::branch(&self.durable);
        let mut random = match arrived {
            Arrived::Some(seed) | Arrived::Sectors(seed) => Random::new(seed),
            _ => Random::new(0),
        };
        for (index, &number) in self.unflushed.iter().enumerate() {
            let command = &self.record[number];
            let sectors = sectors(command);
            let part = match arrived {
                Arrived::All => Part::Whole,
                Arrived::None => continue,
                Arrived::Some(_) if random.below(2) == 0 => continue,
                Arrived::Some(_) => Part::Whole,
                Arrived::AllBut(one) if one == index => continue,
                Arrived::Torn(one, seed) | Arrived::TornLast(one, seed) if one == index => {
                    Part::torn(seed, sectors)
                }
                Arrived::TornLast(one, _) if index > one => continue,
                Arrived::AllBut(_) | Arrived::Torn(..) | Arrived::TornLast(..) => Part::Whole,
                Arrived::Sectors(_) => Part::Random(random.bits()),
            };
            store(command, &image, part);
        }
        image
    }
}

/// Where a command writes: offset and length.
fn extent(command: &Recorded) -> (u64, u64) {
    match command {
        Recorded::Write { offset, bytes } => (*offset, bytes.len() as u64),
        Recorded::WriteZeros { offset, length } => (*offset, *length),
        Recorded::Flush { .. } => (0, 0),
    }
}

fn sectors(command: &Recorded) -> u64 {
    let (offset, length) = extent(command);
    (offset + length).div_ceil(SECTOR) - offset / SECTOR
}

/// Stores a part of what a command writes.
fn store(command: &Recorded, image: &ImageLun, part: Part) {
    let (offset, length) = extent(command);
    let end = offset + length;
    let first = offset / SECTOR;
    let border = |sector: u64| ((first + sector) * SECTOR).clamp(offset, end);
    match part {
        Part::Whole => store_range(command, image, offset, end),
        Part::Before(sector) => store_range(command, image, offset, border(sector)),
        Part::From(sector) => store_range(command, image, border(sector), end),
        Part::Random(seed) => {
            let mut random = Random::new(seed);
            for sector in 0..sectors(command) {
                if random.below(2) == 0 {
                    store_range(command, image, border(sector), border(sector + 1));
                }
            }
        }
    }
}

fn store_range(command: &Recorded, image: &ImageLun, start: u64, end: u64) {
    if start >= end {
        return;
    }
    let stored = match command {
        Recorded::Write { offset, bytes } => {
            let range = (start - offset) as usize..(end - offset) as usize;
            image.write(DeviceOffset(start), &bytes[range])
        }
        Recorded::WriteZeros { .. } => image.write_zeros(DeviceOffset(start), end - start),
        Recorded::Flush { .. } => Ok(()),
    };
    stored.expect("the record's LUN is as large as the image");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Vec<Recorded> {
        let write = |offset, byte, sectors: usize| Recorded::Write {
            offset,
            bytes: vec![byte; sectors * 512].into(),
        };
        vec![
            write(0, 1, 1),
            write(512, 2, 1),
            // The second write came while the flush was under way.
            Recorded::Flush { covers: 1 },
            write(0, 3, 3),
            Recorded::WriteZeros {
                offset: 512,
                length: 512,
            },
        ]
    }

    fn sectors_of(image: &ImageLun) -> [u8; 3] {
        let mut bytes = [0; 3 * 512];
        image.read(DeviceOffset(0), &mut bytes).expect("read");
        [0, 1, 2].map(|sector| {
            let sector = &bytes[sector * 512..][..512];
            assert!(sector.chunks(8).all(|word| word == &sector[..8]));
            sector[0]
        })
    }

    #[test]
    fn a_cut_keeps_what_was_flushed_and_any_of_the_rest() {
        let record = record();
        let base = Arc::new(ImageLun::new("base", 1 << 20));
        let mut player = Player::new(&record, &base);
        player.advance(2);
        assert_eq!(player.unflushed(), 2);
        assert_eq!(sectors_of(&player.image(Arrived::None)), *b"OOO");
        player.advance(3);
        assert_eq!(sectors_of(&player.image(Arrived::None)), [1, b'O', b'O']);
        assert_eq!(sectors_of(&player.image(Arrived::All)), [1, 2, b'O']);
        player.advance(5);
        assert_eq!(player.unflushed(), 3);
        assert_eq!(sectors_of(&player.image(Arrived::All)), [3, 0, 3]);
        assert_eq!(sectors_of(&player.image(Arrived::AllBut(2))), [3, 3, 3]);
        assert_eq!(sectors_of(&player.image(Arrived::AllBut(1))), [1, 0, b'O']);
        let mut seen = BTreeSet::new();
        for seed in 0..200 {
            for arrived in [Arrived::Sectors(seed), Arrived::Torn(1, seed)] {
                seen.insert(sectors_of(&player.image(arrived)));
            }
        }
        // Each sector alone: the old one or one of those written, never anything else.
        for sectors in &seen {
            assert!([1, 3].contains(&sectors[0]), "{sectors:?}");
            assert!([b'O', 2, 3, 0].contains(&sectors[1]), "{sectors:?}");
            assert!([b'O', 3].contains(&sectors[2]), "{sectors:?}");
        }
        assert_eq!(seen.len(), 2 * 4 * 2);
    }
}
