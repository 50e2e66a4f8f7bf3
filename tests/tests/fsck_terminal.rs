//! fsck.vmfs on a terminal: it asks before each repair, and does as it is told.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use rustix::fs::{Mode, OFlags, open};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use vmfs_core::fs::FileSystem;
use vmfs_core::lvm::open_paths;
use vmfs_core::scsi::Access;
use vmfs_tests::corpus::base;
use vmfs_tests::corpus::trial::{copy_sparse, programs, same};

/// Fields of a descriptor's metadata.
const LINKS: u64 = 0x08;
const BLOCKS: u64 = 0x24;
/// The key that ends the input.
const END: &str = "\u{4}";

/// A volume with a wrong number of names and a wrong number of blocks.
fn damaged(folder: &Path) -> PathBuf {
    let base = base::build("vmfs6", folder).expect("base");
    let image = folder.join("damaged.img");
    copy_sparse(&base.devices[0], &image).expect("copy");
    let volume = open_paths(&base.devices, Access::ReadOnly).expect("volume");
    let fs = FileSystem::open(volume).expect("file system");
    let file = File::options().write(true).open(&image).expect("image");
    for (path, field, value) in [("/files/block", LINKS, 7), ("/files/blocks", BLOCKS, 99)] {
        let inode = fs.resolve(path.as_bytes(), false).expect("file");
        let (_, place) = fs.volume().place(inode.offset()).expect("place");
        let at = place.0 + fs.layout().fd_meta + field;
        file.write_all_at(&[value], at).expect("damage");
    }
    image
}

/// Runs the program on a terminal on which somebody types `keys`: its exit code, and what is on the screen.
fn on_a_terminal(image: &Path, keys: &str) -> (Option<i32>, String) {
    let near = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("terminal");
    grantpt(&near).expect("terminal");
    unlockpt(&near).expect("terminal");
    let name = ptsname(&near, Vec::new()).expect("terminal");
    let far = open(name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).expect("terminal");
    let mut near = File::from(near);
    let end = |far: &std::os::fd::OwnedFd| Stdio::from(far.try_clone().expect("terminal"));
    let mut child = Command::new(programs().fsck)
        .args(["--lease", "20"])
        .arg(image)
        .stdin(end(&far))
        .stdout(end(&far))
        .stderr(end(&far))
        .spawn()
        .expect("fsck.vmfs");
    drop(far);
    let mut screen = near.try_clone().expect("terminal");
    let shown = thread::spawn(move || {
        let mut shown = Vec::new();
        // When the other end is closed that is an error.
        let _ = screen.read_to_end(&mut shown);
        String::from_utf8_lossy(&shown).into_owned()
    });
    near.write_all(keys.as_bytes()).expect("keys");
    let code = child.wait().expect("fsck.vmfs").code();
    drop(near);
    (code, shown.join().expect("screen"))
}

/// What is wrong with an image, as `-n` has it.
fn left(image: &Path) -> String {
    let mut command = Command::new(programs().fsck);
    let output = command.arg("-n").arg(image).output().expect("fsck.vmfs");
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn a_person_is_asked_before_each_repair() {
    let folder = tempfile::tempdir().expect("folder");
    let before = damaged(folder.path());
    let image = folder.path().join("copy.img");
    let asked = |keys: &str| {
        copy_sparse(&before, &image).expect("copy");
        on_a_terminal(&image, keys)
    };
    let question = "repair it? [y]es, [n]o, [a]ll from here on, [q]uit and write nothing:";

    let (code, screen) = asked("n\nmaybe\nYES\n");
    assert_eq!(code, Some(5), "{screen}");
    // Once more, for an answer that is none.
    assert_eq!(screen.matches(question).count(), 3, "{screen}");
    for part in [
        "what may be lost: nothing",
        "repair: write the number of blocks",
    ] {
        assert!(screen.contains(part), "{part}: {screen}");
    }
    let (first, second) = (left(&image), left(&before));
    let count = |text: &str, code: &str| text.matches(code).count();
    assert_eq!(count(&second, "link-count-wrong"), 1, "{second}");
    assert_eq!(count(&second, "block-count-wrong"), 1, "{second}");
    let kept = count(&first, "link-count-wrong") + count(&first, "block-count-wrong");
    assert_eq!(kept, 1, "what wasn't to be repaired is left: {first}");

    let (code, screen) = asked("a\n");
    assert_eq!(code, Some(1), "{screen}");
    assert!(left(&image).contains("clean"));

    for keys in ["y\nq\n", &format!("y\n{END}")] {
        let (code, screen) = asked(keys);
        assert_eq!(code, Some(36), "{keys:?}: {screen}");
        let same = same(&image, &before).expect("compare");
        assert!(same, "{keys:?}: something was written");
    }
}
