//! The content of a directory: read as it is, changed in the plan.

use std::sync::Arc;

use vmfs_core::file::FileError;
use vmfs_core::file::entries::DirContent;
use vmfs_core::format::{At, Damage, FdAddr, FdImage, FileMetadata, ResourceKind, ZeroLevel};
use vmfs_core::lvm::VolumeOffset;
use vmfs_core::resource::{BlockMap, MetaError, Place};

use crate::alloc;
use crate::plan::Stage;
use crate::round::Round;

/// A directory's descriptor and map.
pub(crate) struct Content {
    pub(crate) fd: FdAddr,
    pub(crate) place: VolumeOffset,
    pub(crate) image: FdImage,
    map: BlockMap,
}

impl Content {
    /// The content of the file `fd`.
    pub(crate) fn open(round: &Round<'_, '_>, fd: FdAddr) -> Result<Self, String> {
        let file = &round.resources.file_descriptors;
        let place = file
            .locate(&round.reader, fd.cluster().into(), fd.resource())
            .map_err(|error| error.to_string())?;
        let bytes = round.read_fd(place).map_err(|error| error.to_string())?;
        FileMetadata::parse(&bytes, fd, &round.layout, At::Volume(place.0))
            .map_err(|error| error.to_string())?;
        let image = FdImage::from_bytes(&round.layout, bytes);
        Ok(Self::of(round, fd, place, image))
    }

    /// The content of a file whose descriptor, at `place`, is `image`.
    pub(crate) fn of(
        round: &Round<'_, '_>,
        fd: FdAddr,
        place: VolumeOffset,
        image: FdImage,
    ) -> Self {
        let map = BlockMap::new(image.meta(), image.bytes(), place, &round.layout);
        Self {
            fd,
            place,
            image,
            map,
        }
    }

    /// Bytes of it.
    pub(crate) fn length(&self) -> u64 {
        self.image.meta().length.get()
    }

    /// Fills `buf` from `offset`; holes and what is behind the end are zeros.
    pub(crate) fn read(
        &self,
        round: &Round<'_, '_>,
        offset: u64,
        buf: &mut [u8],
    ) -> Result<(), MetaError> {
        buf.fill(0);
        let end = (offset + buf.len() as u64).min(self.map.length());
        let sources = &round.resources.sources;
        let mut at = offset;
        while at < end {
            let run = self.map.run_at(&round.reader, sources, at, end)?;
            let part = run.length.min(end - at);
            if let Place::Data(place) = run.place {
                let start = (at - offset) as usize;
                round
                    .volume
                    .read(place, &mut buf[start..start + part as usize])?;
            }
            at += part.max(1);
        }
        Ok(())
    }

    /// Whether nothing is allocated for a part of it.
    pub(crate) fn is_hole(&self, round: &Round<'_, '_>, offset: u64, length: u64) -> bool {
        if offset >= self.map.length() {
            return true;
        }
        let sources = &round.resources.sources;
        let run = self
            .map
            .run_at(&round.reader, sources, offset, offset + length);
        run.is_ok_and(|run| {
            run.place == Place::Hole && run.length >= length.min(self.length() - offset)
        })
    }

    /// Plans a write inside the length; holes can't be written to.
    pub(crate) fn write(
        &self,
        round: &mut Round<'_, '_>,
        stage: Stage,
        offset: u64,
        bytes: &[u8],
    ) -> Result<(), MetaError> {
        let sources = round.resources.sources.clone();
        let end = offset + bytes.len() as u64;
        let mut at = offset;
        while at < end {
            if at >= self.map.length() {
                return Err(hole(at).into());
            }
            let run = self.map.run_at(&round.reader, &sources, at, end)?;
            let part = run.length.min(end - at);
            let Place::Data(place) = run.place else {
                return Err(hole(at).into());
            };
            let start = (at - offset) as usize;
            round.write(stage, place, &bytes[start..start + part as usize])?;
            at += part.max(1);
        }
        Ok(())
    }

    /// Makes it longer or shorter, with new blocks as they are needed; new bytes are zeros.
    pub(crate) fn set_length(
        &mut self,
        round: &mut Round<'_, '_>,
        stage: Stage,
        length: u64,
    ) -> Result<(), MetaError> {
        let before = self.length();
        if length < before {
            self.image.metadata().length = length.into();
            return self.save(round, Stage::Remove);
        }
        let layout = Arc::clone(&round.layout);
        if self.image.meta().zero_level() == ZeroLevel::Resident {
            self.move_out(round, stage, length)?;
        }
        let level = self.image.meta().zero_level();
        let kind = match level {
            ZeroLevel::SubBlock => ResourceKind::SubBlock,
            ZeroLevel::FileBlock => ResourceKind::FileBlock,
            _ => return Err(full().into()),
        };
        let shift = self.image.meta().block_shift();
        let needed = length.div_ceil(1 << shift);
        if needed > layout.fd_address_count || alloc::size_of(round, kind) != 1 << shift {
            return Err(full().into());
        }
        let mut blocks = self.image.meta().blocks.get();
        for index in before >> shift..needed {
            if self.image.address(index as usize) != 0 {
                continue;
            }
            let (addr, place) = alloc::resource(round, kind).ok_or_else(full)?;
            let zeros = vec![0; 1 << shift];
            round.write(Stage::New, place, &zeros)?;
            self.image.set_address(index as usize, addr.encode(&layout));
            blocks += 1;
        }
        // What a shorter directory left in its last block isn't part of a longer one.
        self.image.metadata().blocks = blocks.into();
        self.image.metadata().length = length.into();
        self.map = BlockMap::new(
            &self.image.meta().clone(),
            self.image.bytes(),
            self.place,
            &layout,
        );
        let mut at = before;
        while at < length {
            let part = (length - at).min(1 << 16);
            self.write(round, stage, at, &vec![0; part as usize])?;
            at += part;
        }
        self.save(round, stage)
    }

