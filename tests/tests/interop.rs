//! Every file reads as dissect.vmfs reads it, on ESXi's volumes and on made ones.

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use vmfs_core::format::{Family, FileKind};
use vmfs_core::fs::{FileSystem, Inode, Place};
use vmfs_core::lvm::{LvmError, VolumeOffset, open_luns, open_paths};
use vmfs_core::scsi::{Access, DeviceOffset, FileLun, Lun, MemoryLun, OverlayLun};
use vmfs_fixtures::mkfs_vmfs::{Options, PartitionTable};
use vmfs_fixtures::{FixtureBuilder, Kind};
use vmfs_tests::images::{esxi_image, esxi_volume};
use vmfs_tests::oracle::{DissectFile, debian_tool, dissect};
use vmfs_tests::random::Random;
use vmfs_tests::walk::walk;

/// Files up to this size are compared whole.
const WHOLE: u64 = 256 << 20;

fn open(devices: &[PathBuf]) -> FileSystem {
    let volume = open_paths(devices, Access::ReadOnly).expect("volume");
    FileSystem::open(volume).expect("file system")
}

fn all_files(fs: &FileSystem) -> BTreeMap<String, Arc<Inode>> {
    let mut files = BTreeMap::new();
    let errors = walk(fs, usize::MAX, &mut |path, inode| {
        files.insert(path.to_owned(), Arc::clone(inode));
    });
    assert!(errors.is_empty(), "{errors:?}");
    files
}

/// Where to look into large files: the borders of every run that is stored, and some places more.
fn interesting_offsets(fs: &FileSystem, files: &BTreeMap<String, Arc<Inode>>) -> Vec<u64> {
    let mut offsets = vec![0];
    let mut random = Random::new(1);
    for inode in files.values() {
        if inode.length() <= WHOLE || inode.kind() == FileKind::Rdm || inode.is_directory() {
            continue;
        }
        let mut at = 0;
        for _ in 0..2000 {
            if at >= inode.length() {
                break;
            }
            let run = fs.run_at(inode, at, u64::MAX).expect("run");
            if matches!(run.place, Place::Data(_)) && run.length < 1 << 40 {
                let borders = [run.offset, run.end()];
                offsets.extend(borders.map(|border| border.saturating_sub(32 << 10)));
            }
            at = run.end();
        }
        offsets.extend((0..50).map(|_| random.below(inode.length())));
        offsets.push(inode.length() - 1);
    }
    offsets.sort_unstable();
    offsets.dedup();
    offsets
}

/// Compares one file; returns the bytes that were compared.
fn compare(fs: &FileSystem, inode: &Inode, theirs: &DissectFile) -> u64 {
    let path = &theirs.path;
    assert_eq!(inode.fd().raw(), theirs.fd, "{path}");
    assert_eq!(inode.kind() as u32, theirs.kind, "{path}");
    assert_eq!(inode.length(), theirs.length, "{path}");
    assert_eq!(inode.mode() & 0o7777, theirs.mode, "{path}");
    assert_eq!(inode.meta().links.get(), theirs.links, "{path}");
    assert_eq!(inode.meta().mtime.get(), theirs.mtime, "{path}");
    let mut compared = 0;
    for &(offset, length, crc) in &theirs.pieces {
        let mut ours = vec![0; length as usize];
        assert_eq!(
            fs.read(inode, offset, &mut ours).expect("read") as u64,
            length,
            "{path}"
        );
        assert_eq!(
            crc32fast::hash(&ours),
            crc,
            "{path} from {offset:#x} on, {length} bytes"
        );
        compared += length;
    }
    compared
}

fn compare_volume(name: &str, devices: &[PathBuf]) {
    let fs = open(devices);
    let ours = all_files(&fs);
    let theirs = dissect(devices, WHOLE, &interesting_offsets(&fs, &ours));
    assert_eq!(theirs.len(), ours.len(), "{name}: as many files");
    let mut bytes = 0;
    for file in &theirs {
        let inode = ours
            .get(&file.path)
            .unwrap_or_else(|| panic!("{name}: {}", file.path));
        bytes += compare(&fs, inode, file);
    }
    println!("{name}: {} files, {bytes} bytes compared", theirs.len());
    assert!(theirs.len() > 6, "{name}: at least the system files");
}

#[test]
fn esxi_volumes_read_as_dissect_reads_them() {
    for name in ["vmfs5", "vmfs6", "vmfs5-span", "vmfs6-span"] {
        if let Some(devices) = esxi_volume(name) {
            compare_volume(name, &devices);
        }
    }
}

