//! Opening a volume for writing, after what other hosts left is in order, and closing it.

use std::sync::atomic::Ordering::SeqCst;

use super::engine::Engine;
use super::error::FsError;
use super::file_system::FileSystem;
use super::recover::{Left, recover};
use crate::cluster::{self, HostConfig, Membership};
use crate::file::FileError;
use crate::format::{
    BlockAddr, FS_DESCRIPTOR_OFFSET, Family, FdAddr, FsDescriptor, Layout, ResourceKind, Uuid,
};
use crate::journal::{Journal, JournalHeader, Log, MetaReader};
use crate::lvm::{Volume, VolumeOffset};
use crate::resource::{
    AllocError, Allocator, Changes, ResourcePlace, Resources, Wanted, give_back_in_place,
};

/// Hosts that share a volume at most: each begins to look for blocks in another part of it.
const PARTS: u64 = 64;

impl FileSystem {
    /// Opens the file system on `volume` for reading and writing, as `host`.
    ///
    /// If a host is on the volume that may be dead this waits for a lease, and then replays what
    /// it left. Call [`FileSystem::keep_up`] from time to time, and [`FileSystem::close`] at the
    /// end.
    ///
    /// # Errors
    /// [`FsError::NotWritable`] with the reason when the volume can only be read.
    pub fn open_for_writing(volume: Volume, host: HostConfig) -> Result<Self, FsError> {
        let mut bytes = [0; size_of::<FsDescriptor>()];
        volume.read(VolumeOffset(FS_DESCRIPTOR_OFFSET), &mut bytes)?;
        let fsd = FsDescriptor::parse(&bytes)?.clone();
        let layout = Layout::new(&fsd)?;
        refuse_unwritable(&volume, &fsd, &layout)?;
        let mut left = recover(&volume, &layout, &host)?;

        let mut fs = Self::open_layered(volume, false)?;
        if let Some((file, error)) = fs.store().resources().problems.first() {
            let reason = format!("{} is damaged: {error}; run fsck.vmfs", file.name());
            return Err(FsError::NotWritable(reason));
        }
        let journals: Vec<_> = left
            .iter()
            .filter_map(|left| fs.resource_at(left.journal?))
            .collect();
        let pending: Vec<FdAddr> = left.iter().flat_map(|left| left.pending.clone()).collect();
        let engine = match start(&fs, &fsd, host.clone(), &journals, &pending) {
            Err(FsError::File(FileError::Alloc(_))) if fs.reuse_journals(&mut left)? => {
                start(&fs, &fsd, host, &[], &pending)
            }
            started => started,
        };
        fs.engine = Some(engine.map_err(|error| match error {
            FsError::File(FileError::Alloc(error)) => FsError::NotWritable(format!(
                "{error}, which the journal needs; mount it with -o ro, or grow it"
            )),
            error => error,
        })?);
        // Should this fail, the slot stays: the next mount goes on from there.
        fs.take_journal_block(&pending)?;
        fs.settle(left, &pending)?;
        Ok(fs)
    }

    /// Marks the journal's block as used and notes what dead hosts had not finished: the first
    /// thing in the journal.
    fn take_journal_block(&self, pending: &[FdAddr]) -> Result<(), FsError> {
        let engine = self.engine()?;
        let (kind, place) = engine.journal_block;
        let (reader, resources) = (self.store().reader(), self.store().resources());
        let mut changes = Changes::new(reader, resources, &engine.allocator, engine.actor());
        changes.adopt(kind, place);
        for &file in pending {
            changes.txn.begin(file);
        }
        changes.publish()?;
        self.sync()
    }

    /// On a full volume a dead host's journal, whose content is in place by now, makes room for
    /// this host's; whether there is one.
    fn reuse_journals(&self, left: &mut [Left]) -> Result<bool, FsError> {
        let (reader, resources) = (self.store().reader(), self.store().resources());
        let mut found = false;
        for dead in left {
            let journal = dead.journal.and_then(|address| self.resource_at(address));
            if let Some((kind, place)) = journal {
                give_back_in_place(reader, resources, kind, place)?;
                dead.journal = None;
                found = true;
            }
        }
        Ok(found)
    }

