//! Fresh volumes against those of ESXi: every structure that mkfs writes must be the same but for
//! identities, times and what a mount changes.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use mkfs_vmfs::{Options, Plan, Step};
use vmfs_core::format::{
    DEVICE_HEADER_OFFSET, FS_DESCRIPTOR_OFFSET, Family, FdAddr, Layout, SystemFile,
};
use vmfs_tests::esxi_image;

const DEVICE: u64 = 2_181_038_592;
const SECTOR: usize = 512;

/// Zeroes what may differ in the sector of `offset`, by what the sector is.
fn mask(sector: &mut [u8], offset: u64) {
    let mut clear = |range: std::ops::Range<usize>| {
        let end = range.end.min(SECTOR);
        sector[range.start.min(end)..end].fill(0);
    };
    let volume = offset.wrapping_sub(0x110_0000);
    if offset == DEVICE_HEADER_OFFSET {
        // Identifier of the disk, UUID and times.
        clear(0xc..0x5a);
        clear(0x82..0xa2);
        return;
    }
    if volume == FS_DESCRIPTOR_OFFSET {
        // UUIDs, label and time.
        clear(0x9..0x19);
        clear(0x1d..0x9d);
        clear(0xa9..0xad);
        clear(0xb1..0xc1);
        clear(0xed..0xfd);
        return;
    }
    let word = |at: usize| u32::from_le_bytes(sector[at..at + 4].try_into().expect("four"));
    let (lock, signature, rcmd) = (word(0), word(0x64), word(0x10));
    let is_table = offset == DEVICE_HEADER_OFFSET + 512 || offset == DEVICE_HEADER_OFFSET + 4096;
    let mut clear = |range: std::ops::Range<usize>| sector[range].fill(0);
    if is_table {
        // Name, UUID and times of the volume.
        clear(0x14..0x64);
        clear(0x68..0x70);
        clear(0x88..0x90);
    } else if lock & 0xffff_ff00 == 0x10c0_0000 {
        // The last holder, its token and time, and what it left further on.
        clear(0xc..0x24);
        clear(0x38..0x40);
        clear(0x198..0x1b8);
    } else if signature == 0x6664_6d64 {
        clear(0x2c..0x38);
    } else if rcmd == 0x7263_6d64 {
        // Number, host and time of the last change.
        clear(0x58..0x66);
    }
}

/// Compares everything that `plan` writes where `wanted` says so; the sectors compared.
fn compare(plan: &Plan, images: &[PathBuf], wanted: impl Fn(usize, u64) -> bool) -> usize {
    let files: Vec<File> = images
        .iter()
        .map(|image| File::open(image).expect("an image"))
        .collect();
    let mut compared = 0;
    for step in plan.steps() {
        let Step::Write {
            device,
            offset,
            bytes,
        } = step
        else {
            continue;
        };
        let mut theirs = vec![0; bytes.len()];
        files[device]
            .read_exact_at(&mut theirs, offset)
            .expect("readable");
        let pairs = bytes.chunks(SECTOR).zip(theirs.chunks(SECTOR));
        for (at, (ours, theirs)) in (offset..).step_by(SECTOR).zip(pairs) {
            if !wanted(device, at) {
                continue;
            }
            let (mut ours, mut theirs) = (ours.to_vec(), theirs.to_vec());
            ours.resize(SECTOR, 0);
            theirs.resize(SECTOR, 0);
            mask(&mut ours, at);
            mask(&mut theirs, at);
            let differs = ours.iter().zip(&theirs).position(|(a, b)| a != b);
            assert_eq!(
                differs,
                None,
                "sector {at:#x} of {}",
                images[device].display()
            );
            compared += 1;
        }
    }
    compared
}

#[test]
fn a_spanned_vmfs6_volume_is_esxis() {
    let plan = Plan::new(Options::new(Family::Vmfs6, &[DEVICE, DEVICE])).expect("a plan");
    let heartbeat_in_use = 0x144_0000..0x144_1000;
    // The journal of the host that has the volume mounted, and that journal's cluster.
    let journal = 0x1ee1_4000..0x1ee1_6000;
    let names = 0x17_f000..0x18_1000;
    let compared = compare(
        &plan,
        &[esxi_image!("vmfs6-span-0"), esxi_image!("vmfs6-span-1")],
        |_, at| !heartbeat_in_use.contains(&at) && !journal.contains(&at) && !names.contains(&at),
    );
    assert!(compared > 15_000, "{compared} sectors");
}

/// Whether `volume` offset is of a structure that no user file changes: the file system
/// descriptor, headers of resource files, descriptors of system files but the root's.
fn is_fixed(plan: &Plan, layout: &Layout, volume: u64) -> bool {
    let header = plan.resources().iter().any(|resource| {
        let file = plan.file(resource.file.fd());
        file.and_then(|file| file.volume_offset(resource.header_offset)) == Some(volume)
    });
    let fds = plan.files().iter().filter(|file| file.fd != FdAddr::ROOT);
    let fd = fds.map(|file| layout.first_fd + u64::from(file.fd.resource()) * layout.fd_size);
    let mut fd = fd.map(|start| start + layout.fd_meta..start + layout.fd_size);
    volume == FS_DESCRIPTOR_OFFSET || header || fd.any(|range| range.contains(&volume))
}

#[test]
fn the_fixed_structures_of_single_volumes_are_esxis() {
    for (family, image) in [(Family::Vmfs6, "vmfs6"), (Family::Vmfs5, "vmfs5")] {
        let plan = Plan::new(Options::new(family, &[DEVICE])).expect("a plan");
        let layout = plan.layout().clone();
        // VMFS5's descriptors have no signature to know their times by.
        let has_times = |at: u64| {
            family == Family::Vmfs5
                && at >= layout.first_fd
                && (at - layout.first_fd) % layout.fd_size == layout.fd_meta
        };
        let compared = compare(&plan, &[esxi_image!(image)], |_, at| {
            let volume = at.wrapping_sub(0x110_0000);
            let lvm = at == DEVICE_HEADER_OFFSET
                || (0x18_0200..0x18_2000).contains(&at) && family == Family::Vmfs5
                || (0x18_1000..0x18_4000).contains(&at) && family == Family::Vmfs6;
            lvm || at >= 0x110_0000 && is_fixed(&plan, &layout, volume) && !has_times(volume)
        });
        assert!(compared > 20, "{compared} sectors");
        for file in [
            SystemFile::FileBlocks,
            SystemFile::SubBlocks,
            SystemFile::PointerBlocks2,
        ] {
            assert!(plan.file(file.fd()).is_some());
        }
    }
}
