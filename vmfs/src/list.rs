//! `vmfs ls`.

use std::collections::HashSet;
use std::io::{self, Write};

use serde::Serialize;
use vmfs_core::format::{FdAddr, FileKind};
use vmfs_core::fs::{FileSystem, Inode, Stat};

use crate::Common;
use crate::error::Error;
use crate::output::{human, is_terminal, json, mode_text, shown, timestamp};
use crate::target::Target;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What to list; the root directory if only a device is given
    #[arg(required = true, value_name = "DEVICE[:/PATH]")]
    targets: Vec<Target>,
    /// Long listing: mode, links, owner, group, size, time of change (UTC)
    #[arg(short)]
    long: bool,
    /// List directories below as well
    #[arg(short = 'R')]
    recursive: bool,
    /// List names that start with a dot, which the system files' do
    #[arg(short)]
    all: bool,
    /// Sizes as people write them
    #[arg(short = 'H', long = "human")]
    human: bool,
}

/// A file in a listing.
#[derive(Debug, Serialize)]
struct Entry {
    path: String,
    fd: String,
    kind: FileKind,
    #[serde(flatten)]
    stat: Option<Stat>,
    target: Option<String>,
    /// Why the file could not be read.
    error: Option<String>,
    #[serde(skip)]
    name: Vec<u8>,
}

pub(crate) fn run(args: &Args, common: &Common) -> Result<(), Error> {
    let mut listing = Listing {
        args,
        failed: false,
        all: Vec::new(),
        json: common.json,
    };
    let several = args.targets.len() > 1;
    for target in &args.targets {
        let fs = target.open(common)?;
        let inode = target.resolve(&fs, !args.long)?;
        if inode.is_directory() {
            listing.tree(&fs, &inode, &target.path, several)?;
        } else {
            let name = target.path.as_bytes().to_vec();
            let entry = describe(&fs, name, &target.path, inode.fd(), inode.kind());
            listing.print(&[entry])?;
        }
    }
    if common.json {
        json(&listing.all)?;
    }
    if listing.failed {
        Err(Error::Reported)
    } else {
        Ok(())
    }
}

struct Listing<'a> {
    args: &'a Args,
    failed: bool,
    json: bool,
    all: Vec<Entry>,
}

impl Listing<'_> {
    /// Lists a directory, and with `-R` those below it; one that is met again is not entered.
    fn tree(
        &mut self,
        fs: &FileSystem,
        root: &Inode,
        path: &str,
        headed: bool,
    ) -> Result<(), Error> {
        let mut visited = HashSet::new();
        let mut queue = vec![(root.fd(), path.trim_end_matches('/').to_owned())];
        let mut first = true;
        while let Some((fd, path)) = queue.pop() {
            if !visited.insert(fd) {
                self.report(&path, "a directory inside itself is not entered again");
                continue;
            }
            let entries = match self.read(fs, fd, &path) {
                Ok(entries) => entries,
                Err(error) => {
                    self.report(&path, &error.to_string());
                    continue;
                }
            };
            if !self.json && (headed || self.args.recursive) {
                let mut out = io::stdout().lock();
                if !first {
                    writeln!(out)?;
                }
                let path = if path.is_empty() { "/" } else { &path };
                writeln!(out, "{}:", shown(path.as_bytes(), is_terminal()))?;
            }
            first = false;
            if self.args.recursive {
                let directories = entries.iter().rev().filter(|entry| is_directory(entry));
                queue.extend(directories.filter_map(|entry| {
                    Some((
                        FdAddr::from_raw(entry.stat.as_ref()?.ino as u32)?,
                        entry.path.clone(),
                    ))
                }));
            }
            self.print(&entries)?;
            if self.json {
                self.all.extend(entries);
            }
        }
        Ok(())
    }

    fn read(&self, fs: &FileSystem, fd: FdAddr, path: &str) -> Result<Vec<Entry>, Error> {
        let directory = fs.inode(fd)?;
        let mut found = Vec::new();
        fs.read_dir(&directory, 0, |entry| {
            if self.args.all || !entry.name.starts_with(b".") {
                found.push(entry);
            }
            true
        })?;
        found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(found
            .into_iter()
            .map(|entry| {
                let path = format!("{path}/{}", String::from_utf8_lossy(&entry.name));
                describe(fs, entry.name, &path, entry.fd, entry.kind)
            })
            .collect())
    }

    fn print(&mut self, entries: &[Entry]) -> Result<(), Error> {
        for entry in entries {
            if let Some(error) = &entry.error {
                self.report(&entry.path, error);
            }
        }
        if self.json {
            return Ok(());
        }
        let mut out = io::stdout().lock();
        let terminal = is_terminal();
        if !self.args.long {
            return entries
                .iter()
                .try_for_each(|entry| Ok(writeln!(out, "{}", shown(&entry.name, terminal))?));
        }
        let size = |entry: &Entry| match &entry.stat {
            Some(stat) if self.args.human => human(stat.size),
            Some(stat) => stat.size.to_string(),
            None => "?".to_owned(),
        };
        let width = entries
            .iter()
            .map(|entry| size(entry).len())
            .max()
            .unwrap_or(0);
        for entry in entries {
            match &entry.stat {
                Some(stat) => write!(
                    out,
                    "{} {:>3} {:>5} {:>5} {:>width$} {} ",
                    mode_text(stat.mode),
                    stat.nlink,
                    stat.uid,
                    stat.gid,
                    size(entry),
                    timestamp(stat.mtime.into())
                )?,
                None => write!(out, "?????????? {:>width$} ", "?", width = width + 36)?,
            }
            write!(out, "{}", shown(&entry.name, terminal))?;
            if let Some(target) = &entry.target {
                write!(out, " -> {}", shown(target.as_bytes(), terminal))?;
            }
            if entry.kind == FileKind::Rdm {
                write!(out, " (raw disk)")?;
            }
            writeln!(out)?;
        }
        Ok(())
    }

    fn report(&mut self, path: &str, error: &str) {
        self.failed = true;
        eprintln!("vmfs: {path}: {error}");
    }
}

fn is_directory(entry: &Entry) -> bool {
    entry
        .stat
        .is_some_and(|stat| stat.mode & 0o170_000 == 0o040_000)
}

fn describe(fs: &FileSystem, name: Vec<u8>, path: &str, fd: FdAddr, kind: FileKind) -> Entry {
    let mut entry = Entry {
        path: path.to_owned(),
        fd: format!("{:#010x}", fd.raw()),
        kind,
        stat: None,
        target: None,
        error: None,
        name,
    };
    match fs.inode(fd) {
        Ok(inode) => {
            entry.stat = Some(Stat::from(&*inode));
            if inode.kind() == FileKind::Symlink {
                let target = fs.read_link(&inode);
                entry.target = target
                    .ok()
                    .map(|target| String::from_utf8_lossy(&target).into_owned());
            }
        }
        Err(error) => entry.error = Some(error.to_string()),
    }
    entry
}
