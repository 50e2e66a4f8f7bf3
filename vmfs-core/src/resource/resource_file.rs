use std::sync::Arc;

use super::block_map::{BlockMap, Place};
use super::error::MetaError;
use super::system::PointerSources;
use crate::format::{
    At, ClusterHeader, ClusterShape, Damage, FdAddr, FileMetadata, ResourceHeader, ResourceKind,
};
use crate::journal::MetaReader;
use crate::lvm::VolumeOffset;
use crate::sync::RwLock;

/// A resource file: its header and where its parts lie.
#[derive(Debug)]
pub struct ResourceFile {
    kind: ResourceKind,
    fd: FdAddr,
    header_place: VolumeOffset,
    /// What the file's own map may go through; only files that were opened before it, so that
    /// no map can lead back to itself.
    sources: PointerSources,
    state: RwLock<Arc<State>>,
}

/// What changes when the file grows.
#[derive(Debug)]
pub(super) struct State {
    pub(super) header: ResourceHeader,
    pub(super) map: Arc<BlockMap>,
}

impl ResourceFile {
    /// Reads the header at `header_offset` of the file `fd` that `map` describes.
    pub fn open(
        reader: &MetaReader,
        kind: ResourceKind,
        (fd, map): (FdAddr, BlockMap),
        sources: PointerSources,
        header_offset: u64,
    ) -> Result<Self, MetaError> {
        let mut bytes = [0; size_of::<ResourceHeader>()];
        let place = place_of(reader, &map, &sources, header_offset, bytes.len() as u64)?;
        reader.read(place, &mut bytes)?;
        let header = ResourceHeader::parse(&bytes, reader.layout(), At::Volume(place.0))?;
        let map = Arc::new(map);
        Ok(Self {
            kind,
            fd,
            header_place: place,
            sources,
            state: RwLock::new(Arc::new(State { header, map })),
        })
    }

    /// A file that was put together, of which nothing is read.
    pub(super) fn from_parts(
        kind: ResourceKind,
        fd: FdAddr,
        header: ResourceHeader,
        map: BlockMap,
        sources: PointerSources,
    ) -> Self {
        let header_place = map.fd_offset();
        let map = Arc::new(map);
        Self {
            kind,
            fd,
            header_place,
            sources,
            state: RwLock::new(Arc::new(State { header, map })),
        }
    }

    /// What the file's resources are.
    pub fn kind(&self) -> ResourceKind {
        self.kind
    }

    /// The file's header.
    pub fn header(&self) -> ResourceHeader {
        self.state.read().header.clone()
    }

    fn state(&self) -> Arc<State> {
        Arc::clone(&self.state.read())
    }

    /// The state in which the file `has` something, if there is one: another host may have made it
    /// longer.
    fn state_with(&self, reader: &MetaReader, has: impl Fn(&ResourceHeader) -> bool) -> Arc<State> {
        let state = self.state();
        if has(&state.header) {
            return state;
        }
        self.look_again(reader);
        self.state()
    }

    /// Looks on the volume whether another host has made the file longer.
    fn look_again(&self, reader: &MetaReader) {
        if reader.journal().is_none() {
            return;
        }
        let length = reader.layout().fd_size;
        let fd_offset = self.map().fd_offset().0;
        reader.drop_cached(fd_offset..fd_offset + length);
        let header = self.header_place.0;
        reader.drop_cached(header..header + size_of::<ResourceHeader>() as u64);
        if let Err(error) = self.reload(reader) {
            tracing::debug!(kind = %self.kind, %error, "looking whether it has grown");
        }
    }

    /// The file has grown.
    pub(super) fn replace(&self, state: State) {
        *self.state.write() = Arc::new(state);
    }

    /// Reads the file's descriptor and header again: another host may have made it longer.
    pub(super) fn reload(&self, reader: &MetaReader) -> Result<(), MetaError> {
        let layout = reader.layout();
        let fd_offset = self.map().fd_offset();
        let bytes = super::read_fd(reader, fd_offset)?;
        let meta = FileMetadata::parse(&bytes, self.fd, layout, At::Volume(fd_offset.0))?;
        let map = Arc::new(BlockMap::new(meta, &bytes, fd_offset, layout));
        let mut bytes = [0; size_of::<ResourceHeader>()];
        reader.read(self.header_place, &mut bytes)?;
        let header = ResourceHeader::parse(&bytes, layout, At::Volume(self.header_place.0))?;
        let mut state = self.state.write();
        // It may have grown since it was read, and never gets shorter.
        if header.resources() >= state.header.resources() {
            *state = Arc::new(State { header, map });
        }
        Ok(())
    }

    /// The file's descriptor.
    pub fn fd(&self) -> FdAddr {
        self.fd
    }

    /// Where the header lies.
    pub fn header_place(&self) -> VolumeOffset {
        self.header_place
    }

    /// The file's block map.
    pub fn map(&self) -> Arc<BlockMap> {
        Arc::clone(&self.state.read().map)
    }

    /// What the file's block map goes through.
    pub fn sources(&self) -> &PointerSources {
        &self.sources
    }

