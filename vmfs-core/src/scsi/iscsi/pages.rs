//! What a target tells of a LUN: its size, its limits, its name.

use std::fmt::Write;

use crate::scsi::array::LunIdentity;

/// READ CAPACITY(16).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Capacity {
    /// Bytes.
    pub(super) size: u64,
    /// Bytes of a block.
    pub(super) block: u32,
    /// Not all blocks need be mapped.
    pub(super) is_thin: bool,
    /// Unmapped blocks read as zeros.
    pub(super) unmapped_is_zero: bool,
}

/// Limits of commands (SBC-3, 6.5.3), in blocks; what a target doesn't limit is the largest
/// number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limits {
    /// COMPARE AND WRITE; 0 if the target says that it doesn't have it.
    pub(super) compare: u8,
    /// READ and WRITE.
    pub(super) transfer: u32,
    /// UNMAP; none if the target doesn't say.
    pub(super) unmap: Option<u32>,
    /// WRITE SAME.
    pub(super) same: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            compare: u8::MAX,
            transfer: u32::MAX,
            unmap: None,
            same: u32::MAX,
        }
    }
}

/// Room for [`Capacity::parse`].
pub(super) const CAPACITY_ROOM: usize = 32;
/// Room for standard INQUIRY data, as far as it is looked at.
pub(super) const STANDARD_ROOM: usize = 36;
/// Room for any vital product data page.
pub(super) const PAGE_ROOM: usize = 1024;

fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

impl Capacity {
    /// Nothing if the numbers make no sense.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let last = u64::from_be_bytes(number(bytes, 0)?);
        let block = u32::from_be_bytes(number(bytes, 8)?);
        let size = last.checked_add(1)?.checked_mul(block.into())?;
        let flags = *bytes.get(14)?;
        (size > 0).then_some(Self {
            size,
            block,
            is_thin: flags & 0x80 != 0,
            unmapped_is_zero: flags & 0xc0 == 0xc0,
        })
    }
}

/// The pages that a target has.
pub(super) fn supported_pages(bytes: &[u8]) -> &[u8] {
    payload(bytes)
}

/// What follows a page's head, as far as it is there.
fn payload(page: &[u8]) -> &[u8] {
    let length = number(page, 2).map_or(0, u16::from_be_bytes);
    let rest = page.get(4..).unwrap_or_default();
    rest.get(..length.into()).unwrap_or(rest)
}

impl Limits {
    pub(super) fn parse(page: &[u8]) -> Self {
        let rest = payload(page);
        // Offsets in the standard count from the start of the page.
        let field = |at: usize| number(rest, at - 4).map_or(0, u32::from_be_bytes);
        let limit = |number: u32| if number == 0 { u32::MAX } else { number };
        let same = number(rest, 36 - 4).map_or(0, u64::from_be_bytes);
        Self {
            compare: rest.get(5 - 4).copied().unwrap_or(u8::MAX),
            transfer: limit(field(8)),
            unmap: Some(field(20)).filter(|blocks| *blocks > 0 && field(24) > 0),
            same: limit(u32::try_from(same).unwrap_or(u32::MAX)),
        }
    }
}

/// Whether the logical block provisioning page offers (UNMAP, WRITE SAME that unmaps).
pub(super) fn provisioning(page: &[u8]) -> (bool, bool) {
    let flags = payload(page).get(5 - 4).copied().unwrap_or(0);
    (flags & 0x80 != 0, flags & 0x40 != 0)
}

/// Room for [`lba_status`].
pub(super) const STATUS_ROOM: usize = 8 + 64 * 16;

/// What GET LBA STATUS says (SBC-3, 5.4): runs of blocks, their first and how many they are, and whether
/// they are mapped.
pub(super) fn lba_status(bytes: &[u8]) -> impl Iterator<Item = (u64, u64, bool)> {
    let length = number(bytes, 0).map_or(0, u32::from_be_bytes) as usize;
    let list = bytes.get(8..).unwrap_or_default();
    let list = list.get(..length.saturating_sub(4)).unwrap_or(list);
    list.chunks_exact(16).filter_map(|one| {
        let first = u64::from_be_bytes(number(one, 0)?);
        let blocks = u32::from_be_bytes(number(one, 8)?);
        // Deallocated, or anchored: neither holds anything.
        Some((first, blocks.into(), !matches!(one[12] & 15, 1 | 2)))
    })
}

/// What REPORT SUPPORTED OPERATION CODES says of one code; nothing if it doesn't know.
pub(super) fn is_supported(bytes: &[u8]) -> Option<bool> {
    match bytes.get(1)? & 7 {
        1 => Some(false),
        3 | 5 => Some(true),
        _ => None,
    }
}

