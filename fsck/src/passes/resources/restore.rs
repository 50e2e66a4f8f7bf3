//! Block maps of resource files that are lost or have holes, put together from the clusters on the
//! volume: docs/fsck/resources.md.
//!
//! A map is believed only if a check of the whole volume with it finds nothing that speaks against
//! it: every block and descriptor that is marked used is referred to once, and nothing else is.

mod candidate;
mod hidden;
mod map;
mod moved;
mod pointers;

use std::collections::BTreeSet;
use std::sync::Arc;

use vmfs_core::format::{Family, Layout, ResourceKind, SystemFile};
use vmfs_core::lvm::{Volume, VolumeOffset};
use vmfs_core::resource::rescue::{Evidence, scan};

use crate::account::Account;
use crate::check::Check;
use crate::code::{Code, Progress};
use crate::finding::Finding;
use crate::judge::{Judge, Mode};
use crate::plan::{Plan, Stage};
use candidate::Candidate;
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
const BESIDE: [Code; 16] = [
    Code::DeviceHeaderDamaged,
    Code::VolumeTableWrong,
    Code::ExtentWrong,
    Code::ExtentBitmapWrong,
    Code::FsDescriptorDamaged,
    Code::HeartbeatDamaged,
    Code::LockDamaged,
    Code::ResourceHeaderDamaged,
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
#[derive(Debug, Clone)]
enum Side {
    /// The part before it.
    Before,
    /// The part behind it.
    Behind,
    /// None; in this file it consists of these blocks of the volume, which are nobody else's.
    Nobodys(SystemFile, BTreeSet<u64>),
}

impl Side {
    const BOTH: [Self; 2] = [Self::Before, Self::Behind];
}

/// Which of the addresses that stand are taken as they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trust {
    /// All.
    All,
    /// Beside one that is lost only those that adjoin another.
    Adjoining,
}

/// What bears a map out.
#[derive(Debug, Clone, Copy)]
enum Proof {
    /// All that is in use on the volume is accounted for.
    All,
    /// Its own blocks are nobody else's.
    Own,
}

impl Proof {
    /// What is done, in words.
    const fn repair(self) -> &'static str {
        match self {
            Self::All => {
                "put its block map together from its clusters, which account for all that is marked used"
            }
            Self::Own => {
                "put its block map together from its clusters and what lies between them, which is marked used and nobody else's"
            }
        }
    }
}

/// What a check of the volume with a map finds.
struct Trial {
    /// Nothing that speaks against it.
    clean: bool,
    /// Nothing may be repaired all the same.
    refused: bool,
    account: Account,
}

impl Trial {
    /// Whether the maps are right although other things are damaged: nobody else has any of their blocks, none is
    /// marked free, the marks are against the addresses that aren't believed, and blocks that only one side of a gap
    /// speaks for are all that is left of what is marked used.
    fn bears_out(&self, made: &[Candidate]) -> bool {
        let blocks = made.iter().flat_map(|made| &made.blocks);
        let mut doubted = made.iter().flat_map(|made| &made.doubted);
        let guessed = made.iter().any(|made| !made.guessed.is_empty())
            || !doubted.all(|&(was, is)| self.account.is_for(is, was));
        !self.refused
            && blocks
                .copied()
                .all(|block| !self.account.speaks_against(block))
            && (!guessed || self.account.is_exact())
    }
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
    if run_visible(check, volume, &layout) && !check.judge.refuses {
        moved::run(check, volume, &layout);
    }
}

/// Puts maps right that can be seen to be wrong; whether all there was to do was done.
fn run_visible(check: &mut Check<'_>, volume: &Volume, layout: &Layout) -> bool {
    let mut broken = broken(volume, layout);
    let mut evidence = None;
    if broken.iter().any(|broken| !broken.map.bare.is_empty()) {
        let found = look(check, volume, layout);
        for Broken { map, .. } in &mut broken {
            map.take_out_hidden(volume, layout, &found);
        }
        evidence = Some(found);
        broken.retain(|broken| !broken.map.is_whole());
    }
    if broken.is_empty() {
        return true;
    }
    let Some((made, proof)) = search(check, volume, layout, (&broken, evidence)) else {
        refuse_hidden(check, &broken);
        return true;
    };
    let right = put_right(check, volume, &broken, (&made, proof));
    if right == Some(false) {
        refuse_hidden(check, &broken);
    }
    right == Some(true)
}

/// Writes maps, if that is wanted; `None` if it isn't known yet, `Some(false)` if a person doesn't want it.
fn put_right(
    check: &mut Check<'_>,
    volume: &Volume,
    broken: &[Broken],
    (made, proof): (&[Candidate], Proof),
) -> Option<bool> {
    let mut decided = true;
    for Broken { file, map, .. } in broken {
        let code = if map.is_lost() {
            Code::ResourceFileUnreadable
        } else {
            Code::AddressWrongType
        };
        let finding = Finding::new(code, file.name(), map.wrong())
            .at_volume(map.place().0)
            .repair(proof.repair());
        decided &= check.found(finding);
    }
    if decided {
        check.plan.set_stage(Stage::Refer);
        for (place, bytes) in made.iter().flat_map(|made| &made.patches) {
            // It was read from there.
            let _ = volume.write(*place, bytes);
        }
        return Some(true);
    }
    (!check.judge.undecided && !check.judge.quit).then_some(false)
}

