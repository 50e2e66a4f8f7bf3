use std::fmt::Write;

use vmfs_core::format::{
    At, BlockAddr, ClusterHeader, DiskLock, FdAddr, Heartbeat, PE_SIZE, ResourceKind, view,
};
use vmfs_core::fs::{FileSystem, FsError, Inode};
use vmfs_core::lvm::{LvmError, Volume, VolumeOffset};
use vmfs_core::resource::ResourceFile;

use super::fields::{Structure, fields};
use crate::error::Error;
use crate::target::Target;

/// Bytes that `dump block` shows at most.
const MAX_BYTES: u64 = 1 << 20;

/// Device headers, volume tables and extents.
pub(super) fn devices(volume: &Volume) -> Vec<Structure> {
    let mut found = Vec::new();
    for device in volume.devices() {
        let header = device.metadata();
        let structure = Structure::new(format!("device header of {}", device.name()));
        let structure = fields!(structure, header;
            hex magic, dec major_version, dec minor_version, dec disk_block_size, dec total_bytes,
            dec volumes, dec pes, dec last_pe, dec generation, hex data_offset, text uuid,
            dec init_time_us, dec mod_time_us, text locked_by, dec locked_when_us, dec pe_maps,
            hex ext_metadata_offset, dec md_alignment, dec pe_units, hex flags);
        let structure = structure
            .field("disk_id", header.disk_id.text())
            .field("device_names", lines(device.device_names()));
        found.push(structure);
        for entry in device.volumes() {
            let structure = Structure::new(format!("volume table entry of {}", device.name()));
            found.push(fields!(structure, entry;
                dec logical_size, dec generation, dec state, name name, text uuid, dec snap_id,
                dec creation_time_us, dec volume_id, dec pes, dec first_pe, dec last_pe,
                dec mod_time_us, dec devices, dec consumed_pes));
        }
        let extents: Vec<_> = device
            .extents()
            .iter()
            .map(|e| {
                let units = e.length / PE_SIZE;
                format!(
                    "volume {:#x} device {:#x} length {:#x} ({units} x 256 MiB)",
                    e.logical, e.physical, e.length
                )
            })
            .collect();
        let title = format!("physical extents of {}, runs merged", device.name());
        found.push(Structure::new(title).field("extents", lines(&extents)));
    }
    found
}

/// The file system descriptor.
pub(super) fn fs_descriptor(fs: &FileSystem) -> Vec<Structure> {
    let fsd = fs.descriptor();
    let structure = fields!(Structure::new("file system descriptor"), fsd;
        hex magic, dec major_version, byte minor_version, text uuid, hex config, name label,
        dec disk_block_size, dec file_block_size, dec creation_time, dec snap_id);
    let structure = structure.text("volume_uuid", &fsd.volume_uuid());
    vec![fields!(structure, fsd;
        dec fdc_cluster_group_offset, dec fdc_clusters_per_group, dec sub_block_size,
        dec max_journal_slots_per_txn, hex pb2_vol_addr, hex pb2_fd_addr, text host_uuid,
        dec gbl_generation, hex sdd_vol_addr, hex sdd_fd_addr, byte checksum_type,
        dec unmap_priority, hex checksum_gen, dec phys_disk_block_size, dec md_alignment,
        dec sfb_to_lfb_shift, dec ptr_block_shift, dec sfb_addr_bits, dec tbz_granularity,
        dec journal_block_size, dec lease_interval_ms, dec reclaim_window_ms,
        dec local_stamp_us, byte unmap_method, dec unmap_bandwidth)]
}

/// The headers of all resource files.
pub(super) fn resources(fs: &FileSystem) -> Vec<Structure> {
    let files = fs.store().resources().iter();
    files
        .map(|file| {
            let header = file.header();
            fields!(Structure::new(format!("resource file header: {}", file.kind())), header;
                dec resources_per_cluster, dec clusters_per_group, dec cluster_group_offset,
                dec resource_size, dec cluster_group_size, dec resources_lo, dec cluster_groups,
                dec resources_hi, hex signature, dec version, hex flags, dec affinity_per_cluster,
                dec affinity_per_resource, dec bits_per_resource, dec child_meta_offset,
                dec parent_resources_per_cluster, dec parent_clusters_per_group,
                dec parent_cluster_group_size, dec converted_clusters)
        })
        .collect()
}

