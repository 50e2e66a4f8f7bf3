//! A file descriptor as something to change.

use zerocopy::{FromBytes, IntoBytes};

use super::address::FdAddr;
use super::disk_lock::{DiskLock, LockKind};
use super::file_descriptor::{FDMD_SIGNATURE, FileKind, FileMetadata, ZeroLevel};
use super::layout::{Family, Layout};

/// A file descriptor, in memory.
#[derive(Debug, Clone)]
pub struct FdImage {
    bytes: Vec<u8>,
    family: Family,
    meta: usize,
    data: usize,
    addresses: usize,
    address_size: usize,
}

impl FdImage {
    /// An empty file's descriptor with address `fd` that will lie at volume offset `address`,
    /// its block size that of a file block, all times `time` (seconds since 1970).
    pub fn new(layout: &Layout, fd: FdAddr, address: u64, kind: FileKind, time: u32) -> Self {
        let mut image = Self {
            bytes: vec![0; layout.fd_size as usize],
            family: layout.family,
            meta: layout.fd_meta as usize,
            data: layout.fd_data as usize,
            addresses: layout.fd_addresses as usize,
            address_size: layout.address_size as usize,
        };
        let lock = DiskLock::fresh(LockKind::FileDescriptor, address);
        image.bytes[..lock.as_bytes().len()].copy_from_slice(lock.as_bytes());
        let shift = layout.file_block_shift;
        let family = image.family;
        let meta = image.metadata();
        meta.address = fd.raw().into();
        meta.generation = 1.into();
        meta.links = 1.into();
        meta.kind = (kind as u32).into();
        meta.mtime = time.into();
        meta.ctime = time.into();
        meta.atime = time.into();
        meta.zero_level = ZeroLevel::FileBlock.raw().into();
        if family == Family::Vmfs6 {
            meta.signature = FDMD_SIGNATURE.into();
        }
        if family != Family::Vmfs3 {
            meta.affinity_fd = fd.raw().into();
            meta.tbz_granularity_shift = shift.into();
        }
        image.set_block_shift(shift);
        image
    }

    /// A descriptor that was read back from the volume, [`Layout::fd_size`] bytes; missing ones
    /// are zeros.
    pub fn from_bytes(layout: &Layout, mut bytes: Vec<u8>) -> Self {
        bytes.resize(layout.fd_size as usize, 0);
        Self {
            bytes,
            family: layout.family,
            meta: layout.fd_meta as usize,
            data: layout.fd_data as usize,
            addresses: layout.fd_addresses as usize,
            address_size: layout.address_size as usize,
        }
    }

    /// The bytes as they stand on the volume.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Puts other bytes in place of all of it; missing ones are zeros.
    pub fn replace_bytes(&mut self, mut bytes: Vec<u8>) {
        bytes.resize(self.bytes.len(), 0);
        self.bytes = bytes;
    }

    /// The metadata, to be changed at will.
    ///
    /// # Panics
    /// Never: the bytes were made to have room for it.
    pub fn metadata(&mut self) -> &mut FileMetadata {
        let (meta, _) = FileMetadata::mut_from_prefix(&mut self.bytes[self.meta..])
            .expect("a descriptor has room for its metadata");
        meta
    }

    /// Sets the block size to two to the power of `shift`.
    pub fn set_block_shift(&mut self, shift: u32) {
        let family = self.family;
        let meta = self.metadata();
        meta.block_size = (1 << shift).into();
        // VMFS3 doesn't store the shift.
        if family != Family::Vmfs3 {
            meta.block_offset_shift = shift as u8;
        }
    }

    /// Sets the counts of blocks to `blocks`.
    pub fn set_blocks(&mut self, blocks: u64) {
        let family = self.family;
        let meta = self.metadata();
        meta.blocks = blocks.into();
        if family != Family::Vmfs3 {
            meta.new_since_epoch_lo = (blocks as u32).into();
            meta.new_since_epoch_hi = ((blocks >> 32) as u32).into();
        }
    }

    /// Puts `raw` into entry `index` of the address array.
    pub fn set_address(&mut self, index: usize, raw: u64) {
        let at = self.addresses + index * self.address_size;
        let size = self.address_size;
        self.bytes[at..at + size].copy_from_slice(&raw.to_le_bytes()[..size]);
    }

    /// Entry `index` of the address array.
    pub fn address(&self, index: usize) -> u64 {
        let at = self.addresses + index * self.address_size;
        let bytes = self.bytes.get(at..at + self.address_size);
        let bytes = bytes.unwrap_or_default().iter().rev();
        bytes.fold(0, |value, &byte| value << 8 | u64::from(byte))
    }

    /// The metadata as it stands.
    ///
    /// # Panics
    /// Never: the bytes were made to have room for it.
    pub fn meta(&self) -> &FileMetadata {
        let (meta, _) = FileMetadata::ref_from_prefix(&self.bytes[self.meta..])
            .expect("a descriptor has room for its metadata");
        meta
    }

    /// Where resident data lies, all the room that there is for it.
    pub fn data_mut(&mut self, layout: &Layout) -> &mut [u8] {
        let end = self.data + layout.fd_data_size as usize;
        let end = end.min(self.bytes.len());
        &mut self.bytes[self.data..end]
    }

    /// Notes that the file has the small file block `block`, as ESXi does with files that have flags:
    /// a bit for its cluster, in the room for resident data (VMFS6).
    pub fn note_cluster(&mut self, layout: &Layout, block: u64) {
        if layout.family != Family::Vmfs6 || self.meta().flags.get() == 0 {
            return;
        }
        let cluster = block / layout.file_blocks_per_cluster;
        let room = layout.fd_addresses - layout.fd_data;
        self.metadata().last_sfb_cluster = (cluster as u32).into();
        let map = self.data_mut(layout);
        let byte = map[..room as usize].get_mut(cluster as usize / 8);
        if let Some(byte) = byte
            && *byte >> (cluster % 8) & 1 == 0
        {
            *byte |= 1 << (cluster % 8);
            let meta = self.metadata();
            meta.affinity_bitmap = (meta.affinity_bitmap.get() + 1).into();
        }
    }

    /// Puts `data` where resident data and RDM mappings lie; at most as much as fits.
    pub fn set_data(&mut self, data: &[u8]) {
        let at = self.data;
        let used = data.len().min(self.bytes.len() - at);
        self.bytes[at..at + used].copy_from_slice(&data[..used]);
    }
}