/// Lets nothing be repaired if descriptors in use are hidden: each would be taken for one that isn't.
fn refuse_hidden(check: &mut Check<'_>, broken: &[Broken]) {
    let mut hiding = broken.iter().filter(|broken| broken.map.hides_files);
    if let Some(hides) = hiding.next() {
        refuse(
            check,
            hides,
            ", and descriptors that are marked used aren't there",
        );
    }
}

/// Lets nothing be repaired, for what is wrong with a map, and for `more`.
fn refuse(check: &mut Check<'_>, Broken { file, map, .. }: &Broken, more: &str) {
    let (name, place) = (file.name(), map.place());
    check.refuse(&format!(
        "block map of {name} at {place}: {}{more}",
        map.wrong()
    ));
}

/// The maps that the files can only have, and what bears them out.
fn search(
    check: &mut Check<'_>,
    volume: &Volume,
    layout: &Layout,
    (broken, evidence): (&[Broken], Option<Evidence>),
) -> Option<(Vec<Candidate>, Proof)> {
    // Tries more maps until one is borne out by everything.
    let attempt = |check: &Check<'_>, tried: &mut Tried, evidence: &Evidence, ways: &[Way]| {
        for (side, trust) in ways {
            let made = candidates(volume, layout, broken, (evidence, side, *trust));
            let made = made.filter(|made| !tried.iter().any(|(before, _)| before == made));
            if let Some(made) = made
                && let Some(trial) = trial(check, volume, &made)
            {
                if trial.clean {
                    return Some((made, Proof::All));
                }
                tried.push((made, trial));
            }
        }
        None
    };
    let both = |trust| Side::BOTH.map(|side| (side, trust));
    // What the neighbours of a hole tell needs no look at the whole volume.
    let neighbours = &Evidence::default();
    let found = attempt(check, &mut Tried::new(), neighbours, &both(Trust::All));
    if found.is_some() {
        return found;
    }
    let evidence = evidence.unwrap_or_else(|| look(check, volume, layout));
    let mut tried = Tried::new();
    for trust in [Trust::All, Trust::Adjoining] {
        let found = attempt(check, &mut tried, &evidence, &both(trust));
        if found.is_some() {
            return found;
        }
    }
    let mut all = tried.iter();
    if let Some(side) = all.find_map(|(made, trial)| nobodys(broken, made, trial)) {
        let way = (side, Trust::All);
        let found = attempt(check, &mut tried, &evidence, &[way]);
        if found.is_some() {
            return found;
        }
    }
    let mut tried = tried.into_iter();
    let (made, _) = tried.find(|(made, trial)| trial.bears_out(made))?;
    Some((made, Proof::Own))
}

/// A look at the whole volume.
fn look(check: &mut Check<'_>, volume: &Volume, layout: &Layout) -> Evidence {
    let mut progress = |done, of| (check.progress)(Progress::Search { done, of });
    scan(volume, layout, &mut progress)
}

/// Maps that not everything bears out.
type Tried = Vec<(Vec<Candidate>, Trial)>;
/// How gaps are filled, and what is believed.
type Way = (Side, Trust);

/// Blocks for a file that has gaps as many as there are blocks that are marked used and nobody's. In which
/// order it has them makes no difference only to file descriptors that aren't in use: others say which they are.
fn nobodys(broken: &[Broken], made: &[Candidate], trial: &Trial) -> Option<Side> {
    let pairs = broken.iter().zip(made);
    let mut gaps = pairs.filter(|(_, made)| !made.guessed.is_empty());
    let (Broken { file, kind, .. }, made) = gaps.next()?;
    let only = gaps.next().is_none() && *kind == ResourceKind::FileDescriptor;
    let places = trial.account.nobodys(&made.guessed)?;
    let all = places.len() == made.guessed.len();
    (only && all).then_some(Side::Nobodys(*file, places))
}

/// The files that aren't whole, or mayn't be.
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
        if !map.is_whole() || !map.bare.is_empty() {
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
    by: (&Evidence, &Side, Trust),
) -> Option<Vec<Candidate>> {
    let mut all = Vec::new();
    for Broken { file, kind, map } in broken {
        let mut made = candidate::of(volume, layout, (*file, *kind), map, by)?;
        made.patches.retain(|(place, bytes)| {
            let mut found = vec![0; bytes.len()];
            volume.read(*place, &mut found).is_err() || found != *bytes
        });
        // What is wrong with it is something else then.
        if made.patches.is_empty() {
            return None;
        }
        all.push(made);
    }
    Some(all)
}

/// What a check of the volume with these maps finds; `None` if it can't be done.
fn trial(check: &Check<'_>, volume: &Volume, made: &[Candidate]) -> Option<Trial> {
    let plan = Arc::new(Plan::default());
    let patched = plan.over(volume);
    plan.set_stage(Stage::Refer);
    let mut patches = made.iter().flat_map(|made| &made.patches);
    let written = patches.try_for_each(|(place, bytes)| patched.write(*place, bytes));
    written.ok()?;
    let quiet = &mut |_| {};
    let mut trial = Check::new(plan, Judge::new(Mode::Check), quiet, check.now);
    trial.left_journals.clone_from(&check.left_journals);
    trial.account = Some(Account::default());
    trial.rounds(&patched);
    let mut codes = trial.report.totals.keys();
    let refused = trial.refused.is_some();
    Some(Trial {
        clean: !refused && codes.all(|code| BESIDE.contains(code)),
        refused,
        account: trial.account.take()?,
    })
}
