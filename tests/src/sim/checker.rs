//! Whether there is an order in which the calls, each at a moment between its beginning and its end,
//! give the results that they gave (Wing and Gong's search, with what was tried remembered).

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::hash::{Hash, Hasher};

use super::history::{Call, FileNumber, Name, Op, Refused};
use super::world::MountId;

/// States looked at before the search gives up.
const MOST: usize = 400_000;

/// What the search came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Fine,
    /// There is no such order; the calls around where it got stuck.
    Wrong(String),
    /// Too many orders to try.
    Undecided,
}

/// A state with what it was before, as far as that can come back.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Versions<T> {
    now: T,
    /// Who changed it, and from what; none of it is durable.
    undo: Vec<(MountId, T)>,
}

impl<T: Clone + Eq> Versions<T> {
    fn new(now: T) -> Self {
        Self {
            now,
            undo: Vec::new(),
        }
    }

    fn become_(&self, call: &Call, now: T) -> Self {
        let mut undo = self.undo.clone();
        if call.is_durable {
            undo.clear();
        } else {
            undo.push((call.mount, self.now.clone()));
        }
        Self { now, undo }
    }

    fn synced(&self, by: MountId) -> Self {
        let last = self.undo.iter().rposition(|(mount, _)| *mount == by);
        Self {
            now: self.now.clone(),
            undo: self.undo[last.map_or(0, |last| last + 1)..].to_vec(),
        }
    }

    /// What a crash may leave: first what is there if nothing is lost.
    fn crashed(&self, of: Option<MountId>) -> Vec<Self> {
        let mut left = vec![self.clone()];
        let mut undo = self.undo.clone();
        while let Some((mount, before)) = undo.pop() {
            if of.is_some_and(|of| of != mount) {
                break;
            }
            left.push(Self {
                now: before,
                undo: undo.clone(),
            });
        }
        let mut seen = Vec::new();
        for mut state in left {
            match of {
                None => state.undo.clear(),
                Some(of) => {
                    while state.undo.last().is_some_and(|(mount, _)| *mount == of) {
                        state.undo.pop();
                    }
                }
            }
            if !seen.contains(&state) {
                seen.push(state);
            }
        }
        seen
    }
}

type Names = BTreeMap<Name, FileNumber>;

fn names_after(state: &Versions<Names>, call: &Call) -> Vec<Versions<Names>> {
    let same = |is_so: bool| {
        if is_so {
            vec![state.clone()]
        } else {
            Vec::new()
        }
    };
    let now = &state.now;
    let unknown = call.returned.is_none();
    match &call.op {
        Op::Create { name, file, done } => {
            if !done && !unknown {
                return same(now.contains_key(name));
            }
            if now.contains_key(name) {
                return Vec::new();
            }
            let mut names = now.clone();
            names.insert(*name, *file);
            vec![state.become_(call, names)]
        }
        Op::Unlink { name, done } => {
            if !done && !unknown {
                return same(!now.contains_key(name));
            }
            let mut names = now.clone();
            if names.remove(name).is_none() {
                return Vec::new();
            }
            vec![state.become_(call, names)]
        }
        Op::Rename {
            from,
            to,
            replaces,
            done,
        } => {
            let (source, target) = (now.get(from), now.get(to));
            match done {
                Err(Refused::NotThere) if !unknown => same(source.is_none()),
                Err(Refused::Exists) if !unknown => same(target.is_some() && !replaces),
                _ => {
                    let Some(&file) = source else {
                        return Vec::new();
                    };
                    if target.is_some() && !replaces {
                        return Vec::new();
                    }
                    let mut names = now.clone();
                    names.remove(from);
                    names.insert(*to, file);
                    vec![state.become_(call, names)]
                }
            }
        }
        Op::Lookup { name, found } => same(now.get(name) == found.as_ref()),
        Op::List { odd, found } => {
            let there = now.iter().filter(|(name, _)| (**name % 2 == 1) == *odd);
            same(there.map(|(name, _)| name).eq(found))
        }
        Op::Sync => vec![state.synced(call.mount)],
        Op::Crash(of) => state.crashed(*of),
        Op::Write { .. } | Op::Read { .. } => same(true),
    }
}

fn cell_after(state: &Versions<u64>, call: &Call) -> Vec<Versions<u64>> {
    match &call.op {
        Op::Write { value, .. } => vec![state.become_(call, *value)],
        Op::Read { value, .. } if *value != state.now => Vec::new(),
        Op::Sync => vec![state.synced(call.mount)],
        Op::Crash(of) => state.crashed(*of),
        _ => vec![state.clone()],
    }
}

