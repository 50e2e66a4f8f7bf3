use std::collections::HashMap;

use super::allocator::{AllocError, Allocator};
use super::system::Resources;
use crate::format::{FdAddr, ResourceKind};
use crate::journal::MetaReader;
use crate::sync::Mutex;

/// Windows that a volume shall have at least, so that files don't wait for each other's.
const WANTED_WINDOWS: u64 = 64;
/// Smallest window in file blocks.
const MIN_WINDOW: u64 = 8;
/// Windows looked at for one that is free.
const MAX_LOOKS: u64 = 16_384;

/// Where file blocks go, so that files come out in few long runs: the volume is divided into
/// windows, a file into regions of the same size, and a region's blocks lie in one window in
/// their order, whatever the order they are written in.
#[derive(Debug)]
pub(super) struct Placement {
    window: u64,
    windows: u64,
    /// Cluster where this host begins to look, so that hosts rarely meet in one.
    start: u64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Window by number: the file that has it for its own.
    owners: HashMap<u64, FdAddr>,
    /// Where the first block of a file's region lies or would lie.
    bases: HashMap<FdAddr, HashMap<u64, u64>>,
    /// Clusters below have nothing for small files.
    cursor: u64,
}

impl Placement {
    pub(super) fn new(blocks: u64, per_cluster: u64, start: u64) -> Self {
        let mut window = per_cluster.max(1);
        while window.is_multiple_of(2)
            && window / 2 >= MIN_WINDOW
            && blocks / window < WANTED_WINDOWS
        {
            window /= 2;
        }
        let cursor = start;
        Self {
            window,
            windows: blocks / window,
            start,
            state: Mutex::new(State {
                cursor,
                ..State::default()
            }),
        }
    }

    /// Where block `index` of a file belongs, if its region has a place.
    pub(super) fn goal(&self, file: FdAddr, index: u64) -> Option<u64> {
        let state = self.state.lock();
        let base = state.bases.get(&file)?.get(&(index / self.window))?;
        Some(base + index % self.window)
    }

    /// Notes that block `index` of a file lies at `block`, so that its neighbours follow.
    pub(super) fn note(&self, file: FdAddr, index: u64, block: u64) {
        let Some(base) = block.checked_sub(index % self.window) else {
            return;
        };
        let mut state = self.state.lock();
        let regions = state.bases.entry(file).or_default();
        regions.entry(index / self.window).or_insert(base);
    }

    /// A file is gone, or nobody has it open any more.
    pub(super) fn forget(&self, file: FdAddr) {
        let mut state = self.state.lock();
        if state.bases.remove(&file).is_some() {
            state.owners.retain(|_, owner| *owner != file);
        }
    }

    /// Blocks in cluster `cluster` were given back.
    pub(super) fn given_back(&self, cluster: u64) {
        let mut state = self.state.lock();
        if cluster >= self.start && cluster < state.cursor {
            state.cursor = cluster;
        }
    }

    /// The cluster where looking for a place for a small file begins.
    pub(super) fn cursor(&self) -> u64 {
        self.state.lock().cursor
    }

    pub(super) fn set_cursor(&self, cluster: u64) {
        self.state.lock().cursor = cluster;
    }

    /// Whether `block` lies in a window of another file.
    pub(super) fn is_anothers(&self, file: FdAddr, block: u64) -> bool {
        let state = self.state.lock();
        let owner = state.owners.get(&(block / self.window));
        owner.is_some_and(|owner| *owner != file)
    }

    /// The first block behind the window of `block`.
    pub(super) fn window_end(&self, block: u64) -> u64 {
        (block / self.window + 1) * self.window
    }

    /// Finds a window that is wholly free for the region of block `index`, behind that of the
    /// region before if possible; where the block belongs then.
    pub(super) fn claim(
        &self,
        allocator: &Allocator,
        reader: &MetaReader,
        resources: &Resources,
        file: FdAddr,
        index: u64,
    ) -> Result<Option<u64>, AllocError> {
        let region = index / self.window;
        let before = region
            .checked_sub(1)
            .and_then(|before| self.goal(file, before * self.window));
        let per_cluster = resources.file(ResourceKind::FileBlock).map_or(1, |file| {
            u64::from(file.header().resources_per_cluster.get())
        });
        let first = match before {
            Some(base) => base / self.window + 1,
            None => self.start * per_cluster / self.window,
        };
        for step in 0..self.windows.min(MAX_LOOKS) {
            let window = (first + step) % self.windows;
            if self.state.lock().owners.contains_key(&window) {
                continue;
            }
            let block = window * self.window;
            let (cluster, resource) = (block / per_cluster, (block % per_cluster) as u32);
            let kind = ResourceKind::FileBlock;
            let length = self.window as u32;
            let free = allocator.with(reader, resources, kind, cluster, |cluster| {
                cluster.is_whole || cluster.bits.is_run_free(resource, length)
            })?;
            if free != Some(true) {
                continue;
            }
            let mut state = self.state.lock();
            if state.owners.contains_key(&window) {
                continue;
            }
            state.owners.insert(window, file);
            state.bases.entry(file).or_default().insert(region, block);
            return Ok(Some(block + index % self.window));
        }
        Ok(None)
    }
}