    /// Takes over from dead hosts, of which everything is in place or noted in this host's journal:
    /// gives back their journals and slots, then finishes what they had not.
    fn settle(&self, left: Vec<Left>, pending: &[FdAddr]) -> Result<(), FsError> {
        let engine = self.engine()?;
        for dead in left {
            let journal = dead.journal.and_then(|address| self.resource_at(address));
            if let Some((kind, place)) = journal {
                self.change(engine, |changes| {
                    if changes.is_used(kind, place)? {
                        changes.give(kind, place, FdAddr::ROOT);
                    }
                    Ok(())
                })?;
                self.sync()?;
            }
            cluster::clear_slot(self.volume(), dead.slot)?;
        }
        self.finish_pending(pending)
    }

    /// The resource that a journal's address names.
    fn resource_at(&self, address: BlockAddr) -> Option<(ResourceKind, ResourcePlace)> {
        match address {
            BlockAddr::Resource {
                kind: kind @ ResourceKind::JournalBlock,
                cluster,
                resource,
                ..
            } => Some((kind, (cluster, resource))),
            BlockAddr::FileBlock { block, .. } => {
                let per_cluster = self.store().resources().blocks_per_cluster();
                let place = (block / per_cluster, (block % per_cluster) as u32);
                Some((ResourceKind::FileBlock, place))
            }
            _ => None,
        }
    }

    /// Writes everything in place, gives back the journal and the heartbeat slot. Calls that
    /// change the volume fail from now on.
    ///
    /// # Errors
    /// When the volume fails: then everything that was durable is, and the next mount replays it.
    pub fn close(&self) -> Result<(), FsError> {
        let Some(engine) = &self.engine else {
            return Ok(());
        };
        if engine.closed.load(SeqCst) {
            return Ok(());
        }
        engine.holds.clear();
        self.reap_unheld(engine);
        engine.closed.store(true, SeqCst);
        if engine.membership.is_lost() {
            return Err(FsError::Fenced);
        }
        let reader = self.store().reader();
        self.sync()?;
        if let Some(journal) = reader.journal() {
            journal.checkpoint(reader)?;
        }
        // With everything in place the journal has nothing to say any more, so the block can go
        // past it. A cut before the slot is free makes the next host do both again.
        let (kind, place) = engine.journal_block;
        give_back_in_place(reader, self.store().resources(), kind, place)?;
        engine.membership.release(self.volume())?;
        Ok(())
    }
}

/// Refuses what this version can read and must not write to.
fn refuse_unwritable(volume: &Volume, fsd: &FsDescriptor, layout: &Layout) -> Result<(), FsError> {
    /// Set while an administrator works on the volume.
    const MAINTENANCE: u32 = 0x8;
    let reason = if !volume.is_writable() {
        "the device is open for reading only".to_owned()
    } else if volume.missing().next().is_some() {
        format!(
            "{} of its devices are missing ({}); give them, or mount it with -o ro",
            volume.missing_devices(),
            volume.missing_names().join(", ")
        )
    } else if layout.family == Family::Vmfs3 {
        "it is VMFS3, which can only be read; mount it with -o ro".to_owned()
    } else if fsd.checksum_type != 0 {
        format!(
            "its metadata has checksums of type {}, which are not known; mount it with -o ro",
            fsd.checksum_type
        )
    } else if fsd.config.get() & MAINTENANCE != 0 {
        "it is in maintenance mode; mount it with -o ro".to_owned()
    } else {
        return Ok(());
    };
    Err(FsError::NotWritable(reason))
}

