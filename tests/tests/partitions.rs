//! Images of whole disks open like the partition on them.

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use vmfs_core::format::Family;
use vmfs_core::fs::FileSystem;
use vmfs_core::lvm::{LvmError, open_luns, open_paths};
use vmfs_core::scsi::{Access, Counters, DeviceOffset, FileLun, Lun, LunError, MemoryLun};
use vmfs_fixtures::FixtureBuilder;
use vmfs_fixtures::mkfs_vmfs::{Options, PartitionTable};
use vmfs_tests::esxi_image;
use vmfs_tests::walk::{all_files, fingerprint, open};

/// A disk: pieces of memory before and behind the image of a volume.
#[derive(Debug)]
struct Disk {
    before: MemoryLun,
    volume: FileLun,
    behind: MemoryLun,
}

/// Where the partition starts, and how much is behind it.
const START: u64 = 1 << 20;

impl Disk {
    /// `image` with zeros around it.
    fn around(image: &Path) -> Self {
        Self {
            before: MemoryLun::new("before", START),
            volume: FileLun::open(image, Access::ReadOnly).expect("image"),
            behind: MemoryLun::new("behind", START),
        }
    }
}

impl Lun for Disk {
    fn name(&self) -> &'static str {
        "a whole disk"
    }

    fn capacity(&self) -> u64 {
        START + self.volume.capacity() + START
    }

    fn block_size(&self) -> u32 {
        512
    }

    fn access(&self) -> Access {
        Access::ReadOnly
    }

    fn read(&self, offset: DeviceOffset, buf: &mut [u8]) -> Result<(), LunError> {
        let pieces: [&dyn Lun; 3] = [&self.before, &self.volume, &self.behind];
        let (mut start, end) = (0, offset.0 + buf.len() as u64);
        for piece in pieces {
            let from = offset.0.max(start);
            let to = end.min(start + piece.capacity());
            if from < to {
                let part = &mut buf[(from - offset.0) as usize..(to - offset.0) as usize];
                piece.read(DeviceOffset(from - start), part)?;
            }
            start += piece.capacity();
        }
        Ok(())
    }

    fn write(&self, _: DeviceOffset, _: &[u8]) -> Result<(), LunError> {
        unreachable!("read-only")
    }

    fn flush(&self) -> Result<(), LunError> {
        Ok(())
    }

    fn counters(&self) -> &Counters {
        self.volume.counters()
    }
}

#[test]
fn a_disk_with_a_master_boot_record_opens_like_its_partition() {
    let image = esxi_image!("vmfs6");
    let disk = Disk::around(&image);
    let mut sector = [0; 512];
    // One entry, the third: type 0xfb from the start of the volume on.
    let entry = &mut sector[446 + 32..446 + 48];
    entry[4] = 0xfb;
    entry[8..12].copy_from_slice(&((START / 512) as u32).to_le_bytes());
    entry[12..].copy_from_slice(&((disk.volume.capacity() / 512) as u32).to_le_bytes());
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    disk.before.write(DeviceOffset(0), &sector).expect("table");
    let volume = open_luns(vec![Arc::new(disk)]).expect("volume on a partition");
    let fs = FileSystem::open(volume).expect("file system");
    assert_eq!(fingerprint(&fs), fingerprint(&open(&[image])));
}

/// AA31E02A-400F-11DB-9590-000C2911D1B8, VMFS, as it stands on disk.
const VMFS_PARTITION: [u8; 16] = [
    0x2a, 0xe0, 0x31, 0xaa, 0x0f, 0x40, 0xdb, 0x11, 0x95, 0x90, 0x00, 0x0c, 0x29, 0x11, 0xd1, 0xb8,
];
/// 0FC63DAF-8483-4772-8E79-3D69D8477DE4, Linux.
const LINUX_PARTITION: [u8; 16] = [
    0xaf, 0x3d, 0xc6, 0x0f, 0x83, 0x84, 0x72, 0x47, 0x8e, 0x79, 0x3d, 0x69, 0xd8, 0x47, 0x7d, 0xe4,
];

