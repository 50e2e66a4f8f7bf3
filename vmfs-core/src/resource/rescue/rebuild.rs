use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use super::scan::Evidence;
use crate::format::{
    At, BlockAddr, Family, FdAddr, FileMetadata, FsDescriptor, Layout, ResourceHeader,
    ResourceKind, SystemFile, ZeroLevel,
};
use crate::journal::MetaReader;
use crate::lvm::VolumeOffset;
use crate::resource::system::{PointerSources, Resources, open_resource_file};
use crate::resource::{BlockMap, MetaError, Place, ResourceFile, read_fd};

/// File offset of the first cluster of every resource file.
const FIRST_GROUP: u64 = 65536;
/// File blocks of a resource file that are put back: 64 TiB of them in blocks of 1 MiB.
const MOST_BLOCKS: u64 = 1 << 26;

/// Resource files as far as they could be found.
#[derive(Debug)]
pub struct Rebuilt {
    /// What is there.
    pub resources: Resources,
    /// Parts of the volume that were taken for parts of resource files because their neighbours are.
    pub guessed: Vec<Range<u64>>,
    /// What was wrong and what was done about it, for people.
    pub notes: Vec<String>,
}

/// Opens the resource files; those that are damaged, from what `scan` finds, which is called at most
/// once and only if it is needed or `thorough`.
pub fn rebuild(
    reader: &MetaReader,
    fsd: &FsDescriptor,
    thorough: bool,
    scan: &mut dyn FnMut() -> Evidence,
) -> Rebuilt {
    let mut work = Work {
        reader,
        fsd,
        scan,
        evidence: None,
        guessed: Vec::new(),
        notes: Vec::new(),
    };
    if thorough {
        work.evidence();
    }
    let family = reader.layout().family;
    let mut sources = PointerSources::default();
    if family != Family::Vmfs3 {
        let kind = ResourceKind::PointerBlock2;
        let file = work.file(SystemFile::PointerBlocks2, kind, &sources);
        sources.pointer_blocks2 = file.map(Arc::new);
    }
    let file = work.file(
        SystemFile::PointerBlocks,
        ResourceKind::PointerBlock,
        &sources,
    );
    sources.pointer_blocks = file.map(Arc::new);
    let file = work.file(SystemFile::SubBlocks, ResourceKind::SubBlock, &sources);
    sources.sub_blocks = file.map(Arc::new);
    let descriptors = SystemFile::FileDescriptors;
    let kind = ResourceKind::FileDescriptor;
    let file_descriptors = work
        .file(descriptors, kind, &sources)
        .unwrap_or_else(|| work.empty(kind, descriptors.fd()));
    let Work { guessed, notes, .. } = work;
    Rebuilt {
        resources: Resources {
            sources,
            file_descriptors,
            file_blocks: None,
            large_file_blocks: None,
            journal_blocks: None,
            problems: Vec::new(),
        },
        guessed,
        notes,
    }
}

struct Work<'a> {
    reader: &'a MetaReader,
    fsd: &'a FsDescriptor,
    scan: &'a mut dyn FnMut() -> Evidence,
    evidence: Option<Evidence>,
    guessed: Vec<Range<u64>>,
    notes: Vec<String>,
}

