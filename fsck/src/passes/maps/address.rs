//! Addresses: where what they name lies, and what they are called.

use vmfs_core::format::BlockAddr;
use vmfs_core::lvm::VolumeOffset;

use crate::round::Round;

/// Where the resource that an address names lies.
pub(crate) fn place_of(round: &Round<'_, '_>, addr: BlockAddr) -> Result<VolumeOffset, String> {
    let layout = &round.layout;
    match addr {
        BlockAddr::FileBlock { block, .. } => Ok(VolumeOffset(block << layout.file_block_shift)),
        BlockAddr::LargeFileBlock { block, .. } => {
            Ok(VolumeOffset(block << layout.large_block_shift))
        }
        BlockAddr::Resource {
            kind,
            cluster,
            resource,
            ..
        } => {
            let file = round.resources.file(kind);
            let file = file.ok_or_else(|| format!("there are no {kind}s to be read"))?;
            let place = file.locate(&round.reader, cluster, resource);
            place.map_err(|error| error.to_string())
        }
        BlockAddr::Hole | BlockAddr::Invalid(_) => Err("no address".to_owned()),
    }
}

/// An address in words.
pub(crate) fn shown(addr: BlockAddr) -> String {
    match addr {
        BlockAddr::Hole => "a hole".to_owned(),
        BlockAddr::FileBlock { block, .. } => format!("file block {block}"),
        BlockAddr::LargeFileBlock { block, .. } => format!("large file block {block}"),
        BlockAddr::Resource {
            kind,
            cluster,
            resource,
            ..
        } => format!("{kind} {resource} of cluster {cluster}"),
        BlockAddr::Invalid(raw) => format!("{raw:#x}"),
    }
}

/// Reads a little-endian number of up to eight bytes.
pub(crate) fn little_endian(bytes: &[u8]) -> u64 {
    let bytes = bytes.iter().rev();
    bytes.fold(0, |value, &byte| value << 8 | u64::from(byte))
}

/// What an address leads to, in words.
pub(super) fn expected(depth: u32) -> &'static str {
    if depth > 0 {
        "a pointer block"
    } else {
        "a block of data"
    }
}
