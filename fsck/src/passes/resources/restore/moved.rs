//! Blocks of resource files in which no header of a cluster is, but only sub-blocks or pointer blocks: nothing in
//! them says whose they are. Where a map leads past one, only what is marked used tells: its own block would go on
//! where its neighbours are, is marked used and nobody's, and the one in its place is free or somebody else's.

use std::collections::BTreeMap;

use vmfs_core::format::{Layout, ResourceKind, SystemFile};
use vmfs_core::lvm::Volume;
use vmfs_core::resource::rescue::Evidence;

use super::map::{Map, headers_by_block};
use super::{Broken, Candidate, Proof, Side, Trial, Trust, candidates, put_right, refuse, trial};
use crate::check::Check;

/// The files whose blocks without headers are in use, and what they hold.
const FILES: [(SystemFile, ResourceKind); 3] = [
    (SystemFile::PointerBlocks2, ResourceKind::PointerBlock2),
    (SystemFile::PointerBlocks, ResourceKind::PointerBlock),
    (SystemFile::SubBlocks, ResourceKind::SubBlock),
];

/// A block that lies apart from those of its file.
struct Apart {
    /// Its number in the file.
    block: u64,
    /// Where the map says that it lies.
    place: u64,
    /// Where it would lie if the blocks before it went on, and if those behind it began there.
    expected: Vec<u64>,
}

/// What the marks say of a block that lies apart.
#[derive(Clone, Copy)]
enum Verdict {
    /// Nothing against where the map says that it lies.
    Fine,
    /// It must be here.
    Moved(u64),
    /// The map may be wrong.
    Unclear,
}

impl Apart {
    fn judge(&self, marks: &Trial) -> Verdict {
        let account = &marks.account;
        if !account.is_contested(self.place) {
            return Verdict::Fine;
        }
        if account.is_partial() {
            return Verdict::Unclear;
        }
        let mut own = self.expected.iter();
        let own = own.find(|&&place| account.is_unreferenced(place));
        own.map_or(Verdict::Fine, |&place| Verdict::Moved(place))
    }
}

/// Puts right, or lets nothing be repaired for, maps that lead past such blocks.
pub(super) fn run(check: &mut Check<'_>, volume: &Volume, layout: &Layout) {
    let mut maps = Vec::new();
    for (file, kind) in FILES {
        let map = Map::read(volume, layout, file.fd(), kind);
        let apart = apart(volume, layout, kind, &map);
        if !apart.is_empty() {
            maps.push((Broken { file, kind, map }, apart));
        }
    }
    if maps.is_empty() {
        return;
    }
    let Some(marks) = trial(check, volume, &[]) else {
        return;
    };
    let mut broken = Vec::new();
    let mut clear = true;
    for (mut one, apart) in maps {
        let whole = one.map.is_whole();
        let mut any = false;
        for block in &apart {
            let why = match block.judge(&marks) {
                Verdict::Fine => continue,
                Verdict::Moved(own) => format!(
                    "is marked free or another's as well, and {own:#x}, which adjoins the others, is marked used and nobody's"
                ),
                Verdict::Unclear => {
                    clear = false;
                    "is marked free or another's as well".to_owned()
                }
            };
            one.map.lose(block.block, &why);
            any = true;
        }
        if any {
            clear &= whole;
            broken.push(one);
        }
    }
    let found = clear.then(|| search(check, volume, layout, &broken));
    let right = match found.flatten() {
        Some((made, proof)) => put_right(check, volume, &broken, (&made, proof)),
        None => Some(false),
    };
    if right == Some(false)
        && let Some(first) = broken.first()
    {
        // What is marked used there would be given away.
        refuse(check, first, "");
    }
}

/// The maps with each of the blocks where its neighbours are, if that is borne out. A look at the whole volume
/// would find nothing of them.
fn search(
    check: &Check<'_>,
    volume: &Volume,
    layout: &Layout,
    broken: &[Broken],
) -> Option<(Vec<Candidate>, Proof)> {
    if broken.is_empty() {
        return None;
    }
    let neighbours = Evidence::default();
    let mut own = None;
    for side in Side::BOTH {
        let by = (&neighbours, &side, Trust::All);
        let Some(made) = candidates(volume, layout, broken, by) else {
            continue;
        };
        let Some(trial) = trial(check, volume, &made) else {
            continue;
        };
        if trial.clean {
            return Some((made, Proof::All));
        }
        if own.is_none() && trial.bears_out(&made) {
            own = Some((made, Proof::Own));
        }
    }
    own
}

/// Blocks without headers that don't lie where the parts of the file with headers would go on.
fn apart(volume: &Volume, layout: &Layout, kind: ResourceKind, map: &Map) -> Vec<Apart> {
    let Some(header) = map.header(volume, layout, kind) else {
        return Vec::new();
    };
    // The map has lost those whose headers aren't there.
    let headers = headers_by_block(layout, &header);
    let parts = parts(&map.known);
    let is_borne_out = |&(start, _, count): &(u64, u64, u64)| {
        start == 0 || headers.range(start..start + count).next().is_some()
    };
    let mut behind: Vec<Option<(u64, u64)>> = Vec::new();
    let mut next = None;
    for part in parts.iter().rev() {
        behind.push(next);
        if is_borne_out(part) {
            next = Some((part.0, part.1));
        }
    }
    let mut before = None;
    let mut all = Vec::new();
    for (part, behind) in parts.iter().zip(behind.into_iter().rev()) {
        let &(start, place, count) = part;
        if is_borne_out(part) {
            before = Some((start, place));
            continue;
        }
        for index in 0..count {
            let (block, place) = (start + index, place + index);
            let on = before.and_then(|(other, at): (u64, u64)| at.checked_add(block - other));
            let off = behind.and_then(|(other, at)| at.checked_sub(other - block));
            let expected: Vec<u64> = [on, off].into_iter().flatten().collect();
            if !expected.contains(&place) {
                all.push(Apart {
                    block,
                    place,
                    expected,
                });
            }
        }
    }
    all
}

/// The parts of a file that lie in one piece: the first block of each, where it lies, and how many they are.
fn parts(known: &BTreeMap<u64, u64>) -> Vec<(u64, u64, u64)> {
    let mut parts: Vec<(u64, u64, u64)> = Vec::new();
    for (&block, &place) in known {
        match parts.last_mut() {
            Some((start, at, count)) if *start + *count == block && *at + *count == place => {
                *count += 1;
            }
            _ => parts.push((block, place, 1)),
        }
    }
    parts
}
