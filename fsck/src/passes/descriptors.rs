//! File descriptors: docs/fsck/descriptors.md.

mod content;

use vmfs_core::format::{At, Family, FdAddr, FdImage, FileKind, FileMetadata, LockKind, ZeroLevel};
use vmfs_core::lvm::VolumeOffset;

use super::{connectivity, locks, maps, mend, resources};
use crate::code::Code;
use crate::finding::Finding;
use crate::plan::Stage;
use crate::round::{Round, Seen, as_resource};

/// Looks at every file descriptor that is marked used.
pub(crate) fn run(round: &mut Round<'_, '_>) {
    let resources = std::sync::Arc::clone(&round.resources);
    let file = &resources.file_descriptors;
    for cluster in 0..file.header().clusters() {
        let total = file.shape(cluster).total;
        // On VMFS5 zeros pass as the header of cluster 0, without any resources.
        let header = file.cluster(&round.reader, cluster).ok();
        let header = header.filter(|(header, _)| header.total == total);
        for resource in 0..total {
            let fd = FdAddr::new(cluster as u32, resource);
            // Where the cluster's header is lost, the descriptors themselves tell.
            let marked = header.as_ref().map(|(header, _)| !header.is_free(resource));
            // Everything else that is in use has a name somewhere below the root.
            if marked.unwrap_or(true) || fd == FdAddr::ROOT {
                descriptor(round, fd, marked == Some(true));
            }
        }
    }
    maps::late_claims(round);
}

/// Looks at a descriptor that an entry names although it is marked free; whether it is in use.
pub(crate) fn promote(round: &mut Round<'_, '_>, fd: FdAddr, generation: u32) -> bool {
    let file = &round.resources.file_descriptors;
    let shape = file.shape(fd.cluster().into());
    if u64::from(fd.cluster()) >= file.header().clusters() || fd.resource() >= shape.total {
        return false;
    }
    let Some(place) = round.place_of(fd) else {
        return false;
    };
    let Ok(bytes) = round.read_fd(place) else {
        return false;
    };
    let sound = FileMetadata::parse(&bytes, fd, &round.layout, At::Volume(place.0));
    if !sound.is_ok_and(|meta| meta.generation.get() == generation && meta.links.get() > 0) {
        return false;
    }
    descriptor(round, fd, false);
    round.files.contains_key(&fd)
}

fn descriptor(round: &mut Round<'_, '_>, fd: FdAddr, marked: bool) {
    let file = &round.resources.file_descriptors;
    let place = match file.locate(&round.reader, fd.cluster().into(), fd.resource()) {
        Ok(place) => place,
        Err(error) => {
            round.broken.insert(fd);
            let structure = format!("file descriptor {fd}");
            round.found(Finding::new(
                Code::DescriptorUnreadable,
                structure,
                error.to_string(),
            ));
            if marked {
                let what = format!("file descriptor {fd} is in use and can't be found ({error})");
                round.check.refuse(&what);
            }
            return;
        }
    };
    let mut bytes = match round.read_fd_in_turn(place) {
        Ok(bytes) => bytes,
        Err(error) => {
            round.broken.insert(fd);
            let structure = format!("file descriptor {fd}");
            let finding = Finding::new(Code::DescriptorUnreadable, structure, error.to_string());
            round.found(finding.at_volume(place.0));
            return;
        }
    };
    let layout = std::sync::Arc::clone(&round.layout);
    let meta = layout.fd_meta as usize;
    // The metadata of a descriptor that is given back is zero: it isn't in use.
    if bytes[meta..].iter().all(|&byte| byte == 0) {
        return;
    }
    let mut image = FdImage::from_bytes(&layout, bytes.clone());
    if !marked && FileMetadata::parse(&bytes, fd, &layout, At::Volume(place.0)).is_err() {
        // Without a bit that says it is in use, only a sound one is believed.
        return;
    }
    let mut fields = match mend::descriptor(&layout, fd, place.0, &mut image, &|addr| {
        let (_, bytes) = maps::read_pointers(round, addr).ok()?;
        Some(bytes)
    }) {
        mend::Mended::Sound => Vec::new(),
        mend::Mended::Fixed(fields) => fields,
        mend::Mended::Hopeless(reason) => return hopeless(round, fd, place, &reason),
    };
    fields.extend(content::mend(round, fd, place, &mut image));
    if !fields.is_empty() {
        let finding = Finding::new(
            Code::DescriptorDamaged,
            format!("file descriptor {fd}"),
            fields.join("; "),
        )
        .at_volume(place.0)
        .repair("write what the other fields and what the file holds say");
        if !round.found(finding) {
            round.broken.insert(fd);
            return;
        }
        round.put(Stage::Refer, place, image.bytes());
        bytes = image.bytes().to_vec();
    }
    locks::examine(round, &mut bytes, LockKind::FileDescriptor, place, &|| {
        format!("file descriptor {fd}")
    });
    let mut image = FdImage::from_bytes(&layout, bytes);
    round.check.report.descriptors += 1;
    length(round, fd, place, &mut image);
    let meta = image.meta().clone();
    let mut seen = Seen::of(&meta);
    // Whatever its mode says.
    seen.is_directory &= !resources::is_resource_file(fd, &layout);
    round.files.insert(fd, seen);
    if seen.is_directory {
        round.directories.push(fd);
    }
    let counts = maps::follow(round, fd, place, &mut image);
    if let Some(counts) = counts {
        compare_counts(round, fd, place, &mut image, &counts);
    }
}

