//! A floor of the house uses only the floors below it (docs/ARCHITECTURE.md).

use std::fs;
use std::path::{Path, PathBuf};

/// From the bottom up. `format` is below `lvm`: see docs/decisions/0001.
const FLOORS: [&str; 9] = [
    "sync", "scsi", "format", "lvm", "cluster", "journal", "resource", "file", "fs",
];

/// Exported macros, which all lie in the root of the crate, and the floors that they are of.
const MACROS: [(&str, &str); 1] = [("forward_lun", "scsi")];

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
                let of = MACROS.iter().find(|(exported, _)| *exported == name);
                let home = of.map_or(name.as_str(), |(_, floor)| floor);
                let below = FLOORS.iter().position(|&other| other == home);
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

/// Threads above the LUN wait where a simulator knows of it.
#[test]
fn locks_above_the_lun_are_those_of_sync() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut folders: Vec<PathBuf> = FLOORS[2..].iter().map(|floor| src.join(floor)).collect();
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder).expect("floor").flatten();
        folders.extend(
            entries
                .map(|entry| entry.path())
                .filter(|path| path.is_dir()),
        );
        for file in sources(&folder) {
            let text = fs::read_to_string(&file).expect("readable source");
            for other in [
                "parking_lot",
                "sync::Mutex",
                "sync::RwLock",
                "thread::sleep",
                "yield_now",
            ] {
                let found = text.match_indices(other);
                let ours = found.filter(|(at, _)| text[..*at].ends_with("crate::"));
                assert_eq!(
                    text.matches(other).count(),
                    ours.count(),
                    "{} uses {other}: take crate::sync, or the host's clock",
                    file.display()
                );
            }
        }
    }
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
