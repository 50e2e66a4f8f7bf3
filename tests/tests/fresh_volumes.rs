//! What mkfs makes, every other reader takes: from the smallest to 64 TiB, both formats, both
//! sector sizes, one to 32 devices.

use std::path::PathBuf;

use vmfs_core::format::{Family, ZeroLevel};
use vmfs_core::fs::{FileSystem, Inode};
use vmfs_core::lvm::open_paths;
use vmfs_core::scsi::Access;
use vmfs_fixtures::mkfs_vmfs::Options;
use vmfs_fixtures::{Fixture, FixtureBuilder};
use vmfs_tests::oracle::{debian_tool, dissect, for_other_process};

const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;
/// What LVM takes of a device before the first extent.
const LVM: u64 = 17 << 20;

fn fresh(family: Family, sizes: &[u64], sector_size: u32) -> Fixture {
    let mut options = Options::new(family, sizes);
    "fresh".clone_into(&mut options.label);
    options.sector_size = sector_size;
    FixtureBuilder::in_memory(options)
        .expect("a plan")
        .finish()
        .expect("a volume")
}

/// Every reader opens it; the number of files in the root, which all must agree on.
fn check(fixture: &Fixture, family: Family, what: &str) {
    let paths = fixture.paths();
    let fs = FileSystem::open(open_paths(&paths, Access::ReadOnly).expect(what)).expect(what);
    let report = fsck_vmfs::check(&fs, &mut |_| {});
    assert!(report.is_clean(), "{what}: {:?}", report.findings);
    let mut names = Vec::new();
    let root = fs.root().expect(what);
    fs.read_dir(&root, 0, |entry| {
        names.push(String::from_utf8(entry.name).expect("a name"));
        true
    })
    .expect(what);

    let theirs = dissect(&paths, 1 << 20, &[0]);
    assert_eq!(theirs.len(), names.len(), "{what}: dissect.vmfs");

    // Debian's readers can't open a volume with a system file that they need behind pointer blocks,
    // as ESXi's own vmfs5-span has it; a large volume's .fbb.sf outgrows its descriptor
    // (docs/READERS.md).
    let fbb = fs.resolve(b"/.fbb.sf", false).expect(what);
    let fdc = fs.resolve(b"/.fdc.sf", false).expect(what);
    let direct = |inode: &Inode| inode.map().zero_level() == ZeroLevel::FileBlock;
    if !direct(&fbb) || !direct(&fdc) {
        println!("{what}: not compared with Debian's readers");
        return;
    }
    let (tool, package) = match family {
        Family::Vmfs6 => ("debugvmfs6", "vmfs6-tools"),
        Family::Vmfs3 | Family::Vmfs5 => ("debugvmfs", "vmfs-tools"),
    };
    let devices: Vec<_> = paths
        .iter()
        .map(|path| text(for_other_process(path)))
        .collect();
    let mut args: Vec<&str> = devices.iter().map(String::as_str).collect();
    args.extend(["ls", "-l", "/"]);
    if let Some(output) = debian_tool(tool, package, &args) {
        let listing = String::from_utf8_lossy(&output.stdout).into_owned();
        for name in &names {
            assert!(
                listing.contains(name),
                "{what}: {tool} doesn't list {name}:\n{listing}"
            );
        }
    }
    if family == Family::Vmfs5 {
        let args: Vec<&str> = devices.iter().map(String::as_str).collect();
        if let Some(output) = debian_tool("fsck.vmfs", "vmfs-tools", &args) {
            let told = String::from_utf8_lossy(&output.stdout).into_owned();
            for count in [
                "Unallocated blocks",
                "Lost blocks",
                "Undefined inodes",
                "Orphaned inodes",
            ] {
                let line = told.lines().find(|line| line.starts_with(count));
                let number = line.and_then(|line| line.rsplit(' ').next());
                assert_eq!(number, Some("0"), "{what}: fsck.vmfs:\n{told}");
            }
        }
    }
}

fn text(path: PathBuf) -> String {
    path.into_os_string().into_string().expect("a path")
}

#[test]
fn vmfs6_volumes_of_all_sizes_are_taken_by_all_readers() {
    for size in [
        2 * GIB + LVM,
        10 * GIB + LVM,
        300 * GIB + LVM,
        TIB,
        16 * TIB,
        64 * TIB,
    ] {
        for sector_size in [512, 4096] {
            let fixture = fresh(Family::Vmfs6, &[size], sector_size);
            check(
                &fixture,
                Family::Vmfs6,
                &format!("VMFS6, {size} bytes, sectors of {sector_size}"),
            );
        }
    }
}

#[test]
fn vmfs5_volumes_of_all_sizes_are_taken_by_all_readers() {
    for size in [
        2 * GIB + LVM,
        10 * GIB + LVM,
        300 * GIB + LVM,
        2 * TIB,
        16 * TIB,
        64 * TIB,
    ] {
        let fixture = fresh(Family::Vmfs5, &[size], 512);
        check(&fixture, Family::Vmfs5, &format!("VMFS5, {size} bytes"));
    }
}

#[test]
fn spanned_volumes_are_taken_by_all_readers() {
    for count in [2, 3, 32] {
        for family in [Family::Vmfs6, Family::Vmfs5] {
            let sizes = vec![2 * GIB + LVM; count];
            let fixture = fresh(family, &sizes, 512);
            check(&fixture, family, &format!("{family} over {count} devices"));
        }
    }
}
