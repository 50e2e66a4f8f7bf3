//! Headers of resource clusters: a lock block, then a metadata block with the bitmap
//! (FORMAT.md, "Resource clusters").

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::damage::{At, Damage};
use super::disk_lock::DiskLock;
use super::layout::{Family, Layout};
use super::resource_header::ResourceHeader;

/// `rcmd`: signature of a cluster's metadata block on VMFS6.
pub const RCMD_SIGNATURE: u32 = 0x7263_6d64;

/// Cluster metadata of VMFS3 and VMFS5, 512 bytes after the lock.
#[derive(Debug, Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct ClusterMeta5 {
    /// The cluster's own number.
    pub cluster: U32,
    /// Resources in it.
    pub total: U32,
    /// Resources of it that are free.
    pub free: U32,
    /// Where the next search starts.
    pub next_free: U32,
    /// One bit a resource, set = free.
    pub bitmap: [u8; 64],
    /// File descriptor clusters: the last generation given out.
    pub last_generation: U32,
    /// Zero on every volume seen.
    pub pad: [u8; 12],
    /// Allocation priority.
    pub priority: U32,
    /// Meaning unknown, carried over.
    pub unknown: [u8; 412],
}

const _: () = assert!(size_of::<ClusterMeta5>() == 512);

/// Cluster metadata of VMFS6, one metadata block after the lock.
#[derive(Debug, Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct ClusterMeta6 {
    /// Zero on every volume seen.
    pub pad: [u8; 16],
    /// [`RCMD_SIGNATURE`].
    pub signature: U32,
    /// Allocation priority.
    pub priority: U32,
    /// The cluster's own number.
    pub cluster: U64,
    /// Resources in it.
    pub total: U16,
    /// Resources of it that are free.
    pub free: U16,
    /// Meaning unknown.
    pub unknown1: U16,
    /// Last affinity entry used, plus one; entry 0 is kept free.
    pub affinity_count: U16,
    /// Meaning unknown, see FORMAT.md.
    pub unknown2: [u8; 0x30],
    /// Changes of the cluster so far.
    pub change_count: U32,
    /// MAC address of the host that changed it last.
    pub last_mac: [u8; 6],
    /// Unix time of the last change.
    pub last_change: U32,
    /// Meaning unknown.
    pub unknown3: U16,
    /// File descriptor clusters: the last generation given out.
    pub last_generation: U32,
    /// Meaning unknown.
    pub unknown4: [u8; 16],
    /// Next free resource in bitmap half 0.
    pub next_free: U32,
    /// Bitmap of the resources 0 to 255, the low bit of each resource set = free.
    pub bitmap0: [u8; 128],
    /// Next free resource in bitmap half 1.
    pub next_free1: U32,
    /// Meaning unknown.
    pub unknown5: [u8; 124],
    /// Bitmap of the resources from 256 on.
    pub bitmap1: [u8; 128],
}

const _: () = assert!(size_of::<ClusterMeta6>() == 0x200);
const _: () = assert!(std::mem::offset_of!(ClusterMeta6, change_count) == 0x58);
const _: () = assert!(std::mem::offset_of!(ClusterMeta6, last_generation) == 0x68);
const _: () = assert!(std::mem::offset_of!(ClusterMeta6, bitmap0) == 0x80);
const _: () = assert!(std::mem::offset_of!(ClusterMeta6, next_free1) == 0x100);
const _: () = assert!(std::mem::offset_of!(ClusterMeta6, bitmap1) == 0x180);

/// A cluster's header of any version, checked.
#[derive(Debug, Clone)]
pub struct ClusterHeader {
    /// The cluster's lock.
    pub lock: DiskLock,
    /// The cluster's own number.
    pub cluster: u64,
    /// Resources in it.
    pub total: u32,
    /// Resources of it that are free, as counted by the header itself.
    pub free: u32,
    /// The last generation that a cluster of file descriptors has given out.
    pub last_generation: u32,
    bitmap: Vec<u8>,
    bits: u32,
}

impl ClusterHeader {
    /// Reads the header of cluster `cluster` from its [`Layout::cluster_header_size`] bytes.
    ///
    /// # Errors
    /// [`Damage`] when it isn't that cluster's header or counts more than its resource file allows.
    pub fn parse(
        bytes: &[u8],
        cluster: u64,
        header: &ResourceHeader,
        layout: &Layout,
        at: At,
    ) -> Result<Self, Damage> {
        const NAME: &str = "resource cluster";
        let lock: &DiskLock = super::view(bytes, NAME, at)?;
        let meta = bytes.get(layout.md_block as usize..).unwrap_or_default();
        let (number, total, free, last_generation, bitmap) = if layout.family == Family::Vmfs6 {
            let meta: &ClusterMeta6 = super::view(meta, NAME, at)?;
            if meta.signature.get() != RCMD_SIGNATURE {
                let found = meta.signature.get().into();
                return Err(Damage::hex(
                    NAME,
                    at,
                    "signature",
                    found,
                    "0x72636d64 ('rcmd')",
                ));
            }
            let mut bitmap = meta.bitmap0.to_vec();
            if header.resources_per_cluster.get() > 256 {
                // Two bits a resource: the first half describes 256 of them in 64 bytes.
                bitmap.truncate(256 * header.bits_per_resource() as usize / 8);
                bitmap.extend_from_slice(&meta.bitmap1);
            }
            (
                meta.cluster.get(),
                meta.total.get().into(),
                meta.free.get().into(),
                meta.last_generation.get(),
                bitmap,
            )
        } else {
            let meta: &ClusterMeta5 = super::view(meta, NAME, at)?;
            (
                meta.cluster.get().into(),
                meta.total.get(),
                meta.free.get(),
                meta.last_generation.get(),
                meta.bitmap.to_vec(),
            )
        };
        if number != cluster {
            return Err(Damage::new(
                NAME,
                at,
                "cluster number",
                number,
                cluster.to_string(),
            ));
        }
        let bits = header.bits_per_resource();
        let most = header
            .resources_per_cluster
            .get()
            .min(bitmap.len() as u32 * 8 / bits);
        if total > most {
            return Err(Damage::new(
                NAME,
                at,
                "resources",
                total,
                format!("at most {most}"),
            ));
        }
        if free > total {
            return Err(Damage::new(
                NAME,
                at,
                "free resources",
                free,
                format!("at most {total}"),
            ));
        }
        Ok(Self {
            lock: lock.clone(),
            cluster,
            total,
            free,
            last_generation,
            bitmap,
            bits,
        })
    }

    /// The bits of one resource; the lowest says whether it is free.
    pub fn state(&self, resource: u32) -> u32 {
        (0..self.bits).fold(0, |state, i| {
            let bit = resource * self.bits + i;
            let byte = self.bitmap.get(bit as usize / 8).copied().unwrap_or(0);
            state | u32::from(byte >> (bit % 8) & 1) << i
        })
    }

    /// Whether `resource` is free.
    pub fn is_free(&self, resource: u32) -> bool {
        self.state(resource) & 1 != 0
    }

    /// Free resources as the bitmap has them; equals `free` on a clean volume.
    pub fn count_free(&self) -> u32 {
        (0..self.total)
            .filter(|&resource| self.is_free(resource))
            .count() as u32
    }
}
