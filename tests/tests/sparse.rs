//! Sparse files against a model: where data and holes are, what runs there are, what is read.
//!
//! `VMFS_SPARSE_COUNT` random files (60) for each way to map a file, from `VMFS_SPARSE_SEED` on; a
//! failure names the seed.

use std::collections::BTreeMap;
use std::ops::Range;

use vmfs_core::format::{Family, Layout};
use vmfs_core::fs::{FileSystem, Inode, Place, SeekTo};
use vmfs_core::lvm::{VolumeOffset, open_paths};
use vmfs_core::scsi::Access;
use vmfs_fixtures::mkfs_vmfs::Options;
use vmfs_fixtures::{Blocks, Content, FixtureBuilder, Levels};
use vmfs_tests::random::{Random, setting};

/// What stands for one block of a file; blocks that aren't in the model are holes.
#[derive(Clone)]
enum Cell {
    /// Stored: pieces of data and where in the block they are, zeros between them.
    Stored(Vec<(u64, Vec<u8>)>),
    /// Allocated and to be zeroed.
    Marked,
}

/// What a file holds, block by block.
struct Model {
    seed: u64,
    length: u64,
    block: u64,
    cells: BTreeMap<u64, Cell>,
}

impl Model {
    fn is_stored(&self, offset: u64) -> bool {
        matches!(
            self.cells.get(&(offset / self.block)),
            Some(Cell::Stored(_))
        )
    }

    /// What lseek(2) says: every file ends in a hole, and there is nothing at its end.
    fn seek(&self, offset: u64, to: SeekTo) -> Option<u64> {
        if offset >= self.length {
            return None;
        }
        if self.is_stored(offset) == (to == SeekTo::Data) {
            return Some(offset);
        }
        let number = offset / self.block;
        let next = match to {
            SeekTo::Data => {
                let stored = |(_, cell): &(&u64, &Cell)| matches!(cell, Cell::Stored(_));
                *self.cells.range(number + 1..).find(stored)?.0
            }
            SeekTo::Hole => (number + 1..self.length.div_ceil(self.block))
                .find(|&number| !self.is_stored(number * self.block))
                .unwrap_or(u64::MAX),
        };
        let found = next.saturating_mul(self.block);
        match to {
            SeekTo::Data => (found < self.length).then_some(found),
            SeekTo::Hole => Some(found.min(self.length)),
        }
    }

    fn read(&self, range: Range<u64>) -> Vec<u8> {
        let end = range.end.min(self.length);
        let mut bytes = vec![0; end.saturating_sub(range.start) as usize];
        let numbers = range.start / self.block..end.div_ceil(self.block);
        for (number, cell) in self.cells.range(numbers) {
            let Cell::Stored(pieces) = cell else { continue };
            for (inside, piece) in pieces {
                for (index, &byte) in piece.iter().enumerate() {
                    let at = number * self.block + inside + index as u64;
                    if range.contains(&at) && at < end {
                        bytes[(at - range.start) as usize] = byte;
                    }
                }
            }
        }
        bytes
    }

    /// Offsets at which something may go wrong.
    fn borders(&self) -> Vec<u64> {
        let edges = self
            .cells
            .keys()
            .flat_map(|number| [number * self.block, (number + 1) * self.block]);
        let mut borders: Vec<u64> = edges
            .chain([0, self.length])
            .flat_map(|edge| [edge.saturating_sub(1), edge, edge + 1])
            .collect();
        borders.sort_unstable();
        borders.dedup();
        borders
    }
}

