//! Fresh volumes, read back with the reader's own structures.

use std::fs::File;
use std::os::unix::fs::FileExt;

use mkfs_vmfs::{LvmVersion, Options, PartitionTable, Plan, Step, apply};
use vmfs_core::format::{
    At, ClusterHeader, DEVICE_HEADER_OFFSET, DevMetadata, FS_DESCRIPTOR_OFFSET, Family, FdAddr,
    FileMetadata, FsDescriptor, ResourceHeader, ResourceKind,
};

use vmfs_core::fs::FileSystem;
use vmfs_core::lvm::open_paths;
use vmfs_core::scsi::Access;

const DEVICE: u64 = 2_181_038_592;

fn make(options: Options) -> (Plan, Vec<File>) {
    let plan = Plan::new(options).expect("a plan");
    let files: Vec<File> = plan
        .options()
        .devices
        .iter()
        .map(|device| {
            let file = tempfile::tempfile().expect("a temporary file");
            file.set_len(device.size).expect("its size");
            file
        })
        .collect();
    apply(&plan, &files).expect("writes");
    (plan, files)
}

fn read(plan: &Plan, files: &[File], offset: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    for piece in plan.map(offset, length as u64) {
        let start = (piece.volume - offset) as usize;
        files[piece.device]
            .read_exact_at(
                &mut bytes[start..start + piece.length as usize],
                piece.offset,
            )
            .expect("readable");
    }
    bytes
}

fn variants() -> Vec<Options> {
    let with = |family, sizes: &[u64], change: fn(&mut Options)| {
        let mut options = Options::new(family, sizes);
        change(&mut options);
        options
    };
    vec![
        with(Family::Vmfs6, &[DEVICE], |_| {}),
        with(Family::Vmfs6, &[DEVICE, DEVICE + 4096, 5 * DEVICE], |_| {}),
        with(Family::Vmfs6, &[2 * DEVICE], |o| {
            o.partition = PartitionTable::Gpt;
            o.sector_size = 4096;
        }),
        with(Family::Vmfs6, &[DEVICE], |o| o.local = true),
        with(Family::Vmfs6, &[DEVICE], |o| o.lvm = LvmVersion::None),
        with(Family::Vmfs6, &[300 << 30], |_| {}),
        with(Family::Vmfs5, &[DEVICE], |_| {}),
        with(Family::Vmfs5, &[DEVICE, DEVICE], |o| {
            o.file_block_size = 512 << 10;
        }),
        with(Family::Vmfs5, &[DEVICE], |o| o.dense_sub_blocks = false),
        with(Family::Vmfs5, &[DEVICE], |o| {
            o.partition = PartitionTable::Gpt;
        }),
        with(Family::Vmfs3, &[DEVICE], |_| {}),
    ]
}

#[test]
fn every_resource_is_either_free_or_a_system_files() {
    for options in variants() {
        let (plan, files) = make(options);
        let layout = plan.layout();
        for resource in plan.resources() {
            let owner = plan.file(resource.file.fd()).expect("its file");
            let at = owner
                .volume_offset(resource.header_offset)
                .expect("its header");
            let bytes = read(&plan, &files, at, 512);
            let header = ResourceHeader::parse(&bytes, layout, At::Volume(at)).expect("a header");
            let mut used = 0;
            for cluster in 0..header.clusters() {
                if header.is_nested() && !plan.is_converted(cluster) {
                    continue;
                }
                let at = plan.cluster_offset(resource, cluster).expect("a cluster");
                let bytes = read(&plan, &files, at, layout.cluster_header_size() as usize);
                let found = ClusterHeader::parse(&bytes, cluster, &header, layout, At::Volume(at))
                    .expect("a cluster header");
                assert_eq!(found.lock.address.get(), at);
                assert_eq!(
                    found.count_free(),
                    found.free,
                    "{:?} {cluster}",
                    resource.kind
                );
                used += u64::from(found.total - found.free);
            }
            let expected = match resource.kind {
                ResourceKind::FileBlock => plan
                    .files()
                    .iter()
                    .map(mkfs_vmfs::SystemFileLayout::blocks)
                    .sum(),
                ResourceKind::FileDescriptor => plan.files().len() as u64,
                ResourceKind::LargeFileBlock => (0..header.resources())
                    .filter(|&large| plan.is_converted(large))
                    .count() as u64,
                ResourceKind::PointerBlock2 => plan
                    .files()
                    .iter()
                    .map(|file| file.pointer_blocks.len() as u64)
                    .sum(),
                _ => 0,
            };
            assert_eq!(
                used,
                expected,
                "{:?} of {:?}",
                resource.kind,
                plan.options()
            );
        }
    }
}

#[test]
fn no_two_system_files_share_a_block() {
    for options in variants() {
        let plan = Plan::new(options).expect("a plan");
        let mut runs: Vec<_> = plan
            .files()
            .iter()
            .flat_map(|file| file.runs.clone())
            .collect();
        runs.sort_unstable();
        for pair in runs.windows(2) {
            assert!(
                pair[0].0 + pair[0].1 <= pair[1].0,
                "{pair:?} of {:?}",
                plan.options()
            );
        }
    }
}

