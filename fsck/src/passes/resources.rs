//! Resource files: their descriptors, headers and geometry: docs/fsck/resources.md.

mod clusters;
mod descriptor;
mod geometry;
pub(crate) mod restore;

use std::sync::Arc;

use vmfs_core::format::{
    At, Family, FdAddr, FdImage, FileMetadata, FsDescriptor, Layout, ResourceHeader, ResourceKind,
    SystemFile,
};
use vmfs_core::journal::MetaReader;
use vmfs_core::lvm::VolumeOffset;
use vmfs_core::resource::{BlockMap, MetaError, Place, PointerSources, ResourceFile, Resources};
use zerocopy::{FromBytes, IntoBytes};

use crate::check::{Check, Unproven};
use crate::code::Code;
use crate::finding::Finding;
use crate::plan::Stage;
use crate::round::Round;

/// In the order of need: the map of each goes only through those before it.
const ORDER: [(SystemFile, ResourceKind); 7] = [
    (SystemFile::PointerBlocks2, ResourceKind::PointerBlock2),
    (SystemFile::PointerBlocks, ResourceKind::PointerBlock),
    (SystemFile::SubBlocks, ResourceKind::SubBlock),
    (SystemFile::FileDescriptors, ResourceKind::FileDescriptor),
    (SystemFile::FileBlocks, ResourceKind::LargeFileBlock),
    (SystemFile::FileBlocks, ResourceKind::FileBlock),
    (SystemFile::Journals, ResourceKind::JournalBlock),
];

/// Opens the resource files, mended if need be; `None` if one of them can't be opened: then what
/// files have can't be told from what is free, and nothing may be repaired.
pub(crate) fn open(
    check: &mut Check<'_>,
    reader: &Arc<MetaReader>,
    fsd: &FsDescriptor,
) -> Option<Resources> {
    let mut sources = PointerSources::default();
    for (file, kind) in ORDER {
        let no_pb2 = kind == ResourceKind::PointerBlock2 && fsd.pb2_fd_addr.get() == 0;
        if no_pb2 || !has_own(kind, reader.layout()) {
            continue;
        }
        let opened = mended(check, reader, file, kind, &sources);
        let opened = opened.map(Arc::new);
        match kind {
            ResourceKind::PointerBlock2 => sources.pointer_blocks2 = opened,
            ResourceKind::PointerBlock => sources.pointer_blocks = opened,
            ResourceKind::SubBlock => sources.sub_blocks = opened,
            _ => {}
        }
    }
    match Resources::open(reader, fsd) {
        Ok(resources) => {
            for (file, error) in &resources.problems {
                unreadable(check, *file, error);
            }
            check.refused.is_none().then_some(resources)
        }
        Err(error) => {
            unreadable(check, SystemFile::FileDescriptors, &error);
            None
        }
    }
}

/// Whether volumes of this kind have a resource file of `kind` in the descriptor that is its own; in others any
/// file may have that.
fn has_own(kind: ResourceKind, layout: &Layout) -> bool {
    match kind {
        ResourceKind::LargeFileBlock | ResourceKind::JournalBlock => layout.family == Family::Vmfs6,
        // One that was upgraded from VMFS3 has this one elsewhere.
        ResourceKind::PointerBlock2 => match layout.family {
            Family::Vmfs3 => false,
            Family::Vmfs5 => layout.dense_sub_blocks,
            Family::Vmfs6 => true,
        },
        _ => true,
    }
}

/// Whether `fd` is a resource file's: its map leads to what other files have.
pub(super) fn is_resource_file(fd: FdAddr, layout: &Layout) -> bool {
    let mut there = ORDER.iter().filter(|(_, kind)| has_own(*kind, layout));
    there.any(|(file, _)| file.fd() == fd)
}

/// Bytes that the resource file `fd` has, as its header counts them.
pub(super) fn length_by_header(resources: &Resources, fd: FdAddr, layout: &Layout) -> Option<u64> {
    let mut kinds = ORDER.iter().filter(|(_, kind)| has_own(*kind, layout));
    let (_, kind) = kinds.find(|(file, _)| file.fd() == fd)?;
    let header = resources.file(*kind)?.header();
    Some(header.file_length(layout.family, layout.cluster_header_size()))
}

fn unreadable(check: &mut Check<'_>, file: SystemFile, error: &MetaError) {
    check.found(Finding::new(
        Code::ResourceFileUnreadable,
        file.name(),
        error.to_string(),
    ));
    check.refuse(&format!("{} can't be read ({error})", file.name()));
}