/// The header of a resource cluster.
pub(super) fn cluster(
    fs: &FileSystem,
    kind: ResourceKind,
    number: u64,
) -> Result<Vec<Structure>, Error> {
    let store = fs.store();
    let file: &ResourceFile = store
        .resources()
        .iter()
        .find(|file| file.kind() == kind)
        .ok_or_else(|| Error::Usage(format!("the volume has no readable {kind} file")))?;
    let (header, place) = file
        .cluster(store.reader(), number)
        .map_err(FsError::from)?;
    let lock = lock(
        format!("lock of {kind} cluster {number} at {place}"),
        &header.lock,
    );
    let bitmap = Structure::new(format!("{kind} cluster {number}"))
        .field("total", header.total)
        .field("free", header.free)
        .field("free_by_bitmap", header.count_free())
        .field("used", lines(&used_ranges(&header)));
    Ok(vec![lock, bitmap])
}

fn used_ranges(header: &ClusterHeader) -> Vec<String> {
    let mut ranges = Vec::new();
    let mut start = None;
    for resource in 0..=header.total {
        let used = resource < header.total && !header.is_free(resource);
        match (used, start) {
            (true, None) => start = Some(resource),
            (false, Some(first)) => {
                ranges.push(format!("{first} to {}", resource - 1));
                start = None;
            }
            _ => {}
        }
    }
    ranges
}

fn lock(title: String, lock: &DiskLock) -> Structure {
    let structure = fields!(Structure::new(title), lock;
        hex kind, hex address, hex heartbeat, dec heartbeat_generation, dec token, dec mode,
        text owner, dec mtime, dec holder_count);
    structure.field("mode_name", format!("{:?}", lock.mode()))
}

/// A file descriptor, found by path or by address.
pub(super) fn file_descriptor(
    fs: &FileSystem,
    target: &Target,
    address: Option<u64>,
) -> Result<Vec<Structure>, Error> {
    let inode = match address {
        Some(raw) => {
            let fd = u32::try_from(raw).ok().and_then(FdAddr::from_raw);
            let fd = fd.ok_or_else(|| {
                Error::Usage(format!("{raw:#x} is not the address of a file descriptor"))
            })?;
            fs.inode(fd)?
        }
        None => target.resolve(fs, false)?,
    };
    let title = format!("file descriptor {} at {}", inode.fd(), inode.offset());
    let meta = inode.meta();
    let structure = fields!(Structure::new(title), meta;
        hex address, dec generation, dec links, dec kind, hex flags, dec length, dec block_size,
        dec blocks, dec mtime, dec ctime, dec atime, dec uid, dec gid, hex mode, hex zero_level,
        dec tbz_blocks_lo, dec cow_blocks_lo, dec new_since_epoch_lo, dec tbz_blocks_hi,
        dec cow_blocks_hi, dec pointer_blocks, dec new_since_epoch_hi, hex signature,
        hex affinity_fd, dec tbz_granularity_shift, hex parent_fd, dec last_sfb_cluster,
        hex affinity_bitmap, byte preallocated_blocks, byte block_offset_shift, dec large_blocks);
    let lock = lock(
        format!("lock of file descriptor {}", inode.fd()),
        inode.lock(),
    );
    let structure = structure.field("addresses", lines(&addresses(fs, &inode)));
    let structure = match inode.rdm() {
        Some(mapping) => structure.field("raw_disk", mapping.disk.text()),
        None => structure,
    };
    Ok(vec![lock, structure])
}

fn addresses(fs: &FileSystem, inode: &Inode) -> Vec<String> {
    let all = inode
        .map()
        .addresses()
        .iter()
        .enumerate()
        .filter(|(_, raw)| **raw != 0);
    all.map(|(index, &raw)| {
        format!(
            "{index:>4} {raw:#x} {:?}",
            BlockAddr::decode(raw, fs.layout())
        )
    })
    .collect()
}

