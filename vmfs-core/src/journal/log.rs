use bincode::{Decode, Encode};

use super::codec::{self, Redo};
use super::patch::SECTOR;
use crate::format::{At, Damage, FdAddr, Uuid};
use crate::lvm::{LvmError, Volume, VolumeOffset};

/// Starts the journal block of a host that keeps its journal as this module does.
const MAGIC: &[u8; 16] = b"OpenVMFS journal";
const VERSION: u32 = 2;
/// Bytes of the header's place; transactions follow.
const HEADER_SIZE: u64 = 4096;
/// No version has a larger journal block.
const MAX_LENGTH: u64 = 16 << 20;
/// File descriptors that a header has room for inside its first sector, which is written whole or
/// not at all.
const MAX_PENDING: usize = 96;

/// Whose journal it is: at the start of the journal block.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct JournalHeader {
    version: u32,
    host: [u8; 16],
    /// Volume offset of the host's heartbeat slot.
    pub heartbeat: u64,
    /// Generation of that slot.
    pub generation: u64,
    /// Bytes of the journal block.
    pub length: u64,
    /// Tells this use of the block from earlier ones.
    pub key: u64,
    /// What a dead host had begun to give back, where this journal takes the place of that host's
    /// own; transactions know better.
    pending: Vec<u32>,
}

impl JournalHeader {
    /// The header of a journal of `length` bytes that the host with this heartbeat starts now.
    pub fn new(host: Uuid, heartbeat: u64, generation: u64, length: u64, key: u64) -> Self {
        let mut bytes = [0; 16];
        bytes.copy_from_slice(zerocopy::IntoBytes::as_bytes(&host));
        Self {
            version: VERSION,
            host: bytes,
            heartbeat,
            generation,
            length: length.min(MAX_LENGTH),
            key,
            pending: Vec::new(),
        }
    }

    /// The header with files whose blocks are still being given back, as long as no transaction
    /// says which these are.
    #[must_use]
    pub fn with_pending(mut self, files: &[FdAddr]) -> Self {
        let files = files.iter().take(MAX_PENDING);
        self.pending = files.map(|file| file.raw()).collect();
        self
    }

    /// The header of the same journal without any transaction, now that they are all in place, with
    /// the files whose blocks are `pending`; `None` if these are too many.
    pub fn replayed(&self, pending: &[FdAddr]) -> Option<Self> {
        let empty = Self {
            key: self.key.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(1),
            ..self.clone()
        };
        (pending.len() <= MAX_PENDING).then(|| empty.with_pending(pending))
    }

    /// The files whose blocks are still being given back if there are no transactions.
    pub fn pending(&self) -> impl Iterator<Item = FdAddr> {
        self.pending.iter().filter_map(|&raw| FdAddr::from_raw(raw))
    }

    /// Place and generation of the host's heartbeat.
    pub(super) fn slot(&self) -> (u64, u64) {
        (self.heartbeat, self.generation)
    }

    /// The header of the journal block at `place`; `None` when it is of another kind, or none.
    pub fn read(volume: &Volume, place: VolumeOffset) -> Result<Option<Self>, LvmError> {
        let mut block = vec![0; HEADER_SIZE as usize];
        volume.read(place, &mut block)?;
        let Some(rest) = block.strip_prefix(MAGIC) else {
            return Ok(None);
        };
        let (sum, content) = rest.split_at(4);
        let config = bincode::config::standard()
            .with_fixed_int_encoding()
            .with_limit::<{ HEADER_SIZE as usize }>();
        let header: Option<(Self, usize)> = bincode::decode_from_slice(content, config).ok();
        Ok(header
            .filter(|(header, used)| {
                sum == crc32fast::hash(&content[..*used]).to_le_bytes()
                    && header.version == VERSION
                    && (2 * HEADER_SIZE..=MAX_LENGTH).contains(&header.length)
            })
            .map(|(header, _)| header))
    }

    /// Whether the host with this UUID and generation of its slot wrote it.
    pub fn is_of(&self, host: Uuid, generation: u64) -> bool {
        self.host == *zerocopy::IntoBytes::as_bytes(&host) && self.generation == generation
    }