#[test]
fn made_volumes_read_as_dissect_reads_them() {
    for kind in [
        Kind::Demo,
        Kind::Vmfs5,
        Kind::Vmfs6,
        Kind::VmfsL,
        Kind::Raw,
        Kind::Span,
    ] {
        let fixture = kind.build().expect("fixture");
        compare_volume(&format!("{kind:?}"), &fixture.paths());
    }
}

#[test]
fn a_check_of_esxi_volumes_finds_nothing_wrong() {
    for name in ["vmfs5", "vmfs6", "vmfs5-span", "vmfs6-span"] {
        let Some(devices) = esxi_volume(name) else {
            continue;
        };
        let report = fsck_vmfs::check(&open(&devices), &mut |_| {});
        assert!(report.is_clean(), "{name}: {:?}", report.findings);
        assert!(
            report.descriptors >= 8 && report.addresses > 100,
            "{name}: {report:?}"
        );
        for count in &report.resources {
            println!(
                "{name}: {} {} compared, {} used",
                count.kind, count.compared, count.used
            );
        }
    }
}

#[test]
fn volumes_without_a_file_system_read_through_the_volume_layer() {
    for name in ["lvm5", "lvm6"] {
        let Some(image) = esxi_image(name) else {
            continue;
        };
        let volume = open_paths(&[image], Access::ReadOnly).expect("volume");
        assert_eq!(volume.size(), 512 << 20);
        // Every MiB is filled with its own number.
        let mut mib = vec![0; 1 << 20];
        for number in 0..512_u64 {
            volume
                .read(VolumeOffset(number << 20), &mut mib)
                .expect("read");
            assert!(
                mib.iter().all(|&byte| byte == number as u8),
                "{name}: MiB {number}"
            );
        }
        // And across a border.
        let mut two = [0; 2];
        volume
            .read(VolumeOffset((256 << 20) - 1), &mut two)
            .expect("read");
        assert_eq!(two, [255, 0]);
    }
}

#[test]
fn extents_are_taken_in_any_order_and_named_when_wrong() {
    let Some(devices) = esxi_volume("vmfs5-span") else {
        return;
    };
    let backwards: Vec<_> = devices.iter().rev().cloned().collect();
    assert_eq!(
        all_files(&open(&backwards)).len(),
        all_files(&open(&devices)).len()
    );

    let twice = [devices[0].clone(), devices[1].clone(), devices[0].clone()];
    let error = open_paths(&twice, Access::ReadOnly).expect_err("the same device twice");
    assert!(matches!(error, LvmError::Duplicate { .. }), "{error}");
    assert!(
        error
            .to_string()
            .contains(&devices[0].display().to_string()),
        "{error}"
    );

    let Some(other) = esxi_image("vmfs6") else {
        return;
    };
    let mixed = [devices[0].clone(), other.clone()];
    let error = open_paths(&mixed, Access::ReadOnly).expect_err("of another volume");
    assert!(matches!(error, LvmError::Foreign { .. }), "{error}");
    assert!(
        error.to_string().contains(&other.display().to_string()),
        "{error}"
    );
}

/// Reads a piece of a file from the whole volume and from the one with a device missing: whether
/// the latter has it, which it then must have exactly, or says EIO.
fn read_degraded(
    whole: &FileSystem,
    degraded: &FileSystem,
    inode: &Inode,
    at: u64,
    path: &str,
) -> bool {
    let (mut ours, mut expected) = (vec![0; 4096], vec![0; 4096]);
    let length = whole.read(inode, at, &mut expected).expect("whole volume");
    match degraded.read(inode, at, &mut ours) {
        Ok(read) => {
            assert_eq!(ours[..read], expected[..length], "{path} from {at:#x}");
            true
        }
        Err(error) => {
            assert_eq!(error.errno(), rustix::io::Errno::IO, "{error}");
            false
        }
    }
}

#[test]
fn a_missing_extent_leaves_the_rest_readable() {
    for name in ["vmfs5-span", "vmfs6-span"] {
        let Some(devices) = esxi_volume(name) else {
            continue;
        };
        let whole = open(&devices);
        let volume = open_paths(&devices[..1], Access::ReadOnly).expect("degraded volume");
        assert_eq!(volume.missing_devices(), 1);
        assert!(
            volume.missing_names()[0].contains("QM00015"),
            "{:?}",
            volume.missing_names()
        );
        let degraded = FileSystem::open(volume).expect("file system");
        let (mut exact, mut failed) = (0, 0);
        for (path, inode) in all_files(&whole) {
            let mut at = 0;
            while at < inode.length() && !inode.is_directory() {
                let read = read_degraded(&whole, &degraded, &inode, at, &path);
                *if read { &mut exact } else { &mut failed } += 1;
                at += 1 << 20;
            }
        }
        println!("{name}: {exact} pieces exact, {failed} on the missing device");
        assert!(exact > 50);
    }
    let Some(devices) = esxi_volume("vmfs6-span") else {
        return;
    };
    let volume = open_paths(&devices[..1], Access::ReadOnly).expect("degraded volume");
    let error = volume
        .read(VolumeOffset(3 << 30), &mut [0; 16])
        .expect_err("missing");
    assert!(matches!(error, LvmError::MissingExtent { .. }), "{error}");
}

