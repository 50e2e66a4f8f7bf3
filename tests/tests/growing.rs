//! Volumes whose resource files have grown: other readers take them, and what came is clean.

use std::path::PathBuf;

use vmfs_core::format::{Family, FdAddr, ZeroLevel};
use vmfs_core::fs::{Creator, FileSystem};
use vmfs_core::lvm::{VolumeOffset, open_paths};
use vmfs_core::scsi::{Access, Lun};
use vmfs_fixtures::mkfs_vmfs::Options;
use vmfs_fixtures::{Fixture, FixtureBuilder};
use vmfs_tests::crash::volume::{crammed, mount, new_host};
use vmfs_tests::oracle::{debian_tool, dissect, for_other_process};

const CREATOR: Creator = Creator {
    mode: 0o644,
    uid: 0,
    gid: 0,
};

fn volume(family: Family, descriptors: u64) -> Fixture {
    let mut options = Options::new(family, &[2 << 30]);
    options.file_descriptors = Some(descriptors);
    let builder = FixtureBuilder::in_memory(options).expect("a plan");
    builder.finish().expect("a volume")
}

/// Makes empty files `0..files` in the root and removes the first `removed`; the map of `.fdc.sf`.
fn fill(fixture: &Fixture, files: u64, removed: u64) -> ZeroLevel {
    let volume = open_paths(&fixture.paths(), Access::ReadWrite).expect("volume");
    let fs = FileSystem::open_for_writing(volume, new_host().0).expect("mount");
    let before = fs.space().file_descriptors;
    let name = |number: u64| format!("file{number}");
    for number in 0..files {
        let made = fs.create(FdAddr::ROOT, name(number).as_bytes(), CREATOR);
        made.expect("a file");
    }
    assert!(fs.space().file_descriptors > before, "nothing has grown");
    for number in 0..removed {
        let gone = fs.unlink(FdAddr::ROOT, name(number).as_bytes());
        gone.expect("unlink");
    }
    let descriptors = fs.resolve(b"/.fdc.sf", false).expect(".fdc.sf");
    fs.close().expect("close");
    descriptors.map().zero_level()
}

fn names_by_dissect(fixture: &Fixture) -> usize {
    let found = dissect(&fixture.paths(), 1 << 20, &[0]);
    let bad: Vec<_> = found.iter().filter(|file| file.error.is_some()).collect();
    assert!(bad.is_empty(), "{bad:?}");
    let names = found.iter().filter(|file| file.path.contains("file"));
    names.count()
}

fn by_debian(fixture: &Fixture, tool: &str, package: &str, args: &[&str]) -> Option<String> {
    let text = |path: PathBuf| path.into_os_string().into_string().expect("a path");
    let paths = fixture.paths();
    let device = text(for_other_process(&paths[0]));
    let mut all = vec![device.as_str()];
    all.extend(args);
    let output = debian_tool(tool, package, &all)?;
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn names_by_debian(fixture: &Fixture, tool: &str, package: &str) -> Option<usize> {
    let listing = by_debian(fixture, tool, package, &["ls", "/"])?;
    Some(
        listing
            .split_whitespace()
            .filter(|name| name.starts_with("file"))
            .count(),
    )
}

#[test]
fn a_vmfs5_volume_with_more_descriptors_is_taken_by_all_readers() {
    let fixture = volume(Family::Vmfs5, 300);
    assert_eq!(fill(&fixture, 1000, 0), ZeroLevel::FileBlock);
    assert_eq!(names_by_dissect(&fixture), 1000);
    if let Some(names) = names_by_debian(&fixture, "debugvmfs", "vmfs-tools") {
        assert_eq!(names, 1000);
    }
    if let Some(told) = by_debian(&fixture, "fsck.vmfs", "vmfs-tools", &[]) {
        for problem in ["Unallocated blocks", "Lost blocks", "Undefined", "Orphaned"] {
            let mut lines = told.lines().filter(|line| line.starts_with(problem));
            assert!(lines.all(|line| line.ends_with(" 0")), "{told}");
        }
        assert!(
            !told.contains("incorrect") && !told.contains("doesn't match"),
            "{told}"
        );
    }
}

#[test]
fn a_vmfs6_volume_with_more_descriptors_is_taken_by_all_readers() {
    let fixture = volume(Family::Vmfs6, 2048);
    assert_eq!(fill(&fixture, 2500, 0), ZeroLevel::FileBlock);
    assert_eq!(names_by_dissect(&fixture), 2500);
    if let Some(names) = names_by_debian(&fixture, "debugvmfs6", "vmfs6-tools") {
        assert_eq!(names, 2500);
    }
}

/// vmfs6-tools can't (docs/READERS.md).
#[test]
fn descriptors_behind_pointer_blocks_are_taken_by_dissect() {
    let fixture = volume(Family::Vmfs6, 38_912);
    assert_eq!(fill(&fixture, 39_200, 38_700), ZeroLevel::PointerBlock2);
    assert_eq!(names_by_dissect(&fixture), 500);
}

#[test]
fn new_descriptors_are_zeros_whatever_the_disk_held() {
    for family in [Family::Vmfs5, Family::Vmfs6] {
        let image = crammed(family);
        let lun: std::sync::Arc<dyn Lun> =
            std::sync::Arc::new(vmfs_tests::crash::image::ImageLun::branch(&image));
        let (fs, _) = mount(&lun).expect("mount");
        for number in 0..20 {
            let made = fs.create(FdAddr::ROOT, format!("new{number}").as_bytes(), CREATOR);
            made.expect("a file");
        }
        fs.sync().expect("sync");
        let file = &fs.store().resources().file_descriptors;
        let (reader, size) = (fs.store().reader(), fs.layout().fd_size);
        let mut bytes = vec![0; size as usize];
        let mut looked_at = 0;
        for cluster in 0..file.header().clusters() {
            let (header, _) = file.cluster(reader, cluster).expect("a cluster");
            for resource in (0..header.total).filter(|&resource| header.is_free(resource)) {
                let place: VolumeOffset = file.locate(reader, cluster, resource).expect("a place");
                fs.volume().read(place, &mut bytes).expect("read");
                assert!(bytes.iter().all(|&byte| byte == 0), "{cluster}, {resource}");
                looked_at += 1;
            }
        }
        assert!(looked_at > 1000, "{family}: {looked_at}");
    }
}
