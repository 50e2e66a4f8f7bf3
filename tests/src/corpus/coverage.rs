use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use anyhow::{Context, Result, bail, ensure};
use fsck_vmfs::Code;

use super::recipe::Recipe;

/// Recipes that a code must have.
const RECIPES: usize = 2;
/// The formats that it must be found on, as the names of bases begin.
const FORMATS: [&str; 2] = ["vmfs6", "vmfs5"];

/// What there is no image of: formats by code, from the table in `images/README.md`.
fn exceptions() -> Result<BTreeMap<String, BTreeSet<String>>> {
    let path = crate::images::workspace().join("images/README.md");
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let rows = text
        .lines()
        .skip_while(|line| *line != "| code | without | why |");
    let mut exceptions = BTreeMap::new();
    for row in rows.skip(2).take_while(|line| line.starts_with('|')) {
        let cells: Vec<_> = row.trim_matches('|').split('|').map(str::trim).collect();
        let &[code, formats, why] = cells.as_slice() else {
            bail!("three cells are expected: {row}");
        };
        ensure!(!why.is_empty(), "no reason: {row}");
        let formats = formats.split(", ").map(str::to_lowercase).collect();
        exceptions.insert(code.to_owned(), formats);
    }
    ensure!(!exceptions.is_empty(), "no table in {}", path.display());
    Ok(exceptions)
}

/// What the corpus lacks: codes with fewer than two recipes, formats on which a code isn't found, and
/// exceptions that are none.
///
/// # Errors
/// The table of exceptions can't be read.
pub fn gaps(recipes: &[Recipe]) -> Result<Vec<String>> {
    let mut exceptions = exceptions()?;
    let mut gaps = Vec::new();
    for code in Code::ALL {
        let images: Vec<_> = recipes
            .iter()
            .filter(|recipe| recipe.codes().any(|found| found == code.name()))
            .collect();
        let stems: BTreeSet<_> = images.iter().map(|recipe| recipe.stem()).collect();
        let excepted = exceptions.remove(code.name()).unwrap_or_default();
        if stems.len() < RECIPES && excepted.len() < FORMATS.len() {
            gaps.push(format!("{code} has {} recipes", stems.len()));
        }
        for format in FORMATS {
            let there = images.iter().any(|recipe| recipe.base.starts_with(format));
            match (there, excepted.contains(format)) {
                (false, false) => gaps.push(format!("{code} has no image of {format}")),
                (true, true) => gaps.push(format!("{code} has an image of {format} after all")),
                _ => {}
            }
        }
        let unknown = excepted
            .iter()
            .filter(|format| !FORMATS.contains(&format.as_str()));
        gaps.extend(unknown.map(|format| format!("{code}: no format is called {format}")));
    }
    gaps.extend(
        exceptions
            .into_keys()
            .map(|code| format!("no code is called {code}")),
    );
    Ok(gaps)
}
