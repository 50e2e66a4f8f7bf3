use vmfs_core::format::{Family, Uuid};

/// What the volume lies on, below the file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LvmVersion {
    /// Nothing: the file system begins at the start of its only device.
    None,
    /// LVM 3, of VMFS3's time: no table of device names.
    V3,
    /// LVM 4, laid out as LVM 3.
    V4,
    /// LVM 5, of VMFS5.
    V5,
    /// LVM 6, of VMFS6: one table entry describes the whole device.
    V6,
}

/// Whether the devices get a partition table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PartitionTable {
    /// The volume has the whole device.
    None,
    /// A GPT with one partition of VMware's type from 1 MiB on, as ESXi makes it.
    Gpt,
}

/// One device of the volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceSpec {
    /// Bytes of the device.
    pub size: u64,
    /// The identifier that the device reports (INQUIRY page 0x83 or 0x80), at most 44 bytes; empty
    /// if it has none. A device whose own identifier differs later is taken for a snapshot.
    pub disk_id: Vec<u8>,
    /// The name in the volume's table of device names; `None` derives one from the device's UUID.
    pub name: Option<String>,
}

/// What to make. [`Options::new`] gives ESXi's defaults; the fields may then be changed.
#[derive(Debug, Clone)]
pub struct Options {
    /// VMFS6, VMFS5, or VMFS3 (for tests of readers).
    pub family: Family,
    /// The label, at most 127 bytes.
    pub label: String,
    /// Bytes of a file block: 1 MiB on VMFS6; a power of two from 512 KiB to 8 MiB elsewhere.
    pub file_block_size: u64,
    /// 1 to 32 devices, in the order of the volume.
    pub devices: Vec<DeviceSpec>,
    /// Logical sector size of the devices: 512, on VMFS6 also 4096.
    pub sector_size: u32,
    /// Now, in microseconds since 1970: goes into UUIDs and times.
    pub time_us: u64,
    /// Seeds the random parts of UUIDs: the same options give the same bytes.
    pub seed: u64,
    /// The file system's UUID instead of one made from `time_us` and `seed`.
    pub uuid: Option<Uuid>,
    /// VMFS-L: a volume for one host.
    pub local: bool,
    /// What lies below the file system.
    pub lvm: LvmVersion,
    /// VMFS5: sub-blocks of 8 KiB with 64 in a cluster. Without it the volume is like one that
    /// was upgraded from VMFS3: 64 KiB and 16.
    pub dense_sub_blocks: bool,
    /// Whether the devices get a partition table.
    pub partition: PartitionTable,
    /// File descriptors instead of the usual number; on VMFS6 whole groups of 2048.
    pub file_descriptors: Option<u64>,
    /// Sub-blocks instead of the usual number; on VMFS6 whole groups of 2048.
    pub sub_blocks: Option<u64>,
}

impl Options {
    /// ESXi's defaults for a volume on devices of these sizes in bytes, at time 0 with seed 0.
    pub fn new(family: Family, sizes: &[u64]) -> Self {
        let devices = sizes.iter().map(|&size| DeviceSpec {
            size,
            disk_id: Vec::new(),
            name: None,
        });
        Self {
            family,
            label: String::new(),
            file_block_size: 1 << 20,
            devices: devices.collect(),
            sector_size: 512,
            time_us: 0,
            seed: 0,
            uuid: None,
            local: false,
            lvm: match family {
                Family::Vmfs3 => LvmVersion::V3,
                Family::Vmfs5 => LvmVersion::V5,
                Family::Vmfs6 => LvmVersion::V6,
            },
            dense_sub_blocks: family == Family::Vmfs5,
            partition: PartitionTable::None,
            file_descriptors: None,
            sub_blocks: None,
        }
    }

    /// Checks what doesn't depend on the layout.
    pub(crate) fn check(&self) -> Result<(), PlanError> {
        if self.label.len() > 127 || self.label.contains('\0') {
            return Err(PlanError::Label(self.label.len()));
        }
        let block = self.file_block_size;
        let allowed = match self.family {
            Family::Vmfs6 => block == 1 << 20,
            _ => block.is_power_of_two() && (512 << 10..=8 << 20).contains(&block),
        };
        if !allowed {
            return Err(PlanError::FileBlockSize {
                family: self.family,
                size: block,
            });
        }
        if !(self.sector_size == 512 || self.sector_size == 4096 && self.family == Family::Vmfs6) {
            return Err(PlanError::SectorSize {
                family: self.family,
                size: self.sector_size,
            });
        }
        let most = if self.lvm == LvmVersion::None { 1 } else { 32 };
        if !(1..=most).contains(&self.devices.len()) {
            return Err(PlanError::DeviceCount {
                count: self.devices.len(),
                most,
            });
        }
        if let Some(long) = self.devices.iter().find(|device| device.disk_id.len() > 44) {
            return Err(PlanError::DiskId(long.disk_id.len()));
        }
        Ok(())
    }
}

/// Why a volume can't be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// The label is too long.
    #[error("the label has {0} bytes or a zero byte; at most 127 bytes and no zero byte fit")]
    Label(usize),
    /// The family has no such file blocks.
    #[error(
        "{family} has no file blocks of {size} bytes: VMFS6 has 1 MiB, VMFS5 powers of two from \
         512 KiB to 8 MiB"
    )]
    FileBlockSize {
        /// The family asked for.
        family: Family,
        /// The size asked for.
        size: u64,
    },
    /// The family can't live on such a device.
    #[error("{family} can't be made on sectors of {size} bytes: 512, or 4096 with VMFS6")]
    SectorSize {
        /// The family asked for.
        family: Family,
        /// The sector size.
        size: u32,
    },
    /// Too few or too many devices.
    #[error("{count} devices: a volume here has 1 to {most}")]
    DeviceCount {
        /// Devices given.
        count: usize,
        /// Devices allowed.
        most: usize,
    },
    /// The disk identifier doesn't fit its field.
    #[error("a disk identifier has {0} bytes, at most 44 fit")]
    DiskId(usize),
    /// A device has no room for its header and one physical extent.
    #[error(
        "device {device} has {size} bytes; it needs at least {needed} for its header and one \
         physical extent"
    )]
    DeviceTooSmall {
        /// Index of the device.
        device: usize,
        /// Its size.
        size: u64,
        /// The least that works.
        needed: u64,
    },
    /// The devices together are too small for the file system.
    #[error(
        "the volume would have {size} bytes; {family} needs at least {needed}, which is a device \
         of {} MiB",
        (needed >> 20) + 18
    )]
    VolumeTooSmall {
        /// The family asked for.
        family: Family,
        /// Bytes of the volume.
        size: u64,
        /// The least that works.
        needed: u64,
    },
    /// Larger than the format allows.
    #[error("the volume would have {size} bytes; at most {most} (64 TiB) work")]
    VolumeTooLarge {
        /// Bytes of the volume.
        size: u64,
        /// The most that works.
        most: u64,
    },
    /// The partition table can't be made.
    #[error("partition table for device {device}: {reason}")]
    PartitionTable {
        /// Index of the device.
        device: usize,
        /// What the partition table library says.
        reason: String,
    },
}
