use vmfs_core::format::{ClusterImage, Family, FdAddr, FsDescriptor, Layout, ResourceKind, Uuid};

use super::descriptors::{self, VolumeIds};
use super::devices::{self, DeviceLayout, Segment};
use super::identity::Identity;
use super::lvm_headers::LvmHeaders;
use super::options::{Options, PartitionTable, PlanError};
use super::partition_table;
use super::resources::{self, MAX_CONVERTED, ResourceFileLayout, SMALL_PER_LARGE};
use super::system_files::{self, SystemFileLayout};

/// A volume laid out, but not written.
#[derive(Debug, Clone)]
pub struct Plan {
    pub(crate) options: Options,
    pub(crate) layout: Layout,
    pub(crate) descriptor: FsDescriptor,
    pub(crate) devices: Vec<DeviceLayout>,
    pub(crate) segments: Vec<Segment>,
    pub(crate) volume_size: u64,
    pub(crate) resources: Vec<ResourceFileLayout>,
    pub(crate) files: Vec<SystemFileLayout>,
    /// Used runs of file blocks, by block: start, count, owner.
    pub(crate) used: Vec<(u64, u64, FdAddr)>,
    /// Large file blocks that are broken up, from the first on.
    pub(crate) converted: u64,
    pub(crate) lvm: LvmHeaders,
    pub(crate) partition_tables: Vec<(usize, u64, Vec<u8>)>,
}

impl Plan {
    /// Lays out the volume that `options` ask for.
    ///
    /// # Errors
    /// [`PlanError`] when there is no such volume, mostly for its size.
    pub fn new(options: Options) -> Result<Self, PlanError> {
        options.check()?;
        let mut identity = Identity::new(options.time_us, options.seed);
        let volume_uuid = identity.uuid();
        let (devices, segments) = devices::lay_out(&options, &mut identity)?;
        let volume_size = segments.iter().map(|segment| segment.length).sum();
        let own = identity.uuid();
        let ids = VolumeIds {
            file_system: options.uuid.unwrap_or(own),
            volume: volume_uuid,
            host: identity.uuid(),
        };
        let descriptor = descriptors::fs_descriptor(&options, ids);
        let too_small = || PlanError::VolumeTooSmall {
            family: options.family,
            size: volume_size,
            needed: volume_size + 1,
        };
        let layout = Layout::new(&descriptor).map_err(|_| PlanError::FileBlockSize {
            family: options.family,
            size: options.file_block_size,
        })?;

        // How many pointer blocks and large blocks the system files need follows from where they
        // lie, and that from the resource files; only the headers change the second time.
        let first = resources::resource_files(&options, volume_size, 0, 0);
        let files =
            system_files::place(&options, &layout, volume_size, &first).ok_or_else(too_small)?;
        let needed_pointers = files
            .iter()
            .map(|file| file.pointer_blocks.len() as u64)
            .sum();
        let last_used = files
            .iter()
            .flat_map(|file| &file.runs)
            .map(|run| run.0 + run.1)
            .max();
        let needed_large = last_used.unwrap_or(0).div_ceil(SMALL_PER_LARGE);
        let large = (volume_size / options.file_block_size).div_ceil(SMALL_PER_LARGE);
        let converted = if options.family == Family::Vmfs6 {
            MAX_CONVERTED.max(needed_large).min(large)
        } else {
            0
        };
        // A last large block that the volume cuts off can only be used in small ones.
        let blocks = volume_size / options.file_block_size;
        let cut_off = !blocks.is_multiple_of(SMALL_PER_LARGE);
        let extra = u64::from(cut_off && converted < large);
        let resources =
            resources::resource_files(&options, volume_size, needed_pointers, converted + extra);
        let mut used: Vec<_> = files
            .iter()
            .flat_map(|file| {
                file.runs
                    .iter()
                    .map(|&(start, count)| (start, count, file.fd))
            })
            .collect();
        used.sort_unstable();

        let mut partition_tables = Vec::new();
        if options.partition == PartitionTable::Gpt {
            for (index, device) in devices.iter().enumerate() {
                let sectors = partition_table::sectors(&options, index, device, &mut identity)?;
                partition_tables.extend(
                    sectors
                        .into_iter()
                        .map(|(offset, bytes)| (index, offset, bytes)),
                );
            }
        }
        let lvm = LvmHeaders {
            version: options.lvm,
            volume: volume_uuid,
            volume_size,
            devices: devices.len(),
            total_extents: devices.iter().map(|device| device.extents).sum(),
            time_us: options.time_us,
            sector_size: options.sector_size,
        };
        Ok(Self {
            options,
            layout,
            descriptor,
            devices,
            segments,
            volume_size,
            resources,
            files,
            used,
            converted,
            lvm,
            partition_tables,
        })
    }

    /// What the plan was made from.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// The geometry of the file system.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The file system's UUID.
    pub fn uuid(&self) -> Uuid {
        self.descriptor.uuid
    }

    /// The logical volume's UUID.
    pub fn volume_uuid(&self) -> Uuid {
        self.lvm.volume
    }

