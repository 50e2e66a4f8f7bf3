//! Block maps of resource files that are lost or have holes, put together from the clusters on the
//! volume: docs/fsck/resources.md.
//!
//! A map is believed only if a check of the whole volume with it finds nothing that speaks against
//! it: every block and descriptor that is marked used is referred to once, and nothing else is.

mod candidate;
mod map;
mod pointers;

use std::sync::Arc;

use vmfs_core::format::{Family, Layout, ResourceKind, SystemFile};
use vmfs_core::lvm::{Volume, VolumeOffset};
use vmfs_core::resource::rescue::{Evidence, scan};

use crate::check::Check;
use crate::code::{Code, Progress};
use crate::finding::Finding;
use crate::judge::{Judge, Mode};
use crate::plan::{Plan, Stage};
use map::Map;

/// The resource files and the kinds that their clusters are of. Where maps lead through pointer
/// blocks the files of these come before.
const FILES: [(SystemFile, &[ResourceKind]); 6] = [
    (SystemFile::PointerBlocks2, &[ResourceKind::PointerBlock2]),
    (SystemFile::PointerBlocks, &[ResourceKind::PointerBlock]),
    (SystemFile::SubBlocks, &[ResourceKind::SubBlock]),
    (SystemFile::FileDescriptors, &[ResourceKind::FileDescriptor]),
    (
        SystemFile::FileBlocks,
        &[ResourceKind::LargeFileBlock, ResourceKind::FileBlock],
    ),
    (SystemFile::Journals, &[ResourceKind::JournalBlock]),
];

/// Findings that say nothing against a map.
const BESIDE: [Code; 15] = [
    Code::DeviceHeaderDamaged,
    Code::VolumeTableWrong,
    Code::ExtentWrong,
    Code::ExtentBitmapWrong,
    Code::FsDescriptorDamaged,
    Code::HeartbeatDamaged,
    Code::LockDamaged,
    Code::FreeCountWrong,
    Code::BitmapTailWrong,
    Code::LengthWrong,
    Code::BlockCountWrong,
    Code::PointerCountWrong,
    Code::ZeroCountWrong,
    Code::LinkCountWrong,
    Code::ParentWrong,
];

/// Bytes to be written, and where.
type Patches = Vec<(VolumeOffset, Vec<u8>)>;

/// What a gap between two parts that don't adjoin is taken to belong to.
#[derive(Debug, Clone, Copy)]
enum Side {
    /// The part before it.
    Before,
    /// The part behind it.
    Behind,
}

impl Side {
    const BOTH: [Self; 2] = [Self::Before, Self::Behind];
}

/// A resource file that isn't whole.
struct Broken {
    file: SystemFile,
    kind: ResourceKind,
    map: Map,
}

/// Puts the maps of resource files right, if they are damaged and can only be one.
pub(crate) fn run(check: &mut Check<'_>, volume: &Volume) {
    if check.judge.refuses || volume.missing().next().is_some() {
        return;
    }
    let Some((_, layout)) = crate::passes::volume::run(check, volume) else {
        return;
    };
    // One that was upgraded from VMFS3 has another geometry, and files in other places.
    let old = layout.family == Family::Vmfs3
        || layout.family == Family::Vmfs5 && !layout.dense_sub_blocks;
    if old {
        return;
    }
    let broken = broken(volume, &layout);
    if broken.is_empty() {
        return;
    }
    // What the neighbours of a hole tell needs no look at the whole volume.
    let fitting = |check: &Check<'_>, evidence: &Evidence| {
        let made = Side::BOTH.map(|side| candidates(volume, &layout, &broken, (evidence, side)));
        let [one, other] = made;
        let other = other.filter(|other| Some(other) != one.as_ref());
        let mut made = one.into_iter().chain(other);
        made.find(|patches| fits(check, volume, patches))
    };
    let mut patches = fitting(check, &Evidence::default());
    if patches.is_none() {
        let mut progress = |done, of| (check.progress)(Progress::Search { done, of });
        let evidence = scan(volume, &layout, &mut progress);
        patches = fitting(check, &evidence);
    }
    let Some(patches) = patches else {
        return;
    };
    let mut decided = true;
    for Broken { file, map, .. } in &broken {
        let code = if map.is_lost() {
            Code::ResourceFileUnreadable
        } else {
            Code::AddressWrongType
        };
        let finding = Finding::new(code, file.name(), map.wrong())
            .at_volume(map.place().0)
            .repair("put its block map together from its clusters, which account for all that is marked used");
        decided &= check.found(finding);
    }
    if decided {
        check.plan.set_stage(Stage::Refer);
        for (place, bytes) in &patches {
            // It was read from there.
            let _ = volume.write(*place, bytes);
        }
    }
}

fn broken(volume: &Volume, layout: &Layout) -> Vec<Broken> {
    let mut all = Vec::new();
    for (file, kinds) in FILES {
        // VMFS5 has small file blocks only, and no journal blocks.
        let of_6 = |kind: &&ResourceKind| {
            !matches!(
                kind,
                ResourceKind::LargeFileBlock | ResourceKind::JournalBlock
            )
        };
        let mut kinds = kinds.iter();
        let kind = if layout.family == Family::Vmfs6 {
            kinds.next()
        } else {
            kinds.find(of_6)
        };
        let Some(&kind) = kind else {
            continue;
        };
        let map = Map::read(volume, layout, file.fd(), kind);
        if !map.is_whole() {
            all.push(Broken { file, kind, map });
        }
    }
    all
}

/// What would make all of the files whole; `None` if that isn't clear for one of them.
fn candidates(
    volume: &Volume,
    layout: &Layout,
    broken: &[Broken],
    by: (&Evidence, Side),
) -> Option<Patches> {
    let mut all = Patches::new();
    for Broken { file, kind, map } in broken {
        let mut patches = candidate::of(volume, layout, (*file, *kind), map, by)?;
        patches.retain(|(place, bytes)| {
            let mut found = vec![0; bytes.len()];
            volume.read(*place, &mut found).is_err() || found != *bytes
        });
        // What is wrong with it is something else then.
        if patches.is_empty() {
            return None;
        }
        all.extend(patches);
    }
    Some(all)
}

/// Whether a check of the volume with these patches finds nothing against them.
fn fits(check: &Check<'_>, volume: &Volume, patches: &Patches) -> bool {
    let plan = Arc::new(Plan::default());
    let patched = plan.over(volume);
    plan.set_stage(Stage::Refer);
    let written = patches
        .iter()
        .try_for_each(|(place, bytes)| patched.write(*place, bytes));
    if written.is_err() {
        return false;
    }
    let quiet = &mut |_| {};
    let mut trial = Check::new(plan, Judge::new(Mode::Check), quiet, check.now);
    trial.left_journals.clone_from(&check.left_journals);
    trial.rounds(&patched);
    let mut codes = trial.report.totals.keys();
    trial.refused.is_none() && codes.all(|code| BESIDE.contains(code))
}
