//! A floor of the house uses only the floors below it (docs/ARCHITECTURE.md).

use std::fs;
use std::path::{Path, PathBuf};

/// From the bottom up. `format` is below `lvm`: see docs/decisions/0001.
const FLOORS: [&str; 8] = [
    "scsi", "format", "lvm", "cluster", "journal", "resource", "file", "fs",
];

#[test]
fn every_floor_uses_only_those_below() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut checked = 0;
    for (level, floor) in FLOORS.iter().enumerate() {
        for file in sources(&src.join(floor)) {
            let text = fs::read_to_string(&file).expect("readable source");
            for used in text
                .match_indices("crate::")
                .map(|(at, name)| &text[at + name.len()..])
            {
                let name: String = used
                    .chars()
                    .take_while(|c| c.is_ascii_alphanumeric() || *c == '_')
                    .collect();
                let below = FLOORS.iter().position(|&other| other == name);
                assert!(
                    below.is_some_and(|below| below <= level),
                    "{} uses crate::{name}, which is not below {floor}",
                    file.display()
                );
                checked += 1;
            }
        }
    }
    assert!(
        checked > 20,
        "only {checked} uses found: does the test still read the sources?"
    );
}

#[test]
fn every_folder_is_a_known_floor() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for entry in fs::read_dir(src).expect("source folder").flatten() {
        if entry.path().is_dir() {
            let name = entry.file_name();
            assert!(
                FLOORS.iter().any(|floor| name == *floor),
                "{name:?} has no place in the house"
            );
        }
    }
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder)
        .expect("floor")
        .flatten()
        .map(|entry| entry.path());
    entries
        .filter(|path| path.extension().is_some_and(|ext| ext == "rs"))
        .collect()
}
