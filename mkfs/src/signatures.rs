//! What a device holds already, by the marks of the common file systems and tables.

/// Bytes that [`find`] looks at, from the start of the device.
pub(crate) const LOOKED_AT: usize = 0x20_1000;

/// A name, where its mark stands, and the mark.
const MARKS: &[(&str, usize, &[u8])] = &[
    ("an XFS file system", 0, b"XFSB"),
    ("a LUKS encrypted volume", 0, b"LUKS\xba\xbe"),
    ("a Ceph OSD", 0, b"bluestore block device"),
    ("an NTFS file system", 3, b"NTFS    "),
    ("an exFAT file system", 3, b"EXFAT   "),
    ("a FAT file system", 0x36, b"FAT1"),
    ("a FAT file system", 0x52, b"FAT32   "),
    ("a GPT partition table", 512, b"EFI PART"),
    ("a GPT partition table", 4096, b"EFI PART"),
    ("an LVM2 physical volume", 0, b"LABELONE"),
    ("an LVM2 physical volume", 512, b"LABELONE"),
    ("an LVM2 physical volume", 1024, b"LABELONE"),
    ("an LVM2 physical volume", 1536, b"LABELONE"),
    ("swap space", 4086, b"SWAPSPACE2"),
    ("swap space", 4086, b"SWAP-SPACE"),
    ("an ext2, ext3 or ext4 file system", 0x438, b"\x53\xef"),
    ("a Linux RAID member", 0, b"\xfc\x4e\x2b\xa9"),
    ("a Linux RAID member", 4096, b"\xfc\x4e\x2b\xa9"),
    ("an OCFS2 file system", 0x2000, b"OCFSV2"),
    ("a GFS2 file system", 0x10000, b"\x01\x16\x19\x70"),
    ("a Btrfs file system", 0x10040, b"_BHRfS_M"),
    ("an ISO 9660 file system", 0x8001, b"CD001"),
    ("an extent of a VMFS volume", 0x10_0000, b"\x0d\xd0\x01\xc0"),
    ("a VMFS volume", 0x20_0000, b"\x5e\xf1\xab\x2f"),
    ("a VMFS-L volume", 0x20_0000, b"\x5f\xf1\xab\x2f"),
];

/// The first thing known that begins a device with these first bytes; what is shorter than
/// [`LOOKED_AT`] is searched as far as it goes.
pub(crate) fn find(start: &[u8]) -> Option<&'static str> {
    let has = |&&(_, at, mark): &&(&str, usize, &[u8])| {
        start.get(at..).is_some_and(|rest| rest.starts_with(mark))
    };
    if let Some((name, ..)) = MARKS.iter().find(has) {
        return Some(name);
    }
    let types = (0..4).filter_map(|entry| start.get(0x1be + 16 * entry + 4));
    let is_mbr = start.get(510..512) == Some(&[0x55, 0xaa]) && types.into_iter().any(|&t| t != 0);
    is_mbr.then_some("an MBR partition table")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_are_nothing() {
        assert_eq!(find(&vec![0; LOOKED_AT]), None);
        assert_eq!(find(&[]), None);
    }

    #[test]
    fn an_mbr_without_partitions_is_nothing() {
        let mut sector = vec![0; 4096];
        sector[510..512].copy_from_slice(&[0x55, 0xaa]);
        assert_eq!(find(&sector), None);
        sector[0x1be + 4] = 0x83;
        assert_eq!(find(&sector), Some("an MBR partition table"));
    }
}
