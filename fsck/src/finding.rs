use std::fmt;

/// What is wrong; the names are stable and appear in `--json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Code {
    /// A resource file can't be opened.
    ResourceFileUnreadable,
    /// A resource cluster's header can't be read or isn't one.
    ClusterUnreadable,
    /// A cluster's free count isn't what its bitmap says.
    FreeCountWrong,
    /// A resource is marked used and nothing refers to it.
    Unreferenced,
    /// A resource is referred to and marked free.
    ReferencedButFree,
    /// Two references name the same resource.
    Duplicate,
    /// A reference names a resource that doesn't exist.
    OutOfRange,
    /// A file descriptor marked used can't be decoded.
    DescriptorUnreadable,
    /// A file's block map can't be read.
    BlockMapUnreadable,
    /// A file has another number of blocks than its descriptor says.
    BlockCountWrong,
    /// A directory can't be listed.
    DirectoryUnreadable,
    /// A directory entry names a file descriptor that isn't in use.
    EntryDangling,
    /// A directory entry's type or generation isn't its file descriptor's.
    EntryMismatch,
    /// A name can't be found through the directory's hash table.
    EntryNotFoundByHash,
    /// A file descriptor is in use and no directory has it.
    Unreachable,
    /// A file has another number of names than its descriptor says.
    LinkCountWrong,
    /// A directory is met a second time on the way down.
    DirectoryLoop,
    /// The heartbeats can't be read.
    HeartbeatsUnreadable,
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = serde_json::to_value(self).ok();
        f.write_str(
            name.as_ref()
                .and_then(|name| name.as_str())
                .unwrap_or("unknown"),
        )
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Finding {
    /// What kind of thing.
    pub code: Code,
    /// Which structure, where, and what it holds.
    pub detail: String,
}

/// How the rebuilt bitmap of one resource file compares with the stored one.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct ResourceCount {
    /// The resources' kind.
    pub kind: vmfs_core::format::ResourceKind,
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
const KEPT_PER_CODE: u64 = 100;

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
    /// What is wrong, at most a hundred of each kind.
    pub findings: Vec<Finding>,
    /// How many there are of each kind in all.
    pub totals: std::collections::BTreeMap<Code, u64>,
}

impl Report {
    /// Adds a finding.
    pub fn add(&mut self, code: Code, detail: String) {
        let total = self.totals.entry(code).or_default();
        *total += 1;
        if *total <= KEPT_PER_CODE {
            self.findings.push(Finding { code, detail });
        }
    }

    /// Whether nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.totals.is_empty()
    }
}