/// A random sparse file, mapped through `levels`, and what it holds.
fn random_file(seed: u64, layout: &Layout, levels: Levels) -> (Blocks, Model) {
    let mut random = Random::new(seed);
    let (block, page) = (layout.file_block_size(), layout.pointers_per_block);
    let most = match levels {
        Levels::None => layout.fd_address_count,
        Levels::One => 3 * page,
        Levels::Two | Levels::Fewest => page * page,
    };
    let slots = 1 + random.below(most);
    let cut = if random.below(3) == 0 {
        0
    } else {
        random.below(block)
    };
    let mut blocks = Blocks::sparse(slots * block - cut).with_levels(levels);
    let mut cells = BTreeMap::new();
    // Runs start next to what a reader must get right: both ends, and borders of pointer blocks.
    let anchors = [0, slots - 1, page, 2 * page, slots / page * page, slots / 2];
    for _ in 0..random.below(12) {
        let anchor = if random.below(4) == 0 {
            random.below(slots)
        } else {
            random.one_of(&anchors).saturating_sub(random.below(4))
        };
        let run = anchor..(anchor + 1 + random.below(5)).min(slots);
        if run.is_empty() || run.clone().any(|number| cells.contains_key(&number)) {
            continue;
        }
        let bytes = run.start * block..(run.end * block).min(blocks.length);
        let mut cell = Cell::Stored(Vec::new());
        match random.below(5) {
            0 => blocks.allocate.push(bytes),
            1 => {
                blocks.to_be_zeroed.push(bytes);
                cell = Cell::Marked;
            }
            2 => blocks.copy_on_write.push(bytes),
            // The data below allocates them.
            _ => {}
        }
        for number in run {
            let mut cell = cell.clone();
            let room = block.min(blocks.length - number * block);
            if let Cell::Stored(pieces) = &mut cell {
                let inside = random.below(room);
                let length = 1 + random.below((room - inside).min(3000));
                let piece: Vec<u8> = (0..length).map(|_| random.bits() as u8 | 1).collect();
                blocks.data.push((number * block + inside, piece.clone()));
                pieces.push((inside, piece));
                if random.below(3) == 0 {
                    // The block's last byte is where an error of one would show.
                    blocks
                        .data
                        .push((number * block + room - 1, vec![seed as u8 | 1]));
                    pieces.push((room - 1, vec![seed as u8 | 1]));
                }
            }
            cells.insert(number, cell);
        }
    }
    let length = blocks.length;
    let model = Model {
        seed,
        length,
        block,
        cells,
    };
    (blocks, model)
}

fn check_seek(fs: &FileSystem, inode: &Inode, model: &Model, what: &str) {
    let mut random = Random::new(model.seed);
    let mut offsets = model.borders();
    offsets.extend((0..50).map(|_| random.below(model.length + model.block)));
    offsets.extend([u64::MAX - 1, u64::MAX, 1 << 63]);
    for offset in offsets {
        for to in [SeekTo::Data, SeekTo::Hole] {
            assert_eq!(
                fs.seek(inode, offset, to).expect(what),
                model.seek(offset, to),
                "{what}: {to:?} from {offset:#x}"
            );
        }
    }
}

fn check_runs(fs: &FileSystem, inode: &Inode, model: &Model, what: &str) {
    let mut at = 0;
    let borders = model.borders();
    while at < model.length {
        let run = fs.run_at(inode, at, u64::MAX).expect(what);
        assert_eq!(run.offset, at, "{what}");
        assert!(
            run.length > 0 && run.end() <= model.length,
            "{what}: {run:?}"
        );
        for &offset in borders
            .iter()
            .filter(|offset| (at..run.end()).contains(offset))
        {
            let cell = model.cells.get(&(offset / model.block));
            let agrees = match run.place {
                Place::Data(_) => matches!(cell, Some(Cell::Stored(_))),
                Place::ToBeZeroed(_) => matches!(cell, Some(Cell::Marked)),
                Place::Hole => cell.is_none(),
            };
            assert!(agrees, "{what}: {run:?} at {offset:#x}");
            if let Place::Data(VolumeOffset(place)) = run.place {
                let end = run.end().min(offset + 512);
                let mut found = vec![0xee; (end - offset) as usize];
                fs.volume()
                    .read(VolumeOffset(place + offset - at), &mut found)
                    .expect(what);
                assert_eq!(found, model.read(offset..end), "{what}: {run:?}");
            }
        }
        at = run.end();
    }
}

fn check_reads(fs: &FileSystem, inode: &Inode, model: &Model, what: &str) {
    let mut random = Random::new(!model.seed);
    let borders = model.borders();
    for _ in 0..200 {
        let start = random
            .one_of(&borders)
            .saturating_add(random.below(8000))
            .saturating_sub(random.below(8000));
        let length = match random.below(10) {
            0 => random.below(2 * model.block + 10),
            1 => 0,
            _ => 1 + random.below(9000),
        };
        let mut found = vec![0xee; length as usize];
        let read = fs.read(inode, start, &mut found).expect(what);
        let expected = model.read(start..start + length);
        assert_eq!(read, expected.len(), "{what}: {length} at {start:#x}");
        assert!(
            found[..read] == expected,
            "{what}: {length} bytes at {start:#x} differ"
        );
        assert!(
            found[read..].iter().all(|&byte| byte == 0xee),
            "{what}: behind what was read"
        );
    }
}

