//! Addresses that can't be right, and what becomes of them.

use vmfs_core::lvm::VolumeOffset;

use super::Walk;
use super::address::{expected, shown};
use crate::code::Code;
use crate::finding::Finding;
use crate::passes::resources;
use crate::plan::Stage;
use crate::round::Round;
use crate::usage::Marked;

/// An address that can't be one, and why.
pub(super) struct Invalid {
    /// Its number in the array or pointer block.
    pub(super) index: usize,
    pub(super) code: Code,
    pub(super) slot: VolumeOffset,
    pub(super) reason: String,
}

impl Walk {
    /// Addresses that can't be right, among `all` in one place; the numbers of those that were cleared.
    pub(super) fn invalid(
        &mut self,
        round: &mut Round<'_, '_>,
        (invalid, all): (&[Invalid], u64),
        depth: u32,
    ) -> Vec<usize> {
        let Some(first) = invalid.first() else {
            return Vec::new();
        };
        round.check.lost_map = true;
        let structure = format!("block map of file {}", self.fd);
        let detail = format!(
            "{} of {all} addresses of this {} can't be right, the first {}",
            invalid.len(),
            if depth < self.depth {
                "pointer block"
            } else {
                "address array"
            },
            first.reason
        );
        let mut finding =
            Finding::new(first.code, structure.as_str(), detail).at_volume(first.slot.0);
        if resources::is_resource_file(self.fd, &round.layout) {
            // A hole here would take clusters, and all that files have in them, out of the volume.
            round
                .check
                .refuse(&format!("{structure} is damaged: {}", first.reason));
        } else {
            finding = finding
                .repair("make them holes")
                .loses("what the blocks held, unless it turns up in /lost+found");
        }
        if !round.found(finding) {
            self.counts.incomplete = true;
            return Vec::new();
        }
        clear(round, invalid)
    }

    /// Addresses that can't be right behind the end of a resource file: it has no use for them.
    pub(super) fn behind(&mut self, round: &mut Round<'_, '_>, behind: &[Invalid]) -> Vec<usize> {
        let Some(first) = behind.first() else {
            return Vec::new();
        };
        let finding = Finding::new(
            first.code,
            format!("block map of file {}", self.fd),
            format!(
                "{} addresses behind its end, block {}, can't be right, the first {}",
                behind.len(),
                self.end,
                first.reason
            ),
        )
        .at_volume(first.slot.0)
        .repair("clear them");
        if !round.found(finding) {
            self.counts.incomplete = true;
            return Vec::new();
        }
        clear(round, behind)
    }

    /// Holes in the map of a resource file, which has none: what lies there can't be told.
    pub(super) fn holes(
        &mut self,
        round: &mut Round<'_, '_>,
        (slot, block): (VolumeOffset, u64),
        count: u64,
        depth: u32,
    ) {
        round.check.lost_map = true;
        self.counts.incomplete = true;
        let structure = format!("block map of file {}", self.fd);
        let expected = expected(depth);
        round.check.refuse(&format!(
            "{structure} has a hole at {slot}, expected {expected} for block {block} of {}",
            self.whole
        ));
        let detail = format!(
            "{count} addresses are holes, the first that of block {block} of {}, expected {expected}: a resource file has none up to its end",
            self.whole
        );
        round.found(Finding::new(Code::AddressWrongType, structure, detail).at_volume(slot.0));
    }
}

/// What resource files say that they have behind their ends: it is theirs unless somebody else has it.
pub(crate) fn late_claims(round: &mut Round<'_, '_>) {
    for claim in std::mem::take(&mut round.late_claims) {
        if round.usage.mark(claim.addr) == Marked::First {
            round.usage.own(claim.addr, claim.fd);
            continue;
        }
        round.contested(claim.addr);
        let finding = Finding::new(
            Code::Duplicate,
            format!("block map of file {}", claim.fd),
            format!(
                "behind its end is {}, which is another file's, or there twice",
                shown(claim.addr)
            ),
        )
        .at_volume(claim.slot.0)
        .repair("clear it");
        if round.found(finding) {
            let zeros = vec![0; round.layout.address_size as usize];
            round.put(Stage::Remove, claim.slot, &zeros);
        }
    }
}

/// Makes these addresses holes; their numbers.
fn clear(round: &mut Round<'_, '_>, invalid: &[Invalid]) -> Vec<usize> {
    let zeros = vec![0; round.layout.address_size as usize];
    for invalid in invalid {
        round.put(Stage::Remove, invalid.slot, &zeros);
    }
    invalid.iter().map(|invalid| invalid.index).collect()
}
