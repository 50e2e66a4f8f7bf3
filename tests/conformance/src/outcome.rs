//! What came out: of each check, and all together.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::Result;

use crate::expected::Expected;
use crate::place::Kind;

/// How much of a failure's words is repeated.
const TOLD: usize = 1200;

/// How one check ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Well.
    Passed,
    /// Badly, and how.
    Failed(String),
    /// It can't be done here, and why.
    Skipped(String),
}

/// The checks of one suite on one place.
#[derive(Debug, Default)]
pub struct Checks {
    list: Vec<(String, Verdict)>,
}

impl Checks {
    /// Notes how the check `name` ended.
    pub fn add(&mut self, name: impl Into<String>, verdict: Verdict) {
        self.list.push((name.into(), verdict));
    }

    /// Whether anything was done to the place.
    pub fn is_tested(&self) -> bool {
        let skipped = |verdict: &Verdict| matches!(verdict, Verdict::Skipped(_));
        self.list.iter().any(|(_, verdict)| !skipped(verdict))
    }

    /// Notes `name` as passed, or as failed with the error and its causes.
    pub fn note(&mut self, name: impl Into<String>, result: Result<()>) {
        let verdict = match result {
            Ok(()) => Verdict::Passed,
            Err(error) => Verdict::Failed(format!("{error:#}")),
        };
        self.add(name, verdict);
    }
}

/// A suite's checks, compared with what was expected.
#[derive(Debug)]
pub struct Outcome {
    kind: Kind,
    suite: &'static str,
    took: Duration,
    passed: usize,
    skipped: usize,
    expected: usize,
    /// Each surprise in words.
    surprises: Vec<String>,
    /// Every check on a line.
    lines: String,
}

impl Outcome {
    /// Compares.
    pub fn new(
        kind: &Kind,
        suite: &'static str,
        checks: &Checks,
        expected: &Expected,
        took: Duration,
    ) -> Self {
        let mut outcome = Self {
            kind: kind.clone(),
            suite,
            took,
            passed: 0,
            skipped: 0,
            expected: 0,
            surprises: Vec::new(),
            lines: String::new(),
        };
        for (name, verdict) in &checks.list {
            outcome.count(name, verdict, expected);
        }
        if checks.list.is_empty() {
            outcome.surprises.push(format!("{suite}: checked nothing"));
        }
        outcome
    }

    fn count(&mut self, name: &str, verdict: &Verdict, expected: &Expected) {
        let row = expected.row(&self.kind, self.suite, name);
        let (word, detail) = match (verdict, row) {
            (Verdict::Passed, None) => {
                self.passed += 1;
                ("passed", String::new())
            }
            (Verdict::Skipped(why), _) => {
                self.skipped += 1;
                ("skipped", why.clone())
            }
            (Verdict::Failed(_), Some(row)) => {
                self.expected += 1;
                ("failed as expected", row.reason.clone())
            }
            (Verdict::Failed(how), None) => ("FAILED", how.clone()),
            (Verdict::Passed, Some(row)) => (
                "PASSED",
                format!("but docs/CONFORMANCE.md expects it to fail: {}", row.reason),
            ),
        };
        if word == "FAILED" || word == "PASSED" {
            let told: String = detail.chars().take(TOLD).collect();
            let surprise = format!("{}/{name}: {word}: {told}", self.suite);
            self.surprises.push(surprise);
        }
        let detail = detail.replace('\n', " / ");
        let _ = writeln!(
            self.lines,
            "{} {}/{name}: {word} {detail}",
            self.kind, self.suite
        );
    }

    /// Whether all went as expected.
    pub fn is_good(&self) -> bool {
        self.surprises.is_empty()
    }

    /// Every check on a line.
    pub fn lines(&self) -> &str {
        &self.lines
    }

    /// One line of a table, and what surprised.
    pub fn told(&self) -> String {
        let mut told = format!(
            "{:<12} {:<10} {:>5} passed {:>4} failed as expected {:>4} skipped {:>4} surprises {:>7.1} s",
            self.suite,
            self.kind.to_string(),
            self.passed,
            self.expected,
            self.skipped,
            self.surprises.len(),
            self.took.as_secs_f64(),
        );
        for surprise in &self.surprises {
            let _ = write!(told, "\n  {surprise}");
        }
        told
    }
}
