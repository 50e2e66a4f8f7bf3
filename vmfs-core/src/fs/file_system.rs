use std::collections::HashMap;
use std::sync::Arc;

use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, OptionsBuilder, Weighter};

use super::engine::Engine;
use super::error::FsError;
use super::space::Count;
use crate::cluster::{self, Host};
use crate::file::{DirEntry, Directory, FileError, FileStore, Inode, SeekTo};
use crate::format::{
    FS_DESCRIPTOR_OFFSET, Family, FdAddr, FileKind, FsDescriptor, HeartbeatState, Layout,
};
use crate::journal::{JournalHeader, MetaReader, look_through};
use crate::lvm::{Volume, VolumeOffset};
use crate::resource::{Place, Resources, Run};
use crate::sync::{Mutex, RwLockReadGuard};

/// Memory for name indexes of directories without a hash table, in bytes.
const INDEX_MEMORY: u64 = 24 << 20;
/// About what a name in an index takes: the table's slot, and a short name with the allocator's
/// overhead.
const INDEX_ENTRY: u64 = 96;
/// Longest target of a symbolic link (Linux' PATH_MAX).
const MAX_LINK_TARGET: u64 = 4096;

/// Lets `reader` show what hosts have in their journals and not in place: those that died with
/// the volume mounted, or have it mounted now.
pub(super) fn look_through_journals(reader: &MetaReader) {
    let hosts = cluster::hosts(reader.volume(), reader.layout());
    for host in hosts.unwrap_or_default() {
        if host.state != HeartbeatState::InUse || host.journal_addr == 0 {
            continue;
        }
        let shown = JournalHeader::read(reader.volume(), host.journal)
            .map_err(Into::into)
            .and_then(|header| {
                let header = header.filter(|header| header.is_of(host.host, host.generation));
                header.map_or(Ok(0), |header| look_through(reader, host.journal, &header))
            });
        match shown {
            Ok(0) => {}
            Ok(transactions) => {
                tracing::debug!(host = %host.host, transactions, "shown from the journal");
            }
            Err(error) => {
                tracing::warn!(host = %host.host, %error, "its journal can't be read; its last changes may be missing");
            }
        }
    }
}

/// Times that a name is looked up again whose file other hosts replace meanwhile.
const LOOKUPS: u32 = 64;

/// Names listed while a directory is locked.
const LISTED_AT_ONCE: usize = 256;

/// A file as it is now, locked against changes if any are possible.
struct Current<'a> {
    given: &'a Inode,
    newest: Option<Arc<Inode>>,
    _guard: Option<RwLockReadGuard<'a, ()>>,
}

impl std::ops::Deref for Current<'_> {
    type Target = Inode;

    fn deref(&self) -> &Inode {
        self.newest.as_deref().unwrap_or(self.given)
    }
}

/// An open file system. All calls take `&self` and may come from any thread.
#[derive(Debug)]
pub struct FileSystem {
    fsd: FsDescriptor,
    pub(super) store: Arc<FileStore>,
    pub(super) space: Mutex<Option<Count>>,
    names: Cache<FdAddr, Arc<NameIndex>, IndexWeight>,
    /// What changes need; `None` when the volume is only read.
    pub(super) engine: Option<Engine>,
}

/// The names of a VMFS3 or VMFS5 directory, which has no hash table of its own.
type NameIndex = HashMap<Box<[u8]>, (FdAddr, u32)>;

#[derive(Debug, Clone)]
struct IndexWeight;

impl Weighter<FdAddr, Arc<NameIndex>> for IndexWeight {
    fn weight(&self, _: &FdAddr, index: &Arc<NameIndex>) -> u64 {
        1024 + index.len() as u64 * INDEX_ENTRY
    }
}