impl Work<'_> {
    fn evidence(&mut self) -> &Evidence {
        let scan = &mut self.scan;
        self.evidence.get_or_insert_with(scan)
    }

    /// The resource file `file`, as it says itself if its clusters are where it says.
    fn file(
        &mut self,
        file: SystemFile,
        kind: ResourceKind,
        sources: &PointerSources,
    ) -> Option<ResourceFile> {
        let opened = open_resource_file(self.reader, self.fsd, file, kind, sources, 0);
        let problem = match &opened {
            Ok(opened) => self.problem(opened),
            Err(error) => Some(error.to_string()),
        };
        let Some(problem) = problem else {
            return opened.ok();
        };
        if self.evidence.is_none() && self.is_unused(&opened, kind) {
            return opened.ok();
        }
        self.notes
            .push(format!("{} is damaged: {problem}", file.name()));
        let rebuilt = self
            .by_pointers(kind, file.fd(), sources)
            .or_else(|| self.by_evidence(file, kind, opened.as_ref().ok(), sources));
        if rebuilt.is_none() {
            self.notes
                .push(format!("{}: no part of it was found", file.name()));
        }
        rebuilt.or_else(|| opened.ok())
    }

    /// VMFS6 has no pointer blocks in `.pbc.sf`, so nothing is lost with it.
    fn is_unused(&self, opened: &Result<ResourceFile, MetaError>, kind: ResourceKind) -> bool {
        let wide = self.reader.layout().family == Family::Vmfs6;
        let empty = opened
            .as_ref()
            .is_ok_and(|file| file.header().clusters() == 0);
        kind == ResourceKind::PointerBlock && wide || empty
    }

    /// Why the map of a file that could be opened is not to be believed.
    fn problem(&self, file: &ResourceFile) -> Option<String> {
        let header = file.header();
        let (clusters, group) = (header.clusters(), header.clusters_per_group.get().max(1));
        let mut first = 0;
        while first < clusters {
            let last = (first + u64::from(group)).min(clusters);
            let mut error = None;
            let mut sound = false;
            for cluster in first..last {
                match file.cluster(self.reader, cluster) {
                    Ok((found, place)) if found.lock.address.get() == place.0 => {
                        sound = true;
                        if !self.has_files(file, cluster) {
                            let why = "its descriptors in use are not where they should be";
                            return Some(format!("cluster {cluster}: {why}"));
                        }
                    }
                    Ok(_) => {}
                    Err(found) => {
                        error.get_or_insert(found);
                    }
                }
            }
            if !sound {
                let why = error.map_or_else(
                    || "its clusters' headers are of another place".to_owned(),
                    |error| error.to_string(),
                );
                return Some(format!("clusters {first} to {}: {why}", last - 1));
            }
            first = last;
        }
        None
    }

    /// Whether the file descriptors of a cluster are where they should be, as far as the first ones in use
    /// tell; a single one may be damaged itself.
    fn has_files(&self, file: &ResourceFile, cluster: u64) -> bool {
        if file.kind() != ResourceKind::FileDescriptor {
            return true;
        }
        let Ok((header, _)) = file.cluster(self.reader, cluster) else {
            return false;
        };
        let layout = self.reader.layout();
        let used = (0..header.total).filter(|&resource| !header.is_free(resource));
        let mut looked_at = 0;
        for resource in used.take(8) {
            looked_at += 1;
            let fd = FdAddr::new(cluster as u32, resource);
            let bytes = file
                .locate(self.reader, cluster, resource)
                .and_then(|place| Ok((place, read_fd(self.reader, place)?)));
            if let Ok((place, bytes)) = bytes
                && FileMetadata::parse(&bytes, fd, layout, At::Volume(place.0)).is_ok()
            {
                return true;
            }
        }
        looked_at < 2
    }

    /// VMFS6's `.sbc.sf` has its addresses in a pointer block of `.pb2.sf`, which may be whole where its
    /// descriptor isn't.
    fn by_pointers(
        &mut self,
        kind: ResourceKind,
        fd: FdAddr,
        sources: &PointerSources,
    ) -> Option<ResourceFile> {
        let blocks2 = sources
            .pointer_blocks2
            .as_ref()
            .filter(|_| kind == ResourceKind::SubBlock)?;
        let layout = self.reader.layout();
        for cluster in 0..blocks2.header().clusters().min(64) {
            let Ok((header, _)) = blocks2.cluster(self.reader, cluster) else {
                continue;
            };
            for resource in (0..header.total).filter(|&resource| !header.is_free(resource)) {
                let mut bytes = vec![0; layout.pointer_block_size() as usize];
                let read = blocks2
                    .locate(self.reader, cluster, resource)
                    .and_then(|place| Ok(self.reader.read(place, &mut bytes)?));
                if read.is_err() {
                    continue;
                }
                let blocks = bytes
                    .chunks_exact(layout.address_size as usize)
                    .enumerate()
                    .filter_map(|(index, raw)| {
                        let raw = raw.iter().rev().fold(0, |v, &b| v << 8 | u64::from(b));
                        match BlockAddr::decode(raw, layout) {
                            BlockAddr::FileBlock { block, .. } => Some((index as u64, block)),
                            _ => None,
                        }
                    })
                    .collect();
                let header = self.header_in(&blocks, kind);
                if let Some(header) = header {
                    let file = self.assemble(kind, fd, header, &blocks, sources);
                    if self.problem(&file).is_none() {
                        let note = "its addresses were found in .pb2.sf";
                        self.notes.push(format!(".sbc.sf: {note}"));
                        return Some(file);
                    }
                }
            }
        }
        None
    }

    fn by_evidence(
        &mut self,
        file: SystemFile,
        kind: ResourceKind,
        opened: Option<&ResourceFile>,
        sources: &PointerSources,
    ) -> Option<ResourceFile> {
        self.evidence();
        let layout = self.reader.layout().clone();
        let evidence = self.evidence.as_ref()?;
        let shift = layout.file_block_shift;
        let inside = layout.file_block_size() - 1;
        let mut header = opened.map(ResourceFile::header);
        if header.is_none()
            && let Some((_, at)) = evidence.clusters(kind).find(|&(number, _)| number == 0)
        {
            // The file begins so far before its first cluster, in the same block.
            let start = at.wrapping_sub(FIRST_GROUP);
            header = self.header_at(start);
        }
        let header = match header {
            Some(header) => header,
            None => self.usual_header(kind)?,
        };
        // Block numbers in the file and on the volume: what clusters and descriptors say is certain.
        let mut known = BTreeMap::new();
        let size = layout.cluster_header_size();
        let mut note = |offset: u64, at: u64| {
            if offset & inside == at & inside && offset >> shift < MOST_BLOCKS {
                known.entry(offset >> shift).or_insert(at >> shift);
            }
        };
        let mut clusters = 0;
        for (number, at) in evidence.clusters(kind) {
            note(header.cluster_header_offset(number, size), at);
            clusters = clusters.max(number + 1);
        }
        let per_cluster = u64::from(header.resources_per_cluster.get());
        let header = if opened.is_some() {
            header
        } else {
            header.with_resources(header.resources().max(clusters * per_cluster))
        };
        if kind == ResourceKind::FileDescriptor {
            for (fd, at) in evidence.descriptors() {
                let offset = header.resource_offset(fd.cluster().into(), fd.resource(), size);
                if let Some(offset) = offset {
                    note(offset, at);
                }
            }
        }
        // Then what the file's own map says.
        if let Some(opened) = opened {
            self.add_mapped(opened, &mut known);
        }
        if known.is_empty() {
            return None;
        }
        let length = header.file_length(layout.family, size).div_ceil(1 << shift);
        let gaps = fill(&mut known, length.min(MOST_BLOCKS));
        let bytes = |blocks: Range<u64>| blocks.start << shift..blocks.end << shift;
        self.guessed.extend(gaps.into_iter().map(bytes));
        self.notes.push(format!(
            "{}: put together from {clusters} clusters found on the volume",
            file.name()
        ));
        Some(self.assemble(kind, file.fd(), header, &known, sources))
    }

    /// Adds what the map of a file that could be opened says of blocks that nothing else is known of.
    fn add_mapped(&self, file: &ResourceFile, known: &mut BTreeMap<u64, u64>) {
        let shift = self.reader.layout().file_block_shift;
        let map = file.map();
        for block in 0..(map.length() >> shift).min(MOST_BLOCKS) {
            let offset = block << shift;
            let run = map.run_at(self.reader, file.sources(), offset, offset + 1);
            if let Ok(run) = run
                && let Place::Data(place) = run.place
            {
                known.entry(block).or_insert(place.0 >> shift);
            }
        }
    }

    fn header_in(&self, blocks: &BTreeMap<u64, u64>, kind: ResourceKind) -> Option<ResourceHeader> {
        let start = blocks.get(&0)? << self.reader.layout().file_block_shift;
        let header = self.header_at(start)?;
        let usual = self.usual_header(kind)?;
        (header.resource_size.get() == usual.resource_size.get()).then_some(header)
    }

    fn header_at(&self, start: u64) -> Option<ResourceHeader> {
        let mut bytes = [0; size_of::<ResourceHeader>()];
        self.reader.read(VolumeOffset(start), &mut bytes).ok()?;
        let at = At::Volume(start);
        let header = ResourceHeader::parse(&bytes, self.reader.layout(), at).ok()?;
        (header.resources() > 0).then_some(header)
    }

    /// The header that every volume's file of this kind has, but for the number of resources.
    fn usual_header(&self, kind: ResourceKind) -> Option<ResourceHeader> {
        let layout = self.reader.layout();
        let (sub, pointer) = (layout.sub_block_size(), layout.pointer_block_size());
        let (per_cluster, per_group, size) = match (layout.family, kind) {
            (Family::Vmfs6, ResourceKind::FileDescriptor) => (256, 8, layout.fd_size),
            (Family::Vmfs6, ResourceKind::SubBlock) => (256, 8, sub),
            (Family::Vmfs6, ResourceKind::PointerBlock2) => (32, 8, pointer),
            (Family::Vmfs5, ResourceKind::FileDescriptor) => (200, 64, layout.fd_size),
            (Family::Vmfs5, ResourceKind::SubBlock) if layout.dense_sub_blocks => (64, 64, sub),
            (Family::Vmfs5, ResourceKind::PointerBlock | ResourceKind::PointerBlock2) => {
                (16, 64, pointer)
            }
            (Family::Vmfs3 | Family::Vmfs5, ResourceKind::SubBlock) => (16, 32, sub),
            (Family::Vmfs3, ResourceKind::FileDescriptor) => (32, 32, layout.fd_size),
            (Family::Vmfs3, ResourceKind::PointerBlock) => (16, 32, pointer),
            _ => return None,
        };
        let mut header: ResourceHeader = zerocopy::FromZeros::new_zeroed();
        header.resources_per_cluster = (per_cluster as u32).into();
        header.clusters_per_group = (per_group as u32).into();
        header.cluster_group_offset = (FIRST_GROUP as u32).into();
        header.resource_size = (size as u32).into();
        let group = per_group * (layout.cluster_header_size() + per_cluster * size);
        header.cluster_group_size = (group as u32).into();
        Some(header)
    }

    fn assemble(
        &self,
        kind: ResourceKind,
        fd: FdAddr,
        header: ResourceHeader,
        blocks: &BTreeMap<u64, u64>,
        sources: &PointerSources,
    ) -> ResourceFile {
        let layout = self.reader.layout();
        let place = VolumeOffset(layout.first_fd + u64::from(fd.resource()) * layout.fd_size);
        let map = BlockMap::of_blocks(blocks, place, layout);
        ResourceFile::from_parts(kind, fd, header, map, sources.clone())
    }

    /// A file without resources, where nothing was found.
    fn empty(&self, kind: ResourceKind, fd: FdAddr) -> ResourceFile {
        let mut header = self.usual_header(kind);
        let header = header.get_or_insert_with(zerocopy::FromZeros::new_zeroed);
        let sources = PointerSources::default();
        self.assemble(kind, fd, header.clone(), &BTreeMap::new(), &sources)
    }
}