    /// Makes it the header of the journal block at `place`; durable after a flush.
    ///
    /// # Panics
    /// Never: a header has a fixed size but for a bounded list.
    pub fn write(&self, volume: &Volume, place: VolumeOffset) -> Result<(), LvmError> {
        let config = bincode::config::standard().with_fixed_int_encoding();
        let content = bincode::encode_to_vec(self, config).expect("a header of fixed size");
        let mut block = MAGIC.to_vec();
        block.extend_from_slice(&crc32fast::hash(&content).to_le_bytes());
        block.extend_from_slice(&content);
        block.resize(HEADER_SIZE as usize, 0);
        volume.write(place, &block)
    }
}

/// The part of the journal block where transactions are appended, over and over.
///
/// It has two halves. A transaction that is cut off while it is written over the first of an
/// earlier round could leave some of that round as if it were all: so the log starts again in the
/// half whose transactions the other one has made good already.
#[derive(Debug)]
pub struct Log {
    start: VolumeOffset,
    /// Bytes of a half.
    half: u64,
    key: u64,
    in_second: bool,
    /// Where in the half the next transaction goes.
    position: u64,
}

impl Log {
    /// Starts a journal in the block at `place`, which nobody uses.
    pub fn create(
        volume: &Volume,
        place: VolumeOffset,
        header: &JournalHeader,
    ) -> Result<Self, LvmError> {
        header.write(volume, place)?;
        volume.flush()?;
        Ok(Self::of(place, header))
    }

    fn of(place: VolumeOffset, header: &JournalHeader) -> Self {
        Self {
            start: place + HEADER_SIZE,
            half: (header.length - HEADER_SIZE) / 2 / SECTOR as u64 * SECTOR as u64,
            key: header.key,
            in_second: false,
            position: 0,
        }
    }

    /// Bytes that a transaction may have: it fits into a half, its own head and those of its
    /// images included.
    pub(super) fn limit(&self) -> u64 {
        self.half / 3 * 2
    }

    /// Whether most of the half is written.
    pub(super) fn is_getting_full(&self) -> bool {
        self.position > self.half / 4 * 3
    }

    /// The transaction in bytes; `None` when it doesn't fit behind the last one.
    pub(super) fn encode(&self, redo: &Redo, sequence: u64) -> Option<Vec<u8>> {
        let bytes = codec::encode(redo, sequence, self.key);
        (self.position + bytes.len() as u64 <= self.half).then_some(bytes)
    }

    /// Writes what [`Log::encode`] gave behind the last transaction.
    pub(super) fn append(&mut self, volume: &Volume, bytes: &[u8]) -> Result<(), LvmError> {
        volume.write(self.start_of(self.in_second) + self.position, bytes)
    }

    /// What was appended is durable.
    pub(super) fn advance(&mut self, bytes: usize) {
        self.position += bytes as u64;
    }

    /// Everything in the log is in place: the next transaction goes to the start of the other half.
    pub(super) fn restart(&mut self) {
        if self.position > 0 {
            self.in_second = !self.in_second;
            self.position = 0;
        }
    }

    fn start_of(&self, second: bool) -> VolumeOffset {
        self.start + if second { self.half } else { 0 }
    }

    /// The transactions in the journal at `place` that may not be in place, in order.
    pub(super) fn read_all(
        volume: &Volume,
        place: VolumeOffset,
        header: &JournalHeader,
    ) -> Result<Vec<Redo>, LvmError> {
        Ok(Self::read_halves(volume, place, header)?.1)
    }

    /// Those of the half whose transactions the other one has made good, and then [`Log::read_all`].
    pub(super) fn read_halves(
        volume: &Volume,
        place: VolumeOffset,
        header: &JournalHeader,
    ) -> Result<(Vec<Redo>, Vec<Redo>), LvmError> {
        let log = Self::of(place, header);
        let mut bytes = vec![0; log.half as usize];
        let (mut older, mut newest) = (Vec::new(), (0, Vec::new()));
        for second in [false, true] {
            volume.read(log.start_of(second), &mut bytes)?;
            let mut found = read_half(&bytes, log.key);
            if found.0 > newest.0 {
                std::mem::swap(&mut found, &mut newest);
            }
            if !found.1.is_empty() {
                older = found.1;
            }
        }
        Ok((older, newest.1))
    }