fn random_files(family: Family) {
    let count = setting("VMFS_SPARSE_COUNT", 60);
    let first = setting("VMFS_SPARSE_SEED", 1);
    let mut options = Options::new(family, &[64 << 30]);
    options.seed = first;
    let mut builder = FixtureBuilder::in_memory(options).expect("a plan");
    let layout = builder.fixture().plan().layout().clone();
    let mut levels = vec![Levels::None, Levels::One];
    if family != Family::Vmfs3 {
        levels.push(Levels::Two);
    }
    let mut models = Vec::new();
    for (index, &level) in levels.iter().enumerate() {
        for seed in first..first + count {
            let (blocks, model) = random_file(seed + ((index as u64) << 32), &layout, level);
            let name = format!("{level:?}-{seed}");
            let fd = builder
                .add_file(builder.root(), &name, blocks)
                .expect("a file");
            models.push((fd, name, model));
        }
    }
    let fixture = builder.finish().expect("a volume");
    let volume = open_paths(&fixture.paths(), Access::ReadOnly).expect("volume");
    let fs = FileSystem::open(volume).expect("file system");
    let (mut stored, mut marked) = (0_u64, 0_u64);
    for (fd, name, model) in &models {
        let seed = model.seed & u64::from(u32::MAX);
        let what = format!("{family} {name} (VMFS_SPARSE_SEED={seed} VMFS_SPARSE_COUNT=1)");
        let inode = fs.inode(*fd).expect(&what);
        assert_eq!(inode.length(), model.length, "{what}");
        check_seek(&fs, &inode, model, &what);
        check_runs(&fs, &inode, model, &what);
        check_reads(&fs, &inode, model, &what);
        for cell in model.cells.values() {
            *if matches!(cell, Cell::Marked) {
                &mut marked
            } else {
                &mut stored
            } += 1;
        }
    }
    println!(
        "{family}: {} files, {stored} blocks stored, {marked} to be zeroed",
        models.len()
    );
    assert!(stored > count && marked > 0, "the files hold both");
}

#[test]
fn files_of_vmfs6_are_as_sparse_as_they_were_made() {
    random_files(Family::Vmfs6);
}

#[test]
fn files_of_vmfs5_are_as_sparse_as_they_were_made() {
    random_files(Family::Vmfs5);
}

#[test]
fn files_of_vmfs3_are_as_sparse_as_they_were_made() {
    random_files(Family::Vmfs3);
}

/// Files without file blocks: all data up to their length.
#[test]
fn small_files_are_one_run_of_data_and_then_end() {
    for family in [Family::Vmfs5, Family::Vmfs6] {
        let mut builder =
            FixtureBuilder::in_memory(Options::new(family, &[3 << 30])).expect("a plan");
        let sub = builder.fixture().plan().layout().sub_block_size() as usize;
        let root = builder.root();
        let mut files = vec![(
            0,
            builder
                .add_file(root, "empty", Content::Empty)
                .expect("file"),
        )];
        for length in [1_usize, 100, 1024] {
            let content = Content::Resident(vec![7; length]);
            let fd = builder.add_file(root, &format!("resident-{length}"), content);
            files.push((length as u64, fd.expect("file")));
        }
        for length in [1, sub - 1, sub, sub + 1, 5 * sub - 3] {
            let content = Content::SubBlocks(vec![7; length]);
            let fd = builder.add_file(root, &format!("sub-blocks-{length}"), content);
            files.push((length as u64, fd.expect("file")));
        }
        let fixture = builder.finish().expect("a volume");
        let volume = open_paths(&fixture.paths(), Access::ReadOnly).expect("volume");
        let fs = FileSystem::open(volume).expect("file system");
        for (length, fd) in files {
            let inode = fs.inode(fd).expect("inode");
            for offset in 0..length + 2 {
                let inside = offset < length;
                let data = fs.seek(&inode, offset, SeekTo::Data).expect("seek");
                let hole = fs.seek(&inode, offset, SeekTo::Hole).expect("seek");
                assert_eq!(data, inside.then_some(offset), "{family}, {length} bytes");
                assert_eq!(hole, inside.then_some(length), "{family}, {length} bytes");
            }
            let mut found = vec![0xee; length as usize + 10];
            let read = fs.read(&inode, 0, &mut found).expect("read");
            assert_eq!(read as u64, length);
            assert!(found[..read].iter().all(|&byte| byte == 7));
        }
    }
}