/// A disk with a partition table before the volume: the table in memory, the rest the image.
#[derive(Debug)]
struct Disk {
    table: MemoryLun,
    volume: FileLun,
}

/// Where the partition starts.
const START: u64 = 1 << 20;

impl Lun for Disk {
    fn name(&self) -> &'static str {
        "a whole disk"
    }

    fn capacity(&self) -> u64 {
        START + self.volume.capacity() + (1 << 20)
    }

    fn block_size(&self) -> u32 {
        512
    }

    fn access(&self) -> Access {
        Access::ReadOnly
    }

    fn read(&self, offset: DeviceOffset, buf: &mut [u8]) -> Result<(), vmfs_core::scsi::LunError> {
        for (index, byte) in buf.chunks_mut(512).enumerate() {
            let at = offset.0 + index as u64 * 512;
            if at < START || at >= START + self.volume.capacity() {
                byte.fill(0);
                if at < START {
                    self.table.read(DeviceOffset(at), byte)?;
                }
            } else {
                self.volume.read(DeviceOffset(at - START), byte)?;
            }
        }
        Ok(())
    }

    fn write(&self, _: DeviceOffset, _: &[u8]) -> Result<(), vmfs_core::scsi::LunError> {
        unreachable!("read-only")
    }

    fn flush(&self) -> Result<(), vmfs_core::scsi::LunError> {
        Ok(())
    }

    fn counters(&self) -> &vmfs_core::scsi::Counters {
        self.volume.counters()
    }
}

