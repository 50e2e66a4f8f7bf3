//! A virtual machine, under software emulation, that boots from a disk on the mount and tells over
//! its serial line what it has synced; the mount is killed under it, and it boots again.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::{LONG, Session, script};
use crate::process::Running;

/// Where `make_guest` puts the guest's root, and its raw records, in bytes.
const ROOT: u64 = 133_120 * 512;
const RECORDS: u64 = 264_192 * 512;
const RECORD: u64 = 4096;

/// How long the guest may say nothing; it takes some seconds to boot.
const SILENCE: Duration = Duration::from_secs(120);

/// How QEMU treats the disk's pages.
const CACHES: [&str; 3] = ["none", "writeback", "writethrough"];

pub(super) fn run(session: &mut Session<'_>) -> Result<()> {
    if !session.place.can_be_killed() {
        session.skip("cut", "a plain directory can't be killed");
    }
    let raw = session.place.beside("guest")?.join("guest.raw");
    session.must(Command::new(script("make_guest")).arg(&raw), LONG)?;
    let disk = session.file("guest.vmdk");
    let mut convert = Command::new("qemu-img");
    convert.args(["convert", "-O", "vmdk", "-o", "subformat=monolithicFlat"]);
    session.must(convert.arg(&raw).arg(&disk), LONG)?;
    let mut synced = 0;
    for cache in CACHES.iter().take(session.pick(1, 3)) {
        if session.place.can_be_killed() {
            for after in [20, 90] {
                let name = format!("cut-{cache}-{after}");
                let result = cut(session, cache, &disk, after, &mut synced);
                let failed = result.is_err();
                session.checks.note(name, result);
                if failed {
                    bail!("no use in going on");
                }
            }
        }
        let result = to_the_end(session, cache, &disk, &mut synced);
        session.checks.note(format!("whole-{cache}"), result);
    }
    session.place.remount()?;
    let flat = session.file("guest-flat.vmdk");
    session.checks.note("records", check_records(&flat, synced));
    let mut fsck = Command::new("e2fsck");
    fsck.arg("-fn")
        .arg(format!("{}?offset={ROOT}", flat.display()));
    session.check("e2fsck", &mut fsck, LONG);
    Ok(())
}

/// Boots, waits until the guest has synced `after` more records, kills the mount, and looks for
/// all that the guest had called synced.
fn cut(
    session: &mut Session<'_>,
    cache: &str,
    disk: &Path,
    after: u64,
    synced: &mut u64,
) -> Result<()> {
    let mut guest = Guest::boot(session, cache, disk, *synced)?;
    let until = guest.synced + after;
    while guest.synced < until {
        ensure!(guest.listen()?, "it stopped at {}", guest.synced);
    }
    session.place.kill()?;
    // What it had said before.
    while guest.hears_more() {}
    guest.machine.kill();
    while guest.hears_more() {}
    *synced = guest.synced;
    session.place.mount()?;
    check_records(&session.file("guest-flat.vmdk"), *synced)
}

/// Boots and lets the guest go on until it powers off.
fn to_the_end(session: &Session<'_>, cache: &str, disk: &Path, synced: &mut u64) -> Result<()> {
    let mut guest = Guest::boot(session, cache, disk, *synced)?;
    while guest.listen()? {}
    ensure!(guest.machine.wait(SILENCE)?.success(), "QEMU failed");
    ensure!(guest.done, "it didn't write all");
    *synced = guest.synced;
    Ok(())
}

/// All records up to `last` are on the disk, as the guest wrote them.
fn check_records(flat: &Path, last: u64) -> Result<()> {
    let file = File::open(flat)?;
    for number in 1..=last {
        let mut found = [0; RECORD as usize];
        file.read_exact_at(&mut found, RECORDS + number * RECORD)?;
        let wanted = format!("record {number:08} {number:>4080}");
        ensure!(
            found == wanted.as_bytes(),
            "record {number} of {last} isn't there: {:?}",
            String::from_utf8_lossy(&found[..24])
        );
    }
    Ok(())
}

/// A machine that runs.
struct Guest {
    machine: Running,
    lines: Receiver<String>,
    synced: u64,
    done: bool,
}

impl Guest {
    /// Boots it; it must find at least `synced` records in its log.
    fn boot(session: &Session<'_>, cache: &str, disk: &Path, synced: u64) -> Result<Self> {
        let mut command = Command::new("qemu-system-x86_64");
        command.args([
            "-accel",
            "tcg",
            "-m",
            "256",
            "-nodefaults",
            "-no-user-config",
        ]);
        command.args([
            "-display",
            "none",
            "-no-reboot",
            "-serial",
            "stdio",
            "-drive",
        ]);
        let file = disk.display();
        command.arg(format!("file={file},format=vmdk,if=virtio,cache={cache}"));
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let log = session.place.beside("guest")?.join("qemu.log");
        command.stderr(File::options().create(true).append(true).open(log)?);
        let mut machine = session.place.tools().processes.start(&mut command)?;
        let out = machine.child().stdout.take().context("its serial line")?;
        let (send, lines) = channel();
        // Ends with the machine.
        thread::spawn(move || {
            for line in BufReader::new(out).split(b'\n').map_while(Result::ok) {
                if send
                    .send(String::from_utf8_lossy(&line).into_owned())
                    .is_err()
                {
                    return;
                }
            }
        });
        let mut guest = Self {
            machine,
            lines,
            synced: 0,
            done: false,
        };
        let mut said = String::new();
        let start = Instant::now();
        while start.elapsed() < SILENCE {
            let Ok(line) = guest.lines.recv_timeout(SILENCE) else {
                break;
            };
            if let Some(found) = line.trim().strip_prefix("FOUND ") {
                guest.synced = found.parse()?;
                ensure!(
                    guest.synced >= synced,
                    "the guest had synced {synced} records and finds {found}"
                );
                return Ok(guest);
            }
            said.push_str(&line);
        }
        bail!("the guest doesn't boot: {said}")
    }

    /// Waits for a line; `false` when the machine has ended.
    fn listen(&mut self) -> Result<bool> {
        match self.hear(SILENCE) {
            Err(RecvTimeoutError::Timeout) => bail!("the guest says nothing any more"),
            heard => Ok(heard.is_ok()),
        }
    }

    /// Waits for a line a little; `false` when none comes.
    fn hears_more(&mut self) -> bool {
        self.hear(Duration::from_secs(2)).is_ok()
    }

    fn hear(&mut self, limit: Duration) -> Result<(), RecvTimeoutError> {
        let line = self.lines.recv_timeout(limit)?;
        let line = line.trim();
        if let Some(number) = line.strip_prefix("SYNCED ") {
            self.synced = number.parse().unwrap_or(self.synced);
        }
        self.done |= line.starts_with("DONE");
        Ok(())
    }
}
