use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

/// A recipe as its file has it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    /// What is wrong, in a sentence.
    about: String,
    /// The volumes that are damaged in this way; by default one of each format.
    #[serde(default = "both")]
    base: Vec<String>,
    /// The damage, in order.
    damage: Vec<Damage>,
    /// The codes that `fsck.vmfs -n` finds, no more and no less.
    findings: BTreeSet<String>,
    /// The notes that it makes, by their codes, no more and no less.
    #[serde(default)]
    notes: BTreeSet<String>,
    /// The codes that `-y` finds and `-n` doesn't.
    #[serde(default)]
    settled: BTreeSet<String>,
    /// Numbers of devices that aren't given to `fsck.vmfs`.
    #[serde(default)]
    left_out: BTreeSet<usize>,
    /// What is different on one of the bases.
    #[serde(default)]
    on: BTreeMap<String, Differs>,
    #[serde(default = "four")]
    check: i32,
    #[serde(default = "one")]
    preen: i32,
    #[serde(default = "one")]
    yes: i32,
    #[serde(default)]
    again: i32,
    #[serde(default)]
    hit: Vec<String>,
    #[serde(default)]
    orphans: u64,
}

/// What differs on a base.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Differs {
    damage: Option<Vec<Damage>>,
    findings: Option<BTreeSet<String>>,
    notes: Option<BTreeSet<String>>,
    settled: Option<BTreeSet<String>>,
    check: Option<i32>,
    preen: Option<i32>,
    yes: Option<i32>,
    again: Option<i32>,
    hit: Option<Vec<String>>,
    orphans: Option<u64>,
}

/// What is expected of the runs, and of the volume afterwards.
#[derive(Debug, Clone)]
pub struct Expected {
    /// Codes of the notes of `-n`.
    pub notes: BTreeSet<String>,
    /// The codes that `-y` finds and `-n` doesn't.
    pub settled: BTreeSet<String>,
    /// Exit code of `-n`.
    pub check: i32,
    /// Exit code of `-p`.
    pub preen: i32,
    /// Exit code of `-y`.
    pub yes: i32,
    /// Exit code of `-n` after `-y`.
    pub again: i32,
    /// Paths that the damage or the repair may change or lose, with all below them.
    pub hit: Vec<String>,
    /// Files in /lost+found after the repair.
    pub orphans: u64,
}

/// One change to a volume.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Damage {
    /// The structure: see `images/README.md`.
    pub structure: String,
    /// Its field; without one, `at` counts from the structure's start.
    pub field: Option<String>,
    /// Bytes to skip.
    #[serde(default)]
    pub at: u64,
    /// The field's new value.
    pub set: Option<u64>,
    /// What is added to the field's value, wrapping.
    pub add: Option<i64>,
    /// Bits that are flipped.
    pub flip: Option<u64>,
    /// Text that is written, without an end.
    pub text: Option<String>,
    /// Bytes that are written, in hexadecimal.
    pub bytes: Option<String>,
    /// So many bytes become zero.
    pub zeros: Option<u64>,
    /// So many bytes become 0xff.
    pub ones: Option<u64>,
    /// The same field of this structure is copied; without a field, `length` bytes.
    pub copy: Option<String>,
    /// Field to copy from, if it is another one.
    pub from: Option<String>,
    /// Bytes to copy without a field.
    pub length: Option<u64>,
}

/// One image: a recipe on a base.
#[derive(Debug, Clone)]
pub struct Recipe {
    /// The file's name and the base's.
    pub name: String,
    /// What is wrong.
    pub about: String,
    /// The volume.
    pub base: String,
    /// The damage.
    pub damage: Vec<Damage>,
    /// The codes found.
    pub findings: BTreeSet<String>,
    /// Numbers of devices that aren't given to `fsck.vmfs`.
    pub left_out: BTreeSet<usize>,
    /// The rest of what is expected.
    pub expected: Expected,
}

impl Recipe {
    /// The recipe's own name, without the base.
    pub fn stem(&self) -> &str {
        let end = self.name.len() - self.base.len() - 1;
        &self.name[..end]
    }

    /// Every code that a run on it reports, as a finding or a note.
    pub fn codes(&self) -> impl Iterator<Item = &str> {
        let expected = &self.expected;
        let all = [&self.findings, &expected.notes, &expected.settled];
        all.into_iter().flatten().map(String::as_str)
    }
}

fn both() -> Vec<String> {
    vec!["vmfs6".to_owned(), "vmfs5".to_owned()]
}

const fn four() -> i32 {
    4
}

const fn one() -> i32 {
    1
}

/// The folder of the recipes.
pub fn folder() -> PathBuf {
    crate::images::workspace().join("images/corpus")
}

/// Every image of the corpus, by name.
///
/// # Errors
/// A recipe that can't be read, named.
pub fn all() -> Result<Vec<Recipe>> {
    let mut paths: Vec<_> = fs::read_dir(folder())
        .context("images/corpus")?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<Vec<PathBuf>>>()?;
    paths.retain(|path| path.extension().is_some_and(|end| end == "toml"));
    paths.sort();
    let mut recipes = Vec::new();
    for path in paths {
        recipes.extend(read(&path).with_context(|| path.display().to_string())?);
    }
    Ok(recipes)
}

fn read(path: &Path) -> Result<Vec<Recipe>> {
    let written: Written = toml::from_str(&fs::read_to_string(path)?)?;
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    if let Some(other) = written.on.keys().find(|name| !written.base.contains(name)) {
        bail!("[on.{other}], but the base is {:?}", written.base);
    }
    let recipe = |base: &String| {
        let on = written.on.get(base).cloned().unwrap_or_default();
        Recipe {
            name: format!("{stem}-{base}"),
            about: written.about.clone(),
            base: base.clone(),
            damage: on.damage.unwrap_or_else(|| written.damage.clone()),
            findings: on.findings.unwrap_or_else(|| written.findings.clone()),
            left_out: written.left_out.clone(),
            expected: Expected {
                notes: on.notes.unwrap_or_else(|| written.notes.clone()),
                settled: on.settled.unwrap_or_else(|| written.settled.clone()),
                check: on.check.unwrap_or(written.check),
                preen: on.preen.unwrap_or(written.preen),
                yes: on.yes.unwrap_or(written.yes),
                again: on.again.unwrap_or(written.again),
                hit: on.hit.unwrap_or_else(|| written.hit.clone()),
                orphans: on.orphans.unwrap_or(written.orphans),
            },
        }
    };
    Ok(written.base.iter().map(recipe).collect())
}
