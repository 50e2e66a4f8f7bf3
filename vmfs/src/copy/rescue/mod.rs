//! `vmfs cp --rescue`: copies out of a volume that is too damaged to be opened.
//!
//! - [`plan`]: which of the files that were found go where.
//! - [`file`]: one file, with what is missing of it.
//! - [`report`]: what became of each file, and in all.

mod file;
mod plan;
mod report;

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use vmfs_core::format::{FdAddr, FileKind};
use vmfs_core::fs::Inode;
use vmfs_core::fs::rescue::{Rescue, Tree};
use vmfs_core::lvm::assemble_damaged;
use vmfs_core::scsi::{self, Access};

use super::Args;
use super::progress::Progress;
use super::walk::open_directory;
use crate::Common;
use crate::error::Error;
use crate::target::Target;
use plan::Planned;
use report::{Record, Report, Status};

/// Copies what can be read below the source's path.
pub(super) fn run(args: &Args, common: &Common) -> Result<(), Error> {
    let [source] = args.sources.as_slice() else {
        let message = "--rescue takes one volume: DEVICE[,DEVICE…][:/PATH]";
        return Err(Error::Usage(message.to_owned()));
    };
    let progress = Progress::new(!args.quiet && !common.json);
    let (rescue, notes) = open(source, args, common, &progress)?;
    let tree = Tree::of(&rescue);
    if tree.items.is_empty() && rescue.inode(FdAddr::ROOT).is_none() {
        progress.finish();
        let found = notes.join("; ");
        return Err(Error::Open(format!(
            "no file descriptor was found: {found}"
        )));
    }
    let planned = plan::plan(&tree, source, &args.destination, args.system)?;
    let mut job = Job {
        rescue: &rescue,
        args,
        progress: &progress,
        report: Report::new(common.json, notes),
        copied: HashMap::new(),
    };
    job.copy(&planned, &args.destination)?;
    progress.finish();
    job.report.finish()
}

/// Puts the volume together and finds its files.
fn open(
    source: &Target,
    args: &Args,
    common: &Common,
    progress: &Progress,
) -> Result<(Rescue, Vec<String>), Error> {
    let devices = source.devices.iter().chain(&common.devices);
    let luns = devices
        .map(|path| Ok(scsi::open(path, Access::ReadOnly, None)?))
        .collect::<Result<Vec<_>, Error>>()?;
    let assembled = assemble_damaged(&luns);
    let mut notes = assembled.notes;
    let mut told = 0;
    let rescue = Rescue::open(&assembled.volume, args.scan, &mut |done, total| {
        if told == 0 {
            progress.start("looking for file descriptors");
            progress.expect(total);
        }
        progress.advance(done - told);
        told = done;
    });
    notes.extend(rescue.notes().iter().cloned());
    for note in &notes {
        progress.say(&format!("vmfs: {note}"));
    }
    Ok((rescue, notes))
}

/// A copy in progress.
struct Job<'a> {
    rescue: &'a Rescue,
    args: &'a Args,
    progress: &'a Progress,
    report: Report,
    /// Where files with several names went, and what became of them.
    copied: HashMap<FdAddr, (PathBuf, Status)>,
}

impl Job<'_> {
    fn copy(&mut self, planned: &[Planned<'_>], top: &Path) -> Result<(), Error> {
        make_directory(top)?;
        let mut directories = Vec::new();
        for item in planned {
            let Some(found) = item.found else { continue };
            if found.is_directory {
                match make_directory(&item.destination) {
                    Ok(()) => directories.push(item),
                    Err(error) => self.tell(&Record::failed(item, &error))?,
                }
            } else if let Some(inode) = self.rescue.inode(found.fd) {
                self.progress.expect(inode.allocated().min(inode.length()));
            }
        }
        for item in planned {
            match item.found {
                Some(found) if found.is_directory => {}
                Some(found) => {
                    let record = match self.rescue.inode(found.fd) {
                        Some(inode) => self.copy_one(item, &inode),
                        None => Record::gone(item),
                    };
                    self.tell(&record)?;
                }
                None => self.tell(&Record::gone(item))?,
            }
        }
        // Last, since making the files in them changed their times.
        for item in directories.into_iter().rev() {
            let inode = item.found.and_then(|found| self.rescue.inode(found.fd));
            let set = inode.map(|inode| {
                let copy = open_directory(&item.destination)?;
                file::set_attributes(&copy, &inode, self.args)
            });
            let mut record = Record::of(item, Status::Exact);
            if let Some(Err(error)) = set {
                record = Record::failed(item, &error);
            }
            self.tell(&record)?;
        }
        Ok(())
    }

    fn copy_one(&mut self, item: &Planned<'_>, inode: &Inode) -> Record {
        self.progress.start(&item.shown());
        if let Some((first, status)) = self.copied.get(&inode.fd()) {
            return self.link(item, &first.clone(), *status);
        }
        let record = match inode.kind() {
            FileKind::Rdm => {
                let disk = inode.rdm().map(|mapping| mapping.disk.text());
                Record::of(item, Status::LeftOut).note(format!(
                    "it points to the raw disk {}, whose data is not on this volume",
                    disk.unwrap_or_default()
                ))
            }
            FileKind::Symlink => self.symlink(item, inode),
            _ => file::copy(self.rescue, item, inode, self.args, self.progress),
        };
        if inode.meta().links.get() > 1 {
            let place = (item.destination.clone(), record.status);
            self.copied.insert(inode.fd(), place);
        }
        record
    }

    /// One more name of a file that was copied.
    fn link(&self, item: &Planned<'_>, first: &Path, status: Status) -> Record {
        let record = Record::of(item, status).note(format!("the same file as {}", first.display()));
        if status != Status::Exact && status != Status::ThereAlready {
            return record;
        }
        match fs::hard_link(first, &item.destination) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && self.args.resume => {
                Record::of(item, Status::ThereAlready)
            }
            Err(error) => Record::failed(item, &error),
            Ok(()) => record,
        }
    }

    fn symlink(&self, item: &Planned<'_>, inode: &Inode) -> Record {
        use std::os::unix::ffi::OsStrExt;
        let Some(target) = self.rescue.read_small(inode, 4096) else {
            return Record::of(item, Status::Incomplete)
                .note("its target can't be read".to_owned());
        };
        let end = target.iter().position(|&byte| byte == 0);
        let target = &target[..end.unwrap_or(target.len())];
        let target = std::ffi::OsStr::from_bytes(target);
        match std::os::unix::fs::symlink(target, &item.destination) {
            Ok(()) => Record::of(item, Status::Exact),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && self.args.resume => {
                Record::of(item, Status::ThereAlready)
            }
            Err(error) => Record::failed(item, &error),
        }
    }

    fn tell(&mut self, record: &Record) -> Result<(), Error> {
        if let Some(line) = record.line() {
            self.progress.say(&format!("vmfs: {line}"));
        }
        self.report.add(record)
    }
}

/// Makes a directory, or finds that one is there: a link to one isn't one.
fn make_directory(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(error)
            if error.kind() == io::ErrorKind::AlreadyExists
                && fs::symlink_metadata(path).is_ok_and(|found| found.is_dir()) =>
        {
            Ok(())
        }
        other => other,
    }
}
