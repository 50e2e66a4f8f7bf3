//! The file system descriptor: docs/fsck/volume.md.

mod rebuild;

use vmfs_core::format::{At, FS_DESCRIPTOR_OFFSET, FsDescriptor, Layout};
use vmfs_core::lvm::{Volume, VolumeOffset};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use crate::check::Check;
use crate::code::Code;
use crate::finding::Finding;
use crate::plan::Stage;

/// The descriptor and the layout that follows from it, mended if need be.
pub(crate) fn run(check: &mut Check<'_>, volume: &Volume) -> Option<(FsDescriptor, Layout)> {
    let place = VolumeOffset(FS_DESCRIPTOR_OFFSET);
    let mut fsd = FsDescriptor::new_zeroed();
    if let Err(error) = volume.read(place, fsd.as_mut_bytes()) {
        let finding = Finding::new(
            Code::FsDescriptorDamaged,
            "file system descriptor",
            error.to_string(),
        );
        check.found(finding.at(At::Volume(place.0)));
        check.refuse("the file system descriptor can't be read");
        return None;
    }
    let parsed = parse(&fsd);
    let wrong = match (&parsed, rebuild::expected(volume, &fsd)) {
        (Ok(layout), Some(expected)) if differences(&fsd, &expected).is_empty() => {
            return Some((fsd, layout.clone()));
        }
        (Ok(layout), None) => return Some((fsd, layout.clone())),
        (Err(error), None) => {
            let finding = Finding::new(
                Code::FsDescriptorDamaged,
                "file system descriptor",
                format!("{error}; the other structures don't tell what it should hold"),
            );
            check.found(finding.at(At::Volume(place.0)));
            check.refuse("the file system descriptor is damaged and can't be rebuilt");
            return None;
        }
        (_, Some(expected)) => expected,
    };
    let details = differences(&fsd, &wrong);
    let finding = Finding::new(
        Code::FsDescriptorDamaged,
        "file system descriptor",
        details.join("; "),
    )
    .at(At::Volume(place.0))
    .repair("write what the other structures on the volume say");
    if check.found(finding) {
        check.plan.set_stage(Stage::Refer);
        if volume.write(place, wrong.as_bytes()).is_ok() {
            let layout = parse(&wrong).ok()?;
            return Some((wrong, layout));
        }
    }
    parsed.ok().map(|layout| (fsd, layout))
}

fn parse(fsd: &FsDescriptor) -> Result<Layout, vmfs_core::format::Damage> {
    FsDescriptor::parse(fsd.as_bytes())?;
    Layout::new(fsd)
}

/// The fields that differ, as text.
fn differences(found: &FsDescriptor, expected: &FsDescriptor) -> Vec<String> {
    let mut all = Vec::new();
    let mut compare = |field: &str, found: u64, expected: u64| {
        if found != expected {
            all.push(format!("{field} is {found:#x}, expected {expected:#x}"));
        }
    };
    macro_rules! fields {
        ($($field:ident),+) => {
            $(compare(stringify!($field), found.$field.get().into(), expected.$field.get().into());)+
        };
    }
    fields!(
        magic,
        major_version,
        config,
        disk_block_size,
        file_block_size,
        fdc_cluster_group_offset,
        fdc_clusters_per_group,
        sub_block_size,
        md_alignment,
        sfb_to_lfb_shift,
        pb2_vol_addr,
        pb2_fd_addr,
        sdd_vol_addr,
        sdd_fd_addr
    );
    all
}

/// A structure at `offset` of the volume.
fn read<T: FromBytes + IntoBytes + FromZeros>(volume: &Volume, offset: u64) -> Option<T> {
    let mut value = T::new_zeroed();
    volume
        .read(VolumeOffset(offset), value.as_mut_bytes())
        .ok()?;
    Some(value)
}
