//! The passes, in the order in which they run; docs/fsck/ has a page for each.

pub(crate) mod bitmaps;
pub(crate) mod connectivity;
pub(crate) mod descriptors;
pub(crate) mod devices;
pub(crate) mod directories;
pub(crate) mod duplicates;
pub(crate) mod hosts;
pub(crate) mod locks;
mod maps;
mod mend;
mod named;
pub(crate) mod resources;
pub(crate) mod volume;

pub(crate) use bitmaps::CONVERTED;
pub(crate) use directories::{parent_of, set_parent};
pub(crate) use maps::place_of;
pub(crate) use named::Named;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use vmfs_core::journal::MetaReader;
use vmfs_core::lvm::Volume;

use crate::check::Check;
use crate::code::{Pass, Progress};
use crate::round::Round;
use crate::usage::Usage;

/// One round of all passes over `volume`.
pub(crate) fn run(check: &mut Check<'_>, volume: &Volume) {
    (check.progress)(Progress::Pass(Pass::Volume));
    let Some((fsd, layout)) = volume::run(check, volume) else {
        return;
    };
    (check.progress)(Progress::Pass(Pass::Hosts));
    let hosts = hosts::run(check, volume, &layout);
    (check.progress)(Progress::Pass(Pass::Resources));
    let reader = Arc::new(MetaReader::new(volume.clone(), layout.clone()));
    let Some(resources) = resources::open(check, &reader, &fsd) else {
        return;
    };
    let mut usage = Usage::new(&resources, &layout, volume.size());
    for &journal in &check.left_journals {
        usage.give(journal);
    }
    let mut round = Round {
        check,
        volume: volume.clone(),
        layout: Arc::new(layout),
        reader,
        resources: Arc::new(resources),
        hosts,
        usage,
        files: HashMap::new(),
        directories: Vec::new(),
        broken: HashSet::new(),
        claims: Vec::new(),
        late_claims: Vec::new(),
        contested: HashSet::new(),
        more_claims: 0,
        known_names: HashMap::new(),
        next_free: HashMap::new(),
        ahead: None,
        named: None,
        named_by_entries: None,
    };
    let round = &mut round;
    (round.check.progress)(Progress::Pass(Pass::Descriptors));
    descriptors::run(round);
    hosts::mark_journals(round);
    (round.check.progress)(Progress::Pass(Pass::Directories));
    directories::run(round);
    (round.check.progress)(Progress::Pass(Pass::Connectivity));
    connectivity::run(round);
    (round.check.progress)(Progress::Pass(Pass::Duplicates));
    duplicates::run(round);
    (round.check.progress)(Progress::Pass(Pass::Bitmaps));
    bitmaps::run(round);
    resources::judge_unproven(round);
}