/// Takes a block for the journal, starts it, takes a heartbeat slot that names it.
///
/// In this order, so that a cut leaves nothing: a header in a free block means nothing, and a slot
/// with a header is one that the next host takes back.
///
/// `journals` of dead hosts are left alone, marked as used or not: their slots name them yet. Where
/// there is no other block one of them is written over, so the header notes what they had `pending`.
fn start(
    fs: &FileSystem,
    fsd: &FsDescriptor,
    host: HostConfig,
    journals: &[(ResourceKind, ResourcePlace)],
    pending: &[FdAddr],
) -> Result<Engine, FsError> {
    let (reader, resources) = (fs.store().reader(), fs.store().resources());
    let layout = reader.layout();
    let free = cluster::free_slot(reader.volume(), layout)?.ok_or_else(|| {
        FsError::NotWritable("all heartbeat slots are taken by other hosts".to_owned())
    })?;
    let clusters = resources
        .file(ResourceKind::FileBlock)
        .map_or(0, |file| file.header().clusters());
    let allocator = Allocator::new(resources, free.number % PARTS * clusters / PARTS);
    let (kind, place, block, length) = loop {
        let found = journal_place(reader, resources, &allocator)?;
        if !journals.contains(&(found.0, found.1)) {
            break found;
        }
    };
    let address = match kind {
        ResourceKind::JournalBlock => BlockAddr::Resource {
            kind,
            cluster: place.0,
            resource: place.1,
            cow: false,
        },
        _ => BlockAddr::FileBlock {
            block: block.0 >> layout.file_block_shift,
            tbz: 0,
            cow: false,
        },
    };
    let raw = address.encode(layout) as u32;
    let header = JournalHeader::new(
        host.uuid,
        free.offset.0,
        free.generation,
        length.min(host.journal),
        key(host.uuid, free.generation),
    )
    .with_pending(pending);
    let log = Log::create(reader.volume(), block, &header)?;
    let version = (fsd.major_version.get(), fsd.minor_version);
    let membership = Membership::claim(reader.volume(), free, &host, version, (raw, block))?;
    reader.start_journal(Journal::new(log));
    Ok(Engine::new(host, membership, allocator, (kind, place)))
}

/// A number that no earlier use of the journal block had: hosts' UUIDs are random.
fn key(host: Uuid, generation: u64) -> u64 {
    let random = u64::from(host.time_hi.get()) << 32 | u64::from(host.time_lo.get());
    let mac = host
        .mac
        .iter()
        .fold(0, |mac, &byte| mac << 8 | u64::from(byte));
    random ^ mac.rotate_left(16) ^ u64::from(host.random.get()).rotate_left(48) ^ generation
}

/// A free journal block: on VMFS6 of the journal file, before that a file block. It isn't marked
/// as used yet.
fn journal_place(
    reader: &MetaReader,
    resources: &Resources,
    allocator: &Allocator,
) -> Result<(ResourceKind, ResourcePlace, VolumeOffset, u64), FsError> {
    let layout = reader.layout();
    if layout.family == Family::Vmfs6 {
        let kind = ResourceKind::JournalBlock;
        let (place, _) = allocator.take(reader, resources, kind, 0)?;
        let file = resources.file(kind).ok_or(AllocError::NoSpace { kind })?;
        let length = u64::from(file.header().resource_size.get());
        let block = file.locate(reader, place.0, place.1)?;
        return Ok((kind, place, block, length));
    }
    let kind = ResourceKind::FileBlock;
    let wanted = Wanted {
        owner: FdAddr::ROOT,
        index: 0,
        count: 1,
        behind: None,
        small: true,
    };
    let (block, _) = allocator.take_blocks(reader, resources, wanted)?;
    let per_cluster = resources.blocks_per_cluster();
    let place = (block / per_cluster, (block % per_cluster) as u32);
    let length = layout.file_block_size();
    let start = VolumeOffset(block << layout.file_block_shift);
    Ok((kind, place, start, length))
}
