//! What was done, and what came of it.

use std::collections::{BTreeMap, BTreeSet};

use super::world::MountId;

/// Number of a file: its creation's, which the file carries as its owner.
pub type FileNumber = u32;
/// Number of a name; odd ones are in another directory than even ones.
pub type Name = u8;

/// A call, with its result if that is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    Create {
        name: Name,
        file: FileNumber,
        done: bool,
    },
    Lookup {
        name: Name,
        found: Option<FileNumber>,
    },
    Unlink {
        name: Name,
        done: bool,
    },
    Rename {
        from: Name,
        to: Name,
        replaces: bool,
        done: Result<(), Refused>,
    },
    /// All names of one directory.
    List {
        odd: bool,
        found: BTreeSet<Name>,
    },
    Write {
        file: FileNumber,
        cell: u32,
        value: u64,
    },
    Read {
        file: FileNumber,
        cell: u32,
        value: u64,
    },
    Sync,
    /// What the mount had not made durable may be lost; `None`: what no mount had.
    Crash(Option<MountId>),
}

/// Why a rename didn't happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    NotThere,
    Exists,
}

/// When something was done, and by whom.
#[derive(Debug, Clone)]
pub struct Call {
    pub mount: MountId,
    pub op: Op,
    pub invoked: u64,
    /// When it returned; `None`: it may take effect or not.
    pub returned: Option<u64>,
    /// After this it doesn't take effect any more, if it has not.
    pub until: u64,
    /// Its effect was durable when it returned.
    pub is_durable: bool,
}

/// All calls of a run.
#[derive(Debug, Default)]
pub struct History {
    pub calls: Vec<Call>,
    tick: u64,
    crashed: BTreeSet<MountId>,
    gone: BTreeMap<MountId, u64>,
    /// Calls that came to nothing, or that tell nothing.
    dropped: BTreeSet<usize>,
}

impl History {
    fn tick(&mut self) -> u64 {
        self.tick += 1;
        self.tick
    }

    /// A call begins; its number.
    pub fn invoke(&mut self, mount: MountId, op: Op) -> usize {
        let invoked = self.tick();
        self.calls.push(Call {
            mount,
            op,
            invoked,
            returned: None,
            until: u64::MAX,
            is_durable: false,
        });
        self.calls.len() - 1
    }

    /// It has returned with a result, which `op` has.
    pub fn complete(&mut self, call: usize, op: Op, is_durable: bool) {
        let tick = self.tick();
        let call = &mut self.calls[call];
        (call.op, call.returned, call.is_durable) = (op, Some(tick), is_durable);
    }

    /// It had no effect, or its result says nothing.
    pub fn drop(&mut self, call: usize) {
        self.dropped.insert(call);
    }

    /// The mount lost what was only in its memory.
    pub fn crash(&mut self, mount: MountId) {
        if !self.gone.contains_key(&mount) && self.crashed.insert(mount) {
            let call = self.invoke(mount, Op::Crash(Some(mount)));
            self.calls[call].returned = Some(u64::MAX);
        }
    }

    /// All memory is lost, and what no flush had covered.
    pub fn power_loss(&mut self) {
        let call = self.invoke(usize::MAX, Op::Crash(None));
        self.complete(call, Op::Crash(None), false);
    }

    /// What the mount had in its journal is in place, or lost for good.
    pub fn gone(&mut self, mount: MountId) {
        let tick = self.tick();
        self.gone.entry(mount).or_insert(tick);
    }

    /// Whether the call began when what its mount had was lost already, or in place.
    pub fn is_too_late(&self, call: usize) -> bool {
        let call = &self.calls[call];
        let gone = self.gone.get(&call.mount);
        gone.is_some_and(|&gone| gone < call.invoked)
    }

    /// The calls that say something, in the order of their beginning.
    pub fn told(&self) -> Vec<Call> {
        let calls = self.calls.iter().enumerate();
        calls
            .filter(|(number, _)| !self.dropped.contains(number))
            .map(|(_, call)| {
                let mut call = call.clone();
                call.until = self.gone.get(&call.mount).copied().unwrap_or(u64::MAX);
                if matches!(call.op, Op::Crash(Some(_))) {
                    call.returned = Some(call.until);
                }
                call
            })
            .collect()
    }
}
