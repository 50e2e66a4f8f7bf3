//! pjdfstest: what POSIX says of each call, as root and as other users.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::thread;

use anyhow::{Result, ensure};

use super::{LONG, Session, cargo_program};
use crate::outcome::Verdict;
use crate::place::in_memory;

/// VMFS stores whole seconds, so the tests sleep longer than that between two times.
const CONFIG: &str = r#"
[features]
posix_fallocate = {}
rename_ctime = {}
utime_now = {}
utimensat = {}
[settings]
naptime = 1.1
allow_remount = false
[dummy_auth]
entries = [["nobody", "nogroup"], ["daemon", "daemon"], ["bin", "bin"]]
"#;

/// Parts of names that between them occur in all names; mostly they sleep, so they run together.
const PARTS: [&[&str]; 10] = [
    &["chmod::"],
    &["chown::"],
    &["link::"],
    &["truncate::"],
    &["mkdir::", "mkfifo::"],
    &["mknod::", "posix_fallocate::"],
    &["open::"],
    &["rename::"],
    &["rmdir::"],
    &["utimensat::"],
];

/// How many tests the installed version has.
const TESTS: usize = 398;

pub(super) fn run(session: &mut Session<'_>) -> Result<()> {
    let folder = session.place.beside("pjdfstest")?;
    let config = folder.join("pjdfstest.toml");
    fs::write(&config, CONFIG)?;
    // Another file system, for links and renames that can't be.
    let other = in_memory()?;
    let processes = &session.place.tools().processes;
    let outputs: Vec<_> = thread::scope(|scope| {
        let run_part = |part: &'static [&str]| {
            let mut command = Command::new(cargo_program("pjdfstest"));
            command.arg("-c").arg(&config).arg("-s").arg(other.path());
            command.arg("-p").arg(session.place.path()).args(part);
            scope.spawn(move || processes.run(&mut command, LONG))
        };
        let parts: Vec<_> = PARTS.into_iter().map(run_part).collect();
        parts
            .into_iter()
            .map(thread::ScopedJoinHandle::join)
            .collect()
    });
    let mut verdicts = BTreeMap::new();
    for output in outputs {
        let said = output.map_err(|_| anyhow::anyhow!("a thread died"))??;
        ensure!(said.out.contains("Summary:"), "{}{}", said.out, said.err);
        for (name, verdict) in read(&said.out) {
            // Some names are in two parts.
            let known = verdicts.entry(name).or_insert(Verdict::Passed);
            if *known == Verdict::Passed {
                *known = verdict;
            }
        }
    }
    ensure!(
        verdicts.len() == TESTS,
        "{} tests ran, not {TESTS}: is it another version?",
        verdicts.len()
    );
    for (name, verdict) in verdicts {
        session.checks.add(name, verdict);
    }
    Ok(())
}

/// A test's line has its name and how it ended; indented lines behind it say why.
fn read(output: &str) -> Vec<(String, Verdict)> {
    let mut verdicts: Vec<(String, Verdict)> = Vec::new();
    for line in output.lines() {
        if line.starts_with('\t') {
            if let Some((_, Verdict::Failed(why) | Verdict::Skipped(why))) = verdicts.last_mut() {
                why.push_str(line.trim());
            }
            continue;
        }
        let mut words = line.split_whitespace();
        if let (Some(name), Some(word), None) = (words.next(), words.next(), words.next()) {
            let verdict = match word {
                "ok" => Verdict::Passed,
                "skipped" => Verdict::Skipped(String::new()),
                "FAILED" => Verdict::Failed(String::new()),
                _ => continue,
            };
            verdicts.push((name.to_owned(), verdict));
        }
    }
    verdicts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_words_are_understood() {
        let output = "\nchmod::a::b     ok\nchmod::c  skipped\n\tno such thing\nopen::d   FAILED\n\tassertion failed\n\tmore\n\nSummary: 1 failed, 1 skipped, 1 passed, 0 expected failures, 3 total\n";
        let expected = [
            ("chmod::a::b", Verdict::Passed),
            ("chmod::c", Verdict::Skipped("no such thing".into())),
            ("open::d", Verdict::Failed("assertion failedmore".into())),
        ];
        let read = read(output);
        assert_eq!(read.len(), expected.len());
        for ((name, verdict), (wanted, how)) in read.iter().zip(expected) {
            assert_eq!((name.as_str(), verdict), (wanted, &how));
        }
    }
}
