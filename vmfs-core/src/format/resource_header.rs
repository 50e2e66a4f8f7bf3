use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::damage::{At, Damage};
use super::layout::{Family, Layout};

/// `rfmd`: signature of a resource file header on VMFS6.
pub const RFMD_SIGNATURE: u32 = 0x7266_6d64;

/// The header of a resource file (FORMAT.md, "Resource files").
#[derive(Debug, Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
#[allow(
    missing_docs,
    reason = "the fields are described one by one in FORMAT.md"
)]
pub struct ResourceHeader {
    pub resources_per_cluster: U32,
    pub clusters_per_group: U32,
    pub cluster_group_offset: U32,
    pub resource_size: U32,
    pub cluster_group_size: U32,
    pub resources_lo: U32,
    pub cluster_groups: U32,
    pub resources_hi: U32,
    pub signature: U32,
    pub version: U32,
    pub flags: U32,
    pub affinity_per_cluster: U16,
    pub affinity_per_resource: U16,
    pub bits_per_resource: U32,
    pub child_meta_offset: U32,
    pub parent_resources_per_cluster: U32,
    pub parent_clusters_per_group: U32,
    pub parent_cluster_group_size: U32,
    pub unknown: [u8; 16],
    pub converted_clusters: U32,
}

const _: () = assert!(size_of::<ResourceHeader>() == 0x58);

/// Bits of a resource file's flags word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RfFlags(pub u32);

impl RfFlags {
    /// The clusters lie inside the resources of the parent (small inside large file blocks).
    pub const NESTED: u32 = 0x2;

    /// Whether the clusters lie inside a parent's resources.
    pub const fn is_nested(self) -> bool {
        self.0 & Self::NESTED != 0
    }
}

/// No resource file has more: twice the file blocks of 64 TiB in the smallest size, 64 KiB. Offsets
/// of resources below this can't overflow.
const MAX_RESOURCES: u64 = 1 << 31;
/// Large file blocks have three.
const MAX_BITS_PER_RESOURCE: u32 = 8;
/// No cluster of any version has more resources; bounds bitmap sizes.
const MAX_RESOURCES_PER_CLUSTER: u32 = 8192;

impl ResourceHeader {
    /// Reads a header and checks the numbers that later arithmetic relies on.
    ///
    /// # Errors
    /// [`Damage`] naming the field.
    pub fn parse(bytes: &[u8], layout: &Layout, at: At) -> Result<Self, Damage> {
        const NAME: &str = "resource file header";
        let header: &Self = super::view(bytes, NAME, at)?;
        let bad = |field, found: U32, expected: &str| {
            Damage::hex(NAME, at, field, found.get().into(), expected)
        };
        if layout.family == Family::Vmfs6 && header.signature.get() != RFMD_SIGNATURE {
            return Err(bad("signature", header.signature, "0x72666d64 ('rfmd')"));
        }
        if header.resources_per_cluster.get() > MAX_RESOURCES_PER_CLUSTER {
            return Err(bad(
                "resourcesPerCluster",
                header.resources_per_cluster,
                "at most 8192",
            ));
        }
        if !(1..=4096).contains(&header.clusters_per_group.get()) {
            return Err(bad(
                "clustersPerGroup",
                header.clusters_per_group,
                "1 to 4096",
            ));
        }
        if header.resources() > 0 && header.resources_per_cluster.get() == 0 {
            return Err(bad(
                "resourcesPerCluster",
                header.resources_per_cluster,
                "more than 0",
            ));
        }
        if header.resources() > MAX_RESOURCES {
            let found = header.resources();
            return Err(Damage::hex(NAME, at, "numResources", found, "at most 2^31"));
        }
        if header.resource_size.get() > 16 << 20 {
            return Err(bad("resourceSize", header.resource_size, "at most 16 MiB"));
        }
        if header.bits_per_resource.get() > MAX_BITS_PER_RESOURCE {
            let expected = "at most 8";
            return Err(bad("bitsPerResource", header.bits_per_resource, expected));
        }
        if header.is_nested()
            && (header.parent_clusters_per_group.get() == 0
                || header.parent_resources_per_cluster.get() == 0)
        {
            return Err(bad(
                "parentClustersPerGroup",
                header.parent_clusters_per_group,
                "more than 0",
            ));
        }
        Ok(header.clone())
    }

    /// Number of resources in the file.
    pub fn resources(&self) -> u64 {
        u64::from(self.resources_hi.get()) << 32 | u64::from(self.resources_lo.get())
    }

