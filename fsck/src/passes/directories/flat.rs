//! Directories of VMFS3 and VMFS5: an array of entries.

use std::collections::VecDeque;

use vmfs_core::format::{DirEntry5, FdAddr};
use zerocopy::{FromBytes, IntoBytes};

use super::entry::{Entry, Names, Verdict, judge};
use crate::code::Code;
use crate::content::Content;
use crate::finding::Finding;
use crate::plan::Stage;
use crate::round::Round;

const SIZE: u64 = DirEntry5::SIZE;
/// Empty entries that are closed up at once; more wait for the next round.
const MAX_EMPTY: usize = 100_000;
/// Entries read at a time.
const AT_ONCE: u64 = 468;

/// Calls `visit` with each entry and its number until it returns false.
pub(super) fn for_each(
    round: &mut Round<'_, '_>,
    content: &mut Content,
    visit: &mut dyn FnMut(&mut Round<'_, '_>, &mut Content, u64, &DirEntry5) -> bool,
) -> Result<(), String> {
    let mut first = 0;
    loop {
        let count = (content.length() / SIZE).saturating_sub(first).min(AT_ONCE);
        if count == 0 {
            return Ok(());
        }
        let mut bytes = vec![0; (count * SIZE) as usize];
        content
            .read(round, first * SIZE, &mut bytes)
            .map_err(|error| error.to_string())?;
        for (index, raw) in (first..).zip(bytes.chunks_exact(SIZE as usize)) {
            let Ok(entry) = DirEntry5::ref_from_bytes(raw) else {
                continue;
            };
            if !visit(round, content, index, entry) {
                return Ok(());
            }
        }
        first += count;
    }
}

pub(super) fn run(round: &mut Round<'_, '_>, content: &mut Content) -> Result<(), String> {
    super::dots::flat(round, content)?;
    let mut names = Names::new();
    let mut gone = Vec::new();
    let mut empty = Vec::new();
    for_each(round, content, &mut |round, content, index, raw| {
        if index < 2 {
            return true;
        }
        let unused = raw.fd.get() == 0 && raw.kind.get() == 0 && raw.name[0] == 0;
        if unused {
            empty.push(index);
            return empty.len() < MAX_EMPTY;
        }
        let name = raw.name();
        let damage = (name.len() >= raw.name.len()).then(|| "its name doesn't end".to_owned());
        let entry = Entry {
            name,
            kind: raw.kind.get(),
            fd: raw.fd.get(),
            generation: raw.generation.get(),
            offset: index * SIZE,
            damage,
        };
        match judge(round, content, &entry, &mut names) {
            Verdict::Keep => {}
            Verdict::Fix(kind, generation) => {
                let mut fixed = raw.clone();
                fixed.kind = (kind as u32).into();
                fixed.generation = generation.into();
                let written =
                    content.write(round, Stage::Refer, index * SIZE, &fixed.as_bytes()[..12]);
                // It was read from there.
                let _ = written;
            }
            Verdict::Remove => {
                if let Some(fd) = FdAddr::from_raw(entry.fd) {
                    round.remember_name(fd, name);
                }
                gone.push(index);
            }
        }
        true
    })?;
    if let Some(first) = empty.first() {
        // Not all readers skip one in the middle.
        let finding = Finding::new(
            Code::DirectoryStructure,
            format!("directory {}", content.fd),
            format!(
                "{} entries are empty, the first number {first}",
                empty.len()
            ),
        )
        .at_volume(content.place.0)
        .repair("put the last entries in their places");
        if round.found(finding) {
            gone.extend(empty);
            gone.sort_unstable();
        }
    }
    close_gaps(round, content, gone.into())
}

/// The last entries take the places of those that go.
fn close_gaps(
    round: &mut Round<'_, '_>,
    content: &mut Content,
    mut gone: VecDeque<u64>,
) -> Result<(), String> {
    let text = |error: vmfs_core::resource::MetaError| error.to_string();
    let mut count = content.length() / SIZE;
    if gone.is_empty() {
        return Ok(());
    }
    while let Some(&lowest) = gone.front() {
        let Some(last) = count.checked_sub(1) else {
            break;
        };
        if gone.back() == Some(&last) {
            gone.pop_back();
        } else {
            let mut bytes = [0; SIZE as usize];
            content.read(round, last * SIZE, &mut bytes).map_err(text)?;
            content
                .write(round, Stage::Refer, lowest * SIZE, &bytes)
                .map_err(text)?;
            gone.pop_front();
        }
        count = last;
    }
    content
        .set_length(round, Stage::Remove, count * SIZE)
        .map_err(text)
}

/// The name that a directory has for `fd`.
pub(super) fn name_of(round: &mut Round<'_, '_>, content: &Content, fd: FdAddr) -> Option<Vec<u8>> {
    let mut content = Content::open(round, content.fd).ok()?;
    let mut found = None;
    let looked = for_each(round, &mut content, &mut |_, _, index, raw| {
        if index >= 2 && raw.fd.get() == fd.raw() {
            found = Some(raw.name().to_vec());
        }
        found.is_none()
    });
    looked.ok()?;
    found
}
