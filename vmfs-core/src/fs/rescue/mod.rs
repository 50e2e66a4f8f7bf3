//! Reading out of a volume that is too damaged to be opened.
//!
//! [`Rescue::open`] never fails: it takes what is intact and says what it did about the rest.
//!
//! - [`layout`]: the volume's geometry, from its descriptor or from the structures that follow from it.
//! - [`crate::resource::rescue`]: where descriptors, sub-blocks and pointer blocks lie.
//! - [`listing`]: names, from whatever of a directory can be read.
//! - [`tree`]: paths, and files that no name leads to.
//! - [`runs`]: where a file's bytes are, and which are missing.

mod layout;
mod listing;
mod runs;
mod tree;

use std::ops::Range;
use std::sync::Arc;

use crate::file::{FileStore, Inode};
use crate::format::{FdAddr, Layout, ZeroLevel};
use crate::journal::MetaReader;
use crate::lvm::{LvmError, Volume, VolumeOffset};
use crate::resource::rescue::{Evidence, rebuild, scan};

pub use runs::{Piece, Stretch};
pub use tree::{Gone, Item, Tree};

/// A volume of which is read what can be.
#[derive(Debug)]
pub struct Rescue {
    store: FileStore,
    guessed: Vec<Range<u64>>,
    notes: Vec<String>,
}

impl Rescue {
    /// Looks at `volume`. The whole volume is read if resource files are damaged, or if `thorough`;
    /// `progress` is told how many bytes of it were, and of how many.
    pub fn open(volume: &Volume, thorough: bool, progress: &mut dyn FnMut(u64, u64)) -> Self {
        let mut notes = Vec::new();
        for missing in volume.missing() {
            notes.push(format!(
                "the volume's part from {} to {:#x} is missing",
                missing.logical,
                missing.logical.0 + missing.length
            ));
        }
        let (fsd, layout) = layout::find(volume, &mut notes);
        let reader = MetaReader::new(volume.clone(), layout.clone());
        super::file_system::look_through_journals(&reader);
        let mut unreadable = 0;
        let mut look = || -> Evidence {
            let evidence = scan(volume, &layout, progress);
            unreadable = evidence.unreadable;
            evidence
        };
        let rebuilt = rebuild(&reader, &fsd, thorough, &mut look);
        notes.extend(rebuilt.notes);
        if unreadable > 0 {
            notes.push(format!("{unreadable} bytes of the volume can't be read"));
        }
        Self {
            store: FileStore::new(reader, rebuilt.resources),
            guessed: rebuilt.guessed,
            notes,
        }
    }

    /// What was wrong with the volume and what was done about it, for people.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The volume below.
    pub fn volume(&self) -> &Volume {
        self.store.reader().volume()
    }

    /// The volume's geometry.
    pub fn layout(&self) -> &Layout {
        self.store.reader().layout()
    }

    /// The file with this descriptor; `None` when its descriptor can't be read or isn't one.
    pub fn inode(&self, fd: FdAddr) -> Option<Arc<Inode>> {
        self.store.inode(fd).ok()
    }

    /// Fills `buf` with bytes of `file`, which lie at `place`.
    pub fn read(&self, file: &Inode, place: VolumeOffset, buf: &mut [u8]) -> Result<(), LvmError> {
        let reader = self.store.reader();
        // A journal may hold a newer descriptor than the volume.
        if file.map().zero_level() == ZeroLevel::Resident {
            return reader.read(place, buf);
        }
        reader.volume().read(place, buf)
    }

    /// All of a file of at most `most` bytes; `None` when part of it is missing, or it is longer.
    pub fn read_small(&self, file: &Inode, most: u64) -> Option<Vec<u8>> {
        let length = file.length();
        if length > most {
            return None;
        }
        let mut bytes = vec![0; length as usize];
        let mut whole = true;
        self.for_each_stretch(file, 0..length, &mut |stretch| {
            let range = stretch.start as usize..(stretch.start + stretch.length) as usize;
            whole = match stretch.piece {
                Piece::Data(place) => self.store.reader().read(place, &mut bytes[range]).is_ok(),
                Piece::Zeros => true,
                Piece::Lost(_) => false,
            };
            whole
        });
        whole.then_some(bytes)
    }

    /// Calls `visit` with every file whose descriptor can be read, in the order of descriptors. Where the
    /// header of a cluster can be read, descriptors that it calls free are left out.
    pub fn for_each_file(&self, visit: &mut dyn FnMut(&Arc<Inode>)) {
        let descriptors = &self.store.resources().file_descriptors;
        let header = descriptors.header();
        let per_cluster = header.resources_per_cluster.get();
        for cluster in 0..header.clusters().min(1 << 16) {
            let known = descriptors.cluster(self.store.reader(), cluster).ok();
            let known = known.map(|(header, _)| header);
            for resource in 0..per_cluster {
                let fd = FdAddr::new(cluster as u32, resource);
                let is_free = known
                    .as_ref()
                    .is_some_and(|header| resource >= header.total || header.is_free(resource));
                if is_free {
                    continue;
                }
                if let Ok(inode) = self.store.inode(fd) {
                    visit(&inode);
                }
            }
        }
    }
}
