//! Fields of a file descriptor that follow from others.

mod kind;
mod level;

pub(crate) use kind::{by_content, may_be_link};
pub(crate) use level::ReadPointers;

use vmfs_core::format::{
    At, Damage, DiskLock, FDMD_SIGNATURE, Family, FdAddr, FdImage, FileKind, FileMetadata, Layout,
    LockKind, ZeroLevel,
};
use vmfs_core::lvm::VolumeOffset;
use zerocopy::{FromBytes, IntoBytes};

/// No version has files larger than 64 TiB.
const MAX_LENGTH: u64 = 64 << 40;

/// What mending a descriptor came to.
#[derive(Debug)]
pub(crate) enum Mended {
    /// Nothing was wrong.
    Sound,
    /// These fields were: name, what they held, what they hold now.
    Fixed(Vec<String>),
    /// Too little is left of it.
    Hopeless(String),
}

/// Makes what follows from other fields what it must be.
pub(crate) fn descriptor(
    layout: &Layout,
    fd: FdAddr,
    place: u64,
    image: &mut FdImage,
    read: ReadPointers<'_>,
) -> Mended {
    if let Err(reason) = recognise(layout, fd, place, image) {
        return Mended::Hopeless(reason);
    }
    let fixed = fix(layout, fd, image, read);
    if fixed.is_empty() {
        Mended::Sound
    } else {
        Mended::Fixed(fixed)
    }
}

/// [`descriptor`] for the descriptor of a resource file, whose place alone says what it is.
///
/// # Errors
/// [`Damage`] naming what can't be right and doesn't follow from anything.
pub(crate) fn system_descriptor(
    layout: &Layout,
    fd: FdAddr,
    place: VolumeOffset,
    image: &mut FdImage,
) -> Result<Vec<String>, Damage> {
    // Without an address there is nothing to go by.
    let addresses = (0..layout.fd_address_count as usize).any(|index| image.address(index) != 0);
    let fixed = if addresses {
        // Where pointer blocks lie isn't known yet.
        fix(layout, fd, image, &|_| None)
    } else {
        Vec::new()
    };
    FileMetadata::parse(image.bytes(), fd, layout, At::Volume(place.0))?;
    Ok(fixed)
}

/// Writes a free lock, unless there is a sound one.
pub(crate) fn lock(image: &mut FdImage, place: u64, kind: LockKind) {
    let mut bytes = image.bytes().to_vec();
    let Ok((lock, _)) = DiskLock::mut_from_prefix(&mut bytes) else {
        return;
    };
    if lock.kind.get() != kind as u32 || lock.address.get() != place {
        *lock = DiskLock::fresh(kind, place);
        image.replace_bytes(bytes);
    }
}

/// Whether enough is left to know that this is, or was, the descriptor `fd`.
fn recognise(layout: &Layout, fd: FdAddr, place: u64, image: &FdImage) -> Result<(), String> {
    let meta = image.meta();
    let own = meta.address.get() == fd.raw();
    let signed = layout.family != Family::Vmfs6 || meta.signature.get() == FDMD_SIGNATURE;
    let kind = FileKind::from_raw(meta.kind.get()).is_some();
    let level = ZeroLevel::from_raw(meta.zero_level.get()).is_some();
    let block = valid_block(layout, meta);
    let length = meta.length.get() <= MAX_LENGTH;
    let lock =
        DiskLock::ref_from_prefix(image.bytes()).is_ok_and(|(lock, _)| lock.address.get() == place);
    let evidence = [
        own,
        signed && layout.family == Family::Vmfs6,
        kind,
        level,
        block,
        length,
        lock,
    ];
    let right = evidence.iter().filter(|&&right| right).count();
    // Zeros pass as a length and, on some, as a level: they are not enough.
    if right >= 5 || kind && (own || lock) && right >= 4 {
        return Ok(());
    }
    Err(format!(
        "own address is {:#x}, expected {:#x}; type {}, zero level address type {:#x}, block size {:#x}",
        meta.address,
        fd.raw(),
        meta.kind,
        meta.zero_level,
        meta.block_size
    ))
}