/// The LUN's name, as Linux's `wwid` attribute spells it, so that a LUN is the same through
/// libiscsi and through the kernel.
pub(super) fn identity(page: &[u8]) -> Option<LunIdentity> {
    let mut rest = payload(page);
    let mut best: Option<(u8, String)> = None;
    while let Some((head, tail)) = rest.split_first_chunk::<4>() {
        let length = usize::from(head[3]);
        let Some((name, next)) = tail.split_at_checked(length) else {
            break;
        };
        rest = next;
        let of_the_lun = head[1] & 0x30 == 0;
        if let Some((rank, text)) = designator(head[1] & 15, name)
            && of_the_lun
            && best.as_ref().is_none_or(|(other, _)| rank > *other)
        {
            best = Some((rank, text));
        }
    }
    best.map(|(_, text)| LunIdentity::new(&text))
}

/// A designator's rank, the best is the highest, and its text (SPC-4, 7.8.6).
fn designator(kind: u8, name: &[u8]) -> Option<(u8, String)> {
    let hex = || {
        name.iter().fold(String::new(), |mut text, byte| {
            // Writing to a string can't fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
    };
    let text = || {
        let text = String::from_utf8_lossy(name);
        text.trim_matches(['\0', ' ']).to_owned()
    };
    let found = match (kind, name.len()) {
        (8, _) => (9, text()),
        (3, 16) if name[0] >> 4 == 6 => (8, format!("naa.{}", hex())),
        (2, 16) => (7, format!("eui.{}", hex())),
        (2, 12) => (6, format!("eui.{}", hex())),
        (3, 8) => (
            match name[0] >> 4 {
                5 => 5,
                2 => 4,
                _ => 1,
            },
            format!("naa.{}", hex()),
        ),
        (2, 8) => (3, format!("eui.{}", hex())),
        (1, _) => (2, format!("t10.{}", text())),
        _ => return None,
    };
    Some(found).filter(|(_, text)| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_capacity_and_refuses_one_that_overflows() {
        let mut bytes = [0; CAPACITY_ROOM];
        bytes[..8].copy_from_slice(&8_388_607u64.to_be_bytes());
        bytes[8..12].copy_from_slice(&512u32.to_be_bytes());
        bytes[14] = 0xc0;
        let capacity = Capacity::parse(&bytes).expect("valid");
        assert_eq!((capacity.size, capacity.block), (4 << 30, 512));
        assert!(capacity.unmapped_is_zero);
        bytes[..8].copy_from_slice(&[0xff; 8]);
        assert_eq!(Capacity::parse(&bytes), None);
        assert_eq!(Capacity::parse(&bytes[..12]), None);
    }

    #[test]
    fn reads_which_blocks_are_mapped_as_far_as_they_are_there() {
        let mut bytes = vec![0; 8];
        for (first, blocks, status) in [(8u64, 16u32, 0), (24, 8, 1), (32, 1, 2)] {
            bytes.extend(first.to_be_bytes());
            bytes.extend(blocks.to_be_bytes());
            bytes.extend([status, 0, 0, 0]);
        }
        bytes[3] = 4 + 3 * 16;
        let all = [(8, 16, true), (24, 8, false), (32, 1, false)];
        assert_eq!(lba_status(&bytes).collect::<Vec<_>>(), all);
        assert_eq!(lba_status(&bytes[..50]).collect::<Vec<_>>(), all[..2]);
        bytes[3] = 4 + 16;
        assert_eq!(lba_status(&bytes).collect::<Vec<_>>(), all[..1]);
        assert_eq!(lba_status(&[]).count(), 0);
    }

    #[test]
    fn a_short_page_of_limits_has_none() {
        let page = [0, 0xb0, 0, 0x0c, 0, 1, 0, 0, 0, 0, 0x20, 0, 0, 0, 0, 0];
        let limits = Limits::parse(&page);
        assert_eq!(limits.compare, 1);
        assert_eq!(limits.transfer, 0x2000);
        assert_eq!((limits.unmap, limits.same), (None, u32::MAX));
        assert_eq!(Limits::parse(&[]), Limits::default());
    }

    #[test]
    fn prefers_the_name_that_linux_prefers() {
        let mut page = vec![0, 0x83, 0, 0];
        // A T10 name, an NAA name of the target's port, and one of the LUN.
        page.extend([2, 0x01, 0, 12]);
        page.extend(b"IET     0001");
        page.extend([1, 0x13, 0, 8, 0x50, 1, 2, 3, 4, 5, 6, 7]);
        let t10 = page.clone();
        page.extend([1, 0x03, 0, 16]);
        page.extend([0x60; 16]);
        let name = |mut page: Vec<u8>| {
            page[3] = u8::try_from(page.len() - 4).expect("short");
            identity(&page).map(|identity| identity.as_str().to_owned())
        };
        assert_eq!(name(t10).as_deref(), Some("t10.IET     0001"));
        assert_eq!(
            name(page.clone()).as_deref(),
            Some("naa.60606060606060606060606060606060")
        );
        // A designator that is cut off.
        page.truncate(page.len() - 3);
        assert_eq!(name(page).as_deref(), Some("t10.IET     0001"));
        assert_eq!(identity(&[0, 0x83]), None);
    }
}
