//! The writes that make a planned volume.

use vmfs_core::format::{
    DEVICE_HEADER_OFFSET, DiskLock, FS_DESCRIPTOR_OFFSET, Family, FdAddr, LockKind, ResourceKind,
    SystemFile,
};
use zerocopy::IntoBytes;

use super::options::LvmVersion;
use super::plan::Plan;
use super::{descriptors, directories};

/// One step of making a volume; offsets and lengths in bytes on a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Make a range read as zeros.
    Zero {
        /// Index of the device.
        device: usize,
        /// Offset on it.
        offset: u64,
        /// Length.
        length: u64,
    },
    /// Write bytes.
    Write {
        /// Index of the device.
        device: usize,
        /// Offset on it.
        offset: u64,
        /// What to write; whole sectors.
        bytes: Vec<u8>,
    },
    /// Everything before must be durable on all devices before anything after.
    Flush,
}

/// State of a heartbeat slot that is nobody's.
const HEARTBEAT_FREE: u32 = 0xabcd_ef01;

impl Plan {
    /// The steps that make the volume, made as they are asked for, none over 1.1 MiB.
    ///
    /// First everything that could be taken for a volume goes, then all the rest comes, and the
    /// file system descriptor and the device headers come last, each behind a flush.
    pub fn steps(&self) -> impl Iterator<Item = Step> + '_ {
        let tables = self
            .partition_tables
            .iter()
            .map(|(device, offset, bytes)| Step::Write {
                device: *device,
                offset: *offset,
                bytes: bytes.clone(),
            });
        let descriptor = descriptors::fs_descriptor_block(&self.descriptor, &self.layout);
        self.erase()
            .chain([Step::Flush])
            .chain(self.zero_files())
            .chain(tables)
            .chain(self.lvm_tables())
            .chain(self.heartbeats())
            .chain(self.headers())
            .chain(self.clusters())
            .chain(self.system_fds())
            .chain(self.pointer_blocks())
            .chain(self.directories())
            .chain(self.unmap_locks())
            .chain([Step::Flush])
            .chain(self.write(FS_DESCRIPTOR_OFFSET, descriptor))
            .chain([Step::Flush])
            .chain(self.device_headers())
            .chain([Step::Flush])
    }

    /// Write steps for `bytes` at volume offset `offset`.
    fn write(&self, offset: u64, bytes: Vec<u8>) -> impl Iterator<Item = Step> + use<> {
        let pieces: Vec<_> = self.map(offset, bytes.len() as u64).collect();
        pieces.into_iter().map(move |piece| {
            let from = (piece.volume - offset) as usize;
            Step::Write {
                device: piece.device,
                offset: piece.offset,
                bytes: bytes[from..from + piece.length as usize].to_vec(),
            }
        })
    }

    fn zero(&self, offset: u64, length: u64) -> impl Iterator<Item = Step> + '_ {
        self.map(offset, length).map(|piece| Step::Zero {
            device: piece.device,
            offset: piece.offset,
            length: piece.length,
        })
    }

    /// Erases the places of old headers: partition tables, device headers, descriptors.
    fn erase(&self) -> impl Iterator<Item = Step> + '_ {
        let areas = self.devices.iter().enumerate().flat_map(|(index, device)| {
            let size = self.options.devices[index].size;
            let data = device.regions.first().map_or(4 << 20, |region| region.data);
            let later = device.regions.iter().skip(1);
            let later = later.map(|region| (region.offset, region.data - region.offset));
            let later: Vec<_> = later
                .map(|(offset, length)| (device.start + offset, length))
                .collect();
            // Old GPTs have their backup in the last sectors.
            let tail = size.saturating_sub(33 * u64::from(self.options.sector_size));
            [(0, device.start + data), (tail, size - tail)]
                .into_iter()
                .chain(later)
                .map(move |(offset, length)| Step::Zero {
                    device: index,
                    offset,
                    length,
                })
        });
        areas.chain(self.zero(FS_DESCRIPTOR_OFFSET, self.layout.md_block))
    }

    fn zero_files(&self) -> impl Iterator<Item = Step> + '_ {
        let block = self.layout.file_block_size();
        self.used
            .iter()
            .flat_map(move |&(start, count, _)| self.zero(start * block, count * block))
    }

    fn has_lvm(&self) -> bool {
        self.options.lvm != LvmVersion::None
    }

    fn lvm_tables(&self) -> impl Iterator<Item = Step> + '_ {
        let devices = (0..self.devices.len()).filter(|_| self.has_lvm());
        devices.flat_map(move |index| {
            let tables = self.lvm.tables(index, &self.options, &self.devices);
            tables.map(move |(offset, bytes)| Step::Write {
                device: index,
                offset,
                bytes,
            })
        })
    }

    fn device_headers(&self) -> impl Iterator<Item = Step> + '_ {
        let specs = self.options.devices.iter();
        let devices = self.devices.iter().zip(specs).enumerate();
        devices
            .filter(|_| self.has_lvm())
            .map(move |(index, (device, spec))| Step::Write {
                device: index,
                offset: device.start + DEVICE_HEADER_OFFSET,
                bytes: self.lvm.device(index, device, spec),
            })
    }

    fn heartbeats(&self) -> impl Iterator<Item = Step> + '_ {
        const SLOTS: u64 = 128;
        let size = self.layout.heartbeat_size;
        (0..self.layout.heartbeat_slots)
            .step_by(SLOTS as usize)
            .flat_map(move |first| {
                let mut bytes = vec![0; (SLOTS * size) as usize];
                let start = self.layout.heartbeats + first * size;
                for (slot, bytes) in (0..SLOTS).zip(bytes.chunks_exact_mut(size as usize)) {
                    bytes[..4].copy_from_slice(&HEARTBEAT_FREE.to_le_bytes());
                    bytes[4..12].copy_from_slice(&(start + slot * size).to_le_bytes());
                }
                self.write(start, bytes)
            })
    }

    fn headers(&self) -> impl Iterator<Item = Step> + '_ {
        let unmap = self
            .file(SystemFile::Unmap.fd())
            .filter(|file| file.length > 0);
        let unmap = unmap.map(|file| (file, 0, unmap_header()));
        let resources = self.resources.iter().filter_map(|resource| {
            let file = self.file(resource.file.fd())?;
            Some((
                file,
                resource.header_offset,
                resource.header.as_bytes().to_vec(),
            ))
        });
        resources
            .chain(unmap)
            .flat_map(move |(file, offset, mut bytes)| {
                bytes.resize(self.layout.md_block as usize, 0);
                let at = file.volume_offset(offset);
                at.into_iter()
                    .flat_map(move |at| self.write(at, bytes.clone()))
            })
    }

    /// Cluster headers, adjacent ones in one write.
    fn clusters(&self) -> impl Iterator<Item = Step> + '_ {
        const AT_ONCE: u64 = 64;
        self.resources.iter().flat_map(move |file| {
            let clusters = file.header.clusters();
            (0..clusters)
                .step_by(AT_ONCE as usize)
                .flat_map(move |first| {
                    let mut runs: Vec<(u64, Vec<u8>)> = Vec::new();
                    for cluster in first..(first + AT_ONCE).min(clusters) {
                        if file.header.is_nested() && !self.is_converted(cluster) {
                            continue;
                        }
                        let (Some(at), Some(mut image)) = (
                            self.cluster_offset(file, cluster),
                            self.cluster(file, cluster),
                        ) else {
                            continue;
                        };
                        match runs.last_mut() {
                            Some((start, run)) if *start + run.len() as u64 == at => {
                                run.extend_from_slice(image.bytes());
                            }
                            _ => runs.push((at, image.bytes().to_vec())),
                        }
                    }
                    runs.into_iter()
                        .flat_map(|(at, bytes)| self.write(at, bytes))
                })
        })
    }

    fn system_fds(&self) -> impl Iterator<Item = Step> + '_ {
        let time = (self.options.time_us / 1_000_000) as u32;
        self.files.iter().flat_map(move |file| {
            let at = self.layout.first_fd + u64::from(file.fd.resource()) * self.layout.fd_size;
            let fd = descriptors::system_fd(&self.layout, file, at, time);
            self.write(at, fd.bytes().to_vec())
        })
    }

    fn pointer_blocks(&self) -> impl Iterator<Item = Step> + '_ {
        let kind = match self.layout.family {
            Family::Vmfs6 => ResourceKind::PointerBlock2,
            _ => ResourceKind::PointerBlock,
        };
        let per_block = self.layout.pointers_per_block as usize;
        let size = self.layout.address_size as usize;
        self.files.iter().flat_map(move |file| {
            let blocks = file.pointer_blocks.iter().enumerate();
            blocks.flat_map(move |(index, &(cluster, resource))| {
                let addresses = file
                    .addresses(&self.layout)
                    .skip(index * per_block)
                    .take(per_block);
                let mut bytes: Vec<u8> = addresses
                    .flat_map(|raw| raw.to_le_bytes().into_iter().take(size))
                    .collect();
                bytes.resize(per_block * size, 0);
                let holder = self.resource(kind);
                let at = holder.and_then(|holder| self.resource_offset(holder, cluster, resource));
                at.into_iter()
                    .flat_map(move |at| self.write(at, bytes.clone()))
            })
        })
    }

    fn directories(&self) -> impl Iterator<Item = Step> + '_ {
        let root = directories::root(&self.layout).into_iter();
        let root = root.map(|(offset, bytes)| (FdAddr::ROOT, offset, bytes));
        let data = directories::system_data(&self.layout).into_iter();
        let data = data.map(|(offset, bytes)| (SystemFile::SystemData.fd(), offset, bytes));
        root.chain(data).flat_map(move |(fd, offset, mut bytes)| {
            bytes.resize(
                bytes.len().next_multiple_of(self.layout.md_block as usize),
                0,
            );
            let at = self.file(fd).and_then(|file| file.volume_offset(offset));
            at.into_iter()
                .flat_map(move |at| self.write(at, bytes.clone()))
        })
    }

    /// The locks of `.unmap.sf`, all free.
    fn unmap_locks(&self) -> impl Iterator<Item = Step> + '_ {
        const AT_ONCE: u64 = 64;
        /// Lock type of unmap state.
        const KIND: u32 = 0x10c0_0009;
        let md = self.layout.md_block;
        let file = self.file(SystemFile::Unmap.fd());
        file.into_iter()
            .filter(|file| file.length > 0)
            .flat_map(move |file| {
                let start = UNMAP_LOCKS;
                (start..file.length)
                    .step_by((AT_ONCE * md) as usize)
                    .flat_map(move |first| {
                        let end = (first + AT_ONCE * md).min(file.length);
                        let mut bytes = Vec::new();
                        for offset in (first..end).step_by(md as usize) {
                            let address = file.volume_offset(offset).unwrap_or_default();
                            let mut lock = DiskLock::fresh(LockKind::Journals, address);
                            lock.kind = KIND.into();
                            bytes.extend_from_slice(lock.as_bytes());
                            bytes.resize((offset - first + md) as usize, 0);
                        }
                        let at = file.volume_offset(first);
                        at.into_iter()
                            .flat_map(move |at| self.write(at, bytes.clone()))
                    })
            })
    }
}

/// Where the locks of `.unmap.sf` start.
const UNMAP_LOCKS: u64 = 65536;

/// The header of `.unmap.sf`: like a resource file's without clusters.
fn unmap_header() -> Vec<u8> {
    let words: [u32; 13] = [
        0,
        0,
        65536,
        4096,
        0,
        1024,
        0,
        0,
        0x7266_6d64,
        1,
        0,
        0x1_0000,
        1,
    ];
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}
