//! One round of passes over the volume as it is, or as the repairs so far will leave it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use vmfs_core::cluster::Host;
use vmfs_core::format::{At, BlockAddr, FdAddr, FileKind, FileMetadata, Layout};
use vmfs_core::journal::MetaReader;
use vmfs_core::lvm::{LvmError, Volume, VolumeOffset};
use vmfs_core::resource::Resources;

use crate::account;
use crate::check::Check;
use crate::finding::Finding;
use crate::passes::Named;
use crate::plan::Stage;
use crate::usage::Usage;

/// What later passes need to know of a file descriptor in use.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen {
    pub(crate) kind: FileKind,
    /// Whether it is a directory, as a system file may be.
    pub(crate) is_directory: bool,
    pub(crate) generation: u32,
    /// How many names it says it has.
    pub(crate) links: u32,
    /// Which directory it says has it (VMFS6).
    pub(crate) parent: u32,
    /// Names found.
    pub(crate) names: u32,
    /// Subdirectories found in it.
    pub(crate) subdirectories: u32,
    /// The directory that was found to have it, for a directory.
    pub(crate) found_in: Option<FdAddr>,
    /// The directory that was found to have it: the one that it says, if that has it, else the first.
    pub(crate) named_in: Option<FdAddr>,
}

impl Seen {
    /// A file of which no name was found yet.
    pub(crate) fn of(meta: &FileMetadata) -> Self {
        Self {
            kind: meta.kind(),
            is_directory: meta.is_directory(),
            generation: meta.generation.get(),
            links: meta.links.get(),
            parent: meta.parent_fd.get(),
            names: 0,
            subdirectories: 0,
            found_in: None,
            named_in: None,
        }
    }

    /// Notes that `directory` has a name for it.
    pub(crate) fn name_in(&mut self, directory: FdAddr) {
        self.names += 1;
        if self.is_directory {
            self.found_in = Some(directory);
        }
        if self.named_in.is_none() || directory.raw() == self.parent {
            self.named_in = Some(directory);
        }
    }
}

/// A second reference to a resource: where the address stands.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Claim {
    pub(crate) fd: FdAddr,
    /// Where the address stands on the volume.
    pub(crate) slot: VolumeOffset,
    pub(crate) addr: BlockAddr,
    /// Levels above the data.
    pub(crate) depth: u32,
}

/// How many file descriptors are read at once where one is asked for after the other.
const AHEAD: usize = 16;
/// Names of files whose entry goes, kept for /lost+found at most.
const MAX_KNOWN_NAMES: usize = 100_000;

/// The state that the passes share.
pub(crate) struct Round<'c, 'a> {
    pub(crate) check: &'c mut Check<'a>,
    pub(crate) volume: Volume,
    pub(crate) layout: Arc<Layout>,
    pub(crate) reader: Arc<MetaReader>,
    pub(crate) resources: Arc<Resources>,
    /// The hosts on the volume.
    pub(crate) hosts: Vec<Host>,
    pub(crate) usage: Usage,
    pub(crate) files: HashMap<FdAddr, Seen>,
    /// Directories, in the order in which they are looked at.
    pub(crate) directories: Vec<FdAddr>,
    /// Descriptors in use that can't be decoded and stay so.
    pub(crate) broken: HashSet<FdAddr>,
    pub(crate) claims: Vec<Claim>,
    /// What resource files have behind their ends: as many as their maps have room for.
    pub(crate) late_claims: Vec<Claim>,
    /// Resource files of whose blocks some are claimed by another file as well.
    pub(crate) contested: HashSet<FdAddr>,
    /// Claims that aren't kept: they wait for the next round.
    pub(crate) more_claims: u64,
    pub(crate) known_names: HashMap<FdAddr, Vec<u8>>,
    /// Where the search for a free resource goes on, by kind.
    pub(crate) next_free: HashMap<vmfs_core::format::ResourceKind, u64>,
    /// Descriptors that were read ahead, and where they lie.
    pub(crate) ahead: Option<(VolumeOffset, Vec<u8>)>,
    /// Which files name what in their descriptors, once that was asked.
    pub(crate) named: Option<Named>,
    /// Files that entries of VMFS5 directories name, once that was asked.
    pub(crate) named_by_entries: Option<HashSet<FdAddr>>,
}

