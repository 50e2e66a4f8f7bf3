//! The blocks of the LUN, with a cache that a loss of power leaves in part.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use crate::random::Random;

/// Bytes kept together.
const PAGE: usize = 4096;
/// Bytes that are written whole or not at all.
pub const SECTOR: usize = 512;
/// What stands where nothing was ever written: finding it in a file means that a file shows what
/// isn't its own.
const STALE: &[u8; 8] = b"OLDOWNER";

type Page = [u8; PAGE];

/// Sectors as they were before a write that no flush covers yet.
#[derive(Debug)]
struct Unflushed {
    sector: u64,
    before: [u8; SECTOR],
    command: u64,
}

/// Blocks in memory.
#[derive(Debug, Default)]
pub struct Disk {
    below: Arc<HashMap<u64, Box<Page>>>,
    pages: HashMap<u64, Box<Page>>,
    unflushed: Vec<Unflushed>,
    /// Commands that have landed and are not answered.
    unanswered: BTreeSet<u64>,
}

impl Disk {
    /// A disk that starts as `below`.
    pub fn over(below: Arc<HashMap<u64, Box<Page>>>) -> Self {
        Self {
            below,
            ..Self::default()
        }
    }

    /// What is on it, for other disks to start with.
    pub fn into_pages(mut self) -> Arc<HashMap<u64, Box<Page>>> {
        let mut pages = (*self.below).clone();
        pages.extend(std::mem::take(&mut self.pages));
        Arc::new(pages)
    }

    fn page(&self, number: u64) -> Option<&Page> {
        let page = self.pages.get(&number).or_else(|| self.below.get(&number));
        page.map(|page| &**page)
    }

    /// Fills `bytes` with what is at `offset`.
    pub fn read(&self, offset: u64, bytes: &mut [u8]) {
        let mut done = 0;
        while done < bytes.len() {
            let at = offset + done as u64;
            let inside = (at % PAGE as u64) as usize;
            let length = (PAGE - inside).min(bytes.len() - done);
            let part = &mut bytes[done..done + length];
            match self.page(at / PAGE as u64) {
                Some(page) => part.copy_from_slice(&page[inside..inside + length]),
                None => {
                    for (index, byte) in part.iter_mut().enumerate() {
                        *byte = STALE[(inside + index) % STALE.len()];
                    }
                }
            }
            done += length;
        }
    }

    /// One sector.
    pub fn sector(&self, offset: u64) -> [u8; SECTOR] {
        let mut bytes = [0; SECTOR];
        self.read(offset, &mut bytes);
        bytes
    }

    fn put(&mut self, offset: u64, bytes: &[u8]) {
        let mut done = 0;
        while done < bytes.len() {
            let at = offset + done as u64;
            let (number, inside) = (at / PAGE as u64, (at % PAGE as u64) as usize);
            let length = (PAGE - inside).min(bytes.len() - done);
            if !self.pages.contains_key(&number) {
                let mut page = Box::new([0; PAGE]);
                self.read(number * PAGE as u64, &mut page[..]);
                self.pages.insert(number, page);
            }
            let page = self.pages.get_mut(&number).expect("put there just now");
            page[inside..inside + length].copy_from_slice(&bytes[done..done + length]);
            done += length;
        }
    }

    /// Stores `bytes`, which are whole sectors, for `command`; in the cache, if the disk has one.
    pub fn write(&mut self, offset: u64, bytes: &[u8], command: Option<u64>) {
        if let Some(command) = command {
            let first = offset / SECTOR as u64;
            for sector in first..(offset + bytes.len() as u64).div_ceil(SECTOR as u64) {
                let before = self.sector(sector * SECTOR as u64);
                self.unflushed.push(Unflushed {
                    sector,
                    before,
                    command,
                });
            }
            self.unanswered.insert(command);
        }
        self.put(offset, bytes);
    }

    /// The command's host knows that it was carried out.
    pub fn answered(&mut self, command: u64) {
        self.unanswered.remove(&command);
    }

    /// Makes durable what was answered, and with it what was in the same sectors before.
    pub fn flush(&mut self) {
        let unanswered = &self.unanswered;
        let mut durable = HashSet::new();
        let newest_first = std::mem::take(&mut self.unflushed).into_iter().rev();
        let mut left: Vec<Unflushed> = newest_first
            .filter(|old| {
                if !unanswered.contains(&old.command) {
                    durable.insert(old.sector);
                }
                !durable.contains(&old.sector)
            })
            .collect();
        left.reverse();
        self.unflushed = left;
    }

    /// The power goes: each sector is left as some write since the last flush left it, or as it was
    /// before all of them.
    pub fn lose_power(&mut self, random: &mut Random) {
        let mut versions: BTreeMap<u64, Vec<[u8; SECTOR]>> = BTreeMap::new();
        for old in std::mem::take(&mut self.unflushed) {
            versions.entry(old.sector).or_default().push(old.before);
        }
        // Sometimes nothing has reached the disk, sometimes all.
        let kept = *random.one_of(&[0, 20, 50, 80, 100]);
        for (sector, olds) in versions {
            if random.below(100) < kept {
                continue;
            }
            let old = *random.one_of(&olds);
            self.put(sector * SECTOR as u64, &old);
        }
        self.unanswered.clear();
    }
}
