//! Calls, and what must come of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use rustix::io::Errno;
use vmfs_core::format::FdAddr;
use vmfs_core::fs::{Allocate, Changes, Creator, FileSystem, FsError, Rename};
use vmfs_core::scsi::Faults;

use crate::common::{MIB, Random};
use crate::content::{Content, State, observe};

const CREATOR: Creator = Creator {
    mode: 0o644,
    uid: 0,
    gid: 0,
};

/// A call, in words that say what must come of it.
#[derive(Debug, Clone)]
pub(crate) enum Call {
    Create(&'static str),
    MakeDirectory(&'static str),
    Write(&'static str, u64, u64),
    Cut(&'static str, u64),
    Allocate(&'static str, u64, u64, Allocate),
    Copy(&'static str, &'static str, u64),
    Link(&'static str, &'static str),
    Rename(&'static str, &'static str),
    Remove(&'static str),
    Sync,
    KeepUp,
}

use Call::{Copy, Create, Cut, KeepUp, Link, MakeDirectory, Remove, Sync, Write};

/// Grows files through all kinds of maps, and changes names in all ways.
pub(crate) fn script() -> Vec<Call> {
    let reserve = |name, at, length| Call::Allocate(name, at, length, Allocate::Reserve);
    vec![
        Create("a"),
        Write("a", 0, 900),
        MakeDirectory("d"),
        Create("d/b"),
        Write("d/b", 0, 7000),
        Write("d/b", 100, 200),
        Write("d/b", 60_000, 90_000),
        Sync,
        Create("disk"),
        Write("disk", 3 * MIB / 2, 3 * MIB),
        Write("disk", 340 * MIB, 5000),
        KeepUp,
        Write("disk", 300 * MIB, 2 * MIB),
        reserve("a", 0, 4 * MIB),
        Write("a", 2 * MIB + 17, 70_000),
        Call::Allocate("disk", 2 * MIB - 9, 2 * MIB, Allocate::PunchHole),
        Call::Allocate("disk", 340 * MIB + 100, 4000, Allocate::Zero),
        Link("a", "d/link"),
        Write("d/link", 10, 20),
        Call::Rename("a", "d/b"),
        Sync,
        Create("c"),
        Copy("disk", "c", 6 * MIB),
        Cut("disk", 339 * MIB + 5),
        Cut("disk", 341 * MIB),
        Cut("d/b", 10),
        Remove("d/link"),
        MakeDirectory("e"),
        Call::Rename("d", "e/d"),
        Remove("disk"),
        Sync,
        Create("disk"),
        Write("disk", 0, 3 * MIB),
        Remove("c"),
        Remove("e/d/b"),
        Remove("e/d"),
        KeepUp,
        Write("disk", MIB, 4096),
        Sync,
    ]
}

/// A mount, and what it must hold.
pub(crate) struct Run {
    pub(crate) fs: FileSystem,
    pub(crate) faults: Arc<Faults>,
    names: BTreeMap<String, usize>,
    /// Content by file; `None` for directories.
    files: Vec<Option<Content>>,
    random: Random,
}

fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

impl Run {
    /// Nothing is done yet.
    pub(crate) fn new(fs: FileSystem, faults: Arc<Faults>) -> Self {
        Self {
            fs,
            faults,
            names: BTreeMap::new(),
            files: Vec::new(),
            random: Random::new(1),
        }
    }

    pub(crate) fn state(&self) -> State {
        let named = self.names.iter();
        let state = named.map(|(name, &file)| (name.clone(), self.files[file].clone()));
        state.collect()
    }

    pub(crate) fn fd(&self, path: &str) -> Result<FdAddr, FsError> {
        let path = format!("/{path}");
        Ok(self.fs.resolve(path.as_bytes(), false)?.fd())
    }

    /// Makes the call; `Err` is what it said.
    fn make(&self, call: &Call, data: &[u8]) -> Result<(), FsError> {
        let fs = &self.fs;
        match *call {
            Create(path) => {
                let (directory, name) = split(path);
                fs.create(self.fd(directory)?, name.as_bytes(), CREATOR)?;
            }
            MakeDirectory(path) => {
                let (directory, name) = split(path);
                fs.make_directory(self.fd(directory)?, name.as_bytes(), CREATOR)?;
            }
            Write(path, at, _) => fs.write(self.fd(path)?, at, data)?,
            Cut(path, length) => {
                let size = Changes {
                    size: Some(length),
                    ..Changes::default()
                };
                fs.set_attributes(self.fd(path)?, &size)?;
            }
            Call::Allocate(path, at, length, how) => {
                fs.allocate(self.fd(path)?, at, length, how, false)?;
            }
            Copy(from, to, length) => {
                let (from, to) = (self.fd(from)?, self.fd(to)?);
                assert_eq!(fs.copy_range(from, 0, to, 0, length)?, length);
            }
            Link(from, to) => {
                let (directory, name) = split(to);
                fs.link(self.fd(from)?, self.fd(directory)?, name.as_bytes())?;
            }
            Call::Rename(from, to) => {
                let ((old, name), (new, new_name)) = (split(from), split(to));
                let (old, new) = (self.fd(old)?, self.fd(new)?);
                let (name, new_name) = (name.as_bytes(), new_name.as_bytes());
                fs.rename(old, name, new, new_name, Rename::Replace)?;
            }
            Remove(path) => {
                let (directory, name) = split(path);
                let directory = self.fd(directory)?;
                match fs.unlink(directory, name.as_bytes()) {
                    Err(FsError::IsDirectory { .. }) => {
                        fs.remove_directory(directory, name.as_bytes())?;
                    }
                    other => other?,
                }
            }
            Sync => fs.sync()?,
            KeepUp => fs.keep_up().1?,
        }
        Ok(())
    }

    /// Makes a call, and notes it as if it had worked.
    pub(crate) fn make_and_note(&mut self, call: &Call) -> Result<(), FsError> {
        let mut data = match call {
            Write(_, _, length) => vec![0; *length as usize],
            _ => Vec::new(),
        };
        self.random.fill(&mut data);
        let result = self.make(call, &data);
        self.note(call, &data);
        result
    }

    /// Notes what the call does if it works.
    fn note(&mut self, call: &Call, data: &[u8]) {
        match *call {
            Create(path) => self.add(path, Some(Content::default())),
            MakeDirectory(path) => self.add(path, None),
            Write(path, at, _) => self.content(path).write(at, data),
            Cut(path, length) => self.content(path).set_length(length),
            Call::Allocate(path, at, length, how) => {
                let content = self.content(path);
                let end = at + length;
                if how != Allocate::Reserve {
                    let length = end.min(content.length).saturating_sub(at);
                    content.put(at, length, None);
                }
                if how != Allocate::PunchHole {
                    content.length = content.length.max(end);
                }
            }
            Copy(from, to, length) => {
                let data = self.content(from).bytes(0, length);
                self.content(to).write(0, &data);
            }
            Link(from, to) => {
                let file = self.names[from];
                self.names.insert(to.to_owned(), file);
            }
            Call::Rename(from, to) => {
                let moved = self.names.remove(from).expect("a name");
                let below: Vec<String> = self.names.keys().cloned().collect();
                for name in below {
                    if let Some(rest) = name.strip_prefix(&format!("{from}/")) {
                        let file = self.names.remove(&name).expect("a name");
                        self.names.insert(format!("{to}/{rest}"), file);
                    }
                }
                self.names.insert(to.to_owned(), moved);
            }
            Remove(path) => drop(self.names.remove(path)),
            Sync | KeepUp => {}
        }
    }

    fn add(&mut self, path: &str, content: Option<Content>) {
        self.names.insert(path.to_owned(), self.files.len());
        self.files.push(content);
    }

    fn content(&mut self, path: &str) -> &mut Content {
        self.files[self.names[path]].as_mut().expect("a file")
    }

    /// Makes the call. If it fails it must have happened, or not; what of a file's content it was
    /// to change may be half changed.
    pub(crate) fn step(&mut self, call: &Call) -> bool {
        // A call on what an earlier one should have made is left out.
        let needed = match call {
            Write(path, ..) | Cut(path, _) | Call::Allocate(path, ..) | Remove(path) => Some(path),
            Copy(from, ..) | Link(from, _) | Call::Rename(from, _) => Some(from),
            _ => None,
        };
        let made = match call {
            Create(path)
            | MakeDirectory(path)
            | Link(_, path)
            | Call::Rename(_, path)
            | Copy(_, path, _) => Some(path),
            _ => None,
        };
        let folder = made.map_or("", |path| split(path).0);
        let possible = needed.is_none_or(|path| self.names.contains_key(*path))
            && (folder.is_empty() || self.names.contains_key(folder))
            && !matches!(call, Copy(_, to, _) if !self.names.contains_key(*to))
            && !matches!(call, Remove(path) if self.is_full(path))
            && !matches!(call, Create(path) | MakeDirectory(path) | Link(_, path)
                if self.names.contains_key(*path));
        if !possible || self.is_too_short_for(call) {
            return true;
        }
        let before = (self.names.clone(), self.state());
        let Err(error) = self.make_and_note(call) else {
            return true;
        };
        assert_eq!(error.errno(), Errno::IO, "{call:?}: {error}");
        self.faults.set(u64::MAX, 0);
        let found = observe(&self.fs);
        if !found.keys().eq(self.names.keys()) {
            self.names = before.0;
        }
        let after = self.state();
        assert!(found.keys().eq(self.names.keys()), "{call:?}: {error}");
        for (name, content) in found {
            let (old, new) = (before.1.get(&name), after.get(&name));
            let (old, new) = (old.or(new), new.or(old));
            let (Some(Some(old)), Some(Some(new)), Some(content)) = (old, new, content) else {
                continue;
            };
            content.is_between(old, new, &format!("{call:?}, {name}: {error}"));
            *self.content(&name) = content;
        }
        false
    }

    /// Whether a directory has anything in it.
    fn is_full(&self, path: &str) -> bool {
        let below = format!("{path}/");
        self.names.keys().any(|name| name.starts_with(&below))
    }

    fn is_too_short_for(&mut self, call: &Call) -> bool {
        match *call {
            Copy(from, _, length) => self.content(from).length < length,
            _ => false,
        }
    }

    pub(crate) fn compare(&self, when: &str) {
        let (found, expected) = (observe(&self.fs), self.state());
        assert!(found.keys().eq(expected.keys()), "{when}: names");
        for (name, content) in &expected {
            assert!(found[name] == *content, "{when}: {name}");
        }
    }
}
