//! Growing a file system into a volume that has become larger.
//!
//! What changes is `.fbb.sf`, in this order, with a flush between the steps:
//!
//! 1. headers of the new clusters, which nobody reads yet, and a larger total in a last cluster
//!    that wasn't full;
//! 2. the file's descriptor: its length, and blocks for it if it outgrows those it has;
//! 3. the header that counts the resources; on VMFS6 that of the small blocks, then that of the
//!    large ones.
//!
//! Blocks for `.fbb.sf` itself come from the new part of the volume, which nobody else can
//! allocate from before step 3: so none is lost if the job is cut off, and a second run finds
//! what the first has done and goes on from there.

mod block_file;
mod error;
mod new_clusters;

use vmfs_core::cluster::hosts;
use vmfs_core::format::{Family, HeartbeatState, ResourceHeader, ResourceKind, SystemFile};
use vmfs_core::fs::FileSystem;
use vmfs_core::lvm::LvmError;
use vmfs_core::scsi::{DeviceOffset, Lun};

use super::resources::ResourceFileLayout;
use super::signatures;
use block_file::BlockFile;
pub use error::GrowError;

/// What growing a file system did.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct GrownFileSystem {
    /// Bytes of a file block.
    pub block_size: u64,
    /// File blocks before.
    pub blocks_before: u64,
    /// File blocks now.
    pub blocks: u64,
    /// File blocks that the metadata took of the new ones.
    pub metadata_blocks: u64,
    /// Whether anything was written.
    pub changed: bool,
}

/// What the device holds that someone may still want, in words; `None` when nothing is known.
///
/// # Errors
/// That the device can't be read.
pub fn contents_of(lun: &dyn Lun) -> Result<Option<&'static str>, LvmError> {
    let length = (signatures::LOOKED_AT as u64).min(lun.capacity());
    let mut start = vec![0; length as usize];
    lun.read(DeviceOffset(0), &mut start)?;
    Ok(signatures::find(&start))
}

/// Refuses a volume that hosts have mounted: they would go on with the old counts.
///
/// # Errors
/// [`GrowError::InUse`], or that the heartbeats can't be read.
pub fn refuse_in_use(fs: &FileSystem) -> Result<(), GrowError> {
    let hosts: Vec<String> = hosts(fs.volume(), fs.layout())?
        .iter()
        .filter(|host| host.state == HeartbeatState::InUse)
        .map(|host| format!("{} {}", host.host, host.ip).trim_end().to_owned())
        .collect();
    if hosts.is_empty() {
        Ok(())
    } else {
        Err(GrowError::InUse { hosts })
    }
}

/// Gives the file system all blocks of its volume, which must be open for writing; completes an
/// interrupted job.
///
/// # Errors
/// [`GrowError`]; after a failed write, running it again completes the job.
#[allow(
    clippy::needless_pass_by_value,
    reason = "what was read before the change must not be used after it"
)]
pub fn grow_file_system(fs: FileSystem) -> Result<GrownFileSystem, GrowError> {
    let layout = fs.layout().clone();
    let volume = fs.volume();
    let mut file = BlockFile::open(&fs)?;
    let wanted = volume.size() / layout.file_block_size();
    let mut changed = false;
    if layout.family == Family::Vmfs6 {
        changed |= file.count_large_blocks()?;
    }
    let before = file.small.header.resources();
    if layout.family != Family::Vmfs6 && wanted > 1 << 26 {
        let most = (1 << 26) * layout.file_block_size();
        return Err(GrowError::TooLarge { most });
    }
    let mut metadata_blocks = 0;
    if wanted > before {
        changed = true;
        let target = Target::new(&file, wanted);
        metadata_blocks = file.add_blocks(&target)?;
        let converted = new_clusters::write(&file, &target)?;
        volume.flush()?;
        file.write_descriptor(&target)?;
        volume.flush()?;
        file.count_small_blocks(&target, converted)?;
        volume.flush()?;
        if layout.family == Family::Vmfs6 {
            file.count_large_blocks()?;
        }
    }
    Ok(GrownFileSystem {
        block_size: layout.file_block_size(),
        blocks_before: before,
        blocks: wanted.max(before),
        metadata_blocks,
        changed,
    })
}

/// The resource files as they shall be.
#[derive(Debug)]
struct Target {
    small: ResourceFileLayout,
    large: Option<ResourceFileLayout>,
}

impl Target {
    /// With `blocks` file blocks.
    fn new(file: &BlockFile<'_>, blocks: u64) -> Self {
        let small = with_resources(&file.small, blocks);
        let large = file.large.as_ref().map(|large| {
            let per_large = u64::from(small.header.resources_per_cluster.get());
            with_resources(large, blocks.div_ceil(per_large))
        });
        Self { small, large }
    }

    /// The header that says how long the file is.
    fn outer(&self) -> &ResourceHeader {
        &self.large.as_ref().unwrap_or(&self.small).header
    }
}

/// `file` with another number of resources.
fn with_resources(file: &ResourceFileLayout, resources: u64) -> ResourceFileLayout {
    let mut file = file.clone();
    file.header = file.header.with_resources(resources);
    file
}

/// The layout of the resources of `kind` in `.fbb.sf`.
fn layout_of(kind: ResourceKind, header_offset: u64, header: ResourceHeader) -> ResourceFileLayout {
    ResourceFileLayout {
        kind,
        file: SystemFile::FileBlocks,
        header_offset,
        header,
    }
}