#[test]
fn a_disk_with_a_master_boot_record_opens_like_its_partition() {
    let Some(image) = esxi_image("vmfs6") else {
        return;
    };
    let volume = FileLun::open(&image, Access::ReadOnly).expect("image");
    let table = MemoryLun::new("table", START);
    let mut sector = [0; 512];
    // One entry: type 0xfb from sector 2048 on.
    sector[446 + 4] = 0xfb;
    sector[446 + 8..446 + 12].copy_from_slice(&2048_u32.to_le_bytes());
    let sectors = (volume.capacity() / 512) as u32;
    sector[446 + 12..446 + 16].copy_from_slice(&sectors.to_le_bytes());
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    table.write(DeviceOffset(0), &sector).expect("table");
    let disk = open_luns(vec![Arc::new(Disk { table, volume })]).expect("volume on a partition");
    let fs = FileSystem::open(disk).expect("file system");
    let small = fs.resolve(b"/small", false).expect("small");
    let mut text = [0; 5];
    fs.read(&small, 0, &mut text).expect("read");
    assert_eq!(&text, b"tiny\n");
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

#[test]
fn a_read_only_volume_is_opened_read_only() {
    let Some(image) = esxi_image("vmfs6") else {
        return;
    };
    let lun = FileLun::open(&image, Access::ReadOnly).expect("image");
    let pid = std::process::id();
    let path = image.canonicalize().expect("path");
    let fds = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("descriptors");
    let mine = fds
        .flatten()
        .find(|fd| std::fs::read_link(fd.path()).is_ok_and(|to| to == path));
    let number = mine.expect("an open descriptor").file_name();
    let info = std::fs::read_to_string(format!("/proc/{pid}/fdinfo/{}", number.display()));
    let flags = info.expect("fdinfo");
    let flags = flags
        .lines()
        .find_map(|line| line.strip_prefix("flags:"))
        .expect("flags")
        .trim();
    assert_eq!(
        u32::from_str_radix(flags, 8).expect("octal") & 3,
        0,
        "O_RDONLY"
    );
    assert!(lun.write(DeviceOffset(0), &[0; 512]).is_err());
}

#[test]
fn a_volume_of_64_tib_with_262143_extents_opens_and_reads() {
    let fixture = Kind::Big5.build().expect("fixture");
    let start = std::time::Instant::now();
    let volume = open_paths(&fixture.paths(), Access::ReadOnly).expect("volume");
    let device = &volume.devices()[0];
    assert_eq!(
        (device.metadata().pes.get(), device.regions()),
        (262_143, 3)
    );
    let fs = FileSystem::open(volume).expect("file system");
    println!("opened in {:?}", start.elapsed());
    let root = fs.root().expect("root");
    let mut largest = None;
    fs.read_dir(&root, 0, |entry| {
        let inode = fs.inode(entry.fd).expect("inode");
        if inode.length() > 30 << 40 {
            largest = Some(inode);
        }
        true
    })
    .expect("list");
    let file = largest.expect("the 40 TiB file");
    let mut random = Random::new(3);
    let mut buf = [0; 4096];
    for _ in 0..20_000 {
        let offset = random.below(file.length() - 4096);
        fs.read(&file, offset, &mut buf).expect("read");
    }
    let last = fs
        .run_at(&file, file.length() - 1, u64::MAX)
        .expect("last run");
    assert!(matches!(last.place, Place::Data(_)), "{last:?}");
    let status = std::fs::read_to_string("/proc/self/status").expect("status");
    println!(
        "{}",
        status
            .lines()
            .find(|line| line.starts_with("VmRSS"))
            .unwrap_or_default()
    );
}

#[test]
fn vmfs_tools_read_a_thick_file_of_vmfs5_as_we_do() {
    // What the tools of Debian get wrong is in docs/READERS.md; this they get right.
    let Some(image) = esxi_image("vmfs5") else {
        return;
    };
    let image_text = image.display().to_string();
    let args = [image_text.as_str(), "cat", "/bigger"];
    let Some(output) = debian_tool("debugvmfs", "vmfs-tools", &args) else {
        return;
    };
    let fs = open(std::slice::from_ref(&image));
    let bigger = fs.resolve(b"/bigger", false).expect("bigger");
    let mut ours = vec![0; bigger.length() as usize];
    fs.read(&bigger, 0, &mut ours).expect("read");
    assert!(
        output.stdout == ours,
        "debugvmfs: {} bytes",
        output.stdout.len()
    );
}

/// Where other readers go wrong without an error (docs/READERS.md), ours reads what ESXi wrote.
#[test]
fn large_disks_read_what_was_written_on_esxi() {
    for volume in ["vmfs5", "vmfs6"] {
        let Some(image) = esxi_image(volume) else {
            continue;
        };
        let fs = open(&[image]);
        for (name, at) in [
            ("/normal-flat.vmdk", 42_u64 << 30),
            ("/large-flat.vmdk", 117 << 30),
        ] {
            let file = fs.resolve(name.as_bytes(), false).expect(name);
            let mut bytes = [0; 1024];
            fs.read(&file, at - 256, &mut bytes).expect("read");
            let written = bytes
                .iter()
                .enumerate()
                .all(|(index, &byte)| byte == if (256..768).contains(&index) { 0x42 } else { 0 });
            assert!(written, "{volume}{name}");
            fs.read(&file, file.length() - 1024, &mut bytes)
                .expect("the end");
            assert!(
                bytes.iter().all(|&byte| byte == 0),
                "{volume}{name}: its end"
            );
        }
    }
}

#[test]
fn files_on_a_missing_device_fail_and_others_are_exact() {
    let fixture = Kind::Span.build().expect("fixture");
    let paths = fixture.paths();
    let whole = open(&paths);
    let missing_last = &paths[..paths.len() - 1];
    let degraded = open(missing_last);
    assert_eq!(degraded.volume().missing_devices(), 1);
    let (mut exact, mut failed) = (0, 0);
    for (path, inode) in all_files(&whole) {
        let mut at = 0;
        while at < inode.length() && inode.kind() != FileKind::Rdm {
            let run = whole.run_at(&inode, at, u64::MAX).expect("run");
            let read = read_degraded(&whole, &degraded, &inode, at, &path);
            *if read { &mut exact } else { &mut failed } += 1;
            at = run.end();
        }
    }
    println!("{exact} pieces exact, {failed} on the missing device");
    assert!(exact > 100 && failed > 0, "{exact} exact, {failed} failed");
}

#[test]
fn a_device_cut_short_says_so() {
    let Some(image) = esxi_image("vmfs6") else {
        return;
    };
    let folder = tempfile::tempdir().expect("folder");
    let short = folder.path().join("short.img");
    std::fs::copy(&image, &short).expect("copy");
    std::fs::File::options()
        .write(true)
        .open(&short)
        .and_then(|file| file.set_len(1 << 30))
        .expect("cut");
    let fs = open(&[short]);
    let bigger = fs.resolve(b"/big", false).expect("big");
    let error = fs
        .read(&bigger, 0, &mut [0; 512])
        .expect_err("behind the cut");
    assert!(error.to_string().contains("cut short"), "{error}");
    let overlay: OverlayLun<MemoryLun> = OverlayLun::new(MemoryLun::new("x", 512), Vec::new());
    assert!(overlay.write(DeviceOffset(0), &[0]).is_err());
}
