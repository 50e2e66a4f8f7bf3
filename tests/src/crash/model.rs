use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use vmfs_core::format::{FdAddr, FileKind};

use super::content::Content;

/// A file of the model; a number is never used twice.
pub type NodeId = u32;

/// A file as it should be.
#[derive(Debug, Clone)]
pub struct Node {
    /// Regular file, directory or symbolic link.
    pub kind: FileKind,
    /// Its descriptor's address.
    pub fd: FdAddr,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Names of a file; of a directory two and one for each directory in it.
    pub links: u32,
    /// Of a regular file.
    pub content: Arc<Content>,
    /// Of a symbolic link.
    pub target: Vec<u8>,
    /// Of a directory.
    pub entries: BTreeMap<Vec<u8>, NodeId>,
}

impl Node {
    /// Whether it is a directory.
    pub fn is_directory(&self) -> bool {
        self.kind == FileKind::Directory
    }
}

/// Files and names at a moment; those that are open and have no name included.
///
/// The root holds only the names that one worker makes: other workers have trees of their own.
#[derive(Debug, Clone)]
pub struct Tree {
    nodes: BTreeMap<NodeId, Arc<Node>>,
}

impl Tree {
    /// The root directory.
    pub const ROOT: NodeId = 0;

    /// A root without names.
    pub fn new() -> Self {
        let root = Node {
            kind: FileKind::Directory,
            fd: FdAddr::ROOT,
            mode: 0,
            uid: 0,
            gid: 0,
            links: 2,
            content: Arc::default(),
            target: Vec::new(),
            entries: BTreeMap::new(),
        };
        Self {
            nodes: BTreeMap::from([(Self::ROOT, Arc::new(root))]),
        }
    }

    /// A file, if it is there.
    pub fn get(&self, id: NodeId) -> Option<&Arc<Node>> {
        self.nodes.get(&id)
    }

    /// A file that is there.
    ///
    /// # Panics
    /// When it isn't: the model is wrong.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[&id]
    }

    /// A file that is there, to be changed.
    ///
    /// # Panics
    /// When it isn't: the model is wrong.
    pub fn node_mut(&mut self, id: NodeId) -> &mut Node {
        Arc::make_mut(self.nodes.get_mut(&id).expect("a file of the model"))
    }

    /// A file's content, to be changed.
    pub fn content_mut(&mut self, id: NodeId) -> &mut Content {
        Arc::make_mut(&mut self.node_mut(id).content)
    }

    /// All files.
    pub fn iter(&self) -> impl Iterator<Item = (NodeId, &Node)> {
        self.nodes.iter().map(|(&id, node)| (id, &**node))
    }

    /// Directories, the root first.
    pub fn directories(&self) -> Vec<NodeId> {
        let directories = self.iter().filter(|(_, node)| node.is_directory());
        directories.map(|(id, _)| id).collect()
    }

    /// Every name: directory, name, file.
    pub fn names(&self) -> Vec<(NodeId, Vec<u8>, NodeId)> {
        self.iter()
            .flat_map(|(directory, node)| {
                let entries = node.entries.iter();
                entries.map(move |(name, &file)| (directory, name.clone(), file))
            })
            .collect()
    }

    /// What a name leads to.
    pub fn find(&self, directory: NodeId, name: &[u8]) -> Option<NodeId> {
        self.node(directory).entries.get(name).copied()
    }

    /// Whether `directory` is `above` or lies below it.
    pub fn is_below(&self, directory: NodeId, above: NodeId) -> bool {
        let mut at = directory;
        loop {
            if at == above {
                return true;
            }
            let parent = self
                .iter()
                .find(|(_, node)| node.is_directory() && node.entries.values().any(|&id| id == at));
            match parent {
                Some((parent, _)) => at = parent,
                None => return false,
            }
        }
    }

    /// Adds a file with its first name.
    pub fn make(&mut self, id: NodeId, node: Node, directory: NodeId, name: &[u8]) {
        let more = u32::from(node.is_directory());
        self.nodes.insert(id, Arc::new(node));
        let directory = self.node_mut(directory);
        directory.links += more;
        directory.entries.insert(name.to_vec(), id);
    }

    /// Puts another name on a file.
    pub fn link(&mut self, id: NodeId, directory: NodeId, name: &[u8]) {
        self.node_mut(id).links += 1;
        self.node_mut(directory).entries.insert(name.to_vec(), id);
    }

    /// Takes a name away. A file without names stays, with no links, until it is
    /// [forgotten](Self::forget).
    pub fn unlink(&mut self, directory: NodeId, name: &[u8]) -> NodeId {
        let parent = self.node_mut(directory);
        let id = parent.entries.remove(name).expect("a name of the model");
        if self.node(id).is_directory() {
            self.node_mut(directory).links -= 1;
            self.node_mut(id).links = 0;
        } else {
            self.node_mut(id).links -= 1;
        }
        id
    }

    /// Drops a file that has no names.
    pub fn forget(&mut self, id: NodeId) {
        self.nodes.remove(&id);
    }

    /// Moves a name; what had the new one loses it.
    pub fn rename(&mut self, from: (NodeId, &[u8]), to: (NodeId, &[u8])) -> Option<NodeId> {
        let replaced = self.find(to.0, to.1);
        if replaced.is_some() {
            self.unlink(to.0, to.1);
        }
        let source = self.node_mut(from.0).entries.remove(from.1);
        let source = source.expect("a name of the model");
        let moved = u32::from(self.node(source).is_directory());
        self.node_mut(from.0).links -= moved;
        let directory = self.node_mut(to.0);
        directory.links += moved;
        directory.entries.insert(to.1.to_vec(), source);
        replaced
    }

    /// Exchanges what two names lead to.
    pub fn exchange(&mut self, one: (NodeId, &[u8]), other: (NodeId, &[u8])) {
        for (end, with) in [(one, other), (other, one)] {
            let id = self.find(end.0, end.1).expect("a name of the model");
            let links = u32::from(self.node(id).is_directory());
            self.node_mut(end.0).links -= links;
            self.node_mut(with.0).links += links;
        }
        let first = self.find(one.0, one.1).expect("a name of the model");
        let second = self.find(other.0, other.1).expect("a name of the model");
        self.node_mut(one.0).entries.insert(one.1.to_vec(), second);
        self.node_mut(other.0)
            .entries
            .insert(other.1.to_vec(), first);
    }
}

