//! A directory's content in memory, the model of its names, and names to put in.

use std::cell::Cell;
use std::collections::BTreeMap;

use crate::file::entries::{self, DirContent, DirHint, NewEntry};
use crate::file::error::FileError;
use crate::format::{FdAddr, FileKind, Layout};

/// A directory's bytes.
#[derive(Clone)]
pub(super) struct Memory {
    pub(super) bytes: Vec<u8>,
    /// Bytes asked for, by which a loop without end would be seen.
    pub(super) read: Cell<u64>,
}

impl DirContent for Memory {
    fn length(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<(), FileError> {
        self.read.set(self.read.get() + buf.len() as u64);
        assert!(self.read.get() < 1 << 30, "reads without end");
        buf.fill(0);
        let Some(inside) = self.bytes.get(offset as usize..) else {
            return Ok(());
        };
        let length = buf.len().min(inside.len());
        buf[..length].copy_from_slice(&inside[..length]);
        Ok(())
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), FileError> {
        let place = self.bytes.get_mut(offset as usize..);
        let place = place.and_then(|place| place.get_mut(..bytes.len()));
        place
            .expect("written inside the length")
            .copy_from_slice(bytes);
        Ok(())
    }

    fn set_length(&mut self, length: u64) -> Result<(), FileError> {
        self.bytes.resize(length as usize, 0);
        Ok(())
    }
}

/// What a name leads to.
pub(super) type Target = (FdAddr, FileKind, u32);
pub(super) type Names = BTreeMap<Vec<u8>, Target>;

/// A directory, what should be in it, and what its caller remembers of it.
pub(super) struct Subject {
    pub(super) content: Memory,
    pub(super) layout: Layout,
    pub(super) in_root: bool,
    pub(super) names: Names,
    pub(super) hint: DirHint,
}

impl Subject {
    pub(super) const THIS: (FdAddr, u32) = (FdAddr::new(3, 1), 77);
    pub(super) const PARENT: (FdAddr, u32) = (FdAddr::new(2, 5), 66);

    /// An empty directory.
    pub(super) fn new(layout: &Layout, in_root: bool) -> Self {
        let mut content = Memory {
            bytes: Vec::new(),
            read: Cell::new(0),
        };
        entries::initialise(&mut content, layout, Self::THIS, Self::PARENT).expect("initialise");
        Self {
            content,
            layout: layout.clone(),
            in_root,
            names: Names::new(),
            hint: DirHint::default(),
        }
    }

    pub(super) fn add(&mut self, name: &[u8], target: Target) {
        let entry = NewEntry {
            name,
            kind: target.1,
            fd: target.0,
            generation: target.2,
        };
        self.content.read.set(0);
        let (layout, hint) = (&self.layout, &mut self.hint);
        entries::add(&mut self.content, layout, self.in_root, &entry, hint).expect("add");
        self.names.insert(name.to_vec(), target);
    }

    pub(super) fn remove(&mut self, name: &[u8]) {
        self.content.read.set(0);
        let (layout, hint) = (&self.layout, &mut self.hint);
        entries::remove(&mut self.content, layout, self.in_root, name, hint).expect("remove");
        self.names.remove(name);
    }

    pub(super) fn replace(&mut self, name: &[u8], target: Target) {
        self.content.read.set(0);
        let (layout, hint) = (&self.layout, &mut self.hint);
        entries::replace(&mut self.content, layout, self.in_root, name, target, hint)
            .expect("replace");
        self.names.insert(name.to_vec(), target);
    }

    /// Fails unless a lookup finds what the model has.
    pub(super) fn look_up(&mut self, name: &[u8]) {
        self.content.read.set(0);
        let (layout, hint) = (&self.layout, &mut self.hint);
        let found =
            entries::lookup(&self.content, layout, self.in_root, name, hint).expect("lookup");
        if let Some(entry) = &found {
            assert_eq!(entry.name, name);
        }
        let found = found.map(|entry| (entry.fd, entry.kind, entry.generation));
        assert_eq!(found.as_ref(), self.names.get(name), "{name:?}");
    }

    /// One random change among `pool`; names that are there go `shrink` times in eight.
    pub(super) fn change(&mut self, random: &mut Random, pool: &[Vec<u8>], shrink: u64) {
        let name = &pool[random.below(pool.len() as u64) as usize];
        let kinds = [FileKind::Regular, FileKind::Directory, FileKind::Symlink];
        let target = (
            FdAddr::new(random.below(1000) as u32, random.below(64) as u32),
            kinds[random.below(3) as usize],
            random.bits() as u32,
        );
        match (self.names.contains_key(name), random.below(8) < shrink) {
            (false, false) => self.add(name, target),
            (true, true) => self.remove(name),
            (true, false) => self.replace(name, target),
            (false, true) => {}
        }
        self.look_up(name);
        self.look_up(&pool[random.below(pool.len() as u64) as usize]);
    }
}

/// Numbers from a seed (SplitMix64).
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.bits() % limit
    }

    /// A name of 1 to `max` bytes: text, text beyond ASCII, or any bytes that a name may have.
    pub(super) fn name(&mut self, max: usize) -> Vec<u8> {
        let length = 1 + self.below(max as u64) as usize;
        let mut name = match self.below(3) {
            0 => (0..length)
                .map(|_| b'a' + self.below(26) as u8)
                .collect::<Vec<u8>>(),
            1 => "größe🤤語".bytes().cycle().take(length).collect(),
            _ => (0..length).map(|_| 1 + self.below(255) as u8).collect(),
        };
        // A few bytes that make it one of its own where there is room, and none that may not be.
        for byte in name.iter_mut().take(6) {
            *byte = 1 + self.below(255) as u8;
        }
        for byte in &mut name {
            if *byte == b'/' {
                *byte = b'_';
            }
        }
        name
    }
}
