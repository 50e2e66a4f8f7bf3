//! Which files name a resource in their descriptors: asked where what one of them takes for a pointer block
//! looks like something else.

use std::collections::HashMap;

use vmfs_core::format::{At, BlockAddr, FdAddr, FdImage, FileMetadata, ResourceKind, ZeroLevel};

use super::maps::little_endian;
use crate::round::Round;

/// Resources that are remembered at most; of others nothing is known.
const MOST: usize = 1 << 22;

/// The first two files that name a resource.
pub(crate) type Named = HashMap<(ResourceKind, u64), (FdAddr, Option<FdAddr>)>;

/// Whether another file than `fd` names the resource in its descriptor.
pub(super) fn other(
    round: &mut Round<'_, '_>,
    fd: FdAddr,
    resource: (ResourceKind, u64),
) -> Option<FdAddr> {
    if round.named.is_none() {
        round.named = Some(all(round));
    }
    let &(first, second) = round.named.as_ref()?.get(&resource)?;
    [Some(first), second]
        .into_iter()
        .flatten()
        .find(|&other| other != fd)
}

/// What all descriptors in use name but blocks, which are never taken for pointer blocks.
fn all(round: &Round<'_, '_>) -> Named {
    let (layout, resources) = (&round.layout, &round.resources);
    let file = &resources.file_descriptors;
    let mut named = Named::new();
    for cluster in 0..file.header().clusters() {
        let Ok((header, _)) = file.cluster(&round.reader, cluster) else {
            continue;
        };
        for resource in (0..header.total).filter(|&resource| !header.is_free(resource)) {
            let fd = FdAddr::new(cluster as u32, resource);
            let bytes = round.place_of(fd).and_then(|place| {
                let bytes = round.read_fd(place).ok()?;
                FileMetadata::parse(&bytes, fd, layout, At::Volume(place.0)).ok()?;
                Some(bytes)
            });
            let Some(image) = bytes.map(|bytes| FdImage::from_bytes(layout, bytes)) else {
                continue;
            };
            let level = image.meta().zero_level();
            if level.depth() == 0 && level != ZeroLevel::SubBlock {
                continue;
            }
            for index in 0..layout.fd_address_count as usize {
                let addr = BlockAddr::decode(image.address(index), layout);
                let Some(number) = round.usage.number(addr) else {
                    continue;
                };
                if let Some((first, second)) = named.get_mut(&number) {
                    if *first != fd {
                        second.get_or_insert(fd);
                    }
                } else if named.len() < MOST {
                    named.insert(number, (fd, None));
                }
            }
        }
    }
    named
}

/// Whether less than half of what `bytes` hold can be addresses, `depth` levels above the data.
pub(super) fn is_something_else(round: &Round<'_, '_>, bytes: &[u8], depth: u32) -> bool {
    let layout = &round.layout;
    let (mut sound, mut unsound) = (0_u64, 0_u64);
    for raw in bytes.chunks_exact(layout.address_size as usize) {
        let raw = little_endian(raw);
        if raw == 0 {
            continue;
        }
        let addr = BlockAddr::decode(raw, layout);
        let stands = match addr {
            BlockAddr::FileBlock { .. } | BlockAddr::LargeFileBlock { .. } => depth == 0,
            BlockAddr::Resource { .. } => depth > 0,
            BlockAddr::Hole | BlockAddr::Invalid(_) => false,
        };
        if stands && addr.encode(layout) == raw && round.usage.exists(addr) {
            sound += 1;
        } else {
            unsound += 1;
        }
    }
    unsound > sound
}
