//! Whether the calls on a name can have happened one after the other, each at a moment between its begin and its end.
//!
//! A name is a register that holds a file or nothing. Calls on different names don't disturb each other, so each name is
//! looked at by itself; a rename is a call on both of its names.

use std::collections::{BTreeMap, HashSet};

use super::history::{Call, Event, Outcome};

/// What a name holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Value {
    Nothing,
    File(u64),
    /// A file that came by a rename: nobody has looked which.
    Some,
}

/// What a call tells about a name, or does to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// It holds nothing, and then this file; `None` if the host didn't live to tell.
    Fill(Option<u64>),
    /// It holds a file, and then nothing.
    Clear,
    /// Whatever it holds, then it holds a file.
    Put,
    /// It holds nothing, and then a file.
    PutNew,
    /// It holds this, or nothing.
    Is(Option<u64>),
    /// It holds some file.
    IsThere,
}

/// One call on one name.
#[derive(Debug, Clone)]
pub struct Step {
    pub host: usize,
    pub act: Act,
    pub begin: u64,
    /// Without one it may have happened at any time since, or not at all.
    pub end: Option<u64>,
}

/// Different ways that things can stand while one history is followed: more than that aren't.
const MOST: usize = 1 << 18;

impl Act {
    /// What the name holds afterwards; `None` if it can't have happened.
    fn apply(self, value: Value) -> Option<Value> {
        match (self, value) {
            (Self::Fill(Some(file)), Value::Nothing) => Some(Value::File(file)),
            (Self::Fill(None) | Self::PutNew, Value::Nothing) | (Self::Put, _) => Some(Value::Some),
            (Self::Clear, Value::File(_) | Value::Some) => Some(Value::Nothing),
            (Self::Is(None), Value::Nothing) => Some(value),
            (Self::Is(Some(file)), Value::File(held)) if file == held => Some(value),
            (Self::Is(Some(file)), Value::Some) => Some(Value::File(file)),
            (Self::IsThere, Value::File(_) | Value::Some) => Some(value),
            _ => None,
        }
    }
}

/// The calls on each name.
pub fn by_name(events: &[Event]) -> BTreeMap<String, Vec<Step>> {
    let mut names: BTreeMap<String, Vec<Step>> = BTreeMap::new();
    let mut add = |name: &String, event: &Event, act: Act| {
        let step = Step {
            host: event.host,
            act,
            begin: event.begin,
            end: event.end,
        };
        names.entry(name.clone()).or_default().push(step);
    };
    for event in events {
        match (&event.call, &event.outcome) {
            (_, Outcome::Busy) | (Call::Count | Call::Append(_), _) => {}
            (Call::Create(name), Outcome::File(file)) => add(name, event, Act::Fill(Some(*file))),
            (Call::Create(name), Outcome::Exists) => add(name, event, Act::IsThere),
            (Call::Create(name), Outcome::Unknown) => add(name, event, Act::Fill(None)),
            (Call::Unlink(name), Outcome::Done | Outcome::Unknown) => add(name, event, Act::Clear),
            (Call::Unlink(name) | Call::Look(name), Outcome::Missing) => {
                add(name, event, Act::Is(None));
            }
            (Call::Look(name), Outcome::Exists) => add(name, event, Act::IsThere),
            (Call::Look(name), Outcome::File(file)) => add(name, event, Act::Is(Some(*file))),
            (Call::Look(_), Outcome::Unknown) => {}
            (Call::Rename(from, to, replace), Outcome::Done | Outcome::Unknown) => {
                add(from, event, Act::Clear);
                add(to, event, if *replace { Act::Put } else { Act::PutNew });
            }
            (Call::Rename(from, ..), Outcome::Missing) => add(from, event, Act::Is(None)),
            (Call::Rename(_, to, _), Outcome::Exists) => add(to, event, Act::IsThere),
            (call, outcome) => panic!("{call:?} can't end with {outcome:?}"),
        }
    }
    names
}