/// Writes a GUID partition table around a volume, written from the UEFI specification: sectors of
/// `sector` bytes, `partitions` by type, each of them the volume's.
fn write_gpt(disk: &Disk, sector: u64, partitions: &[[u8; 16]]) {
    let last = disk.capacity() / sector - 1;
    let table_sectors = 128 * 128 / sector;
    let mut table = vec![0; 128 * 128];
    for (number, kind) in partitions.iter().enumerate() {
        let entry = &mut table[number * 128..][..128];
        entry[..16].copy_from_slice(kind);
        entry[16..32].fill(number as u8 + 1);
        entry[32..40].copy_from_slice(&(START / sector).to_le_bytes());
        let end = (START + disk.volume.capacity()) / sector - 1;
        entry[40..48].copy_from_slice(&end.to_le_bytes());
    }
    let header = |own: u64, other: u64, table_at: u64| {
        let mut header = vec![0; 92];
        header[..8].copy_from_slice(b"EFI PART");
        header[8..12].copy_from_slice(&0x1_0000_u32.to_le_bytes());
        header[12..16].copy_from_slice(&92_u32.to_le_bytes());
        let words = [own, other, 2 + table_sectors, last - 1 - table_sectors];
        for (index, word) in words.iter().enumerate() {
            header[24 + index * 8..][..8].copy_from_slice(&word.to_le_bytes());
        }
        header[56..72].fill(9);
        header[72..80].copy_from_slice(&table_at.to_le_bytes());
        header[80..84].copy_from_slice(&128_u32.to_le_bytes());
        header[84..88].copy_from_slice(&128_u32.to_le_bytes());
        header[88..92].copy_from_slice(&crc32fast::hash(&table).to_le_bytes());
        let sum = crc32fast::hash(&header);
        header[16..20].copy_from_slice(&sum.to_le_bytes());
        header.resize(sector as usize, 0);
        header
    };
    let mut protective = [0; 512];
    protective[446 + 4] = 0xee;
    protective[446 + 8] = 1;
    protective[446 + 12..446 + 16].copy_from_slice(&(last as u32).to_le_bytes());
    protective[510..].copy_from_slice(&[0x55, 0xaa]);
    let put = |at: u64, bytes: &[u8]| {
        let behind = START + disk.volume.capacity();
        let (lun, at) = if at < START {
            (&disk.before, at)
        } else {
            (&disk.behind, at - behind)
        };
        lun.write(DeviceOffset(at), bytes).expect("table");
    };
    put(0, &protective);
    put(sector, &header(1, last, 2));
    put(2 * sector, &table);
    let backup = last - table_sectors;
    put(backup * sector, &table);
    put(last * sector, &header(last, 1, backup));
}

#[test]
fn a_disk_with_a_guid_partition_table_opens_like_its_partition() {
    let image = esxi_image!("vmfs6");
    let expected = fingerprint(&open(std::slice::from_ref(&image)));
    for sector in [512, 4096] {
        for partitions in [&[VMFS_PARTITION][..], &[LINUX_PARTITION, VMFS_PARTITION]] {
            let disk = Disk::around(&image);
            write_gpt(&disk, sector, partitions);
            let volume = open_luns(vec![Arc::new(disk)]).expect("volume on a partition");
            assert_eq!(
                volume.luns()[0].name(),
                format!("a whole disk partition {}", partitions.len())
            );
            let fs = FileSystem::open(volume).expect("file system");
            assert_eq!(fingerprint(&fs), expected, "sectors of {sector}");
        }
    }
    for (partitions, message) in [
        (
            &[VMFS_PARTITION; 2][..],
            "a whole disk has 2 VMFS partitions that are volumes of their own; give one of them as a device",
        ),
        (
            &[LINUX_PARTITION],
            "a whole disk: no VMFS here: neither an LVM header at 1 MiB, nor a file system at 2 MiB, nor a VMFS partition",
        ),
    ] {
        let disk = Disk::around(&image);
        write_gpt(&disk, 512, partitions);
        let error = open_luns(vec![Arc::new(disk)]).expect_err("no volume");
        assert_eq!(error.to_string(), message);
    }
}

#[test]
fn one_good_header_of_a_partition_table_is_enough() {
    let mut options = Options::new(Family::Vmfs6, &[3 << 30]);
    options.partition = PartitionTable::Gpt;
    let builder = FixtureBuilder::in_memory(options).expect("a plan");
    let fixture = builder.finish().expect("a volume");
    let file = &fixture.files()[0];
    let opens = |what: &str| {
        let fs = open(&fixture.paths());
        assert!(all_files(&fs).contains_key("/.fdc.sf"), "{what}");
    };
    opens("as it was made");
    let length = file.metadata().expect("length").len();
    file.set_len(length + (1 << 30)).expect("grow");
    opens("on a disk that has grown");
    file.set_len(length).expect("shrink");
    file.write_all_at(&[0; 512], 512).expect("damage");
    opens("with the backup alone");
    file.write_all_at(&[0; 512], length - 512).expect("damage");
    let error = open_paths(&fixture.paths(), Access::ReadOnly).expect_err("no header left");
    assert!(matches!(error, LvmError::NotVmfs { .. }), "{error}");
}

#[test]
fn a_disk_with_another_partition_is_no_vmfs() {
    let empty = MemoryLun::new("empty disk", 1 << 30);
    let error = open_luns(vec![Arc::new(empty)]).expect_err("nothing there");
    assert!(matches!(error, LvmError::NotVmfs { .. }), "{error}");
    assert!(error.to_string().contains("empty disk"), "{error}");
}