impl Default for Tree {
    fn default() -> Self {
        Self::new()
    }
}

/// A moment of a run: before which command of the record, and in which order among all moments.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// Commands recorded before.
    pub position: usize,
    /// Number of the moment.
    pub tick: u64,
}

/// What a call makes durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Syncs {
    /// Nothing.
    Nothing,
    /// Every change before it, and the content of one file.
    File(NodeId),
    /// Every change before it, and the content of all files.
    All,
}

/// One change that comes whole or not at all.
#[derive(Debug, Clone)]
pub struct Step {
    /// The call, for messages.
    pub what: String,
    /// Everything after it.
    pub tree: Tree,
    /// When the call began.
    pub started: Moment,
    /// When it returned.
    pub ended: Moment,
    /// Bytes of a file that it may write in place, before any transaction says so.
    pub touched: Option<(NodeId, Range<u64>)>,
    /// The file that may be found between the states before and after.
    pub loose: Option<NodeId>,
    /// False when there was no space left.
    pub done: bool,
    /// What is durable once it returned.
    pub syncs: Syncs,
}

/// What one worker did, in order. State 0 is the start, state `n` the one after step `n - 1`.
#[derive(Debug, Clone, Default)]
pub struct Log {
    /// The state before all steps.
    pub start: Tree,
    /// The steps.
    pub steps: Vec<Step>,
}

impl Log {
    /// Everything at state `number`.
    pub fn state(&self, number: usize) -> &Tree {
        match number.checked_sub(1) {
            Some(step) => &self.steps[step].tree,
            None => &self.start,
        }
    }

    /// The step that led to state `number`; none led to the first.
    pub fn step(&self, number: usize) -> Option<&Step> {
        self.steps.get(number.checked_sub(1)?)
    }

    /// The last state that a cut before command `position` can have left.
    pub fn newest(&self, position: usize) -> usize {
        let begun = |step: &Step| step.started.position < position;
        self.steps
            .iter()
            .rposition(begun)
            .map_or(0, |last| last + 1)
    }

    /// The last state all of which was there when `sync` began.
    pub fn before(&self, sync: &Step) -> usize {
        let done = |step: &Step| step.ended.tick < sync.started.tick;
        let own = self.steps.iter().take_while(|step| done(step)).count();
        own
    }
}

/// What is durable at a cut of what several workers did.
#[derive(Debug)]
pub struct Durable<'a> {
    log: &'a Log,
    /// The state whose names, sizes and attributes are.
    pub names: usize,
    contents: usize,
    files: BTreeMap<NodeId, usize>,
}