    /// Bytes of the volume.
    pub fn volume_size(&self) -> u64 {
        self.volume_size
    }

    /// The devices, in the order of the volume.
    pub fn devices(&self) -> &[DeviceLayout] {
        &self.devices
    }

    /// The resource files; on VMFS6 large file blocks stand before the small ones inside them.
    pub fn resources(&self) -> &[ResourceFileLayout] {
        &self.resources
    }

    /// The resource file of `kind`, if the volume has one.
    pub fn resource(&self, kind: ResourceKind) -> Option<&ResourceFileLayout> {
        self.resources.iter().find(|file| file.kind == kind)
    }

    /// The system files and the root directory, by file descriptor.
    pub fn files(&self) -> &[SystemFileLayout] {
        &self.files
    }

    /// The file with descriptor `fd`, if it is a system file or the root directory.
    pub fn file(&self, fd: FdAddr) -> Option<&SystemFileLayout> {
        self.files.iter().find(|file| file.fd == fd)
    }

    /// Whether large file block `large` is broken up into small ones from the start (VMFS6).
    pub fn is_converted(&self, large: u64) -> bool {
        let blocks = self.volume_size / self.options.file_block_size;
        large < self.converted || (large + 1) * SMALL_PER_LARGE > blocks
    }

    /// Volume offset of cluster `cluster`'s header in `file`.
    pub fn cluster_offset(&self, file: &ResourceFileLayout, cluster: u64) -> Option<u64> {
        let size = self.layout.cluster_header_size();
        let offset = file.header.cluster_header_offset(cluster, size);
        self.file(file.file.fd())?.volume_offset(offset)
    }

    /// Volume offset of `resource` of `cluster` in `file`; `None` if the file has no such one.
    pub fn resource_offset(
        &self,
        file: &ResourceFileLayout,
        cluster: u64,
        resource: u32,
    ) -> Option<u64> {
        let size = self.layout.cluster_header_size();
        let offset = file.header.resource_offset(cluster, resource, size)?;
        self.file(file.file.fd())?.volume_offset(offset)
    }

    /// Cluster `cluster`'s header as it is on the fresh volume; also of a small file block
    /// cluster that has none yet, because its large block isn't broken up.
    pub fn cluster(&self, file: &ResourceFileLayout, cluster: u64) -> Option<ClusterImage> {
        let address = self.cluster_offset(file, cluster)?;
        let mut image = ClusterImage::new(&self.layout, file.shape(cluster), cluster, address);
        let per_cluster = u64::from(file.header.resources_per_cluster.get());
        let first = cluster * per_cluster;
        match file.kind {
            ResourceKind::FileBlock => self.take_blocks(&mut image, first),
            ResourceKind::LargeFileBlock => {
                for resource in 0..image.total() {
                    if self.is_converted(first + u64::from(resource)) {
                        image.convert(resource);
                    }
                }
            }
            ResourceKind::FileDescriptor => {
                for file in self
                    .files
                    .iter()
                    .filter(|file| u64::from(file.fd.cluster()) == cluster)
                {
                    image.take(file.fd.resource());
                }
            }
            ResourceKind::PointerBlock | ResourceKind::PointerBlock2 => {
                let holder = match self.layout.family {
                    Family::Vmfs6 => ResourceKind::PointerBlock2,
                    _ => ResourceKind::PointerBlock,
                };
                for owner in self.files.iter().filter(|_| file.kind == holder) {
                    let here = owner
                        .pointer_blocks
                        .iter()
                        .filter(|block| block.0 == cluster);
                    for &(_, resource) in here {
                        image.take(resource);
                        if self.layout.family == Family::Vmfs6 {
                            image.set_owner(resource, Some(owner.fd));
                        }
                    }
                }
            }
            ResourceKind::SubBlock | ResourceKind::JournalBlock => {}
        }
        Some(image)
    }

    fn take_blocks(&self, image: &mut ClusterImage, first: u64) {
        let end = first + u64::from(image.total());
        let mut owners: Vec<(FdAddr, u32)> = Vec::new();
        for &(start, count, fd) in &self.used {
            let (from, to) = (start.max(first), (start + count).min(end));
            for block in from..to {
                image.take((block - first) as u32);
            }
            if from < to {
                owners.push((fd, (to - from) as u32));
            }
        }
        if self.layout.family == Family::Vmfs6 {
            owners.sort_by_key(|owner| owner.0);
            for (fd, blocks) in owners {
                image.add_affinity(fd, blocks);
            }
        }
    }

    /// Where `length` bytes of the volume from `offset` on lie, in pieces; what lies past the
    /// volume's end is left out.
    pub fn map(&self, offset: u64, length: u64) -> impl Iterator<Item = Segment> + '_ {
        let end = offset + length;
        self.segments.iter().filter_map(move |segment| {
            let from = segment.volume.max(offset);
            let to = (segment.volume + segment.length).min(end);
            (from < to).then(|| Segment {
                volume: from,
                device: segment.device,
                offset: segment.offset + (from - segment.volume),
                length: to - from,
            })
        })
    }
}
