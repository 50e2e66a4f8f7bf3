//! The names in a directory of which parts may be missing.

use zerocopy::FromBytes;

use super::Rescue;
use super::runs::Piece;
use crate::file::{DirEntry, Inode, is_valid_name};
use crate::format::{
    DIR_BLOCKS_START, DirBlockHeader, DirBlockKind, DirEntry5, DirEntry6, Family, FdAddr, FileKind,
    name_hash,
};
use crate::lvm::VolumeOffset;

/// No directory that ESXi makes comes near this size.
const MOST_BYTES: u64 = 1 << 30;
/// Bytes that are given up when they can't be read.
const UNIT: usize = 4096;

impl Rescue {
    /// The names in `directory`, with what each leads to; no name twice. Parts that can't be read are
    /// left out, and what names no file.
    pub fn names(&self, directory: &Inode) -> Vec<DirEntry> {
        let mut entries = if self.layout().family == Family::Vmfs6 {
            self.names6(directory)
        } else {
            self.names5(directory)
        };
        entries.sort_by(|a, b| (&a.name, a.next).cmp(&(&b.name, b.next)));
        entries.dedup_by(|b, a| a.name == b.name && a.fd == b.fd);
        entries
    }

    fn names5(&self, directory: &Inode) -> Vec<DirEntry> {
        let mut entries = Vec::new();
        let size = DirEntry5::SIZE;
        let length = directory.length().min(MOST_BYTES);
        let per_read = 512 * size;
        let mut bytes = vec![0; per_read as usize];
        let mut at = 0;
        while at < length {
            let piece = &mut bytes[..(length - at).min(per_read) as usize];
            self.read_what_can_be(directory, at, piece);
            for (index, raw) in piece.chunks_exact(size as usize).enumerate() {
                if let Ok(entry) = DirEntry5::ref_from_bytes(raw) {
                    let fields = (entry.kind.get(), entry.fd.get(), entry.generation.get());
                    let position = at / size + index as u64 + 1;
                    entries.extend(entry_of(entry.name(), fields, position));
                }
            }
            at += per_read;
        }
        entries
    }

    /// Every block of entries, without the allocation map, which may be damaged.
    fn names6(&self, directory: &Inode) -> Vec<DirEntry> {
        let mut entries = Vec::new();
        let block_size = self.layout().md_block;
        let length = directory.length().min(MOST_BYTES);
        let mut bytes = vec![0; block_size as usize];
        let mut at = DIR_BLOCKS_START;
        while at < length {
            self.read_what_can_be(directory, at, &mut bytes);
            names_in_block(directory, at, &bytes, &mut entries);
            at += block_size;
        }
        entries
    }

    /// Fills `bytes` with the file's content from `offset` on, zeros where it can't be read or ends.
    pub(super) fn read_what_can_be(&self, file: &Inode, offset: u64, bytes: &mut [u8]) {
        bytes.fill(0);
        let end = (offset + bytes.len() as u64).min(file.length());
        self.for_each_stretch(file, offset..end, &mut |stretch| {
            let Piece::Data(place) = stretch.piece else {
                return true;
            };
            let from = (stretch.start - offset) as usize;
            let part = &mut bytes[from..from + stretch.length as usize];
            if self.store.reader().read(place, part).is_err() {
                for (index, piece) in part.chunks_mut(UNIT).enumerate() {
                    let at = VolumeOffset(place.0 + (index * UNIT) as u64);
                    if self.store.reader().read(at, piece).is_err() {
                        piece.fill(0);
                    }
                }
            }
            true
        });
    }
}

fn entry_of(name: &[u8], (kind, fd, generation): (u32, u32, u32), next: u64) -> Option<DirEntry> {
    if !is_valid_name(name) {
        return None;
    }
    Some(DirEntry {
        name: name.to_vec(),
        fd: FdAddr::from_raw(fd)?,
        kind: FileKind::from_raw(kind)?,
        generation,
        next,
    })
}

/// The entries in a block that lies at `at` of `directory`.
fn names_in_block(directory: &Inode, at: u64, bytes: &[u8], entries: &mut Vec<DirEntry>) {
    let Ok((header, _)) = DirBlockHeader::ref_from_prefix(bytes) else {
        return;
    };
    let slots = (bytes.len() as u64 - DirBlockHeader::SIZE) / DirEntry6::SIZE;
    let is_sound = header.version.get() == 1
        && header.kind.get() == DirBlockKind::Entries as u16
        && u64::from(header.slots.get()) == slots;
    for slot in 0..slots {
        if is_sound && !header.is_used(slot as u32) {
            continue;
        }
        let start = (DirBlockHeader::SIZE + slot * DirEntry6::SIZE) as usize;
        let Some(Ok((entry, _))) = bytes.get(start..).map(DirEntry6::ref_from_prefix) else {
            continue;
        };
        // An entry says where it is, and its name's hash.
        let hash = name_hash(entry.name(), directory.fd() == FdAddr::ROOT);
        let own = entry.offset.get() == at + start as u64;
        if !own || !is_sound && entry.hash_hi.get() != hash.hi {
            continue;
        }
        let fields = (entry.kind.get(), entry.fd.get(), entry.generation.get());
        let position = (at - DIR_BLOCKS_START) / bytes.len() as u64 * 256 + slot + 1;
        entries.extend(entry_of(entry.name(), fields, position));
    }
}