impl Round<'_, '_> {
    /// Adds a finding; whether to repair it.
    pub(crate) fn found(&mut self, finding: Finding) -> bool {
        self.check.found(finding)
    }

    /// Notes, where a map is tried, that somebody else has this block as well.
    pub(crate) fn contested(&mut self, addr: BlockAddr) {
        if let (Some(account), Some((kind, number))) =
            (&mut self.check.account, account::block_of(addr))
        {
            account.contested(kind, number, &self.layout);
        }
    }

    /// Plans a write to the volume.
    pub(crate) fn write(
        &mut self,
        stage: Stage,
        offset: VolumeOffset,
        bytes: &[u8],
    ) -> Result<(), LvmError> {
        self.check.plan.set_stage(stage);
        self.ahead = None;
        self.volume.write(offset, bytes)?;
        self.reader
            .drop_cached(offset.0..offset.0 + bytes.len() as u64);
        Ok(())
    }

    /// Plans a write that can only fail if reading failed before.
    pub(crate) fn put(&mut self, stage: Stage, offset: VolumeOffset, bytes: &[u8]) {
        if let Err(error) = self.write(stage, offset, bytes) {
            self.unreadable(offset, &error);
        }
    }

    /// Notes that something on the volume can't be read.
    pub(crate) fn unreadable(&mut self, offset: VolumeOffset, error: &LvmError) {
        let finding = Finding::new(
            crate::Code::BlockMapUnreadable,
            "metadata",
            error.to_string(),
        );
        self.found(finding.at(At::Volume(offset.0)));
    }

    /// Remembers the name of a file whose entry goes.
    pub(crate) fn remember_name(&mut self, fd: FdAddr, name: &[u8]) {
        if self.known_names.len() < MAX_KNOWN_NAMES && !name.is_empty() {
            self.known_names.insert(fd, name.to_vec());
        }
    }

    /// Where a file descriptor lies.
    pub(crate) fn place_of(&self, fd: FdAddr) -> Option<VolumeOffset> {
        let file = &self.resources.file_descriptors;
        let (cluster, resource) = (fd.cluster().into(), fd.resource());
        file.locate(&self.reader, cluster, resource).ok()
    }

    /// The bytes of a file descriptor.
    pub(crate) fn read_fd(&self, place: VolumeOffset) -> Result<Vec<u8>, LvmError> {
        let mut bytes = vec![0; self.layout.fd_size as usize];
        self.volume.read(place, &mut bytes)?;
        Ok(bytes)
    }

    /// The bytes of a file descriptor, when those behind it are asked for next.
    pub(crate) fn read_fd_in_turn(&mut self, place: VolumeOffset) -> Result<Vec<u8>, LvmError> {
        let size = self.layout.fd_size as usize;
        let known = self.ahead.as_ref().and_then(|(start, bytes)| {
            let offset = usize::try_from(place.0.checked_sub(start.0)?).ok()?;
            bytes.get(offset..offset.checked_add(size)?)
        });
        if let Some(bytes) = known {
            return Ok(bytes.to_vec());
        }
        let mut bytes = vec![0; AHEAD * size];
        if self.volume.read(place, &mut bytes).is_err() {
            // It may be what lies behind it that can't be read, or isn't there.
            return self.read_fd(place);
        }
        let found = bytes[..size].to_vec();
        self.ahead = Some((place, bytes));
        Ok(found)
    }
}

/// The address under which a file descriptor is itself a resource.
pub(crate) fn as_resource(fd: FdAddr) -> BlockAddr {
    BlockAddr::Resource {
        kind: vmfs_core::format::ResourceKind::FileDescriptor,
        cluster: fd.cluster().into(),
        resource: fd.resource(),
        cow: false,
    }
}