/// Looks for an order of `steps` in which each can have happened; what is wrong if there is none.
///
/// Goes through begins and ends as time does, and keeps all ways in which things can stand: which of the calls
/// under way have happened already, and what the name holds.
pub fn check(steps: &[Step]) -> Result<(), String> {
    let mut times: Vec<(u64, bool, usize)> = Vec::new();
    for (index, step) in steps.iter().enumerate() {
        times.push((step.begin, false, index));
        times.extend(step.end.map(|end| (end, true, index)));
    }
    times.sort_unstable();
    let mut open: Vec<usize> = Vec::new();
    // The calls of `open` that have happened, in order, and the value.
    let mut ways: HashSet<(Vec<usize>, Value)> = HashSet::from([(Vec::new(), Value::Nothing)]);
    for (_, is_end, index) in times {
        if !is_end {
            open.push(index);
            continue;
        }
        let mut next = HashSet::new();
        let mut seen = ways.clone();
        let mut queue: Vec<(Vec<usize>, Value)> = ways.into_iter().collect();
        while let Some((done, value)) = queue.pop() {
            if let Ok(at) = done.binary_search(&index) {
                let mut done = done;
                done.remove(at);
                next.insert((done, value));
                continue;
            }
            for &other in &open {
                let Err(at) = done.binary_search(&other) else {
                    continue;
                };
                let Some(value) = steps[other].act.apply(value) else {
                    continue;
                };
                let mut done = done.clone();
                done.insert(at, other);
                if seen.insert((done.clone(), value)) {
                    queue.push((done, value));
                }
            }
            if seen.len() > MOST {
                return Err(format!(
                    "more than {MOST} ways to order {} calls",
                    steps.len()
                ));
            }
        }
        open.retain(|&other| other != index);
        if next.is_empty() {
            return Err(story(steps, index));
        }
        ways = next;
    }
    Ok(())
}

/// A call that can't have happened, with those before it.
fn story(steps: &[Step], last: usize) -> String {
    let end = steps[last].end;
    let mut before: Vec<(usize, &Step)> = (0..)
        .zip(steps)
        .filter(|(_, s)| Some(s.begin) <= end)
        .collect();
    before.sort_by_key(|(_, step)| step.begin);
    let from = before.len().saturating_sub(24);
    let lines = before[from..].iter().map(|(index, step)| {
        let mark = if *index == last { "  <-- can't be" } else { "" };
        let end = step.end.map_or("never".to_owned(), |end| end.to_string());
        format!(
            "  host {:3}  {:?}  {} to {end}{mark}",
            step.host, step.act, step.begin
        )
    });
    format!(
        "no order of these calls is possible:\n{}",
        lines.collect::<Vec<_>>().join("\n")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(act: Act, begin: u64, end: u64) -> Step {
        let end = (end > 0).then_some(end);
        Step {
            host: 0,
            act,
            begin,
            end,
        }
    }

    #[test]
    fn an_order_is_found_if_there_is_one() {
        let steps = [
            step(Act::Fill(Some(1)), 0, 10),
            step(Act::Is(Some(1)), 5, 7),
            step(Act::Is(None), 5, 7),
            step(Act::Clear, 11, 20),
            step(Act::Put, 12, 19),
            step(Act::Is(Some(7)), 21, 22),
            step(Act::IsThere, 21, 22),
        ];
        check(&steps).expect("possible");
    }

    #[test]
    fn stale_reads_lost_and_double_files_are_found() {
        let stale = [step(Act::Fill(Some(1)), 0, 1), step(Act::Is(None), 2, 3)];
        check(&stale).expect_err("an old state was seen");
        let double = [
            step(Act::Fill(Some(1)), 0, 9),
            step(Act::Fill(Some(2)), 0, 9),
        ];
        check(&double).expect_err("two files of one name");
        let two = [
            step(Act::Fill(Some(1)), 0, 1),
            step(Act::Clear, 2, 5),
            step(Act::Clear, 2, 5),
        ];
        check(&two).expect_err("removed twice");
        let back = [
            step(Act::Fill(Some(1)), 0, 1),
            step(Act::Clear, 2, 9),
            step(Act::Is(None), 3, 4),
            step(Act::Is(Some(1)), 5, 6),
        ];
        check(&back).expect_err("it was gone already");
        let other = [
            step(Act::Put, 0, 1),
            step(Act::Is(Some(1)), 2, 3),
            step(Act::Is(Some(2)), 4, 5),
        ];
        check(&other).expect_err("a file turned into another");
    }

    #[test]
    fn what_a_dead_host_was_at_may_have_happened_or_not() {
        let steps = |found| [step(Act::Fill(None), 0, 0), step(Act::Is(found), 5, 6)];
        check(&steps(None)).expect("not yet");
        check(&steps(Some(3))).expect("it has");
        let twice = [
            step(Act::Fill(None), 0, 0),
            step(Act::Is(Some(3)), 5, 6),
            step(Act::Is(None), 7, 8),
        ];
        check(&twice).expect_err("it can't be undone");
    }
}