/// A descriptor that is marked used and isn't one.
fn hopeless(round: &mut Round<'_, '_>, fd: FdAddr, place: VolumeOffset, reason: &str) {
    round.check.lost_map = true;
    let mut finding = Finding::new(
        Code::DescriptorUnreadable,
        format!("file descriptor {fd}"),
        reason,
    )
    .at_volume(place.0);
    let system = connectivity::may_be_system(&round.layout, fd);
    if fd == FdAddr::ROOT {
        // Made anew by a later pass.
        round.broken.insert(fd);
        return;
    }
    if !system {
        finding = finding
            .repair("give the descriptor back; what it may have had goes to /lost+found")
            .loses("the file's name, attributes and the order of its blocks");
    }
    if round.found(finding) {
        let zeros = vec![0; (round.layout.fd_size - round.layout.fd_meta) as usize];
        round.put(Stage::Remove, place + round.layout.fd_meta, &zeros);
        round.usage.give(as_resource(fd));
    } else {
        round.broken.insert(fd);
    }
}

/// Whether the map can hold as much as the length says.
fn length(round: &mut Round<'_, '_>, fd: FdAddr, place: VolumeOffset, image: &mut FdImage) {
    let layout = std::sync::Arc::clone(&round.layout);
    let meta = image.meta();
    let level = meta.zero_level();
    let most = match level {
        ZeroLevel::None => return,
        ZeroLevel::Resident => layout.fd_data_size,
        _ => {
            let pointers = layout.pointers_per_block.trailing_zeros();
            let shift = meta.block_shift() + level.depth() * pointers;
            layout
                .fd_address_count
                .saturating_mul(1_u64.checked_shl(shift).unwrap_or(u64::MAX))
        }
    };
    let found = meta.length.get();
    if found <= most || meta.kind() == FileKind::Rdm {
        return;
    }
    let length = mend::mapped_length(&layout, image);
    let finding = Finding::new(
        Code::LengthWrong,
        format!("file descriptor {fd}"),
        format!("its length is {found:#x}, its map holds {most:#x} bytes at most"),
    )
    .at_volume(place.0)
    .repair(format!("make it {length:#x}, the end of its last block"));
    if round.found(finding) {
        image.metadata().length = length.into();
        save_metadata(round, place, image);
    }
}

fn compare_counts(
    round: &mut Round<'_, '_>,
    fd: FdAddr,
    place: VolumeOffset,
    image: &mut FdImage,
    counts: &maps::Counts,
) {
    let meta = image.meta().clone();
    let structure = format!("file descriptor {fd}");
    let mut changed = false;
    let stored = meta.blocks.get();
    if stored != counts.blocks && meta.kind() != FileKind::Rdm {
        let finding = Finding::new(
            Code::BlockCountWrong,
            structure.clone(),
            format!("it says {stored} blocks, its map has {}", counts.blocks),
        )
        .at_volume(place.0)
        .repair("write the number of blocks");
        if round.found(finding) {
            image.metadata().blocks = counts.blocks.into();
            changed = true;
        }
    }
    let stored = u64::from(meta.pointer_blocks.get());
    // VMFS5 doesn't count them.
    if round.layout.family == Family::Vmfs6 && stored != counts.pointer_blocks {
        let finding = Finding::new(
            Code::PointerCountWrong,
            structure.clone(),
            format!(
                "it says {stored} pointer blocks, its map has {}",
                counts.pointer_blocks
            ),
        )
        .at_volume(place.0)
        .repair("write the number of pointer blocks");
        if round.found(finding) {
            image.metadata().pointer_blocks = (counts.pointer_blocks as u32).into();
            changed = true;
        }
    }
    let stored = meta.tbz_blocks();
    if stored != counts.to_be_zeroed {
        let finding = Finding::new(
            Code::ZeroCountWrong,
            structure,
            format!(
                "it says {stored} blocks to be zeroed, its map has {}",
                counts.to_be_zeroed
            ),
        )
        .at_volume(place.0)
        .repair("write the number of blocks to be zeroed");
        if round.found(finding) {
            let count = counts.to_be_zeroed;
            image.metadata().tbz_blocks_lo = (count as u32).into();
            image.metadata().tbz_blocks_hi = ((count >> 32) as u32).into();
            changed = true;
        }
    }
    if changed {
        save_metadata(round, place, image);
    }
}

/// Plans the write of a descriptor's metadata.
pub(crate) fn save_metadata(round: &mut Round<'_, '_>, place: VolumeOffset, image: &FdImage) {
    let bytes = mend::metadata_bytes(image).to_vec();
    round.put(Stage::Refer, place + round.layout.fd_meta, &bytes);
}