/// Fills the gaps of a map of `length` blocks: certain where both sides of a gap lie so that it must be
/// contiguous, a guess elsewhere. Returns the volume's blocks that were guessed.
fn fill(known: &mut BTreeMap<u64, u64>, length: u64) -> Vec<Range<u64>> {
    let certain: Vec<_> = known
        .iter()
        .map(|(&block, &place)| (block, place))
        .collect();
    let taken: std::collections::BTreeSet<u64> = certain.iter().map(|&(_, place)| place).collect();
    let mut guessed = Vec::new();
    let ends = certain.iter().skip(1).copied().map(Some);
    for (&(block, place), next) in certain.iter().zip(ends.chain([None])) {
        let end = next.map_or(length, |(next, _)| next);
        let contiguous =
            next.is_some_and(|(next, there)| there.checked_sub(place) == Some(next - block));
        let start = place + 1;
        let mut last = start;
        for (index, missing) in (block + 1..end).enumerate() {
            let place = start + index as u64;
            // What lies there is known to be another part.
            if taken.contains(&place) {
                break;
            }
            known.insert(missing, place);
            last = place + 1;
        }
        if !contiguous && last > start {
            guessed.push(start..last);
        }
    }
    guessed
}

impl BlockMap {
    /// The map of a file of file blocks: numbers in the file, and on the volume. `place` is what messages
    /// call the descriptor's place.
    fn of_blocks(blocks: &BTreeMap<u64, u64>, place: VolumeOffset, layout: &Layout) -> Self {
        let count = blocks.last_key_value().map_or(0, |(&last, _)| last + 1);
        let mut addresses = vec![0; count as usize];
        for (&index, &block) in blocks {
            let address = BlockAddr::FileBlock {
                block,
                tbz: 0,
                cow: false,
            };
            if let Some(slot) = addresses.get_mut(index as usize) {
                *slot = address.encode(layout);
            }
        }
        let length = count << layout.file_block_shift;
        Self::of_addresses(
            ZeroLevel::FileBlock,
            layout.file_block_shift,
            length,
            addresses,
            place,
        )
    }
}
