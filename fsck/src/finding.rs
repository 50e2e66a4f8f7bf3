use std::collections::BTreeMap;
use std::fmt;

use vmfs_core::format::{At, Damage, ResourceKind};

use crate::code::{Code, Pass, Severity};

/// One thing that is wrong, and what is done about it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Finding {
    /// What kind of thing.
    pub code: Code,
    /// The pass that found it.
    pub pass: Pass,
    /// How bad it is.
    pub severity: Severity,
    /// The structure, in the words of `docs/FORMAT.md`, and which one.
    pub structure: String,
    /// Where it lies.
    #[serde(serialize_with = "as_place")]
    pub address: Option<At>,
    /// What was found and what was expected.
    pub detail: String,
    /// What a repair does; `None` when there is none.
    pub repair: Option<String>,
    /// What that may lose; `None` when nothing.
    pub loss: Option<String>,
    /// Whether the repair is certain, so that `-p` makes it.
    pub certain: bool,
    /// Whether the repair was made, or with `-n` would be.
    pub repaired: bool,
}

impl Finding {
    /// A finding without an address or repair.
    pub fn new(code: Code, structure: impl Into<String>, detail: impl Into<String>) -> Self {
        Self {
            code,
            pass: code.pass(),
            severity: code.severity(),
            structure: structure.into(),
            address: None,
            detail: detail.into(),
            repair: None,
            loss: None,
            certain: code.is_certain(),
            repaired: false,
        }
    }

    /// What a structure that was parsed says of itself.
    pub fn of_damage(code: Code, which: &str, damage: &Damage) -> Self {
        let structure = if which.is_empty() {
            damage.structure.to_owned()
        } else {
            format!("{} of {which}", damage.structure)
        };
        let detail = format!(
            "{} is {}, expected {}",
            damage.field, damage.found, damage.expected
        );
        Self::new(code, structure, detail).at(damage.at)
    }

    /// Where the structure lies.
    #[must_use]
    pub fn at(mut self, at: At) -> Self {
        self.address = Some(at);
        self
    }

    /// Where it lies on the volume.
    #[must_use]
    pub fn at_volume(self, offset: u64) -> Self {
        self.at(At::Volume(offset))
    }

    /// What the repair does.
    #[must_use]
    pub fn repair(mut self, repair: impl Into<String>) -> Self {
        self.repair = Some(repair.into());
        self
    }

    /// What the repair may lose.
    #[must_use]
    pub fn loses(mut self, loss: impl Into<String>) -> Self {
        self.loss = Some(loss.into());
        self
    }

    /// The repair is not certain this time.
    #[must_use]
    pub fn uncertain(mut self) -> Self {
        self.certain = false;
        self
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.structure)?;
        if let Some(at) = self.address {
            write!(f, " at {at}")?;
        }
        write!(f, ": {}", self.detail)
    }
}

#[allow(
    clippy::ref_option,
    reason = "serde calls it with a reference to the field"
)]
fn as_place<S: serde::Serializer>(at: &Option<At>, serializer: S) -> Result<S::Ok, S::Error> {
    use serde::Serialize;
    #[derive(serde::Serialize)]
    #[serde(rename_all = "kebab-case")]
    enum Place {
        Device(u64),
        Volume(u64),
        File { fd: u32, offset: u64 },
    }
    let place = at.map(|at| match at {
        At::Device(offset) => Place::Device(offset),
        At::Volume(offset) => Place::Volume(offset),
        At::File { fd, offset } => Place::File { fd, offset },
    });
    place.serialize(serializer)
}

/// How the rebuilt bitmap of one resource file compares with the stored one.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct ResourceCount {
    /// The resources' kind.
    pub kind: ResourceKind,
    /// Resources compared.
    pub compared: u64,
    /// Resources used by both accounts.
    pub used: u64,
    /// Resources on which the accounts differ.
    pub differing: u64,
    /// Clusters without a header of their own, whose large block isn't broken up.
    pub unconverted_clusters: u64,
}

/// Findings kept of one kind; more are only counted.
const KEPT_PER_CODE: u64 = 1000;

/// What a check found.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct Report {
    /// File descriptors decoded.
    pub descriptors: u64,
    /// Directory entries looked at.
    pub entries: u64,
    /// Addresses followed.
    pub addresses: u64,
    /// Each resource file's comparison.
    pub resources: Vec<ResourceCount>,
    /// What is wrong, at most a thousand of each kind.
    pub findings: Vec<Finding>,
    /// What is worth knowing and isn't wrong.
    pub notes: Vec<Finding>,
    /// How many findings there are of each kind in all.
    pub totals: BTreeMap<Code, u64>,
    /// How many of them are repaired, or with `-n` could be.
    pub repaired: u64,
    /// How many of them are left as they are.
    pub left: u64,
}

impl Report {
    /// Adds a finding, or a note.
    pub fn add(&mut self, finding: Finding) {
        if finding.severity == Severity::Note {
            if self.notes.len() < KEPT_PER_CODE as usize {
                self.notes.push(finding);
            }
            return;
        }
        let total = self.totals.entry(finding.code).or_default();
        *total += 1;
        if finding.repaired {
            self.repaired += 1;
        } else {
            self.left += 1;
        }
        if *total <= KEPT_PER_CODE {
            self.findings.push(finding);
        }
    }

    /// Whether nothing is wrong; notes don't count.
    pub fn is_clean(&self) -> bool {
        self.totals.is_empty()
    }
}
