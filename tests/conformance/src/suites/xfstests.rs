//! xfstests: its generic quick group, from a checkout that somebody else made and built.

use std::env;
use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Signal, kill_process};
use tempfile::TempDir;

use super::{LONG, Session};
use crate::mount::{detach, servers};
use crate::outcome::Verdict;
use crate::place::{Kind, MOUNT_OPTIONS, in_memory};
use crate::process::wait_for;

/// A test that says nothing for so long hangs.
const SILENCE: Duration = Duration::from_secs(900);

/// mount(8) looks for helpers nowhere else.
const HELPERS: &str = "/sbin";

pub(super) fn run(session: &mut Session<'_>) -> Result<()> {
    let Some(checkout) = env::var_os("XFSTESTS_DIR") else {
        eprintln!("\n*** NOT TESTED: xfstests. Set XFSTESTS_DIR to a built checkout.\n");
        session.skip("quick", "XFSTESTS_DIR isn't set");
        return Ok(());
    };
    if matches!(session.place.kind(), Kind::Directory(_)) {
        session.skip("quick", "xfstests mounts what it tests");
        return Ok(());
    }
    session.place.unmount()?;
    let checkout = PathBuf::from(checkout);
    let setup = Setup::new(session)?;
    let names: Vec<String> = if let Ok(names) = env::var("XFSTESTS") {
        names.split_whitespace().map(str::to_owned).collect()
    } else {
        let mut list = setup.check(&checkout, &["-n", "-g", "generic/quick"]);
        let said = session.must(&mut list, LONG)?;
        let lines = said.lines().map(str::trim);
        let names = lines.filter(|line| line.starts_with("generic/"));
        names.map(str::to_owned).collect()
    };
    ensure!(!names.is_empty(), "xfstests lists no tests");
    let mut left: Vec<&str> = names.iter().map(String::as_str).collect();
    while !left.is_empty() {
        let before = left.len();
        let mut command = setup.check(&checkout, &left);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        command.stderr(fs::File::create(setup.folder.join("check.err"))?);
        let mut check = session.place.tools().processes.start(&mut command)?;
        let lines = lines(check.child().stdout.take().context("its output")?);
        let hung = listen(session, &lines, &mut left, &setup.folder);
        check.kill();
        setup.detach();
        setup.wait_for_servers(hung.is_some())?;
        if let Some(hung) = hung {
            session
                .checks
                .add(hung, Verdict::Failed(format!("hung for {SILENCE:?}")));
            left.retain(|name| *name != hung);
        } else if left.len() == before {
            bail!("check does nothing: {}", setup.said());
        }
        if session.place.tools().processes.interrupted() {
            bail!("interrupted");
        }
    }
    if session.place.family().is_some() {
        let volumes = setup.scratch_volume();
        let clean = session.place.fsck_image(&volumes);
        session.checks.note("fsck-scratch", clean);
    }
    Ok(())
}

/// Notes what `check` says of tests until it ends; returns the test at which it hangs. What is
/// done is taken from `left`.
fn listen<'a>(
    session: &mut Session<'_>,
    lines: &Receiver<String>,
    left: &mut Vec<&'a str>,
    folder: &Path,
) -> Option<&'a str> {
    loop {
        let line = match lines.recv_timeout(SILENCE) {
            Ok(line) => line,
            Err(RecvTimeoutError::Timeout) => return left.first().copied(),
            Err(RecvTimeoutError::Disconnected) => return None,
        };
        let Some(name) = line.split_whitespace().next() else {
            continue;
        };
        let Some(index) = left.iter().position(|known| *known == name) else {
            continue;
        };
        let name = left.remove(index);
        session.checks.add(name, verdict(&line, &folder.join(name)));
        if session.place.tools().processes.interrupted() {
            return None;
        }
    }
}

/// What a test's line means; `results` is the start of its files' names.
fn verdict(line: &str, results: &Path) -> Verdict {
    if let Some((_, why)) = line.split_once("[not run]") {
        return Verdict::Skipped(why.trim().to_owned());
    }
    if let Some((_, why)) = line.split_once("[expunged]") {
        return Verdict::Skipped(why.trim().to_owned());
    }
    let went_wrong =
        line.contains("output mismatch") || line.contains("[failed") || line.contains("_check_");
    if !went_wrong {
        return Verdict::Passed;
    }
    // It is put there after it was told of.
    let output = results.with_extension("out.bad");
    wait_for(Duration::from_millis(300), || output.exists());
    let bad = fs::read(output).unwrap_or_default();
    let bad = String::from_utf8_lossy(&bad);
    let start: String = bad.chars().take(600).collect();
    let how = line.split_once(' ').map_or("", |(_, how)| how).trim();
    Verdict::Failed(format!("{how}: {start}"))
}

fn lines(out: std::process::ChildStdout) -> Receiver<String> {
    let (send, lines) = channel();
    // Ends with the program.
    thread::spawn(move || {
        for line in BufReader::new(out).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).into_owned();
            if send.send(line).is_err() {
                return;
            }
        }
    });
    lines
}