    /// Checks that a range which a transaction names lies on the volume, in whole units.
    pub(super) fn check_range(
        volume: &Volume,
        place: VolumeOffset,
        offset: u64,
        length: u64,
        unit: u64,
    ) -> Result<(), Damage> {
        let whole = offset.is_multiple_of(unit) && length.is_multiple_of(unit);
        let end = offset.checked_add(length);
        if whole && end.is_some_and(|end| end <= volume.size()) {
            return Ok(());
        }
        let expected = format!("multiples of {unit} on the volume");
        let found = format!("{length} bytes at {offset:#x}");
        Err(Damage::new(
            "journal transaction",
            At::Volume(place.0),
            "range",
            found,
            expected,
        ))
    }
}

/// The transactions of a half, and the number of the first; 0 when there are none.
fn read_half(bytes: &[u8], key: u64) -> (u64, Vec<Redo>) {
    let (mut first, mut found) = (0, Vec::new());
    let mut at = 0;
    while let Some((redo, sequence, length)) = bytes.get(at..).and_then(|b| codec::decode(b, key)) {
        if found.is_empty() {
            first = sequence;
        }
        // An older number is what an earlier round left behind.
        if sequence != first.saturating_add(found.len() as u64) {
            break;
        }
        found.push(redo);
        at += length;
    }
    (first, found)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::codec::Image;
    use super::*;
    use crate::scsi::MemoryLun;

    const PLACE: VolumeOffset = VolumeOffset(1 << 20);

    fn redo(sectors: usize) -> Redo {
        let bytes = vec![7; sectors * SECTOR];
        Redo {
            images: vec![Image { offset: 0, bytes }],
            ..Redo::default()
        }
    }

    #[test]
    fn a_transaction_cut_off_at_a_new_start_leaves_the_round_before_it_whole() {
        let volume = Volume::without_lvm(Arc::new(MemoryLun::new("journal", 4 << 20)));
        let header = JournalHeader::new(Uuid::default(), 0, 1, 32 << 10, 5);
        let mut log = Log::create(&volume, PLACE, &header).expect("create");
        let mut rounds: Vec<Vec<Redo>> = Vec::new();
        let mut sequence = 0;
        for round in 0..5 {
            for sectors in [1, 2 + round % 2, 1] {
                sequence += 1;
                let bytes = log.encode(&redo(sectors), sequence).expect("room");
                if rounds.len() <= round {
                    // Any sectors may arrive and any not.
                    for kept in 0..1 << (bytes.len() / SECTOR) {
                        let start = log.start_of(log.in_second) + log.position;
                        let mut old = vec![0; bytes.len()];
                        volume.read(start, &mut old).expect("read");
                        let mut torn = old.clone();
                        for sector in (0..bytes.len() / SECTOR).filter(|s| kept >> s & 1 != 0) {
                            let range = sector * SECTOR..(sector + 1) * SECTOR;
                            torn[range.clone()].copy_from_slice(&bytes[range]);
                        }
                        volume.write(start, &torn).expect("write");
                        let found = Log::read_all(&volume, PLACE, &header).expect("log");
                        if torn != bytes {
                            assert_eq!(found, *rounds.last().unwrap_or(&Vec::new()));
                        }
                        volume.write(start, &old).expect("write");
                    }
                    rounds.push(Vec::new());
                }
                log.append(&volume, &bytes).expect("append");
                log.advance(bytes.len());
                rounds[round].push(redo(sectors));
                let found = Log::read_all(&volume, PLACE, &header).expect("log");
                assert_eq!(found, rounds[round]);
            }
            log.restart();
            // With nothing in the new half yet, it isn't the other one's turn.
            log.restart();
        }
    }
}