fn valid_block(layout: &Layout, meta: &FileMetadata) -> bool {
    let block = meta.block_size.get();
    block.is_power_of_two() && (512..=layout.large_block_size()).contains(&block)
}

fn fix(layout: &Layout, fd: FdAddr, image: &mut FdImage, read: ReadPointers<'_>) -> Vec<String> {
    let mut fixed = Vec::new();
    let mut note = |field: &str, found: u64, expected: u64| {
        fixed.push(format!("{field} is {found:#x}, expected {expected:#x}"));
    };
    let meta = image.meta().clone();
    if meta.address.get() != fd.raw() {
        note("own address", meta.address.get().into(), fd.raw().into());
        image.metadata().address = fd.raw().into();
    }
    if layout.family == Family::Vmfs6 && meta.signature.get() != FDMD_SIGNATURE {
        note(
            "signature",
            meta.signature.get().into(),
            FDMD_SIGNATURE.into(),
        );
        image.metadata().signature = FDMD_SIGNATURE.into();
    }
    let said = FileKind::from_raw(meta.kind.get());
    let kind = kind::by_descriptor(layout, fd, image);
    if said != Some(kind) {
        note("type", meta.kind.get().into(), kind as u64);
        image.metadata().kind = (kind as u32).into();
    }
    let level = level::of(layout, kind, image, read);
    if meta.zero_level.get() != level.raw() {
        note(
            "zero level address type",
            meta.zero_level.get().into(),
            level.raw().into(),
        );
        image.metadata().zero_level = level.raw().into();
    }
    let shift = u32::from(meta.block_offset_shift);
    let stored = layout.family == Family::Vmfs3
        || valid_block(layout, &meta) && meta.block_size.get().trailing_zeros() == shift;
    if !valid_block(layout, &meta) || !stored {
        let expected = likely_shift(layout, kind, level);
        // The one of the two that is right tells the other.
        if meta.block_size.get() == 1 << expected {
            note("blockOffsetShift", shift.into(), expected.into());
        } else {
            note("blockSize", meta.block_size.get(), 1 << expected);
        }
        image.set_block_shift(expected);
    }
    if meta.length.get() > MAX_LENGTH {
        let length = mapped_length(layout, image);
        note("length", meta.length.get(), length);
        image.metadata().length = length.into();
    }
    fixed
}

fn likely_shift(layout: &Layout, kind: FileKind, level: ZeroLevel) -> u32 {
    match level {
        ZeroLevel::None if kind == FileKind::Rdm => 9,
        ZeroLevel::SubBlock | ZeroLevel::Resident => layout.sub_block_shift,
        _ => layout.file_block_shift,
    }
}

/// The end of the last block that the map can have.
pub(crate) fn mapped_length(layout: &Layout, image: &FdImage) -> u64 {
    let meta = image.meta();
    let level = ZeroLevel::from_raw(meta.zero_level.get()).unwrap_or(ZeroLevel::None);
    if matches!(level, ZeroLevel::Resident | ZeroLevel::None) {
        return if level == ZeroLevel::Resident {
            layout.fd_data_size
        } else {
            0
        };
    }
    let last = (0..layout.fd_address_count as usize)
        .rev()
        .find(|&index| image.address(index) != 0);
    let shift = meta.block_shift() + level.depth() * layout.pointers_per_block.trailing_zeros();
    let slots = last.map_or(0, |last| last as u64 + 1);
    slots
        .checked_shl(shift)
        .map_or(MAX_LENGTH, |length| length.min(MAX_LENGTH))
}

/// The bytes of a descriptor's metadata.
pub(crate) fn metadata_bytes(image: &FdImage) -> &[u8] {
    image.meta().as_bytes()
}
