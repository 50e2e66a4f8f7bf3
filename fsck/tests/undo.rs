//! A repair can be taken back, bit for bit, also one that was cut off.

mod common;

use common::{Copies, Subject, checked, cut, options};
use fsck_vmfs::undo::{UndoError, undo};
use fsck_vmfs::{Mode, Options, run};
use vmfs_fixtures::Kind;

fn damaged(kind: Kind) -> Subject {
    let subject = Subject::new(kind);
    let files = subject.block_files();
    let layout = subject.layout();
    // Two files share a block, one has no descriptor, one a wrong number of links.
    let raw = subject.fs.inode(files[0]).expect("inode").map().addresses()[0];
    let size = layout.address_size as usize;
    let second = subject.place(files[1]) + layout.fd_addresses;
    subject.write(second, &raw.to_le_bytes()[..size]);
    subject.write(subject.field(files[0], 0x08), &[9, 0, 0, 0]);
    let last = *files.last().expect("a file");
    subject.write(subject.field(last, 0), &vec![0xaa; 0x170]);
    subject
}

#[test]
fn undo_restores_every_byte_from_any_moment() {
    for kind in [Kind::Small6, Kind::Small5] {
        let subject = damaged(kind);
        let before = Copies::of(&subject).contents();
        for writes in [0, 1, 5, 9, u64::MAX] {
            let folder = tempfile::tempdir().expect("folder");
            let file = folder.path().join("undo");
            let options = Options {
                undo: Some(file.clone()),
                ..options()
            };
            let copies = Copies::of(&subject);
            let luns = copies.luns();
            let first = run(&cut(&luns, writes), Mode::Yes, &options, &mut |_| {});
            assert_eq!(first.is_ok(), writes == u64::MAX, "{kind:?}");
            // A second repair goes on with the same file.
            run(&luns, Mode::Yes, &options, &mut |_| {}).expect("a repair");
            assert!(checked(&luns).report.is_clean());
            assert_ne!(copies.contents(), before);
            let restored = undo(&file, &luns, false).expect("undo");
            assert!(restored > 0);
            assert_eq!(copies.contents(), before, "{kind:?}, cut at {writes}");
            // Once more does no harm.
            undo(&file, &luns, false).expect("undo");
            assert_eq!(copies.contents(), before);
        }
    }
}

#[test]
fn undo_refuses_a_volume_that_was_changed_since() {
    let subject = damaged(Kind::Small6);
    let folder = tempfile::tempdir().expect("folder");
    let file = folder.path().join("undo");
    let options = Options {
        undo: Some(file.clone()),
        ..options()
    };
    let copies = Copies::of(&subject);
    let luns = copies.luns();
    run(&luns, Mode::Yes, &options, &mut |_| {}).expect("a repair");
    let changed = copies.contents();
    // A field that the repair wrote: the number of links.
    let field = subject.field(subject.block_files()[0], 0x08);
    let place = subject
        .fs
        .volume()
        .place(vmfs_core::lvm::VolumeOffset(field));
    let (_, offset) = place.expect("a place");
    luns[0].write(offset, &[77]).expect("write");
    let error = undo(&file, &luns, false).expect_err("changed");
    assert!(
        matches!(error, UndoError::Changed { sectors: 1, .. }),
        "{error}"
    );
    luns[0].write(offset, &[1]).expect("write");
    assert_eq!(copies.contents(), changed, "nothing was restored");
    luns[0].write(offset, &[77]).expect("write");
    undo(&file, &luns, true).expect("by force");
    assert_eq!(copies.contents(), Copies::of(&subject).contents());
}

#[test]
fn an_undo_file_is_of_its_devices_only() {
    let (one, other) = (damaged(Kind::Small6), Subject::new(Kind::Small5));
    let folder = tempfile::tempdir().expect("folder");
    let file = folder.path().join("undo");
    let options = Options {
        undo: Some(file.clone()),
        ..options()
    };
    run(&one.scratch(), Mode::Yes, &options, &mut |_| {}).expect("a repair");
    let twice: Vec<_> = other.scratch().into_iter().chain(other.scratch()).collect();
    let error = undo(&file, &twice, false).expect_err("other devices");
    let text = error.to_string();
    // Volumes of one size are told apart by what the repair left there.
    assert!(
        matches!(
            error,
            UndoError::OtherDevices { .. } | UndoError::Changed { .. }
        ),
        "{text}"
    );
    std::fs::write(&file, b"something else").expect("write");
    let error = undo(&file, &one.scratch(), false).expect_err("no undo file");
    assert!(matches!(error, UndoError::NotUndo { .. }), "{error}");
}