impl<'a> Durable<'a> {
    /// For the worker with `log` at a cut before command `position`; `all` are the logs of all
    /// workers.
    pub fn new(log: &'a Log, all: &[Log], position: usize) -> Self {
        let mut durable = Self {
            log,
            names: 0,
            contents: 0,
            files: BTreeMap::new(),
        };
        for (other, own) in all.iter().map(|other| (other, std::ptr::eq(other, log))) {
            for sync in &other.steps {
                if sync.syncs == Syncs::Nothing || sync.ended.position > position {
                    continue;
                }
                let state = log.before(sync);
                durable.names = durable.names.max(state);
                match sync.syncs {
                    Syncs::All => durable.contents = durable.contents.max(state),
                    Syncs::File(id) if own => {
                        let known = durable.files.entry(id).or_default();
                        *known = state.max(*known);
                    }
                    _ => {}
                }
            }
        }
        durable
    }

    /// The state whose content of a file is durable.
    pub fn content(&self, id: NodeId) -> usize {
        let own = self.files.get(&id).copied().unwrap_or(0);
        own.max(self.contents)
    }

    /// What else may be found in a file by a cut that left names and sizes of state `found`,
    /// `newest` being the last one that was begun.
    ///
    /// Data goes straight to its place: what was written and is not durable may be there or not,
    /// whatever the journal has.
    pub fn others(&self, id: NodeId, found: usize, newest: usize) -> Others {
        let content = |state: usize| self.log.state(state).get(id).map(|node| &node.content);
        let touched = |state: usize| {
            let step = self.log.step(state)?;
            let (_, range) = step.touched.as_ref().filter(|(file, _)| *file == id)?;
            Some((step, range.clone()))
        };
        let mut others = Others::default();
        let mut end = u64::MAX;
        for state in (self.content(id) + 1..=found).rev() {
            // What has come into being since has no earlier state.
            end = end.min(content(state - 1).map_or(0, |content| content.length()));
            if let (Some((_, range)), Some(before)) = (touched(state), content(state - 1)) {
                others.add(
                    range.start..range.end.min(end),
                    Other::State(before.clone()),
                );
            }
        }
        let mut cut_off = u64::MAX;
        for state in found + 1..=newest {
            if let (Some((step, range)), Some(after)) = (touched(state), content(state)) {
                // What was cut off before may be cleared by whatever comes to the file next.
                others.add(cut_off..u64::MAX, Other::Zeros);
                if step.done {
                    let range = range.start..range.end.min(after.length());
                    others.add(range, Other::State(after.clone()));
                } else {
                    others.add(range, Other::Anything);
                }
            }
            if let Some(content) = content(state) {
                cut_off = cut_off.min(content.length());
            }
        }
        others
    }
}

/// What may be in a range instead of what should.
#[derive(Debug, Clone)]
enum Other {
    State(Arc<Content>),
    Zeros,
    Anything,
}

/// What may be found in a file besides what should.
#[derive(Debug, Default)]
pub struct Others {
    ranges: Vec<(Range<u64>, Other)>,
}

impl Others {
    /// Anything may.
    pub fn anything() -> Self {
        let mut others = Self::default();
        others.add(0..u64::MAX, Other::Anything);
        others
    }

    fn add(&mut self, range: Range<u64>, other: Other) {
        if !range.is_empty() {
            self.ranges.push((range, other));
        }
    }

    /// Index of the first byte of `found`, at `start` of the file, that is neither the one
    /// `expected` nor another one that may be there.
    pub fn first_wrong(&self, start: u64, found: &[u8], expected: &[u8]) -> Option<usize> {
        let pairs = found.iter().zip(expected);
        let mut wrong: Vec<bool> = pairs.map(|(found, expected)| found != expected).collect();
        let end = start + found.len() as u64;
        let mut bytes = Vec::new();
        for (range, other) in &self.ranges {
            let (from, to) = (range.start.max(start), range.end.min(end));
            if from >= to {
                continue;
            }
            let inside = (from - start) as usize..(to - start) as usize;
            bytes.clear();
            bytes.resize(inside.len(), 0);
            match other {
                Other::State(content) => content.expected(from, &mut bytes),
                Other::Zeros => {}
                Other::Anything => bytes.copy_from_slice(&found[inside.clone()]),
            }
            for ((wrong, found), other) in wrong[inside.clone()]
                .iter_mut()
                .zip(&found[inside])
                .zip(&bytes)
            {
                *wrong &= found != other;
            }
        }
        wrong.iter().position(|&wrong| wrong)
    }
}
