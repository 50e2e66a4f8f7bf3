//! Every crafted image: the findings that its recipe names, repaired, clean, mounted and written to, files that
//! weren't damaged byte for byte the same, and the original image exactly after `vmfs undo`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use vmfs_tests::corpus::{base, coverage, recipe, trial};

#[test]
fn every_image_does_as_its_recipe_says() {
    let recipes = recipe::all().expect("recipes");
    let folder = tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .expect("folder");
    let programs = trial::programs();
    let names: BTreeSet<_> = recipes.iter().map(|recipe| recipe.base.as_str()).collect();
    let bases: BTreeMap<_, _> = names
        .into_iter()
        .map(|name| (name, base::build(name, folder.path()).expect("base")))
        .collect();
    let next = AtomicUsize::new(0);
    let failures = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(recipe) = recipes.get(next.fetch_add(1, SeqCst)) {
                    let base = &bases[recipe.base.as_str()];
                    if let Err(error) = trial::run(recipe, base, &programs, folder.path()) {
                        let line = format!("{}: {error:#}", recipe.name);
                        failures.lock().expect("failures").push(line);
                    }
                }
            });
        }
    });
    let failures = failures.lock().expect("failures");
    assert!(
        failures.is_empty(),
        "{} images:\n{}",
        failures.len(),
        failures.join("\n")
    );
    assert!(recipes.len() > 150, "only {} images", recipes.len());
}

#[test]
fn every_code_has_two_recipes_and_both_formats() {
    let mut recipes = recipe::all().expect("recipes");
    let gaps = coverage::gaps(&recipes).expect("the table of exceptions");
    assert!(gaps.is_empty(), "{}", gaps.join("\n"));
    // One image less is missed.
    recipes.retain(|recipe| !recipe.codes().any(|code| code == "dots-wrong"));
    let gaps = coverage::gaps(&recipes).expect("the table of exceptions");
    assert_eq!(gaps.len(), 3, "{gaps:?}");
}
