//! What a program on a host does with its mount.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use vmfs_core::cluster::OpenMode;
use vmfs_core::format::{FdAddr, FileKind};
use vmfs_core::fs::{Creator, FileSystem, FsError, Rename};

use super::check::DIRECTORY;
use super::history::{FileNumber, Name, Op, Refused};
use super::scheduler::Baton;
use super::world::MountId;
use crate::random::Random;

/// Where the cells of a file lie: pieces of a sector each, in different parts of the block map.
const CELLS: [u64; 8] = [
    0,
    512,
    2048,
    8192,
    65_536,
    1 << 20,
    (1 << 20) + 512,
    5 << 20,
];
/// Bytes of a cell.
const CELL: usize = 512;

/// What has come of a call.
enum Came<T> {
    /// This, for sure.
    To(T),
    /// Nothing: the call had no effect.
    ToNothing,
    /// It may have had its effect, or have it yet.
    ToWhoKnows,
}

/// One thread of a program.
pub struct Client {
    baton: Arc<Baton>,
    mount: MountId,
    fs: Arc<FileSystem>,
    directory: FdAddr,
    random: Random,
}

impl Client {
    /// A program on `mount`; none if the volume can't be read any more.
    pub fn new(baton: Arc<Baton>, mount: MountId, fs: Arc<FileSystem>) -> Option<Self> {
        let root = fs.root().ok()?;
        let directory = fs.lookup(&root, DIRECTORY).ok()?.fd();
        let random = Random::new(baton.world().random.bits());
        Some(Self {
            baton,
            mount,
            fs,
            directory,
            random,
        })
    }

    /// Works until the host is down or the time is over.
    pub fn work_until(&mut self, leaving: &AtomicBool) {
        loop {
            {
                let world = self.baton.world();
                let over = world.turns.now >= world.settings.work_until;
                let over = over || leaving.load(SeqCst);
                if over || world.ending || world.mounts[self.mount].is_dead {
                    return;
                }
            }
            if !self.fs.is_writable() && self.is_lost() {
                return;
            }
            self.step();
            let pause = match self.random.below(10) {
                0..5 => self.random.below(20),
                5..8 => self.random.below(400),
                _ => self.random.below(4000),
            };
            self.baton.sleep(Duration::from_millis(pause));
        }
    }

    fn is_lost(&self) -> bool {
        self.baton.world().mounts[self.mount].is_fenced
    }

    fn step(&mut self) {
        let names = self.baton.world().settings.names;
        let name = self.random.below(names) as Name;
        match self.random.below(20) {
            0..4 => self.create(name),
            4..6 => self.lookup(name),
            6..8 => self.unlink(name),
            8..10 => {
                let to = self.random.below(names) as Name;
                if to != name {
                    self.rename(name, to);
                }
            }
            10..12 => self.list(name % 2 == 1),
            12..17 => self.write_file(name),
            17..19 => self.read_file(name),
            _ => {
                self.sync();
            }
        }
    }

    fn parent(&self, name: Name) -> FdAddr {
        if name % 2 == 1 {
            self.directory
        } else {
            FdAddr::ROOT
        }
    }

    /// Makes one call, noted in the history.
    fn call<T>(
        &self,
        op: Op,
        run: impl FnOnce() -> Result<T, FsError>,
        result: impl FnOnce(&Op, Result<T, FsError>) -> Came<Op>,
    ) -> bool {
        let (call, alone) = {
            let mut world = self.baton.world();
            world.counts.calls += 1;
            let call = world.history.invoke(self.mount, op.clone());
            (call, world.mounts[self.mount].alone_times)
        };
        let shared = self.fs.is_shared();
        let done = run();
        let error = done.as_ref().err().map(ToString::to_string);
        let came = result(&op, done);
        let mut world = self.baton.world();
        if world.settings.is_traced {
            let (now, mount) = (world.turns.now.as_secs_f64(), self.mount);
            let shown = match &came {
                Came::To(op) => format!("{op:?}"),
                Came::ToNothing => format!("nothing: {op:?}"),
                Came::ToWhoKnows => format!("who knows: {op:?}"),
            };
            eprintln!("{now:.6} mount {mount} call {call} {shown} {error:?} durable {shared}");
        }
        let mount = &world.mounts[self.mount];
        let is_durable = shared && mount.alone_times == alone;
        // Who doesn't know what it missed may tell what was, and change what is no longer its own in its memory.
        let is_dazed = mount.is_dazed;
        match came {
            // The dead tell nothing.
            _ if mount.is_dead => {}
            Came::To(op) => {
                let changed = match &op {
                    Op::Create { done, .. } | Op::Unlink { done, .. } => *done,
                    Op::Rename { done, .. } => done.is_ok(),
                    Op::Write { .. } | Op::Sync => true,
                    _ => false,
                };
                // Data is durable only once it is synced.
                let is_durable = is_durable && !matches!(op, Op::Write { .. });
                let is_in_memory = !is_durable && !matches!(op, Op::Sync);
                let is_nowhere = is_in_memory && world.history.is_too_late(call);
                if is_dazed && (!changed || is_nowhere) {
                    world.history.drop(call);
                } else {
                    world.history.complete(call, op, is_durable);
                }
                return true;
            }
            Came::ToNothing => world.history.drop(call),
            Came::ToWhoKnows => {
                world.counts.failed_calls += 1;
                if matches!(
                    op,
                    Op::Lookup { .. } | Op::List { .. } | Op::Read { .. } | Op::Sync
                ) {
                    world.history.drop(call);
                }
            }
        }
        false
    }