    /// Number of clusters, the last one possibly partly used.
    pub fn clusters(&self) -> u64 {
        match self.resources_per_cluster.get() {
            0 => 0,
            per_cluster => self.resources().div_ceil(per_cluster.into()),
        }
    }

    /// The header with `resources` resources instead.
    #[must_use]
    pub fn with_resources(&self, resources: u64) -> Self {
        let mut header = self.clone();
        header.resources_lo = (resources as u32).into();
        header.resources_hi = ((resources >> 32) as u32).into();
        let per_group = u64::from(header.clusters_per_group.get()).max(1);
        header.cluster_groups = (header.clusters().div_ceil(per_group) as u32).into();
        header
    }

    /// Bytes of the file that the header begins, as ESXi counts them: whole groups on VMFS6 but for
    /// `.fbb.sf`, up to the last resource elsewhere. `header_size` is
    /// [`Layout::cluster_header_size`]. Numbers that no file has make it as long as can be.
    pub fn file_length(&self, family: Family, header_size: u64) -> u64 {
        let groups = u64::from(self.cluster_groups.get());
        let group = u64::from(self.cluster_group_size.get());
        let per_group = u64::from(self.clusters_per_group.get());
        let start = u64::from(self.cluster_group_offset.get());
        let size = u64::from(self.resource_size.get());
        let has_child = self.child_meta_offset.get() != 0;
        if (family == Family::Vmfs6 && !has_child) || size == 0 || groups == 0 {
            return start.saturating_add(groups.saturating_mul(group));
        }
        // The last group ends with its last resource.
        // A header that wasn't checked may have any numbers.
        let in_group = per_group.saturating_mul(self.resources_per_cluster.get().into());
        let before = (groups - 1).saturating_mul(in_group);
        let rest = self.resources().saturating_sub(before).saturating_mul(size);
        let headers = per_group.saturating_mul(header_size);
        let whole = start.saturating_add((groups - 1).saturating_mul(group));
        whole.saturating_add(headers).saturating_add(rest)
    }

    /// Whether the clusters lie inside the resources of a parent.
    pub fn is_nested(&self) -> bool {
        RfFlags(self.flags.get()).is_nested() && self.signature.get() == RFMD_SIGNATURE
    }

    /// Bits that each resource has in the cluster's bitmap.
    pub fn bits_per_resource(&self) -> u32 {
        self.bits_per_resource.get().max(1)
    }

    /// Offset in the resource file of cluster `cluster`'s header; of a number that no cluster has, one behind
    /// the end of every file.
    ///
    /// `header_size` is [`Layout::cluster_header_size`].
    pub fn cluster_header_offset(&self, cluster: u64, header_size: u64) -> u64 {
        let base = u64::from(self.cluster_group_offset.get());
        if self.is_nested() {
            // One cluster per resource of the parent: the resource is the cluster's header.
            let per_group = u64::from(self.parent_clusters_per_group.get())
                * u64::from(self.parent_resources_per_cluster.get());
            let (group, in_group) = (cluster / per_group, cluster % per_group);
            let headers = u64::from(self.parent_clusters_per_group.get()) + in_group;
            return group
                .saturating_mul(self.parent_cluster_group_size.get().into())
                .saturating_add(base)
                .saturating_add(headers.saturating_mul(header_size));
        }
        let per_group = u64::from(self.clusters_per_group.get());
        let (group, in_group) = (cluster / per_group, cluster % per_group);
        group
            .saturating_mul(self.cluster_group_size.get().into())
            .saturating_add(base)
            .saturating_add(in_group.saturating_mul(header_size))
    }

    /// Offset in the resource file of the data of `resource` in `cluster`; `None` when the file
    /// has no such resource.
    pub fn resource_offset(&self, cluster: u64, resource: u32, header_size: u64) -> Option<u64> {
        let per_cluster = u64::from(self.resources_per_cluster.get());
        let size = u64::from(self.resource_size.get());
        let index = cluster
            .checked_mul(per_cluster)?
            .checked_add(resource.into())?;
        if u64::from(resource) >= per_cluster || index >= self.resources() || size == 0 {
            return None;
        }
        let per_group = u64::from(self.clusters_per_group.get());
        let (group, in_group) = (cluster / per_group, cluster % per_group);
        Some(
            u64::from(self.cluster_group_offset.get())
                + group * u64::from(self.cluster_group_size.get())
                + per_group * header_size
                + (in_group * per_cluster + u64::from(resource)) * size,
        )
    }
}