    /// Where a resource lies on the volume.
    ///
    /// # Errors
    /// [`Damage`] when the file has no such resource.
    pub fn locate(
        &self,
        reader: &MetaReader,
        cluster: u64,
        resource: u32,
    ) -> Result<VolumeOffset, MetaError> {
        let header_size = reader.layout().cluster_header_size();
        let offset_in =
            |header: &ResourceHeader| header.resource_offset(cluster, resource, header_size);
        let state = self.state_with(reader, |header| offset_in(header).is_some());
        let header = &state.header;
        let Some(offset) = offset_in(header) else {
            return Err(self
                .damage(
                    "address",
                    format!("cluster {cluster}, resource {resource}"),
                    format!(
                        "one of {} resources in clusters of {}",
                        header.resources(),
                        header.resources_per_cluster
                    ),
                )
                .into());
        };
        let size = header.resource_size.get().into();
        place_of(reader, &state.map, &self.sources, offset, size)
    }

    /// Reads and checks the header of a cluster; the volume offset says where it lies.
    pub fn cluster(
        &self,
        reader: &MetaReader,
        cluster: u64,
    ) -> Result<(ClusterHeader, VolumeOffset), MetaError> {
        loop {
            let state = self.state_with(reader, |header| cluster < header.clusters());
            let read = self.cluster_of(&state, reader, cluster);
            if let Ok((header, _)) = &read
                && header.total > ClusterShape::of(&state.header, self.kind, cluster).total
            {
                // Another host has filled up what was the last cluster.
                self.look_again(reader);
            }
            // The file may have grown in between.
            if read.is_ok() || Arc::ptr_eq(&state, &self.state()) {
                return read;
            }
        }
    }

    fn cluster_of(
        &self,
        state: &State,
        reader: &MetaReader,
        cluster: u64,
    ) -> Result<(ClusterHeader, VolumeOffset), MetaError> {
        let layout = reader.layout();
        let place = self.cluster_place_of(state, reader, cluster)?;
        let mut bytes = vec![0; layout.cluster_header_size() as usize];
        if reader.is_layered() {
            reader.read(place, &mut bytes)?;
        } else {
            // Whoever looks at all clusters shouldn't empty the cache of everything else.
            reader.volume().read(place, &mut bytes)?;
        }
        let at = At::Volume(place.0);
        let header = ClusterHeader::parse(&bytes, cluster, &state.header, layout, at)?;
        Ok((header, place))
    }

    /// Where the header of a cluster lies, whether there is one or only room for it.
    pub fn cluster_place(
        &self,
        reader: &MetaReader,
        cluster: u64,
    ) -> Result<VolumeOffset, MetaError> {
        let state = self.state_with(reader, |header| cluster < header.clusters());
        self.cluster_place_of(&state, reader, cluster)
    }

    fn cluster_place_of(
        &self,
        state: &State,
        reader: &MetaReader,
        cluster: u64,
    ) -> Result<VolumeOffset, MetaError> {
        let clusters = state.header.clusters();
        if cluster >= clusters {
            let expected = format!("less than {clusters}");
            return Err(self.damage("cluster", cluster.to_string(), expected).into());
        }
        let size = reader.layout().cluster_header_size();
        let offset = state.header.cluster_header_offset(cluster, size);
        place_of(reader, &state.map, &self.sources, offset, size)
    }

    /// What cluster `cluster` holds.
    pub fn shape(&self, cluster: u64) -> ClusterShape {
        ClusterShape::of(&self.state.read().header, self.kind, cluster)
    }

    fn damage(&self, field: &'static str, found: String, expected: String) -> Damage {
        let name = match self.kind {
            ResourceKind::FileBlock => "file block resource file",
            ResourceKind::SubBlock => "sub-block resource file",
            ResourceKind::PointerBlock => "pointer block resource file",
            ResourceKind::FileDescriptor => "file descriptor resource file",
            ResourceKind::PointerBlock2 => "second pointer block resource file",
            ResourceKind::JournalBlock => "journal block resource file",
            ResourceKind::LargeFileBlock => "large file block resource file",
        };
        Damage::new(
            name,
            At::Volume(self.map().fd_offset().0),
            field,
            found,
            expected,
        )
    }
}

/// The volume offset of `length` bytes at `offset` of a resource file, which must lie in one
/// piece.
fn place_of(
    reader: &MetaReader,
    map: &BlockMap,
    sources: &PointerSources,
    offset: u64,
    length: u64,
) -> Result<VolumeOffset, MetaError> {
    let broken = |found: String| {
        let expected = format!("{length} bytes in one piece");
        MetaError::from(Damage::new(
            "resource file",
            At::Volume(offset),
            "offset in the file",
            found,
            expected,
        ))
    };
    if offset >= map.length() {
        return Err(broken(format!(
            "{offset:#x}, behind the end at {:#x}",
            map.length()
        )));
    }
    let run = map.run_at(reader, sources, offset, offset + length)?;
    match run.place {
        // The file's length may end inside its last cluster's data, whose blocks are whole.
        Place::Data(place) if run.length >= length || run.end() >= map.length() => Ok(place),
        Place::Data(_) => Err(broken(format!("{offset:#x}, in pieces"))),
        Place::ToBeZeroed(_) | Place::Hole => Err(broken(format!("{offset:#x}, in a hole"))),
    }
}