    /// Gives every hole before the end a block of zeros, to be written to.
    pub(crate) fn fill_holes(
        &mut self,
        round: &mut Round<'_, '_>,
        stage: Stage,
    ) -> Result<(), MetaError> {
        let layout = Arc::clone(&round.layout);
        let kind = match self.image.meta().zero_level() {
            ZeroLevel::SubBlock => ResourceKind::SubBlock,
            ZeroLevel::FileBlock => ResourceKind::FileBlock,
            _ => return Ok(()),
        };
        let shift = self.image.meta().block_shift();
        if alloc::size_of(round, kind) != 1 << shift {
            return Err(full().into());
        }
        let count = self.length().div_ceil(1 << shift);
        let count = count.min(layout.fd_address_count) as usize;
        let mut filled = 0;
        for index in 0..count {
            if self.image.address(index) != 0 {
                continue;
            }
            let (addr, place) = alloc::resource(round, kind).ok_or_else(full)?;
            round.write(Stage::New, place, &vec![0; 1 << shift])?;
            self.image.set_address(index, addr.encode(&layout));
            filled += 1;
        }
        if filled == 0 {
            return Ok(());
        }
        let blocks = self.image.meta().blocks.get() + filled;
        self.image.metadata().blocks = blocks.into();
        let meta = self.image.meta().clone();
        self.map = BlockMap::new(&meta, self.image.bytes(), self.place, &layout);
        self.save(round, stage)
    }

    /// Moves data that lies in the descriptor to a block, for it to become longer.
    fn move_out(
        &mut self,
        round: &mut Round<'_, '_>,
        stage: Stage,
        length: u64,
    ) -> Result<(), MetaError> {
        let layout = Arc::clone(&round.layout);
        let used = self.length().min(layout.fd_data_size);
        if length <= layout.fd_data_size && used > 0 {
            return Err(full().into());
        }
        let mut data = vec![0; used as usize];
        self.read(round, 0, &mut data)?;
        let small = length <= layout.sub_block_size() * 2;
        let (kind, level, shift) = if small && layout.sub_block_size() < layout.file_block_size() {
            (
                ResourceKind::SubBlock,
                ZeroLevel::SubBlock,
                layout.sub_block_shift,
            )
        } else {
            (
                ResourceKind::FileBlock,
                ZeroLevel::FileBlock,
                layout.file_block_shift,
            )
        };
        let (addr, place) = alloc::resource(round, kind).ok_or_else(full)?;
        let mut bytes = vec![0; 1 << shift];
        bytes[..data.len()].copy_from_slice(&data);
        round.write(Stage::New, place, &bytes)?;
        self.image.data_mut(&layout).fill(0);
        for index in 0..layout.fd_address_count as usize {
            self.image.set_address(index, 0);
        }
        self.image.set_address(0, addr.encode(&layout));
        self.image.set_block_shift(shift);
        self.image.metadata().zero_level = level.raw().into();
        self.image.set_blocks(1);
        let meta = self.image.meta().clone();
        self.map = BlockMap::new(&meta, self.image.bytes(), self.place, &layout);
        self.save(round, stage)
    }

    /// Plans the write of the descriptor.
    pub(crate) fn save(&self, round: &mut Round<'_, '_>, stage: Stage) -> Result<(), MetaError> {
        let meta = round.layout.fd_meta as usize;
        let bytes = self.image.bytes()[meta..].to_vec();
        Ok(round.write(stage, self.place + meta as u64, &bytes)?)
    }
}

fn hole(offset: u64) -> Damage {
    Damage::hex(
        "directory",
        At::File { fd: 0, offset },
        "place",
        offset,
        "a block that holds data",
    )
}

fn full() -> Damage {
    Damage::new(
        "directory",
        At::File { fd: 0, offset: 0 },
        "room",
        "none",
        "a free block for it to grow",
    )
}

/// A directory's content as the code that edits entries wants it.
pub(crate) struct Editing<'e, 'c, 'a> {
    pub(crate) content: &'e mut Content,
    pub(crate) round: &'e mut Round<'c, 'a>,
    pub(crate) stage: Stage,
}

// `DirContent::read` takes no round of its own, so both are kept together.
impl DirContent for Editing<'_, '_, '_> {
    fn length(&self) -> u64 {
        self.content.length()
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<(), FileError> {
        Ok(self.content.read(self.round, offset, buf)?)
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), FileError> {
        Ok(self.content.write(self.round, self.stage, offset, bytes)?)
    }

    fn set_length(&mut self, length: u64) -> Result<(), FileError> {
        Ok(self.content.set_length(self.round, self.stage, length)?)
    }
}
