//! Redo records in bytes: bincode for the content, CRC-32 against torn writes.

use bincode::config::{Configuration, Fixint, Limit, LittleEndian};

/// Starts every transaction in the log.
const MAGIC: u32 = 0x4a54_564f;
/// Bytes before the content: magic, checksum, sequence number, content length.
const HEAD: usize = 24;
/// Transactions start at multiples of this.
const ALIGNMENT: usize = 512;
/// No journal block of any version is larger, which bounds what a length may say.
const MAX_CONTENT: usize = 16 << 20;

/// A range of metadata as it shall be.
#[derive(Debug, Clone, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub(super) struct Image {
    pub(super) offset: u64,
    pub(super) bytes: Vec<u8>,
}

/// What becomes true together.
#[derive(Debug, Clone, Default, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub(super) struct Redo {
    /// Ranges with their new content.
    pub(super) images: Vec<Image>,
    /// Offset and length of ranges that hold no metadata any more: earlier images of them must
    /// not be written.
    pub(super) revoked: Vec<(u64, u64)>,
    /// Raw addresses of the file descriptors whose blocks are still being given back.
    pub(super) pending: Vec<u32>,
    /// Place and number of each disk lock that the host held for it. It gave none of them back
    /// before everything was in place.
    pub(super) locks: Vec<(u64, u64)>,
}

fn config() -> Configuration<LittleEndian, Fixint, Limit<MAX_CONTENT>> {
    bincode::config::standard()
        .with_fixed_int_encoding()
        .with_limit::<MAX_CONTENT>()
}

/// The transaction as it stands in the log, padded to whole sectors. `key` binds it to one use of
/// the journal block.
pub(super) fn encode(redo: &Redo, sequence: u64, key: u64) -> Vec<u8> {
    let content = bincode::encode_to_vec(redo, config()).expect("within the journal's size");
    let mut bytes = Vec::with_capacity((HEAD + content.len()).next_multiple_of(ALIGNMENT));
    bytes.extend_from_slice(&MAGIC.to_le_bytes());
    bytes.extend_from_slice(&checksum(sequence, key, &content).to_le_bytes());
    bytes.extend_from_slice(&sequence.to_le_bytes());
    bytes.extend_from_slice(&(content.len() as u64).to_le_bytes());
    bytes.extend_from_slice(&content);
    bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
    bytes
}

/// The transaction at the start of `bytes`, its sequence number and its length in the log; `None`
/// when there is no whole one of this use of the journal.
pub(super) fn decode(bytes: &[u8], key: u64) -> Option<(Redo, u64, usize)> {
    let head = bytes.get(..HEAD)?;
    let number = |at: usize, size: usize| {
        let field = head[at..at + size].iter().rev();
        field.fold(0_u64, |value, &byte| value << 8 | u64::from(byte))
    };
    let (magic, sum) = (number(0, 4) as u32, number(4, 4) as u32);
    let (sequence, length) = (number(8, 8), number(16, 8));
    let length = usize::try_from(length).ok().filter(|&l| l <= MAX_CONTENT)?;
    let content = bytes.get(HEAD..HEAD + length)?;
    if magic != MAGIC || checksum(sequence, key, content) != sum {
        return None;
    }
    let (redo, _) = bincode::decode_from_slice(content, config()).ok()?;
    Some((redo, sequence, (HEAD + length).next_multiple_of(ALIGNMENT)))
}

fn checksum(sequence: u64, key: u64, content: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&key.to_le_bytes());
    hasher.update(&sequence.to_le_bytes());
    hasher.update(&(content.len() as u64).to_le_bytes());
    hasher.update(content);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redo() -> Redo {
        let bytes = (0..1024_u32).map(|i| i as u8).collect();
        Redo {
            images: vec![Image {
                offset: 4096,
                bytes,
            }],
            revoked: vec![(8192, 4096)],
            locks: vec![(1 << 20, 7)],
            pending: vec![0x40_0004],
        }
    }

    #[test]
    fn decodes_what_was_encoded() {
        let bytes = encode(&redo(), 7, 42);
        assert_eq!(bytes.len() % 512, 0);
        assert_eq!(decode(&bytes, 42), Some((redo(), 7, bytes.len())));
    }

    #[test]
    fn any_damaged_byte_or_other_key_is_noticed() {
        let bytes = encode(&redo(), 7, 42);
        assert_eq!(decode(&bytes, 43), None);
        let content = 24 + 3 * 8 + 16 + 1024 + 16 + 4;
        for at in 0..content {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            assert_eq!(decode(&damaged, 42), None, "byte {at}");
        }
        for length in (0..content).step_by(7) {
            assert_eq!(decode(&bytes[..length], 42), None, "{length} bytes");
        }
    }
}
