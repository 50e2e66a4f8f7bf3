//! What the program tells, and that nothing is found where nothing is wrong.

mod common;

use std::process::Command;

use common::Subject;
use fsck_vmfs::{Code, check};
use vmfs_core::format::SystemFile;
use vmfs_core::lvm::VolumeOffset;
use vmfs_fixtures::Kind;

#[test]
fn nothing_is_found_on_volumes_that_are_whole() {
    for kind in [
        Kind::Small6,
        Kind::Small5,
        Kind::Vmfs3,
        Kind::Span,
        Kind::Demo,
        Kind::Upgraded,
        Kind::Lvm4,
        Kind::Raw,
        Kind::VmfsL,
    ] {
        let report = check(&Subject::new(kind).fs, &mut |_| {});
        assert!(report.is_clean(), "{kind:?}: {:#?}", report.findings);
        assert!(report.descriptors > 4 && report.addresses > 4, "{kind:?}");
    }
}

/// Holes in maps of resource files: which address it is and what was expected there.
#[test]
fn a_hole_is_told_with_what_was_expected() {
    for kind in [Kind::Small6, Kind::Small5] {
        let subject = Subject::new(kind);
        let (fs, layout) = (&subject.fs, subject.fs.layout());
        let fd = u64::from(SystemFile::FileDescriptors.fd().resource());
        let array = VolumeOffset(layout.first_fd + fd * layout.fd_size + layout.fd_addresses);
        let slot = array + 3 * layout.address_size;
        let zeros = vec![0; layout.address_size as usize];
        subject.write(slot.0, &zeros);
        let report = check(fs, &mut |_| {});
        let told = format!("the first that of block 3: 0x0 at {slot}, expected a file block below");
        let mut details = report.findings.iter().map(|finding| &finding.detail);
        assert!(
            details.any(|detail| detail.contains(&told)),
            "{kind:?}: {told}: {:#?}",
            report.findings
        );
    }
}

#[test]
fn every_code_has_its_place_in_the_documents() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/fsck/CODES.md");
    let text = std::fs::read_to_string(path).expect("CODES.md");
    for code in Code::ALL {
        let heading = format!("### {code}\n");
        assert_eq!(text.matches(&heading).count(), 1, "{code}");
    }
    assert_eq!(text.matches("\n### ").count(), Code::ALL.len());
}

#[test]
fn the_program_tells_by_its_exit_code() {
    let run = |args: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_fsck-vmfs"))
            .args(args)
            .stdin(std::process::Stdio::null())
            .output();
        output.expect("the program starts").status.code()
    };
    assert_eq!(run(&["-n", "/nonexistent.img"]), Some(8));
    assert_eq!(run(&["-n"]), Some(16));
    assert_eq!(run(&["/nonexistent.img"]), Some(16), "no terminal");
    assert_eq!(run(&["-n", "-y", "/nonexistent.img"]), Some(16));
    assert_eq!(run(&["--help"]), Some(0));
}
