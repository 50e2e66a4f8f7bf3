//! Finds structures by their names in recipes.

use std::mem::offset_of;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use vmfs_core::cluster::{self, Host};
use vmfs_core::format::{
    ClusterMeta5, ClusterMeta6, DIR_BLOCKS_START, DevMetadata, DirBlockHeader, DirEntry5,
    DirEntry6, DirHeader, DirLinkGroup, DiskLock, FS_DESCRIPTOR_OFFSET, Family, FileMetadata,
    FsDescriptor, HEARTBEAT_OFFSET, Heartbeat, PeTableEntry, ResourceHeader, ResourceKind,
    VolTableEntry,
};
use vmfs_core::fs::{Inode, Place};
use vmfs_core::lvm::VolumeOffset;
use vmfs_core::resource::ResourceFile;

use super::{Found, Places};
use crate::walk::pointer_blocks;

macro_rules! fields {
    ($structure:ty: $($name:ident),+ $(,)?) => {
        vec![$((stringify!($name), offset_of!($structure, $name) as u64, size_of_field(|s: &$structure| size_of_val(&s.$name)))),+]
    };
}

fn size_of_field<T: zerocopy::FromZeros>(size: impl Fn(&T) -> usize) -> u64 {
    size(&T::new_zeroed()) as u64
}

