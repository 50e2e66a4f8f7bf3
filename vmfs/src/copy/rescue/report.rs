use std::collections::BTreeMap;
use std::io::{self, Write};
use std::ops::Range;

use serde::Serialize;
use vmfs_core::format::FileKind;

use super::plan::Planned;
use crate::error::Error;
use crate::output::human;

/// Ranges that a record names; a list beside the part file has them all.
const NAMED: usize = 1000;
/// Ranges that a line names.
const SHOWN: usize = 8;

/// What became of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Status {
    /// Everything that leads to its bytes was readable and sound.
    Exact,
    /// It was there from an earlier run.
    ThereAlready,
    /// All bytes are there, but some of them may be of something else.
    Doubtful,
    /// Bytes are missing.
    Incomplete,
    /// Only its name is left.
    Gone,
    /// There is nothing to copy on the volume.
    LeftOut,
    /// It could not be written.
    Failed,
}

/// A range of a file's bytes: its first and the one behind its last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Bytes {
    start: u64,
    end: u64,
    why: String,
}

/// What became of a file, for `--json` one to a line.
#[derive(Debug, Serialize)]
pub(super) struct Record {
    path: String,
    fd: String,
    kind: FileKind,
    pub(super) status: Status,
    /// No name leads to it, or to a directory above it.
    orphan: bool,
    length: u64,
    /// Bytes of data that were written, without holes.
    pub(super) bytes: u64,
    missing_bytes: u64,
    missing: Vec<Bytes>,
    doubtful: Vec<Bytes>,
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
}

impl Record {
    pub(super) fn of(item: &Planned<'_>, status: Status) -> Self {
        Self {
            path: item.shown(),
            fd: format!("{:#010x}", item.fd.raw()),
            kind: item.kind,
            status,
            orphan: item.found.is_some_and(|found| found.is_orphan),
            length: 0,
            bytes: 0,
            missing_bytes: 0,
            missing: Vec::new(),
            doubtful: Vec::new(),
            note: None,
        }
    }

    pub(super) fn failed(item: &Planned<'_>, error: &io::Error) -> Self {
        Self::of(item, Status::Failed).note(error.to_string())
    }

    pub(super) fn gone(item: &Planned<'_>) -> Self {
        Self::of(item, Status::Gone).note("its file descriptor can't be read".to_owned())
    }

    pub(super) fn note(mut self, note: String) -> Self {
        self.note = Some(note);
        self
    }

    pub(super) fn with_length(mut self, length: u64) -> Self {
        self.length = length;
        self
    }

    /// Notes that `range` is missing.
    pub(super) fn miss(&mut self, range: Range<u64>, why: &str) {
        self.missing_bytes += range.end - range.start;
        self.status = Status::Incomplete;
        push(&mut self.missing, range, why);
    }

    /// Notes that `range` may be of something else.
    pub(super) fn doubt(&mut self, range: Range<u64>, why: &str) {
        if self.status == Status::Exact {
            self.status = Status::Doubtful;
        }
        push(&mut self.doubtful, range, why);
    }

    /// What to tell at once; `None` if all is well.
    pub(super) fn line(&self) -> Option<String> {
        if matches!(self.status, Status::Exact | Status::ThereAlready) {
            return None;
        }
        let mut parts = Vec::new();
        if self.missing_bytes > 0 {
            parts.push(format!(
                "{} bytes are missing ({})",
                self.missing_bytes,
                shown(&self.missing)
            ));
        }
        if !self.doubtful.is_empty() {
            parts.push(format!("doubtful ({})", shown(&self.doubtful)));
        }
        parts.extend(self.note.clone());
        Some(format!("{}: {}", self.path, parts.join("; ")))
    }
}

fn push(list: &mut Vec<Bytes>, range: Range<u64>, why: &str) {
    if let Some(last) = list.last_mut()
        && last.end == range.start
        && last.why == why
    {
        last.end = range.end;
    } else if list.len() < NAMED {
        list.push(Bytes {
            start: range.start,
            end: range.end,
            why: why.to_owned(),
        });
    }
}

fn shown(list: &[Bytes]) -> String {
    let named: Vec<_> = list
        .iter()
        .take(SHOWN)
        .map(|bytes| format!("{:#x}-{:#x}: {}", bytes.start, bytes.end - 1, bytes.why))
        .collect();
    let more = if list.len() > SHOWN { ", …" } else { "" };
    format!("{}{more}", named.join(", "))
}

/// What became of all files.
#[derive(Debug)]
pub(super) struct Report {
    json: bool,
    notes: Vec<String>,
    counts: BTreeMap<Status, u64>,
    orphans: u64,
    bytes: u64,
    missing_bytes: u64,
}

#[derive(Serialize)]
struct Summary<'a> {
    summary: Counts<'a>,
}

#[derive(Serialize)]
struct Counts<'a> {
    files: &'a BTreeMap<Status, u64>,
    orphans: u64,
    bytes: u64,
    missing_bytes: u64,
    notes: &'a [String],
}

impl Report {
    pub(super) fn new(json: bool, notes: Vec<String>) -> Self {
        Self {
            json,
            notes,
            counts: BTreeMap::new(),
            orphans: 0,
            bytes: 0,
            missing_bytes: 0,
        }
    }

    /// Counts a file and, for `--json`, prints its line.
    pub(super) fn add(&mut self, record: &Record) -> Result<(), Error> {
        *self.counts.entry(record.status).or_default() += 1;
        self.orphans += u64::from(record.orphan);
        self.bytes += record.bytes;
        self.missing_bytes += record.missing_bytes;
        if self.json {
            line(record)?;
        }
        Ok(())
    }

    /// Prints the summary; an error when something is missing.
    pub(super) fn finish(self) -> Result<(), Error> {
        let Self {
            counts,
            orphans,
            bytes,
            missing_bytes,
            ..
        } = &self;
        if self.json {
            line(&Summary {
                summary: Counts {
                    files: counts,
                    orphans: *orphans,
                    bytes: *bytes,
                    missing_bytes: *missing_bytes,
                    notes: &self.notes,
                },
            })?;
        } else {
            let count = |status| counts.get(&status).copied().unwrap_or(0);
            let mut parts = vec![format!("{} exact", count(Status::Exact))];
            let mut part = |count: u64, what: &str| {
                if count > 0 {
                    parts.push(format!("{count} {what}"));
                }
            };
            part(count(Status::ThereAlready), "there already");
            part(count(Status::Doubtful), "doubtful");
            part(count(Status::Incomplete), "with parts missing");
            part(count(Status::Gone), "of which only the name is left");
            part(count(Status::LeftOut), "left out");
            part(count(Status::Failed), "failed");
            part(*orphans, "without their names, in lost+found");
            let text = format!(
                "{}; {} of data copied, {} missing",
                parts.join(", "),
                human(*bytes),
                human(*missing_bytes)
            );
            writeln!(io::stdout(), "{text}")?;
        }
        let all_well = counts.keys().all(|status| {
            matches!(
                status,
                Status::Exact | Status::ThereAlready | Status::LeftOut
            )
        });
        if all_well && *orphans == 0 {
            Ok(())
        } else {
            Err(Error::Reported)
        }
    }
}

fn line(value: &impl Serialize) -> Result<(), Error> {
    let mut out = io::stdout().lock();
    serde_json::to_writer(&mut out, value)?;
    writeln!(out)?;
    Ok(())
}
