//! The descriptor of a resource file, mended before anything in the file is looked for.

use vmfs_core::format::{FdAddr, FdImage, Layout, LockKind};
use vmfs_core::journal::MetaReader;
use vmfs_core::lvm::VolumeOffset;
use vmfs_core::resource::BlockMap;

use crate::check::Check;
use crate::code::Code;
use crate::finding::Finding;
use crate::passes::mend;
use crate::plan::Stage;

/// The map in a descriptor at `place`, as if the file were as long as that has room for.
pub(super) fn whole_map(layout: &Layout, place: VolumeOffset, bytes: &[u8]) -> BlockMap {
    let mut image = FdImage::from_bytes(layout, bytes.to_vec());
    let length = mend::mapped_length(layout, &image);
    image.metadata().length = length.into();
    BlockMap::new(image.meta(), image.bytes(), place, layout)
}

/// Mends what follows from other fields.
pub(super) fn mend(
    check: &mut Check<'_>,
    reader: &MetaReader,
    fd: FdAddr,
    place: VolumeOffset,
    bytes: &mut Vec<u8>,
) {
    let layout = reader.layout();
    let mut image = FdImage::from_bytes(layout, bytes.clone());
    let fields = match mend::system_descriptor(layout, fd, place, &mut image) {
        Ok(fields) if !fields.is_empty() => fields,
        // What can't be mended is reported by whoever needs it.
        _ => return,
    };
    let finding = Finding::new(
        Code::DescriptorDamaged,
        format!("file descriptor {fd}"),
        fields.join("; "),
    )
    .at_volume(place.0)
    .repair("write what the other fields say");
    if check.found(finding) {
        mend::lock(&mut image, place.0, LockKind::FileDescriptor);
        check.plan.set_stage(Stage::Refer);
        if reader.volume().write(place, image.bytes()).is_ok() {
            reader.drop_cached(place.0..place.0 + layout.fd_size);
            *bytes = image.bytes().to_vec();
        }
    }
}

/// Mends the length of a resource file, of which its header tells that it is `length`; whether it was another.
pub(super) fn mend_length(
    check: &mut Check<'_>,
    reader: &MetaReader,
    (fd, place): (FdAddr, VolumeOffset),
    bytes: &mut Vec<u8>,
    length: u64,
) -> bool {
    let layout = reader.layout();
    let mut image = FdImage::from_bytes(layout, bytes.clone());
    let found = image.meta().length.get();
    let room = mend::mapped_length(layout, &image);
    if found == length || length > room {
        return false;
    }
    let finding = Finding::new(
        Code::LengthWrong,
        format!("file descriptor {fd}"),
        format!("its length is {found:#x}, its header counts {length:#x} bytes"),
    )
    .at_volume(place.0)
    .repair(format!("make it {length:#x}"));
    if !check.found(finding) {
        return false;
    }
    image.metadata().length = length.into();
    check.plan.set_stage(Stage::Refer);
    if reader.volume().write(place, image.bytes()).is_err() {
        return false;
    }
    reader.drop_cached(place.0..place.0 + layout.fd_size);
    *bytes = image.bytes().to_vec();
    true
}