impl Places<'_> {
    pub(super) fn find(&self, structure: &str) -> Result<Found> {
        let mut words = structure.splitn(2, ' ');
        let kind = words.next().unwrap_or_default();
        let rest = words.next().unwrap_or_default();
        self.find_kind(kind, rest)
            .with_context(|| format!("{structure:?}"))
    }

    #[allow(
        clippy::too_many_lines,
        reason = "a list of structures and their fields"
    )]
    fn find_kind(&self, kind: &str, rest: &str) -> Result<Found> {
        let layout = self.fs.layout();
        let wide = layout.family == Family::Vmfs6;
        match kind {
            "device" => Ok(on_device(number(rest)? as usize, 0, Vec::new())),
            "device-header" => Ok(on_device(
                number(rest)? as usize,
                0x10_0000,
                fields!(DevMetadata: magic, major_version, minor_version, total_bytes, volumes, pes, last_pe,
                    generation, data_offset, uuid, mod_time_us, pe_maps, ext_metadata_offset, md_alignment,
                    pe_units, flags),
            )),
            "volume-table" => {
                let (index, metadata) = self.device(rest)?;
                Ok(on_device(
                    index,
                    0x10_0000 + metadata.volume_table(),
                    fields!(VolTableEntry: logical_size, generation, state, name, uuid, snap_id, volume_id, pes,
                        first_pe, last_pe, devices),
                ))
            }
            "extent" => {
                let (device, entry) = rest.split_once(' ').context("a device and a number")?;
                let (index, metadata) = self.device(device)?;
                let table = 0x10_0000 + metadata.pe_bitmap() + metadata.pe_bitmap_size();
                Ok(on_device(
                    index,
                    table + number(entry)? * PeTableEntry::STRIDE,
                    fields!(PeTableEntry: used, id, volume_id, physical, logical, length, version),
                ))
            }
            "extent-bitmap" => {
                let (index, metadata) = self.device(rest)?;
                let mut found = on_device(index, 0x10_0000 + metadata.pe_bitmap(), Vec::new());
                found.element = 1;
                Ok(found)
            }
            "volume" => self.on_volume(number(rest).unwrap_or(0), Vec::new()),
            "fs-descriptor" => self.on_volume(
                FS_DESCRIPTOR_OFFSET,
                fields!(FsDescriptor: magic, major_version, minor_version, uuid, config, label, disk_block_size,
                    file_block_size, snap_id, fdc_cluster_group_offset, fdc_clusters_per_group, sub_block_size,
                    pb2_vol_addr, pb2_fd_addr, sdd_vol_addr, checksum_type, md_alignment, sfb_to_lfb_shift),
            ),
            "heartbeat" => self.on_volume(
                if rest == "used" {
                    self.host()?.offset.0
                } else {
                    HEARTBEAT_OFFSET + number(rest)? * layout.heartbeat_size
                },
                fields!(Heartbeat: state, address, generation, stamp, host, journal_addr, driver_major,
                    driver_minor, lock_implementation, journal_offset),
            ),
            "journal" => self.on_volume(self.host()?.journal.0, Vec::new()),
            "resource-header" => {
                let file = self.resource_file(rest)?;
                self.on_volume(
                    file.header_place().0,
                    fields!(ResourceHeader: resources_per_cluster, clusters_per_group, cluster_group_offset,
                        resource_size, cluster_group_size, resources_lo, cluster_groups, resources_hi, signature,
                        version, flags, bits_per_resource, child_meta_offset, converted_clusters),
                )
            }
            "cluster" | "cluster-lock" | "bitmap" => {
                let (name, cluster) = rest.split_once(' ').context("a kind and a number")?;
                let file = self.resource_file(name)?;
                let place = file.cluster_place(self.fs.store().reader(), number(cluster)?)?;
                if kind == "cluster-lock" {
                    return self.on_volume(place.0, lock_fields());
                }
                let meta = place.0 + layout.md_block;
                if kind == "bitmap" {
                    let mut found = self.on_volume(meta + if wide { 0x80 } else { 0x10 }, Vec::new())?;
                    found.element = 1;
                    return Ok(found);
                }
                let fields = if wide {
                    fields!(ClusterMeta6: signature, cluster, total, free, affinity_count, last_generation,
                        next_free, bitmap0, next_free1, bitmap1)
                } else {
                    fields!(ClusterMeta5: cluster, total, free, next_free, bitmap, last_generation, priority)
                };
                self.on_volume(meta, fields)
            }
            "descriptor" => {
                let at = self.inode(rest)?.offset().0 + layout.fd_meta;
                self.on_volume(
                    at,
                    fields!(FileMetadata: address, generation, links, kind, flags, length, block_size, blocks, mtime,
                        mode, zero_level, tbz_blocks_lo, cow_blocks_lo, pointer_blocks, signature, affinity_fd,
                        parent_fd, block_offset_shift, large_blocks),
                )
            }
            "descriptor-lock" => self.on_volume(self.inode(rest)?.offset().0, lock_fields()),
            "address" => {
                let (path, index) = rest.rsplit_once(' ').context("a path and a number")?;
                let at = self.inode(path)?.offset().0
                    + layout.fd_addresses
                    + number(index)? * layout.address_size;
                self.on_volume(at, vec![("value", 0, layout.address_size)])
            }
            "pointer" => {
                let (path, index) = rest.rsplit_once(' ').context("a path and a number")?;
                let at = self.first_pointer_block(&*self.inode(path)?)? + number(index)? * layout.address_size;
                self.on_volume(at, vec![("value", 0, layout.address_size)])
            }
            "content" => {
                let (path, offset) = rest.rsplit_once(' ').context("a path and an offset")?;
                self.in_file(&*self.inode(path)?, number(offset)?, Vec::new())
            }
            "directory" => self.in_file(
                &*self.inode(rest)?,
                0,
                fields!(DirHeader: version, entries, allocated, map_block_count, map_blocks, checksum, this, parent),
            ),
            "directory-block" => {
                let (path, block) = rest.rsplit_once(' ').context("a path and a number")?;
                let at = DIR_BLOCKS_START + number(block)? * layout.md_block;
                self.in_file(
                    &*self.inode(path)?,
                    at,
                    fields!(DirBlockHeader: version, kind, slots, free, bitmap),
                )
            }
            "link-group" => {
                let (path, block) = rest.rsplit_once(' ').context("a path and a block")?;
                let at = DIR_BLOCKS_START + number(block)? * layout.md_block + DirBlockHeader::SIZE;
                self.in_file(
                    &*self.inode(path)?,
                    at,
                    fields!(DirLinkGroup: hash_slot, total, free, next_free, links, next),
                )
            }
            "hash-slot" => {
                let name = rest.rsplit('/').next().unwrap_or_default();
                let directory = self.parent(rest)?;
                let is_root = directory.fd() == vmfs_core::format::FdAddr::ROOT;
                let slot = vmfs_core::format::name_hash(name.as_bytes(), is_root).slot;
                let at = DirHeader::SIZE + u64::from(slot) * 4;
                self.in_file(&directory, at, vec![("value", 0, 4)])
            }
            "entry" => self.entry(rest),
            "dots" => {
                let directory = self.inode(rest)?;
                if wide {
                    let at = offset_of!(DirHeader, parent) as u64;
                    return self.in_file(&directory, at, entry6_fields());
                }
                // The second entry of a flat directory.
                self.in_file(&directory, DirEntry5::SIZE, entry5_fields())
            }
            other => bail!("no structure is called {other}"),
        }
    }

    /// The host that died on the base.
    fn host(&self) -> Result<Host> {
        let hosts = cluster::hosts(self.fs.volume(), self.fs.layout())?;
        hosts
            .into_iter()
            .next()
            .context("no host died on this base")
    }

    fn device(&self, index: &str) -> Result<(usize, DevMetadata)> {
        let index = number(index)? as usize;
        let device = self
            .fs
            .volume()
            .devices()
            .get(index)
            .context("no such device")?;
        Ok((index, device.metadata().clone()))
    }

    fn resource_file(&self, name: &str) -> Result<&ResourceFile> {
        let kind = match name {
            "file-block" => ResourceKind::FileBlock,
            "large-file-block" => ResourceKind::LargeFileBlock,
            "sub-block" => ResourceKind::SubBlock,
            "pointer-block" => ResourceKind::PointerBlock,
            "pointer-block-2" => ResourceKind::PointerBlock2,
            "file-descriptor" => ResourceKind::FileDescriptor,
            "journal-block" => ResourceKind::JournalBlock,
            other => bail!("no resources are called {other}"),
        };
        let resources = self.fs.store().resources();
        let found = resources.iter().find(|file| file.kind() == kind);
        found.with_context(|| format!("there is no file of {name}s"))
    }

    fn inode(&self, path: &str) -> Result<Arc<Inode>> {
        Ok(self.fs.resolve(path.as_bytes(), false)?)
    }

    fn parent(&self, path: &str) -> Result<Arc<Inode>> {
        let (parent, _) = path.rsplit_once('/').context("a path")?;
        self.inode(if parent.is_empty() { "/" } else { parent })
    }

    fn entry(&self, path: &str) -> Result<Found> {
        let directory = self.parent(path)?;
        let name = path.rsplit('/').next().unwrap_or_default();
        let mut position = None;
        self.fs.read_dir(&directory, 0, |entry| {
            if entry.name == name.as_bytes() {
                position = Some(entry.next);
            }
            position.is_none()
        })?;
        let position = position.context("no such name")?;
        if self.fs.layout().family == Family::Vmfs6 {
            let (block, slot) = ((position - 1) / 256, (position - 1) % 256);
            let at = DIR_BLOCKS_START
                + block * self.fs.layout().md_block
                + DirBlockHeader::SIZE
                + slot * DirEntry6::SIZE;
            return self.in_file(&directory, at, entry6_fields());
        }
        // Positions of flat directories count down from here.
        let number = (1 << 40) - position;
        self.in_file(&directory, number * DirEntry5::SIZE, entry5_fields())
    }

    fn first_pointer_block(&self, inode: &Inode) -> Result<u64> {
        let places = pointer_blocks(&self.fs, inode)?;
        let first = places.first().context("the file has no pointer block")?;
        Ok(first.0)
    }

    fn in_file(
        &self,
        inode: &Inode,
        at: u64,
        fields: Vec<(&'static str, u64, u64)>,
    ) -> Result<Found> {
        let run = self.fs.run_at(inode, at, at + 1)?;
        let Place::Data(place) = run.place else {
            bail!("a hole at {at:#x}");
        };
        self.on_volume(place.0, fields)
    }

    fn on_volume(&self, at: u64, fields: Vec<(&'static str, u64, u64)>) -> Result<Found> {
        let volume = self.fs.volume();
        let (lun, place) = volume.place(VolumeOffset(at))?;
        let device = volume
            .luns()
            .iter()
            .position(|other| Arc::ptr_eq(other, lun));
        let mut found = on_device(device.context("no device")?, place.0, fields);
        // Devices are in the order of the volume, as the base's are.
        ensure!(found.device < self.base.devices.len(), "no such device");
        found.element = 1;
        Ok(found)
    }
}

fn on_device(device: usize, at: u64, fields: Vec<(&'static str, u64, u64)>) -> Found {
    Found {
        device,
        at,
        fields,
        element: 1,
    }
}

fn lock_fields() -> Vec<(&'static str, u64, u64)> {
    fields!(DiskLock: kind, address, heartbeat, heartbeat_generation, token, mode, owner, mtime, holder_count)
}

fn entry6_fields() -> Vec<(&'static str, u64, u64)> {
    fields!(DirEntry6: kind, fd, generation, hash_lo, hash_hi, offset, name)
}

fn entry5_fields() -> Vec<(&'static str, u64, u64)> {
    fields!(DirEntry5: kind, fd, generation, name)
}

fn number(text: &str) -> Result<u64> {
    let parsed = match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => text.parse(),
    };
    parsed.with_context(|| format!("{text:?} is no number"))
}
