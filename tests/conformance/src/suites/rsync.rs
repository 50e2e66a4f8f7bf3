//! rsync: a tree is copied to the mount; a second run finds nothing to copy.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};
use vmfs_fixtures::pattern;
use vmfs_tests::random::Random;

use super::{LONG, Session};

pub(super) fn run(session: &mut Session<'_>) -> Result<()> {
    let source = session.place.beside("source")?;
    make(&source, session.pick(300, 5000))?;
    for (name, options) in [
        ("archive", &["-aH"][..]),
        ("sparse", &["-aHS"]),
        ("in-place", &["-aH", "--inplace"]),
    ] {
        let copy = session.file(name);
        let again = [options, &["--itemize-changes"]].concat();
        let first = session.must(&mut rsync(&again, &source, &copy), LONG)?;
        let all = first.lines().count();
        session.checks.note(
            format!("{name}-first"),
            counted(all > 300, "it copied nothing"),
        );
        nothing_to_do(session, &format!("{name}-second"), &again, name, &source);
    }
    session.place.remount()?;
    for (name, options) in [
        ("archive", &["-aH", "--itemize-changes"][..]),
        ("sparse", &["-aHc", "--itemize-changes"]),
        ("in-place", &["-aHc", "--itemize-changes"]),
    ] {
        nothing_to_do(
            session,
            &format!("{name}-remounted"),
            options,
            name,
            &source,
        );
    }
    // And back, compared by content.
    let back = session.place.beside("back")?;
    session.must(&mut rsync(&["-aH"], &session.file("archive"), &back), LONG)?;
    let mut diff = Command::new("diff");
    diff.args(["-r", "--no-dereference"])
        .arg(&source)
        .arg(&back);
    session.check("back", &mut diff, LONG);
    Ok(())
}

fn counted(good: bool, what: &'static str) -> Result<()> {
    ensure!(good, what);
    Ok(())
}

fn nothing_to_do(
    session: &mut Session<'_>,
    check: &str,
    options: &[&str],
    name: &str,
    source: &Path,
) {
    let copied = session.must(&mut rsync(options, source, &session.file(name)), LONG);
    let result = copied.and_then(|copied| {
        ensure!(copied.is_empty(), "it copied again: {copied}");
        Ok(())
    });
    session.checks.note(check, result);
}

fn rsync(options: &[&str], from: &Path, to: &Path) -> Command {
    let mut command = Command::new("rsync");
    command.args(options);
    command.arg(format!("{}/", from.display())).arg(to);
    command
}

/// A tree of `files` files with holes, hard links, symbolic links, old times and other owners.
fn make(top: &Path, files: u64) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let mut random = Random::new(7);
    for index in 0..files {
        let folder = top.join(format!("d{}/e{}", index % 7, index % 31));
        fs::create_dir_all(&folder)?;
        let path = folder.join(format!("file {index}"));
        let file = File::create(&path)?;
        let length = 1 << random.below(18);
        let content = pattern(index, random.below(length) as usize);
        file.write_all_at(&content, if index % 20 == 0 { 3 << 20 } else { 0 })?;
        let mode = *random.one_of(&[0o644, 0o600, 0o755, 0o4711]);
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        let age = std::time::Duration::from_nanos(random.below(1_000_000_000_000_000_000));
        file.set_modified(std::time::UNIX_EPOCH + age)?;
        if index % 10 == 0 {
            fs::hard_link(&path, folder.join(format!("again {index}")))?;
            symlink(
                format!("file {index}"),
                folder.join(format!("link {index}")),
            )?;
        }
        if rustix::process::geteuid().is_root() && index % 13 == 0 {
            std::os::unix::fs::lchown(&path, Some(1000), Some(1001))?;
            // Changing owners takes set-user-ID away.
            fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
        }
    }
    Ok(())
}