/// One shard: shards split the weight limit, and the index of a large directory must fit.
fn name_cache() -> Cache<FdAddr, Arc<NameIndex>, IndexWeight> {
    let options = OptionsBuilder::new()
        .estimated_items_capacity(64)
        .weight_capacity(INDEX_MEMORY)
        .shards(1)
        .build()
        .expect("both capacities are given");
    Cache::with_options(
        options,
        IndexWeight,
        DefaultHashBuilder::default(),
        DefaultLifecycle::default(),
    )
}

impl FileSystem {
    /// Opens the file system on `volume`, read-only. What a host has in its journal and not in
    /// place yet is seen as if it were.
    ///
    /// # Errors
    /// [`FsError`] when there is no file system of a known version, or its descriptor or `.fdc.sf`
    /// can't be read.
    pub fn open(volume: Volume) -> Result<Self, FsError> {
        Self::open_layered(volume, true)
    }

    pub(super) fn open_layered(volume: Volume, journals: bool) -> Result<Self, FsError> {
        let mut bytes = [0; size_of::<FsDescriptor>()];
        volume.read(VolumeOffset(FS_DESCRIPTOR_OFFSET), &mut bytes)?;
        let fsd = FsDescriptor::parse(&bytes)?.clone();
        let layout = Layout::new(&fsd)?;
        let reader = MetaReader::new(volume, layout);
        if journals {
            look_through_journals(&reader);
        }
        let resources = Resources::open(&reader, &fsd)?;
        for (file, error) in &resources.problems {
            tracing::warn!(file = file.name(), %error, "damaged; files that need it can't be read");
        }
        Ok(Self {
            fsd,
            store: Arc::new(FileStore::new(reader, resources)),
            space: Mutex::default(),
            names: name_cache(),
            engine: None,
        })
    }

    /// The file system descriptor.
    pub fn descriptor(&self) -> &FsDescriptor {
        &self.fsd
    }

    /// The volume's geometry.
    pub fn layout(&self) -> &Layout {
        self.store.reader().layout()
    }

    /// The volume below.
    pub fn volume(&self) -> &Volume {
        self.store.reader().volume()
    }

    /// The files by file descriptor address, for tools that look below names.
    pub fn store(&self) -> &FileStore {
        &self.store
    }

    /// The hosts that have a heartbeat on the volume.
    pub fn hosts(&self) -> Result<Vec<Host>, FsError> {
        Ok(cluster::hosts(self.volume(), self.layout())?)
    }

    /// Forgets what was read of files and directories, so that what another host has written
    /// since is seen from now on. Free counts stay as they are.
    pub fn forget(&self) {
        self.store.forget();
        if self.engine.is_none() {
            let reader = self.store.reader();
            look_through_journals(reader);
            if let Err(error) = self.store.resources().reload(reader) {
                tracing::warn!(%error, "resource files stay as they were");
            }
        }
        self.names.clear();
    }

    /// The root directory.
    pub fn root(&self) -> Result<Arc<Inode>, FsError> {
        self.inode(FdAddr::ROOT)
    }

    /// The file with this descriptor address.
    pub fn inode(&self, fd: FdAddr) -> Result<Arc<Inode>, FsError> {
        let shared = self.is_shared();
        if !shared && let Some(inode) = self.store.cached_inode(fd) {
            self.has_lease()?;
            return Ok(inode);
        }
        let found = self.consistently(fd, || {
            // What is taken into the cache must not be changed meanwhile.
            let _guard = self.read_lock(fd);
            match self.store.inode(fd) {
                // At the same moment: a little later there may be another file.
                Err(_) if shared && self.is_gone(fd)? => Ok(None),
                found => Ok(Some(found?)),
            }
        });
        match found {
            Ok(Some(inode)) => Ok(inode),
            Ok(None) => Err(FsError::Stale { fd }),
            // One that never was a file has no lock to look at either.
            Err(_) if shared && self.is_gone(fd)? => Err(FsError::Stale { fd }),
            Err(error) => Err(error),
        }
    }

