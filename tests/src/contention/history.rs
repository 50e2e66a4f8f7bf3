//! What a host notes of each call: one line before it and one after, so that what a host that was killed was at is known.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use vmfs_core::cluster::{Clock, SystemClock};

/// A call to the file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Call {
    /// Makes a file.
    Create(String),
    /// Removes a name.
    Unlink(String),
    /// Looks a name up.
    Look(String),
    /// Gives the first name's file the second name; with `true` in place of what has it.
    Rename(String, String, bool),
    /// Opens the counter for writing, reads it and writes the number behind it.
    Count,
    /// Makes the host's own file so much longer, durably.
    Append(u64),
}

/// What came of a call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// It was done.
    Done,
    /// It was done, to a file with this identity.
    File(u64),
    /// The name, or the first of two, isn't there.
    Missing,
    /// The name is there already.
    Exists,
    /// Another host had it, so nothing was done.
    Busy,
    /// The counter was given this number, or the growing file this length.
    Counted(u64),
    /// It was done or not: the host was taken over from.
    Unknown,
}

/// A line of a history. Times are nanoseconds of the machine's uptime.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Note {
    /// The host has the volume mounted, which took so long.
    Mounted(u64, u64),
    /// A call begins.
    Begin(u64, Call),
    /// It has ended.
    End(u64, Outcome),
    /// The host was taken over from, and mounts the volume anew.
    Fenced(u64),
    /// Something went wrong that mustn't.
    Surprise(u64, String),
    /// The host has unmounted the volume.
    Unmounted(u64),
}

/// A call with its times; without an end nobody knows whether it was done.
#[derive(Debug, Clone)]
pub struct Event {
    pub host: usize,
    pub call: Call,
    pub begin: u64,
    pub end: Option<u64>,
    pub outcome: Outcome,
}

/// The time now.
pub fn now() -> u64 {
    SystemClock.uptime().as_nanos() as u64
}

/// Nanoseconds as a duration.
pub fn span(nanos: u64) -> Duration {
    Duration::from_nanos(nanos)
}

/// Where a host writes its notes.
#[derive(Debug)]
pub struct Writer(File);

impl Writer {
    /// Goes on behind what is there.
    pub fn open(path: &Path) -> io::Result<Self> {
        File::options()
            .create(true)
            .append(true)
            .open(path)
            .map(Self)
    }

    /// Writes one line, by one system call: the process may be killed at any time.
    pub fn note(&mut self, note: &Note) {
        let mut line = serde_json::to_vec(note).expect("JSON");
        line.push(b'\n');
        self.0.write_all(&line).expect("a history");
    }
}

/// All notes in a file.
pub fn notes(path: &Path) -> Vec<Note> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let parse = |line| serde_json::from_str(line).expect("a note");
    text.lines().map(parse).collect()
}

/// The calls among a host's notes.
pub fn events(host: usize, notes: &[Note]) -> Vec<Event> {
    let mut events: Vec<Event> = Vec::new();
    let mut open = false;
    for note in notes {
        match note {
            Note::Begin(begin, call) => {
                events.push(Event {
                    host,
                    call: call.clone(),
                    begin: *begin,
                    end: None,
                    outcome: Outcome::Unknown,
                });
                open = true;
            }
            Note::End(end, outcome) if open => {
                let event = events.last_mut().expect("a call has begun");
                event.outcome = outcome.clone();
                // What may still happen, through a replay of the host's journal, hasn't ended.
                event.end = (*outcome != Outcome::Unknown).then_some(*end);
                open = false;
            }
            _ => open = false,
        }
    }
    events
}
