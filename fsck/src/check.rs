//! What all rounds of a check share, and the rounds themselves.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use vmfs_core::format::{BlockAddr, FdAddr};
use vmfs_core::fs::FileSystem;
use vmfs_core::lvm::Volume;

use crate::account::Account;
use crate::code::{Code, Progress, Severity};
use crate::finding::{Finding, Report};
use crate::judge::{Judge, Mode};
use crate::passes;
use crate::plan::Plan;

/// Repairs can show damage that they hid; after so many rounds what is left stays.
const MAX_ROUNDS: u32 = 8;
/// Decisions that are remembered from round to round.
const MAX_REMEMBERED: usize = 1 << 20;

/// A check under way.
pub(crate) struct Check<'a> {
    pub(crate) plan: Arc<Plan>,
    pub(crate) judge: Judge,
    pub(crate) progress: &'a mut dyn FnMut(Progress),
    pub(crate) report: Report,
    /// A map or descriptor was lost: what nothing refers to may be its file's data.
    pub(crate) lost_map: bool,
    /// Seconds since 1970, for what is written.
    pub(crate) now: u32,
    /// What was decided on each finding, by a hash of it.
    decided: HashMap<u64, bool>,
    /// Findings of this round.
    open: u64,
    /// Pending journals are shown.
    pub(crate) replayed: bool,
    /// /lost+found, if this run made it: nothing refers to it before its name is written.
    pub(crate) new_folder: Option<FdAddr>,
    /// The journal blocks of hosts whose slots are free by now.
    pub(crate) left_journals: Vec<BlockAddr>,
    /// File blocks of directories that are copied, with their content in the plan.
    pub(crate) directory_blocks: u32,
    /// What speaks against a map that is tried out; kept in trials only.
    pub(crate) account: Option<Account>,
    /// Headers of resource files without clusters that are written where something else was, which is right
    /// unless another file has that block.
    pub(crate) unproven: Vec<Unproven>,
    /// Why nothing may be repaired, if so.
    pub(crate) refused: Option<String>,
}

/// A header that only the descriptor of its file says where it is.
#[derive(Debug, Clone)]
pub(crate) struct Unproven {
    pub(crate) file: FdAddr,
    /// What it is and what lies there.
    pub(crate) what: String,
    /// Whether the rest of its block is as it is behind such a header: all zeros.
    pub(crate) empty: bool,
}

impl<'a> Check<'a> {
    pub(crate) fn new(
        plan: Arc<Plan>,
        judge: Judge,
        progress: &'a mut dyn FnMut(Progress),
        now: u32,
    ) -> Self {
        Self {
            plan,
            judge,
            progress,
            report: Report::default(),
            lost_map: false,
            now,
            decided: HashMap::new(),
            open: 0,
            replayed: false,
            new_folder: None,
            left_journals: Vec::new(),
            directory_blocks: 0,
            account: None,
            unproven: Vec::new(),
            refused: None,
        }
    }

    /// Lets nothing be repaired: `what` decides what is in use and can't be relied on, so any
    /// repair could give away what files have.
    pub(crate) fn refuse(&mut self, what: &str) {
        self.judge.refuses = true;
        self.refused.get_or_insert_with(|| {
            format!(
                "{what}: without it nothing tells which blocks are in use; copy the files out with vmfs cp --rescue first"
            )
        });
    }

    /// Adds a finding, unless an earlier round has; whether to repair it.
    pub(crate) fn found(&mut self, mut finding: Finding) -> bool {
        if finding.severity == Severity::Note {
            // What is worth a note only is put in order along with the rest, unasked.
            let repairs = finding.repair.is_some() && self.judge.writes();
            finding.repaired = repairs;
            self.report.add(finding);
            return repairs;
        }
        self.open += 1;
        let mut hasher = DefaultHasher::new();
        (
            finding.code,
            &finding.structure,
            &finding.detail,
            finding.address.map(|at| at.to_string()),
        )
            .hash(&mut hasher);
        let key = hasher.finish();
        if let Some(&decided) = self.decided.get(&key) {
            return decided;
        }
        let decided = self.judge.decide(&finding);
        if self.decided.len() < MAX_REMEMBERED {
            self.decided.insert(key, decided);
        }
        finding.repaired = decided;
        self.report.add(finding);
        decided
    }

    /// Runs the passes over `volume`, which shows what is planned, until they find nothing more
    /// that can be repaired.
    pub(crate) fn run(&mut self, volume: &Volume) {
        passes::resources::restore::run(self, volume);
        self.rounds(volume);
    }

    /// The rounds alone.
    pub(crate) fn rounds(&mut self, volume: &Volume) {
        for round in 0..MAX_ROUNDS {
            self.open = 0;
            let before = self.plan.changes();
            let notes = std::mem::take(&mut self.report.notes);
            if round > 0 {
                // Counts are those of the volume as it will be.
                self.report.descriptors = 0;
                self.report.entries = 0;
                self.report.addresses = 0;
            }
            passes::run(self, volume);
            if round > 0 {
                self.report.notes = notes;
            }
            let done = self.judge.quit || self.refused.is_some();
            if self.open == 0 || self.plan.changes() == before || done {
                break;
            }
        }
        let total: u64 = self.report.totals.values().sum();
        self.report.left = self.open.min(total);
        self.report.repaired = total - self.report.left;
        if self.refused.is_some() {
            self.not_written();
        }
    }

    /// Notes that nothing was repaired after all, but for dead hosts' journals and slots, which are
    /// settled before the passes.
    pub(crate) fn not_written(&mut self) {
        let settled = |code| matches!(code, Code::JournalPending | Code::HeartbeatStale);
        let mut repaired = 0;
        for finding in &mut self.report.findings {
            finding.repaired &= settled(finding.code);
            repaired += u64::from(finding.repaired);
        }
        let total: u64 = self.report.totals.values().sum();
        self.report.left = total - repaired;
        self.report.repaired = repaired;
    }
}

/// Checks the file system `fs` without changing it; `progress` is told each pass as it starts, and how far a search has come.
///
/// A repair is made in memory, to see what is behind each finding: [`Finding::repaired`] tells
/// what `fsck.vmfs -y` would repair.
pub fn check(fs: &FileSystem, progress: &mut dyn FnMut(Progress)) -> Report {
    let plan = Arc::new(Plan::default());
    let volume = plan.over(fs.volume());
    let judge = Judge::new(Mode::Check);
    let mut check = Check::new(plan, judge, progress, 0);
    check.run(&volume);
    check.report
}
