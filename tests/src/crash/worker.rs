use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use rustix::io::Errno;
use vmfs_core::format::{FdAddr, FileKind};
use vmfs_core::fs::{FileSystem, FsError};
use vmfs_core::scsi::RecorderLun;

use super::compare;
use super::image::ImageLun;
use super::model::{Log, Moment, Node, NodeId, Step, Syncs, Tree};
use crate::random::Random;

/// What workers share.
#[derive(Debug)]
pub struct Stage {
    /// The LUN, whose record tells when something happened.
    pub recorder: Arc<RecorderLun<Arc<ImageLun>>>,
    ticks: AtomicU64,
    seeds: AtomicU64,
}

impl Stage {
    /// Around a recorder.
    pub fn new(recorder: Arc<RecorderLun<Arc<ImageLun>>>) -> Self {
        Self {
            recorder,
            ticks: AtomicU64::new(0),
            seeds: AtomicU64::new(1),
        }
    }

    /// Now.
    pub fn moment(&self) -> Moment {
        Moment {
            position: self.recorder.len(),
            tick: self.ticks.fetch_add(1, SeqCst),
        }
    }

    /// A number for a write that no other has.
    pub fn seed(&self) -> u64 {
        self.seeds.fetch_add(1, SeqCst)
    }
}

/// Someone who uses the volume: does something, and notes in the model what must have become of
/// it.
#[derive(Debug)]
pub struct Worker<'a> {
    pub(super) stage: &'a Stage,
    pub(super) fs: Arc<FileSystem>,
    /// Names in the root begin with it.
    pub(super) prefix: String,
    pub(super) random: Random,
    pub(super) tree: Tree,
    pub(super) log: Log,
    /// Files that are open.
    pub(super) held: Vec<NodeId>,
    next: NodeId,
}

/// What a step changes besides names and sizes.
#[derive(Debug, Default, Clone)]
pub(super) struct Effect {
    pub(super) touched: Option<(NodeId, Range<u64>)>,
    pub(super) loose: Option<NodeId>,
    pub(super) syncs: Option<Syncs>,
}

impl Effect {
    pub(super) fn touches(file: NodeId, range: Range<u64>) -> Self {
        Self {
            touched: Some((file, range)),
            ..Self::default()
        }
    }
}

impl<'a> Worker<'a> {
    /// A worker on a fresh volume, whose names in the root begin with `prefix`.
    pub fn new(stage: &'a Stage, fs: Arc<FileSystem>, prefix: &str, seed: u64) -> Self {
        Self {
            stage,
            fs,
            prefix: prefix.to_owned(),
            random: Random::new(seed),
            tree: Tree::new(),
            log: Log::default(),
            held: Vec::new(),
            next: Tree::ROOT + 1,
        }
    }

    /// What was done.
    pub fn into_log(self) -> Log {
        self.log
    }

    /// Makes a call and notes what it did: the tree after it.
    ///
    /// With no space left nothing must have happened; returns whether it has.
    pub(super) fn call<T>(
        &mut self,
        what: String,
        effect: Effect,
        call: impl FnOnce(&FileSystem) -> Result<T, FsError>,
        note: impl FnOnce(&mut Self, T),
    ) -> Result<bool, String> {
        let started = self.stage.moment();
        let result = call(&self.fs);
        let done = match result {
            Ok(done) => {
                note(self, done);
                true
            }
            Err(error) if error.errno() == Errno::NOSPC => false,
            Err(error) => return Err(format!("{what}: {error}")),
        };
        let ended = self.stage.moment();
        let what = if done {
            what
        } else {
            format!("{what}: no space")
        };
        self.note(what, effect, started, ended, done);
        Ok(done)
    }

    /// Notes a step that led to the tree as it is now.
    pub(super) fn note(
        &mut self,
        what: String,
        effect: Effect,
        started: Moment,
        ended: Moment,
        done: bool,
    ) {
        self.log.steps.push(Step {
            what,
            tree: self.tree.clone(),
            started,
            ended,
            touched: effect.touched,
            loose: effect.loose,
            done,
            syncs: effect.syncs.filter(|_| done).unwrap_or(Syncs::Nothing),
        });
    }

    /// Makes a file part of the model.
    pub(super) fn add(
        &mut self,
        kind: FileKind,
        fd: FdAddr,
        mode: u32,
        (directory, name): (NodeId, &[u8]),
    ) -> NodeId {
        let id = self.next;
        self.next += 1;
        let directory_links = if kind == FileKind::Directory { 2 } else { 1 };
        let node = Node {
            kind,
            fd,
            mode,
            uid: super::operations::CREATOR.uid,
            gid: super::operations::CREATOR.gid,
            links: directory_links,
            content: Arc::default(),
            target: Vec::new(),
            entries: std::collections::BTreeMap::new(),
        };
        self.tree.make(id, node, directory, name);
        id
    }

    /// Drops what has no names and isn't open.
    pub(super) fn forget_nameless(&mut self) {
        let nameless: Vec<NodeId> = self
            .tree
            .iter()
            .filter(|(id, node)| node.links == 0 && !self.held.contains(id))
            .map(|(id, _)| id)
            .collect();
        for id in nameless {
            self.tree.forget(id);
        }
    }

    /// Compares all that there should be with what is there now.
    pub fn check(&self) -> Result<(), String> {
        let found = compare::Found::read(&self.fs)?;
        compare::exact(&self.fs, &found, &self.tree, &self.prefix)
            .map_err(|difference| format!("while it runs: {difference}"))?;
        self.check_open()
    }

    /// [`Worker::check`] while others change the volume.
    pub fn check_own(&self) -> Result<(), String> {
        for (_, node) in self.tree.iter() {
            compare::content_is(&self.fs, node)?;
        }
        self.check_open()
    }

    fn check_open(&self) -> Result<(), String> {
        for &id in &self.held {
            let node = self.tree.node(id);
            compare::content_is(&self.fs, node)
                .map_err(|difference| format!("open file {id}: {difference}"))?;
        }
        Ok(())
    }
}
