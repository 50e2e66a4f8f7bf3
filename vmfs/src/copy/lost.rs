//! What of a file could not be read.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::part::{beside, open_own};

/// Ranges that a message names.
const NAMED_RANGES: usize = 8;

/// Ranges of a file that a copy could not read, in the order in which it came to them.
#[derive(Debug, Default)]
pub(super) struct Lost {
    ranges: Vec<Range<u64>>,
    /// Of how many of them [`Lost::news`] has told.
    told: usize,
    /// Why the first could not be read.
    why: String,
}

impl Lost {
    /// Adds a range.
    pub(super) fn add(&mut self, range: Range<u64>, why: &impl ToString) {
        if self.ranges.is_empty() {
            self.why = why.to_string();
        }
        match self.ranges[self.told..].last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => self.ranges.push(range),
        }
    }

    /// The ranges since the last call.
    pub(super) fn news(&mut self) -> Vec<Range<u64>> {
        let news = self.ranges[self.told..].to_vec();
        self.told = self.ranges.len();
        news
    }

    /// Says what is lost; `None` if nothing is.
    pub(super) fn describe(&self) -> Option<String> {
        if self.ranges.is_empty() {
            return None;
        }
        let bytes: u64 = self
            .ranges
            .iter()
            .map(|range| range.end - range.start)
            .sum();
        let named = self.ranges.iter().take(NAMED_RANGES);
        let named: Vec<_> = named
            .map(|range| format!("{:#x}-{:#x}", range.start, range.end - 1))
            .collect();
        let more = if self.ranges.len() > NAMED_RANGES {
            ", …"
        } else {
            ""
        };
        Some(format!(
            "{bytes} bytes can't be read ({}{more}): {}",
            named.join(", "),
            self.why
        ))
    }
}

/// What is appended to the name of a copy for the list of what it lacks.
pub(super) const SUFFIX: &str = ".vmfs-lost";

/// `NAME.vmfs-lost`: what is missing of the part file, so that a resumed copy tries it again.
///
/// A line is a range: its first byte and the one behind its last. It may name what a later copy
/// could read after all.
#[derive(Debug)]
pub(super) struct List {
    path: PathBuf,
}

impl List {
    /// The list that belongs to the copy at `destination`.
    pub(super) fn of(destination: &Path) -> Self {
        Self {
            path: beside(destination, SUFFIX),
        }
    }

    /// The ranges in order, without overlaps; none if there is no list or none is `wanted`.
    pub(super) fn read(&self, wanted: bool) -> Result<Vec<Range<u64>>, String> {
        let shown = self.path.display();
        let failed = |error: io::Error| format!("{shown}: {error}");
        let list = open_own(&self.path, File::options().read(true).write(true)).map_err(failed)?;
        let Some(mut list) = list.filter(|_| wanted) else {
            return Ok(Vec::new());
        };
        let mut text = String::new();
        list.read_to_string(&mut text).map_err(failed)?;
        // A crash may have cut off the last line: nothing behind that range was written then.
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        if whole < text.len() {
            list.set_len(whole as u64).map_err(failed)?;
        }
        let mut ranges = text[..whole]
            .lines()
            .map(|line| {
                parse(line).ok_or_else(|| {
                    format!(
                        "{shown}: {line:?} is no range of bytes: remove it with the part file, \
                         or copy without --resume"
                    )
                })
            })
            .collect::<Result<Vec<_>, _>>()?;
        ranges.sort_by_key(|range| range.start);
        ranges.dedup_by(|next, range| {
            let joined = next.start <= range.end;
            if joined {
                range.end = range.end.max(next.end);
            }
            joined
        });
        Ok(ranges)
    }

    /// Adds ranges; they are durable when this returns.
    pub(super) fn add(&self, ranges: &[Range<u64>]) -> io::Result<()> {
        if ranges.is_empty() {
            return Ok(());
        }
        let lines = ranges.iter().fold(String::new(), |mut lines, range| {
            let _ = writeln!(lines, "{:#x} {:#x}", range.start, range.end);
            lines
        });
        let mut how = File::options();
        how.append(true);
        let mut file = match open_own(&self.path, &how)? {
            Some(file) => file,
            None => how.create_new(true).open(&self.path)?,
        };
        file.write_all(lines.as_bytes())?;
        file.sync_all()?;
        let folder = self.path.parent().filter(|folder| *folder != Path::new(""));
        match File::open(folder.unwrap_or(Path::new(".")))?.sync_all() {
            // A file system that knows no such thing.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
            other => other,
        }
    }

    /// Removes the list if there is one.
    pub(super) fn remove(&self) -> io::Result<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }
}

fn parse(line: &str) -> Option<Range<u64>> {
    let (start, end) = line.split_once(' ')?;
    let number = |text: &str| u64::from_str_radix(text.strip_prefix("0x")?, 16).ok();
    let range = number(start)?..number(end)?;
    (range.start < range.end).then_some(range)
}
