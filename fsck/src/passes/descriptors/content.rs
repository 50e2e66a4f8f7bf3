//! What a descriptor's file holds, against what the descriptor says of it.

use vmfs_core::format::{
    DIR_VERSION, DIR_VERSION_DEBUG, DirEntry5, DirHeader, Family, FdAddr, FdImage,
};
use vmfs_core::lvm::VolumeOffset;
use zerocopy::FromBytes;

use crate::content::Content;
use crate::passes::{connectivity, mend};
use crate::round::Round;

/// Makes the type what the file's content says; what was changed, in words.
pub(super) fn mend(
    round: &Round<'_, '_>,
    fd: FdAddr,
    place: VolumeOffset,
    image: &mut FdImage,
) -> Option<String> {
    let layout = &*round.layout;
    let meta = image.meta();
    if fd == FdAddr::ROOT || connectivity::may_be_system(layout, fd) {
        return None;
    }
    let begins = || {
        // Its length may be what is wrong.
        let mut whole = image.clone();
        let length = mend::mapped_length(layout, image).max(meta.length.get());
        whole.metadata().length = length.into();
        begins_as_directory(round, &Content::of(round, fd, place, whole))
    };
    let kind = mend::by_content(layout, meta.kind(), meta, &begins);
    if kind == meta.kind() {
        return None;
    }
    let (found, expected) = (meta.kind, kind as u32);
    image.metadata().kind = expected.into();
    Some(format!("type is {found:#x}, expected {expected:#x}"))
}

/// Whether what a file holds begins as a directory does.
fn begins_as_directory(round: &Round<'_, '_>, content: &Content) -> bool {
    if round.layout.family == Family::Vmfs6 {
        let mut bytes = [0; DirHeader::SIZE as usize];
        let read = content.read(round, 0, &mut bytes);
        return read.is_ok()
            && DirHeader::read_from_bytes(&bytes).is_ok_and(|header| {
                let own = header.this.fd.get() == content.fd.raw();
                own || matches!(header.version.get(), DIR_VERSION | DIR_VERSION_DEBUG)
            });
    }
    let mut bytes = [0; 2 * DirEntry5::SIZE as usize];
    let read = content.read(round, 0, &mut bytes);
    let (own, parent) = bytes.split_at(DirEntry5::SIZE as usize);
    let named = |bytes: &[u8], name: &[u8]| {
        DirEntry5::ref_from_bytes(bytes).is_ok_and(|entry| entry.name() == name)
    };
    read.is_ok() && (named(own, b".") || named(parent, b".."))
}