/// A directory's entries.
pub(super) fn directory(fs: &FileSystem, target: &Target) -> Result<Vec<Structure>, Error> {
    let directory = target.resolve(fs, true)?;
    let mut entries = Vec::new();
    fs.read_dir(&directory, 0, |entry| {
        entries.push(format!(
            "position {:>6} fd {:#010x} generation {:>6} {:?} {:?}",
            entry.next - 1,
            entry.fd.raw(),
            entry.generation,
            entry.kind,
            String::from_utf8_lossy(&entry.name)
        ));
        true
    })?;
    let title = format!(
        "directory {} of {} bytes",
        directory.fd(),
        directory.length()
    );
    let parent = format!("{:#010x}", fs.parent(&directory)?.raw());
    Ok(vec![
        Structure::new(title)
            .field("parent", parent)
            .field("entries", lines(&entries)),
    ])
}

/// Heartbeat slots in use, or one slot.
pub(super) fn heartbeats(fs: &FileSystem, slot: Option<u64>) -> Result<Vec<Structure>, Error> {
    let layout = fs.layout();
    let numbers = match slot {
        Some(slot) if slot < layout.heartbeat_slots => vec![slot],
        Some(_) => {
            let last = layout.heartbeat_slots - 1;
            return Err(Error::Usage(format!("heartbeat slots are 0 to {last}")));
        }
        None => fs.hosts()?.iter().map(|host| host.slot).collect(),
    };
    let mut found = Vec::new();
    for number in numbers {
        let offset = VolumeOffset(layout.heartbeats + number * layout.heartbeat_size);
        let mut bytes = [0; size_of::<Heartbeat>()];
        fs.volume().read(offset, &mut bytes)?;
        let at = At::Volume(offset.0);
        let slot: &Heartbeat = view(&bytes, "heartbeat", at).map_err(LvmError::from)?;
        let structure = Structure::new(format!("heartbeat slot {number} at {offset}"));
        found.push(fields!(structure, slot;
            hex state, hex address, dec generation, dec stamp, text host, hex journal_addr,
            dec driver_major, byte driver_minor, byte lock_implementation, name ip,
            hex journal_offset, text replay_host, hex replay_heartbeat, dec replay_generation));
    }
    Ok(found)
}

/// What an address means on this volume.
pub(super) fn address(fs: &FileSystem, raw: u64) -> Vec<Structure> {
    let layout = fs.layout();
    let decoded = BlockAddr::decode(raw, layout);
    let structure =
        Structure::new(format!("address {raw:#x}")).field("meaning", format!("{decoded:?}"));
    let place = match decoded {
        BlockAddr::FileBlock { block, .. } => Some(block.saturating_mul(layout.file_block_size())),
        BlockAddr::LargeFileBlock { block, .. } => {
            Some(block.saturating_mul(layout.large_block_size()))
        }
        BlockAddr::Resource {
            kind,
            cluster,
            resource,
            ..
        } => {
            let store = fs.store();
            let file = store.resources().iter().find(|file| file.kind() == kind);
            file.and_then(|file| file.locate(store.reader(), cluster, resource).ok())
                .map(|offset| offset.0)
        }
        BlockAddr::Hole | BlockAddr::Invalid(_) => None,
    };
    vec![match place {
        Some(offset) => structure.hex("volume_offset", offset),
        None => structure,
    }]
}

/// Bytes of the volume.
pub(super) fn block(volume: &Volume, offset: u64, length: u64) -> Result<Vec<Structure>, Error> {
    let mut bytes = vec![0; length.min(MAX_BYTES) as usize];
    volume.read(VolumeOffset(offset), &mut bytes)?;
    let rows: Vec<_> = bytes
        .chunks(16)
        .enumerate()
        .map(|(row, bytes)| {
            let hex = bytes.iter().fold(String::new(), |mut hex, byte| {
                let _ = write!(hex, "{byte:02x} ");
                hex
            });
            let text: String = bytes
                .iter()
                .map(|&byte| {
                    if (0x20..0x7f).contains(&byte) {
                        char::from(byte)
                    } else {
                        '.'
                    }
                })
                .collect();
            format!("{:012x}  {hex:<48} {text}", offset + row as u64 * 16)
        })
        .collect();
    Ok(vec![
        Structure::new(format!("volume offset {offset:#x}")).field("bytes", lines(&rows)),
    ])
}

fn lines(lines: &[String]) -> Vec<String> {
    lines.to_vec()
}