/// Checks the names and each cell of each file.
pub fn check(calls: &[Call]) -> Outcome {
    let names = calls
        .iter()
        .filter(|call| !matches!(call.op, Op::Write { .. } | Op::Read { .. }));
    let mut outcome = search(names.collect(), Versions::new(Names::new()), names_after);
    let mut cells: BTreeSet<(FileNumber, u32)> = BTreeSet::new();
    for call in calls {
        if let Op::Write { file, cell, .. } | Op::Read { file, cell, .. } = call.op {
            cells.insert((file, cell));
        }
    }
    for (file, cell) in cells {
        let is_its = |op: &Op| match op {
            Op::Write {
                file: f, cell: c, ..
            }
            | Op::Read {
                file: f, cell: c, ..
            } => (*f, *c) == (file, cell),
            _ => false,
        };
        let writers: BTreeSet<MountId> = calls
            .iter()
            .filter(|call| is_its(&call.op) && matches!(call.op, Op::Write { .. }))
            .map(|call| call.mount)
            .collect();
        let its = calls.iter().filter(|call| match call.op {
            Op::Sync => writers.contains(&call.mount),
            Op::Crash(of) => of.is_none_or(|of| writers.contains(&of)),
            _ => is_its(&call.op),
        });
        let found = search(its.collect(), Versions::new(0), cell_after);
        if outcome == Outcome::Fine || matches!(found, Outcome::Wrong(_)) {
            outcome = found;
        }
        if matches!(outcome, Outcome::Wrong(_)) {
            break;
        }
    }
    outcome
}

struct Search<'a, S> {
    calls: Vec<&'a Call>,
    after: fn(&S, &Call) -> Vec<S>,
    tried: HashSet<u64>,
    /// Most calls that had a place, and the state then.
    furthest: (usize, Vec<bool>, String),
}

fn search<S: Clone + Hash + std::fmt::Debug>(
    calls: Vec<&Call>,
    start: S,
    after: fn(&S, &Call) -> Vec<S>,
) -> Outcome {
    let count = calls.len();
    let mut search = Search {
        calls,
        after,
        tried: HashSet::new(),
        furthest: (0, vec![false; count], format!("{start:?}")),
    };
    let mut placed = vec![false; count];
    match search.go(start, &mut placed, 0) {
        Some(true) => Outcome::Fine,
        Some(false) => Outcome::Wrong(search.story()),
        None => Outcome::Undecided,
    }
}

impl<S: Clone + Hash + std::fmt::Debug> Search<'_, S> {
    /// Depth first, without recursion: histories are long.
    fn go(&mut self, start: S, placed: &mut [bool], _: usize) -> Option<bool> {
        // What can come next at each depth, and the call that led there.
        let mut stack = vec![(self.choices(&start, placed), None)];
        if self.is_done(placed) {
            return Some(true);
        }
        while let Some((choices, _)) = stack.last_mut() {
            let Some((call, state)) = choices.pop() else {
                let (_, made) = stack.pop().expect("it was the last");
                if let Some(call) = made {
                    placed[call] = false;
                }
                continue;
            };
            placed[call] = true;
            if self.is_done(placed) {
                return Some(true);
            }
            let mut hasher = DefaultHasher::new();
            (&state, &*placed).hash(&mut hasher);
            if !self.tried.insert(hasher.finish()) {
                placed[call] = false;
                continue;
            }
            if self.tried.len() > MOST {
                return None;
            }
            let number = placed.iter().filter(|&&placed| placed).count();
            if number > self.furthest.0 {
                self.furthest = (number, placed.to_vec(), format!("{state:?}"));
            }
            let next = self.choices(&state, placed);
            stack.push((next, Some(call)));
        }
        Some(false)
    }

    fn is_done(&self, placed: &[bool]) -> bool {
        let calls = self.calls.iter().zip(placed);
        calls
            .into_iter()
            .all(|(call, placed)| *placed || call.returned.is_none())
    }

    /// The calls that may come next, with the states after them; the best one last.
    fn choices(&self, state: &S, placed: &[bool]) -> Vec<(usize, S)> {
        let mut first_end = u64::MAX;
        let mut newest = 0;
        for (call, placed) in self.calls.iter().zip(placed) {
            if *placed {
                newest = newest.max(call.invoked);
            } else if let Some(end) = call.returned {
                first_end = first_end.min(end);
            }
        }
        let mut choices = Vec::new();
        for (number, call) in self.calls.iter().enumerate() {
            if call.invoked > first_end {
                break;
            }
            // One without an end has to find its place before its host is gone.
            let too_late = call.returned.is_none() && newest > call.until;
            if placed[number] || too_late {
                continue;
            }
            let states = (self.after)(state, call);
            choices.extend(states.into_iter().rev().map(|state| (number, state)));
        }
        // Those that end first are tried first.
        choices.sort_by_key(|(number, _)| {
            std::cmp::Reverse(self.calls[*number].returned.unwrap_or(u64::MAX))
        });
        choices
    }

    fn story(&self) -> String {
        let (count, placed, state) = &self.furthest;
        let open = self
            .calls
            .iter()
            .zip(placed)
            .filter(|(_, placed)| !**placed);
        let next: Vec<String> = open
            .take(12)
            .map(|(call, _)| format!("    {call:?}"))
            .collect();
        let done = self.calls.iter().zip(placed).filter(|(_, placed)| **placed);
        let done: Vec<&&Call> = done.map(|(call, _)| call).collect();
        let last: Vec<String> = done
            .iter()
            .rev()
            .take(12)
            .rev()
            .map(|call| format!("    {call:?}"))
            .collect();
        format!(
            "no order explains the results; {count} of {} calls have a place; then the state is {state}\n  last:\n{}\n  no place for:\n{}",
            self.calls.len(),
            last.join("\n"),
            next.join("\n")
        )
    }
}