    fn create(&mut self, name: Name) {
        let file = self.baton.world().id() as FileNumber;
        let creator = Creator {
            mode: 0o644,
            uid: file,
            gid: 0,
        };
        let op = Op::Create {
            name,
            file,
            done: true,
        };
        self.call(
            op,
            || self.fs.create(self.parent(name), &bytes(name), creator),
            |_, result| match result {
                Ok(_) => Came::To(Op::Create {
                    name,
                    file,
                    done: true,
                }),
                Err(FsError::Exists { .. }) => Came::To(Op::Create {
                    name,
                    file,
                    done: false,
                }),
                Err(error) => failed(&error),
            },
        );
    }

    fn lookup(&mut self, name: Name) {
        self.call(
            Op::Lookup { name, found: None },
            || self.find(name),
            |_, result| match result {
                Ok((_, file)) => Came::To(Op::Lookup {
                    name,
                    found: Some(file),
                }),
                Err(FsError::NotFound { .. }) => Came::To(Op::Lookup { name, found: None }),
                Err(error) => failed(&error),
            },
        );
    }

    fn find(&self, name: Name) -> Result<(FdAddr, FileNumber), FsError> {
        let parent = self.fs.inode(self.parent(name))?;
        let inode = self.fs.lookup(&parent, &bytes(name))?;
        Ok((inode.fd(), inode.meta().uid.get()))
    }

    fn unlink(&mut self, name: Name) {
        self.call(
            Op::Unlink { name, done: true },
            || self.fs.unlink(self.parent(name), &bytes(name)),
            |_, result| match result {
                Ok(()) => Came::To(Op::Unlink { name, done: true }),
                Err(FsError::NotFound { .. }) => Came::To(Op::Unlink { name, done: false }),
                Err(error) => failed(&error),
            },
        );
    }

    fn rename(&mut self, from: Name, to: Name) {
        let replaces = self.random.below(2) == 0;
        let how = if replaces {
            Rename::Replace
        } else {
            Rename::NoReplace
        };
        let op = |done| Op::Rename {
            from,
            to,
            replaces,
            done,
        };
        self.call(
            op(Ok(())),
            || {
                let (source, target) = (self.parent(from), self.parent(to));
                self.fs
                    .rename(source, &bytes(from), target, &bytes(to), how)
            },
            |_, result| match result {
                Ok(()) => Came::To(op(Ok(()))),
                Err(FsError::NotFound { .. }) => Came::To(op(Err(Refused::NotThere))),
                Err(FsError::Exists { .. }) => Came::To(op(Err(Refused::Exists))),
                Err(error) => failed(&error),
            },
        );
    }

    fn list(&mut self, odd: bool) {
        let directory = if odd { self.directory } else { FdAddr::ROOT };
        // Only names: whose files these are is a question of its own.
        let list = || {
            let inode = self.fs.inode(directory)?;
            let mut found = Vec::new();
            self.fs.read_dir(&inode, 0, |entry| {
                found.extend(name_of(&entry.name));
                true
            })?;
            Ok(found)
        };
        let found = BTreeSet::new();
        self.call(Op::List { odd, found }, list, |_, result| match result {
            Ok(names) => {
                let found = names.into_iter().collect();
                Came::To(Op::List { odd, found })
            }
            Err(error) => failed(&error),
        });
    }

    fn sync(&mut self) -> bool {
        self.call(
            Op::Sync,
            || self.fs.sync(),
            |_, result| match result {
                Ok(()) => Came::To(Op::Sync),
                Err(error) => failed(&error),
            },
        )
    }

    /// Opens what a name leads to; the file and its number.
    fn open(&mut self, name: Name, mode: OpenMode) -> Option<(FdAddr, FileNumber)> {
        let (fd, _) = self.find(name).ok()?;
        self.fs.open_file(fd, mode).ok()?;
        self.fs.hold(fd);
        match self.fs.inode(fd) {
            Ok(inode) if inode.kind() == FileKind::Regular => Some((fd, inode.meta().uid.get())),
            _ => {
                self.close(fd, mode);
                None
            }
        }
    }

