//! What the kernel was told of files, and whether that is still so.
//!
//! A kernel that keeps what is written takes its own length and times of a file for the true ones, whatever it
//! is told later. So when another host has changed a file, the kernel is told of it under another number: that
//! of a new *edition*, of which it knows nothing yet. While a file is open no other host changes it.

use dashmap::DashMap;
use fuser::INodeNo;
use vmfs_core::format::FdAddr;
use vmfs_core::fs::Inode;

use crate::attributes::{edition_of, number_of};

/// What the kernel keeps of a file: length, time of change of the content, and of the attributes.
type Shown = (u64, u32, u32);

fn shown(inode: &Inode) -> Shown {
    let meta = inode.meta();
    (inode.length(), meta.mtime.get(), meta.ctime.get())
}

/// Files that the kernel knows.
#[derive(Debug, Default)]
pub(super) struct Told {
    files: DashMap<FdAddr, Known>,
}

#[derive(Debug, Clone, Copy)]
struct Known {
    /// How often the kernel was told of the file, in all its editions.
    count: u64,
    /// The same of files that had the descriptor before, until other hosts deleted them.
    gone: u64,
    generation: u32,
    /// The file's first edition.
    first: u32,
    edition: u32,
    shown: Shown,
    /// The time ([`vmfs_core::fs::FileSystem::alone`]) in which the file was last opened.
    alone: Option<u64>,
}

impl Told {
    /// Notes that the kernel is told of a file; its number. If `renewable` and the file isn't as the kernel
    /// knows it, or if it is another file, that of a new edition.
    ///
    /// `hold` is told whether it is another file, before anybody else can note something of it.
    pub(super) fn note(&self, inode: &Inode, renewable: bool, hold: impl FnOnce(bool)) -> INodeNo {
        let now = shown(inode);
        let generation = inode.meta().generation.get();
        let mut known = self.files.entry(inode.fd()).or_insert(Known {
            count: 0,
            gone: 0,
            generation,
            first: 0,
            edition: 0,
            shown: now,
            alone: None,
        });
        let is_another = known.generation != generation;
        if is_another || (renewable && known.shown != now) {
            known.edition = known.edition.wrapping_add(1);
            known.shown = now;
        }
        if is_another {
            known.gone += std::mem::take(&mut known.count);
            known.generation = generation;
            known.first = known.edition;
            known.alone = None;
        }
        known.count += 1;
        hold(is_another);
        number_of(inode.fd(), known.edition)
    }

    /// Notes that from the time `alone` on nobody but the kernel changes the file, and that the kernel holds nothing
    /// of it from before.
    pub(super) fn trust(&self, fd: FdAddr, alone: u64) {
        if let Some(mut known) = self.files.get_mut(&fd) {
            known.alone = Some(alone);
        }
    }

    /// Whether `node`, by which the kernel opens a file, is what [`Told::trust`] was said of.
    pub(super) fn is_trusted_as(&self, node: INodeNo, fd: FdAddr, alone: Option<u64>) -> bool {
        self.is_trusted(fd, alone) && self.knows_as(node, fd)
    }

    /// Whether the kernel knows how the file is, and may hold its content, as that was noted and nobody else has been
    /// there since.
    pub(super) fn is_trusted(&self, fd: FdAddr, alone: Option<u64>) -> bool {
        alone.is_some()
            && self
                .files
                .get(&fd)
                .is_some_and(|known| known.alone == alone)
    }

    /// Notes that the kernel forgets `count` times that it was told of `node`; whether that is the file which
    /// has the descriptor now.
    pub(super) fn forget(&self, node: INodeNo, fd: FdAddr, count: u64) -> bool {
        let mut is_there = true;
        self.files.remove_if_mut(&fd, |_, known| {
            is_there = edition_of(node) >= known.first;
            let counted = if is_there {
                &mut known.count
            } else {
                &mut known.gone
            };
            *counted = counted.saturating_sub(count);
            known.count == 0 && known.gone == 0
        });
        is_there
    }

    /// Whether the kernel means by `node` a file that had the descriptor before.
    pub(super) fn is_gone(&self, node: INodeNo, inode: &Inode) -> bool {
        self.files.get(&inode.fd()).is_some_and(|known| {
            known.generation != inode.meta().generation.get() || edition_of(node) < known.first
        })
    }

    /// Whether what the kernel knows under the number `node` is how the file is.
    pub(super) fn is_current(&self, node: INodeNo, inode: &Inode) -> bool {
        let known = self.files.get(&inode.fd());
        known.is_none_or(|known| known.edition == edition_of(node) && known.shown == shown(inode))
    }

    /// Notes how a file is that only the kernel has changed until now.
    pub(super) fn settle(&self, inode: &Inode) {
        if let Some(mut known) = self.files.get_mut(&inode.fd()) {
            known.shown = shown(inode);
        }
    }

    /// Notes how the kernel changed a file's attributes, if it knew how they were `before`.
    pub(super) fn change(&self, before: &Inode, after: &Inode, resizes: bool) {
        if let Some(mut known) = self.files.get_mut(&after.fd())
            && known.shown == shown(before)
            && (resizes || before.length() == after.length())
        {
            known.shown = shown(after);
        }
    }

    /// Whether a file handle that names `fd` by the number `node` is good: not if the kernel knows the file by
    /// another number now, or knows none and would be told the first.
    pub(super) fn knows_as(&self, node: INodeNo, fd: FdAddr) -> bool {
        let known = self.files.get(&fd);
        known.map_or(edition_of(node) == 0, |known| {
            known.edition == edition_of(node)
        })
    }
}