/// Checks and mends descriptor and header of one resource file.
fn mended(
    check: &mut Check<'_>,
    reader: &Arc<MetaReader>,
    file: SystemFile,
    kind: ResourceKind,
    sources: &PointerSources,
) -> Option<ResourceFile> {
    let layout = reader.layout();
    let fd = file.fd();
    let place = VolumeOffset(layout.first_fd + u64::from(fd.resource()) * layout.fd_size);
    let mut bytes = vec![0; layout.fd_size as usize];
    reader.volume().read(place, &mut bytes).ok()?;
    let found = FdImage::from_bytes(layout, bytes.clone());
    descriptor::mend(check, reader, fd, place, &mut bytes);
    let meta = FileMetadata::parse(&bytes, fd, layout, At::Volume(place.0)).ok()?;
    let doubtful = found.meta().length != meta.length
        || meta.length.get().div_ceil(layout.file_block_size()) != meta.blocks.get();
    let mut map = BlockMap::new(meta, &bytes, place, layout);
    let header_offset = if kind == ResourceKind::FileBlock && layout.family == Family::Vmfs6 {
        4096
    } else {
        0
    };
    let length = size_of::<ResourceHeader>() as u64;
    let header_end = header_offset + length;
    // Too short a length may be what is wrong.
    let whole = descriptor::whole_map(layout, place, &bytes);
    let run = whole.run_at(reader, sources, header_offset, header_end);
    let Place::Data(at) = run.ok()?.place else {
        return None;
    };
    let mut raw = [0; size_of::<ResourceHeader>()];
    reader.volume().read(at, &mut raw).ok()?;
    let found = ResourceHeader::parse(&raw, layout, At::Volume(at.0));
    let place_of = |map: &BlockMap, offset: u64| {
        let end = offset.checked_add(layout.cluster_header_size())?;
        match map.run_at(reader, sources, offset, end).ok()?.place {
            Place::Data(at) => Some(at.0),
            _ => None,
        }
    };
    let volume = reader.volume();
    if header_offset == 0
        && let (Ok(header), Some(length)) =
            (&found, geometry::own_length(&raw, &found, kind, reader))
        && (doubtful
            || map.length() < length
                && clusters::is_last_there(volume, layout, kind, header, &|offset| {
                    place_of(&whole, offset)
                }))
        && descriptor::mend_length(check, reader, (fd, place), &mut bytes, length)
    {
        let meta = FileMetadata::parse(&bytes, fd, layout, At::Volume(place.0)).ok()?;
        map = BlockMap::new(meta, &bytes, place, layout);
    }
    let own = (kind, map.length());
    let size = geometry::Size {
        length: map.length(),
        volume: volume.size(),
        clusters: &|header, said| {
            clusters::count(volume, layout, own, (header, said), &|offset| {
                place_of(&map, offset)
            })
        },
    };
    let wrong = geometry::differences(&raw, &found, kind, layout, &size);
    let rebuilt = wrong.is_some();
    if let Some((details, expected)) = wrong {
        let finding = Finding::new(
            Code::ResourceHeaderDamaged,
            format!("header of {} ({kind}s)", file.name()),
            details.join("; "),
        )
        .at_volume(at.0)
        .repair("write the geometry that the format has for it");
        if check.found(finding) {
            check.plan.set_stage(Stage::Refer);
            reader.volume().write(at, expected.as_bytes()).ok()?;
            reader.drop_cached(at.0..at.0 + length);
        }
    }
    let opened =
        ResourceFile::open(reader, kind, (fd, map), sources.clone(), header_offset).ok()?;
    if rebuilt && !is_there(reader, &opened, &raw) {
        let what = format!(
            "at {at}, where the header of {} should be, is something else, and no cluster of {kind}s behind it",
            file.name()
        );
        if opened.header().clusters() > 0 {
            check.refuse(&what);
        } else {
            check.unproven.push(Unproven {
                file: fd,
                what,
                empty: is_empty_behind(reader, at),
            });
        }
    }
    Some(opened)
}

/// Whether the file block with a header at `at` holds nothing behind it.
fn is_empty_behind(reader: &MetaReader, at: VolumeOffset) -> bool {
    let layout = reader.layout();
    let header = layout.md_block.max(size_of::<ResourceHeader>() as u64);
    let end = (at.0 / layout.file_block_size() + 1) * layout.file_block_size();
    let mut rest = vec![0; (end - at.0).saturating_sub(header) as usize];
    let read = reader.volume().read(at + header, &mut rest);
    read.is_ok() && rest.iter().all(|&byte| byte == 0)
}

/// Headers that were written where only a descriptor says that they are: nothing may be repaired if another file
/// has the block, or a lost one may have had it.
pub(super) fn judge_unproven(round: &mut Round<'_, '_>) {
    for Unproven { file, what, empty } in round.check.unproven.clone() {
        if round.contested.contains(&file) {
            let why = "and another file has that block too";
            round.check.refuse(&format!("{what}, {why}"));
        } else if !empty && (round.check.lost_map || !round.broken.is_empty()) {
            let why = "and that block may be a lost file's";
            round.check.refuse(&format!("{what}, {why}"));
        }
    }
}

/// Whether a resource file whose header didn't hold what it must is where its map says: else what
/// lies there is some other structure's. `raw` is the header as it was.
fn is_there(reader: &MetaReader, file: &ResourceFile, raw: &[u8]) -> bool {
    // Small blocks share the file of the large ones, which tell; their clusters may not be there.
    if file.header().is_nested() {
        return true;
    }
    if file.header().clusters() == 0 {
        return ResourceHeader::read_from_prefix(raw)
            .is_ok_and(|(header, _)| header.signature == file.header().signature);
    }
    let first = file.cluster(reader, 0);
    first.is_ok_and(|(header, _)| header.total == file.shape(0).total)
}