    fn close(&mut self, fd: FdAddr, mode: OpenMode) {
        self.fs.close_file(fd, mode);
        self.fs.release(fd, 1);
    }

    fn write_file(&mut self, name: Name) {
        let Some((fd, file)) = self.open(name, OpenMode::Write) else {
            return;
        };
        for _ in 0..=self.random.below(4) {
            let cell = self.random.below(CELLS.len() as u64) as u32;
            if self.random.below(4) == 0 && !self.read_cell(fd, file, cell) {
                break;
            }
            let value = self.baton.world().id();
            let done = self.call(
                Op::Write { file, cell, value },
                || {
                    self.fs
                        .write(fd, CELLS[cell as usize], &content(file, cell, value))
                },
                |op, result| match result {
                    Ok(()) => Came::To(op.clone()),
                    Err(error) => failed(&error),
                },
            );
            if !done || self.random.below(3) == 0 && !self.sync() {
                break;
            }
        }
        if self.random.below(4) == 0 {
            let time = self.random.below(8000);
            self.baton.sleep(Duration::from_millis(time));
        }
        self.close(fd, OpenMode::Write);
    }

    fn read_file(&mut self, name: Name) {
        let Some((fd, file)) = self.open(name, OpenMode::Read) else {
            return;
        };
        for _ in 0..=self.random.below(4) {
            let cell = self.random.below(CELLS.len() as u64) as u32;
            if !self.read_cell(fd, file, cell) {
                break;
            }
        }
        self.close(fd, OpenMode::Read);
    }

    fn read_cell(&self, fd: FdAddr, file: FileNumber, cell: u32) -> bool {
        let value = 0;
        self.call(
            Op::Read { file, cell, value },
            || {
                let inode = self.fs.inode(fd)?;
                let mut found = vec![0; CELL];
                self.fs.read(&inode, CELLS[cell as usize], &mut found)?;
                Ok(found)
            },
            |_, result| match result {
                Ok(found) => match value_of(file, cell, &found) {
                    Some(value) => Came::To(Op::Read { file, cell, value }),
                    None => {
                        let mut world = self.baton.world();
                        let mount = &world.mounts[self.mount];
                        if !mount.is_dead && !mount.is_dazed {
                            let start = String::from_utf8_lossy(&found[..32]).into_owned();
                            let mount = self.mount;
                            world.fail(format!(
                                "mount {mount} read what isn't its own from cell {cell} of file {file}: {start:?} {:02x?}", &found[..32]
                            ));
                        }
                        Came::ToNothing
                    }
                },
                Err(error) => failed(&error),
            },
        )
    }

    /// Looks at everything, as who mounts the volume at the end.
    pub fn look_at_all(&mut self) {
        let names = self.baton.world().settings.names as Name;
        for name in 0..names {
            self.lookup(name);
        }
        self.list(false);
        self.list(true);
        for name in 0..names {
            if let Some((fd, file)) = self.open(name, OpenMode::Read) {
                for cell in 0..CELLS.len() as u32 {
                    self.read_cell(fd, file, cell);
                }
                self.close(fd, OpenMode::Read);
            }
        }
    }
}

/// What an error says about the effect of its call.
fn failed<T>(error: &FsError) -> Came<T> {
    match error {
        FsError::Busy { .. }
        | FsError::Stale { .. }
        | FsError::NotFound { .. }
        | FsError::ReadOnly => Came::ToNothing,
        _ => Came::ToWhoKnows,
    }
}

fn bytes(name: Name) -> Vec<u8> {
    format!("name{name}").into_bytes()
}

fn name_of(bytes: &[u8]) -> Option<Name> {
    let text = std::str::from_utf8(bytes).ok()?;
    text.strip_prefix("name")?.parse().ok()
}

/// What a cell holds: whose it is, over and over.
fn content(file: FileNumber, cell: u32, value: u64) -> Vec<u8> {
    let mut unit = file.to_le_bytes().to_vec();
    unit.extend(cell.to_le_bytes());
    unit.extend(value.to_le_bytes());
    unit.repeat(CELL / 16)
}

/// The value of a cell; zero if it was never written; `None` if that is no cell of this file.
fn value_of(file: FileNumber, cell: u32, found: &[u8]) -> Option<u64> {
    if found.iter().all(|&byte| byte == 0) {
        return Some(0);
    }
    let value = u64::from_le_bytes(found[8..16].try_into().ok()?);
    (found == content(file, cell, value)).then_some(value)
}
