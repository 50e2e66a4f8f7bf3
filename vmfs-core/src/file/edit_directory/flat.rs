//! Directories of VMFS3 and VMFS5.

use super::check;
use super::memory::{Random, Subject};
use crate::file::FileError;
use crate::file::entries::{self, DirHint, NewEntry};
use crate::format::{Family, FdAddr, FileKind, Layout};

fn layout() -> Layout {
    Layout::usual(Family::Vmfs5).expect("layout")
}

#[test]
fn random_changes_leave_the_names_that_a_model_has() {
    let mut random = Random(5);
    let pool: Vec<_> = (0..700).map(|_| random.name(127)).collect();
    let mut kept = Subject::new(&layout(), false);
    let mut forgetful = Subject::new(&layout(), false);
    let mut same = Random(6);
    let mut random = Random(6);
    for step in 0..20_000 {
        let shrink = if step / 4000 % 2 == 0 { 2 } else { 5 };
        kept.change(&mut random, &pool, shrink);
        if step % 50 == 0 {
            forgetful.hint = DirHint::default();
        }
        forgetful.change(&mut same, &pool, shrink);
        if step % 200 == 0 {
            check::flat(&kept);
            assert!(kept.content.bytes == forgetful.content.bytes);
        }
    }
    for name in &pool {
        if kept.names.contains_key(name) {
            kept.remove(name);
        }
    }
    check::flat(&kept);
    assert_eq!(kept.content.bytes.len(), 280);
}

#[test]
fn a_full_directory_says_so() {
    let mut subject = Subject::new(&layout(), false);
    subject.content.bytes = vec![0; (1 << 30) / 140 * 140];
    let entry = NewEntry {
        name: b"one too many",
        kind: FileKind::Regular,
        fd: FdAddr::new(1, 1),
        generation: 1,
    };
    let added = entries::add(
        &mut subject.content,
        &layout(),
        false,
        &entry,
        &mut DirHint::default(),
    );
    assert!(matches!(added, Err(FileError::DirectoryFull)), "{added:?}");
}

#[test]
fn the_parent_can_change() {
    for family in [Family::Vmfs5, Family::Vmfs6] {
        let layout = Layout::usual(family).expect("layout");
        let mut subject = Subject::new(&layout, false);
        let before = subject.content.bytes.clone();
        let parent = (FdAddr::new(9, 9), 9);
        entries::set_parent(&mut subject.content, &layout, parent).expect("set");
        assert!(subject.content.bytes != before);
        entries::set_parent(&mut subject.content, &layout, Subject::PARENT).expect("set");
        assert!(subject.content.bytes == before);
    }
}
