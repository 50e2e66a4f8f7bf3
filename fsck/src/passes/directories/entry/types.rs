//! Where an entry and its descriptor differ in the type, and the descriptor is the one that is wrong.

use vmfs_core::format::{FdAddr, FdImage, FileKind};
use vmfs_core::lvm::VolumeOffset;

use crate::code::Code;
use crate::finding::Finding;
use crate::passes::{connectivity, descriptors, mend};
use crate::round::Round;

/// Whether the rest of the descriptor speaks for what its name says, not for what it says itself.
pub(super) fn is_likelier(
    round: &Round<'_, '_>,
    fd: FdAddr,
    said: FileKind,
    named: FileKind,
) -> bool {
    let Some((_, image)) = read(round, fd) else {
        return false;
    };
    match (said, named) {
        (FileKind::System, FileKind::Regular | FileKind::Symlink) => {
            !connectivity::may_be_system(&round.layout, fd)
        }
        (FileKind::Regular, FileKind::Symlink) => mend::may_be_link(image.meta()),
        (FileKind::Symlink, FileKind::Regular) => !mend::may_be_link(image.meta()),
        _ => false,
    }
}

/// Has the descriptor be of `kind`, which the entry `named` says.
pub(super) fn write(round: &mut Round<'_, '_>, fd: FdAddr, named: &str, kind: FileKind) {
    let Some((place, mut image)) = read(round, fd) else {
        return;
    };
    let (found, expected) = (image.meta().kind, kind as u32);
    let finding = Finding::new(
        Code::DescriptorDamaged,
        format!("file descriptor {fd}"),
        format!("type is {found:#x}, expected {expected:#x} as in {named}"),
    )
    .at_volume(place.0)
    .repair("write what its name and the other fields say");
    if !round.found(finding) {
        return;
    }
    image.metadata().kind = expected.into();
    descriptors::save_metadata(round, place, &image);
    if let Some(seen) = round.files.get_mut(&fd) {
        seen.kind = kind;
    }
}

fn read(round: &Round<'_, '_>, fd: FdAddr) -> Option<(VolumeOffset, FdImage)> {
    let place = round.place_of(fd)?;
    let bytes = round.read_fd(place).ok()?;
    Some((place, FdImage::from_bytes(&round.layout, bytes)))
}