    /// Whether there is no file in this descriptor any more.
    fn is_gone(&self, fd: FdAddr) -> Result<bool, FsError> {
        let place = self.store.place_of(fd)? + self.layout().fd_meta;
        let mut address = [0; 4];
        self.volume().read(place, &mut address)?;
        Ok(address == [0; 4])
    }

    /// Keeps a file from being changed in this process.
    fn read_lock(&self, fd: FdAddr) -> Option<RwLockReadGuard<'_, ()>> {
        Some(self.engine.as_ref()?.locks.read(fd))
    }

    /// The newest state of `inode`, which stays so while the caller has it.
    fn current<'a>(&'a self, inode: &'a Inode) -> Result<Current<'a>, FsError> {
        let guard = self.read_lock(inode.fd());
        let newest = if guard.is_some() {
            Some(self.store.inode(inode.fd())?)
        } else {
            None
        };
        Ok(Current {
            given: inode,
            newest,
            _guard: guard,
        })
    }

    /// The file called `name` in `directory`; `.` and `..` are names too.
    pub fn lookup(&self, directory: &Inode, name: &[u8]) -> Result<Arc<Inode>, FsError> {
        if name == b"." {
            Directory::new(&self.store, directory)?;
            return self.inode(directory.fd());
        }
        if name == b".." {
            return self.inode(self.parent(directory)?);
        }
        let mut tries = 0;
        loop {
            let (fd, generation) = self.find(directory, name)?;
            let inode = self.inode(fd);
            if !self.is_shared() {
                return inode;
            }
            tries += 1;
            match inode {
                // Rather none than another file.
                Ok(inode) if tries > LOOKUPS && inode.meta().generation.get() != generation => {
                    return Err(FsError::Stale { fd });
                }
                inode if tries > LOOKUPS => return inode,
                // Another host has deleted it since its name was found.
                Err(FsError::Stale { .. }) => {}
                // Or has made another file in its place.
                Ok(inode) if inode.meta().generation.get() != generation => {}
                inode => return inode,
            }
        }
    }

    /// The directory above `directory`; the root's is the root.
    pub fn parent(&self, directory: &Inode) -> Result<FdAddr, FsError> {
        self.consistently(directory.fd(), || {
            let directory = self.current(directory)?;
            Ok(Directory::new(&self.store, &directory)?.parent()?)
        })
    }

    /// Calls `visit` with the entries of `directory` from position `from` on until it returns
    /// false. 0 is the first position, [`DirEntry::next`] the one behind an entry; a position
    /// stays valid while its directory doesn't change. `.` and `..` are left out.
    pub fn read_dir(
        &self,
        directory: &Inode,
        from: u64,
        mut visit: impl FnMut(DirEntry) -> bool,
    ) -> Result<(), FsError> {
        if self.engine.is_none() {
            return Ok(Directory::new(&self.store, directory)?.for_each(from, &mut visit)?);
        }
        let mut from = from;
        loop {
            // `visit` looks at other files, so it must not be called with this one locked.
            let batch = self.consistently(directory.fd(), || {
                let mut batch = Vec::with_capacity(LISTED_AT_ONCE);
                let current = self.current(directory)?;
                Directory::new(&self.store, &current)?.for_each(from, &mut |entry| {
                    batch.push(entry);
                    batch.len() < LISTED_AT_ONCE
                })?;
                Ok(batch)
            })?;
            let last = batch.len() < LISTED_AT_ONCE;
            for entry in batch {
                from = entry.next;
                if !visit(entry) {
                    return Ok(());
                }
            }
            if last {
                return Ok(());
            }
        }
    }

    /// Reads up to `buf.len()` bytes of `file` at `offset`; returns how many, fewer only at the
    /// end of the file. Holes read as zeros.
    pub fn read(&self, file: &Inode, offset: u64, buf: &mut [u8]) -> Result<usize, FsError> {
        self.consistently(file.fd(), || {
            let file = self.current(file)?;
            Ok(self.store.read(&file, offset, buf)?)
        })
    }

    /// The run of `file` that starts at `offset`, which must be before its end, merged with what
    /// follows in one piece, up to `limit` at least.
    pub fn run_at(&self, file: &Inode, offset: u64, limit: u64) -> Result<Run, FsError> {
        self.consistently(file.fd(), || {
            let file = self.current(file)?;
            if offset >= file.length() {
                // It has become shorter since the caller looked.
                return Ok(Run {
                    offset,
                    length: limit.saturating_sub(offset).max(1),
                    place: Place::Hole,
                });
            }
            Ok(self.store.run_at(&file, offset, limit)?)
        })
    }

    /// Where data or a hole starts from `offset` on, as lseek(2) defines them; `None` is ENXIO.
    pub fn seek(&self, file: &Inode, offset: u64, to: SeekTo) -> Result<Option<u64>, FsError> {
        self.consistently(file.fd(), || {
            let file = self.current(file)?;
            Ok(self.store.seek(&file, offset, to)?)
        })
    }

    /// The target of a symbolic link.
    pub fn read_link(&self, link: &Inode) -> Result<Vec<u8>, FsError> {
        if link.kind() != FileKind::Symlink {
            let (fd, found) = (link.fd(), link.kind());
            return Err(FileError::WrongKind {
                fd,
                found,
                wanted: "symbolic link",
            }
            .into());
        }
        let mut target = vec![0; link.length().min(MAX_LINK_TARGET) as usize];
        self.read(link, 0, &mut target)?;
        target.truncate(crate::format::text(&target).len());
        Ok(target)
    }

    /// The file that a name belongs to, and its generation.
    fn find(&self, directory: &Inode, name: &[u8]) -> Result<(FdAddr, u32), FsError> {
        let max = self.layout().max_name();
        if name.len() > max {
            return Err(FsError::NameTooLong {
                name: name.to_vec(),
                max,
            });
        }
        let found = self.consistently(directory.fd(), || self.find_now(directory, name))?;
        found.ok_or_else(|| FsError::NotFound {
            name: name.to_vec(),
        })
    }

    fn find_now(&self, directory: &Inode, name: &[u8]) -> Result<Option<(FdAddr, u32)>, FsError> {
        let directory = self.current(directory)?;
        if let (Some(engine), false) = (&self.engine, self.layout().family == Family::Vmfs6) {
            let found = self.find_locked(engine, &directory, name)?;
            return Ok(found.map(|entry| (entry.fd, entry.generation)));
        }
        if self.layout().family == Family::Vmfs6 {
            let view = Directory::new(&self.store, &directory)?;
            let found = view.lookup(name)?;
            return Ok(found.map(|entry| (entry.fd, entry.generation)));
        }
        self.find_indexed(&directory, name)
    }

    /// Finds a name where the format has no hash table, through an index made on first use.
    fn find_indexed(
        &self,
        directory: &Inode,
        name: &[u8],
    ) -> Result<Option<(FdAddr, u32)>, FsError> {
        let view = Directory::new(&self.store, directory)?;
        if let Some(index) = self.names.get(&directory.fd()) {
            return Ok(index.get(name).copied());
        }
        let mut index = NameIndex::new();
        let mut fits = true;
        view.for_each(0, &mut |entry| {
            // The first of equal names is the one that a linear search finds.
            index
                .entry(entry.name.into_boxed_slice())
                .or_insert((entry.fd, entry.generation));
            fits = (index.len() as u64) < INDEX_MEMORY / INDEX_ENTRY;
            fits
        })?;
        if !fits {
            let found = view.lookup(name)?;
            return Ok(found.map(|entry| (entry.fd, entry.generation)));
        }
        let found = index.get(name).copied();
        self.names.insert(directory.fd(), Arc::new(index));
        Ok(found)
    }
}