/// What `check` needs to know, and the helper with which it mounts.
struct Setup {
    folder: PathBuf,
    config: PathBuf,
    helper: PathBuf,
    /// The program that serves, and the folder of what it serves.
    program: PathBuf,
    volumes: PathBuf,
    // Of passthrough_ll.
    below: Option<[TempDir; 2]>,
}

impl Setup {
    fn new(session: &Session<'_>) -> Result<Self> {
        let place = &*session.place;
        let folder = place.beside("xfstests")?;
        for name in ["test", "scratch"] {
            fs::create_dir_all(folder.join(name))?;
        }
        let subtype = format!("vmfs-conformance-{}", std::process::id());
        let helper = Path::new(HELPERS).join(format!("mount.fuse.{subtype}"));
        let program = match place.kind() {
            Kind::Passthrough => place.passthrough(),
            _ => place.tools().programs.join("mount-vmfs"),
        };
        let mut setup = Self {
            config: folder.join("config"),
            helper,
            program: program.clone(),
            volumes: place.folder().to_owned(),
            below: None,
            folder,
        };
        let (devices, options) = if let Some(family) = place.family() {
            let scratch = setup.scratch_volume();
            place.tools().mkfs(family, &scratch)?;
            fs::write(
                &setup.helper,
                // That it waits for the host before it, which is on its way out, is no difference.
                format!(
                    "#!/bin/sh\nRUST_LOG=warn exec {} \"$@\"\n",
                    program.display()
                ),
            )?;
            // xfstests takes the type fuse only, without a subtype.
            let options = format!("{MOUNT_OPTIONS},subtype=");
            ([place.image(), scratch], [options.clone(), options])
        } else {
            let below = [in_memory()?, in_memory()?];
            let script = format!("#!/bin/sh\nexec {} -ofsname=\"$@\"\n", program.display());
            fs::write(&setup.helper, script)?;
            let options = |below: &TempDir| {
                let below = below.path().display();
                format!("source={below},allow_other,default_permissions,dev,suid")
            };
            let both = [options(&below[0]), options(&below[1])];
            setup.below = Some(below);
            (["one".into(), "two".into()], both)
        };
        fs::set_permissions(&setup.helper, Permissions::from_mode(0o755))?;
        setup.write_config(&subtype, &devices, &options)?;
        Ok(setup)
    }

    fn write_config(&self, subtype: &str, devices: &[PathBuf], options: &[String]) -> Result<()> {
        let folder = self.folder.display();
        let config = format!(
            "export FSTYP=fuse\nexport FUSE_SUBTYP=.{subtype}\n\
             export TEST_DEV={}\nexport TEST_DIR={folder}/test\nexport TEST_FS_MOUNT_OPTS=-o{}\n\
             export SCRATCH_DEV={}\nexport SCRATCH_MNT={folder}/scratch\nexport MOUNT_OPTIONS=-o{}\n\
             export RESULT_BASE={folder}\n",
            devices[0].display(),
            options[0],
            devices[1].display(),
            options[1],
        );
        fs::write(&self.config, config).with_context(|| self.config.display().to_string())
    }

    /// The command `check` with `arguments`.
    fn check(&self, checkout: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(checkout.join("check"));
        command.current_dir(checkout).args(arguments);
        command.env("HOST_OPTIONS", &self.config);
        command
    }

    fn scratch_volume(&self) -> PathBuf {
        self.folder.join("scratch.img")
    }

    fn detach(&self) {
        for name in ["test", "scratch"] {
            detach(&self.folder.join(name));
        }
    }

    /// Waits until what served the mounts has ended; kills it if it `hangs`.
    fn wait_for_servers(&self, hangs: bool) -> Result<()> {
        let servers = || servers(&self.program, &self.volumes);
        if hangs {
            for server in servers() {
                let _ = kill_process(server, Signal::KILL);
            }
        }
        let gone = wait_for(Duration::from_secs(180), || servers().is_empty());
        ensure!(gone, "a server doesn't end: {:?}", servers());
        Ok(())
    }

    fn said(&self) -> String {
        fs::read_to_string(self.folder.join("check.err")).unwrap_or_default()
    }
}

impl Drop for Setup {
    fn drop(&mut self) {
        self.detach();
        let _ = self
            .wait_for_servers(false)
            .or_else(|_| self.wait_for_servers(true));
        let _ = fs::remove_file(&self.helper);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_lines_are_understood() {
        let verdict = |line| verdict(line, Path::new("/nowhere"));
        let skipped = Verdict::Skipped("no fiemap".into());
        assert_eq!(verdict("generic/012        [not run] no fiemap"), skipped);
        assert_eq!(verdict("generic/013         12s"), Verdict::Passed);
        assert_eq!(verdict("generic/013 3s ...  12s"), Verdict::Passed);
        for bad in [
            "generic/003 4s ... - output mismatch (see /x)",
            "generic/003 [failed, exit status 1]- output mismatch (see /x)",
            "generic/003 _check_dmesg: something found in dmesg (see /x)",
        ] {
            assert!(matches!(verdict(bad), Verdict::Failed(_)), "{bad}");
        }
    }
}
