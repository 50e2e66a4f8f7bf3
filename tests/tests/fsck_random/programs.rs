//! fsck.vmfs as its users run it.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use vmfs_tests::corpus::trial::Programs;

use super::victim::{Patches, Victim};

/// A run that takes longer than this hangs.
const PATIENCE: Duration = Duration::from_secs(120);
/// Address space that a run may have: more than it may have memory.
const MOST_MEMORY_KIB: u64 = 512 << 10;

/// Runs fsck.vmfs within its limits; the exit code.
pub(crate) fn fsck(programs: &Programs, arguments: &str, image: &Path) -> Result<i32, String> {
    // The limit is of address space, which is more than memory.
    let script =
        format!("ulimit -v {MOST_MEMORY_KIB}; exec \"$0\" {arguments} --lease 20 --json \"$1\"");
    let mut child = Command::new("sh")
        .args(["-c", &script])
        .arg(&programs.fsck)
        .arg(image)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| error.to_string())?;
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait().map_err(|error| error.to_string())? {
            let code = status.code().filter(|&code| code & !0x3f == 0);
            return code.ok_or_else(|| {
                let mut said = String::new();
                if let Some(mut errors) = child.stderr.take() {
                    let _ = std::io::Read::read_to_string(&mut errors, &mut said);
                }
                format!("{arguments}: {status}: {said}")
            });
        }
        if Instant::now() > end {
            let _ = child.kill();
            let _ = child.wait();
            return Err(format!("{arguments}: hangs"));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// What a volume was damaged with, and what `fsck.vmfs -y` says of it; for people.
pub(crate) fn show(
    victim: &Victim,
    patches: &Patches,
    programs: &Programs,
    image: &Path,
) -> String {
    let mut lines = Vec::new();
    for (at, bytes) in patches {
        let regions = victim.regions.iter().zip(&victim.names);
        let mut hit = regions.filter(|((start, length), _)| (*start..start + length).contains(at));
        let (start, name) = hit
            .next()
            .map_or((0, "?"), |((start, _), name)| (*start, name.as_str()));
        let (offset, length) = (at - start, bytes.len());
        let some = &bytes[..length.min(8)];
        lines.push(format!("{name} + {offset:#x}: {length} bytes, {some:02x?}"));
    }
    let mut command = Command::new(&programs.fsck);
    command.args(["-y", "--lease", "20"]).arg(image);
    let said = command.output();
    for said in said.iter().flat_map(|said| [&said.stdout, &said.stderr]) {
        let said = String::from_utf8_lossy(said);
        lines.extend(said.lines().map(|line| format!("  {line}")));
    }
    lines.join("\n  ")
}