#[test]
fn the_root_directorys_descriptor_lies_where_readers_look() {
    for options in variants() {
        let (plan, files) = make(options);
        let layout = plan.layout();
        let bytes = read(&plan, &files, FS_DESCRIPTOR_OFFSET, 512);
        let fsd = FsDescriptor::parse(&bytes).expect("a descriptor");
        assert_eq!(fsd.uuid, plan.uuid());
        let bytes = read(&plan, &files, layout.first_fd, layout.fd_size as usize);
        let at = At::Volume(layout.first_fd);
        let root = FileMetadata::parse(&bytes, FdAddr::ROOT, layout, at).expect("the root");
        assert!(root.is_directory());
    }
}

#[test]
fn nothing_mounts_before_the_last_flush() {
    for options in variants() {
        let plan = Plan::new(options).expect("a plan");
        let steps: Vec<Step> = plan.steps().collect();
        let headers: Vec<usize> = steps
            .iter()
            .enumerate()
            .filter(|(_, step)| match step {
                Step::Write {
                    device,
                    offset,
                    bytes,
                } => {
                    let start = plan.devices()[*device].start;
                    let at_header = *offset == start + DEVICE_HEADER_OFFSET;
                    at_header && DevMetadata::parse(bytes).is_ok()
                        || FsDescriptor::parse(bytes).is_ok()
                }
                _ => false,
            })
            .map(|(index, _)| index)
            .collect();
        assert!(!headers.is_empty());
        for index in headers {
            let later = &steps[index..];
            let magics = later
                .iter()
                .filter(|step| matches!(step, Step::Write { .. }))
                .count();
            // Only the descriptor and the device headers come after the first of them.
            assert!(magics <= 1 + plan.devices().len());
            assert_eq!(later.last(), Some(&Step::Flush));
        }
        assert!(matches!(steps[0], Step::Zero { offset: 0, .. }));
        let first_write = steps
            .iter()
            .position(|step| matches!(step, Step::Write { .. }));
        let first_flush = steps.iter().position(|step| *step == Step::Flush);
        assert!(first_flush < first_write);
    }
}

#[test]
fn the_same_options_give_the_same_steps() {
    for options in variants() {
        let first = Plan::new(options.clone()).expect("a plan");
        let second = Plan::new(options.clone()).expect("a plan");
        assert!(first.steps().eq(second.steps()));
        let mut other = options;
        other.seed += 1;
        let third = Plan::new(other).expect("a plan");
        assert_ne!(first.uuid(), third.uuid());
    }
}

#[test]
fn sizes_that_do_not_work_are_refused() {
    let refused = |options: Options| Plan::new(options).expect_err("refused").to_string();
    let small = refused(Options::new(Family::Vmfs6, &[1 << 30]));
    assert!(small.contains("needs at least 1342177280"), "{small}");
    let tiny = refused(Options::new(Family::Vmfs5, &[DEVICE, 1 << 20]));
    assert!(tiny.contains("device 1"), "{tiny}");
    let mut blocks = Options::new(Family::Vmfs6, &[DEVICE]);
    blocks.file_block_size = 2 << 20;
    assert!(refused(blocks).contains("1 MiB"));
    let large = refused(Options::new(Family::Vmfs6, &[40 << 40, 40 << 40]));
    assert!(large.contains("64 TiB"), "{large}");
}

#[test]
fn an_interrupted_mkfs_leaves_nothing_that_mounts() {
    let lvm = Options::new(Family::Vmfs6, &[DEVICE]);
    let mut raw = Options::new(Family::Vmfs5, &[DEVICE]);
    raw.lvm = LvmVersion::None;
    for options in [lvm, raw] {
        // Over a complete volume, whose remains must not be taken for one either.
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("a.img");
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path);
        let files = [file.expect("image")];
        files[0].set_len(DEVICE).expect("its size");
        let mut old = options.clone();
        old.seed = 99;
        apply(&Plan::new(old).expect("a plan"), &files).expect("writes");

        let mounts = || {
            let volume = open_paths(&[&path], Access::ReadOnly).ok()?;
            let fs = FileSystem::open(volume).ok()?;
            Some(fs.descriptor().uuid)
        };
        assert!(mounts().is_some());
        let plan = Plan::new(options).expect("a plan");
        let steps: Vec<Step> = plan.steps().collect();
        let last_write = steps
            .iter()
            .rposition(|step| matches!(step, Step::Write { .. }));
        for (index, step) in steps.into_iter().enumerate() {
            match step {
                Step::Write { offset, bytes, .. } => files[0].write_all_at(&bytes, offset),
                Step::Zero { offset, length, .. } => {
                    mkfs_vmfs::Target::zero(&files[0], offset, length)
                }
                Step::Flush => Ok(()),
            }
            .expect("a step");
            let expected = (Some(index) >= last_write).then(|| plan.uuid());
            assert_eq!(mounts(), expected, "after step {index}");
        }
    }
}
