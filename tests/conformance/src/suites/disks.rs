//! qemu-img: a disk through all formats on the mount, and back.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use anyhow::Result;
use vmfs_fixtures::pattern;
use vmfs_tests::random::Random;

use super::{LONG, Session};

/// A format's name for a file, qemu-img's name of it, and its options.
const FORMATS: [(&str, &str, &str); 6] = [
    ("raw", "raw", ""),
    ("preallocated", "raw", "preallocation=full"),
    ("qcow2", "qcow2", ""),
    ("qcow2-falloc", "qcow2", "preallocation=falloc"),
    ("vmdk-sparse", "vmdk", "subformat=monolithicSparse"),
    ("vmdk-flat", "vmdk", "subformat=monolithicFlat"),
];

/// How qemu-img opens its target: through the page cache, and with `O_DIRECT`.
const CACHES: [&str; 2] = ["writeback", "none"];

pub(super) fn run(session: &mut Session<'_>) -> Result<()> {
    let folder = session.place.beside("disks")?;
    let source = folder.join("source.raw");
    make(&source, session.pick(96 << 20, 1 << 30))?;
    let mut last = (source.clone(), "raw");
    for cache in CACHES {
        for (name, format, options) in FORMATS {
            let target = session.file(&format!("{name}-{cache}"));
            let mut convert = image_tool("convert");
            convert.args(["-f", last.1, "-O", format, "-t", cache, "-T", cache]);
            if !options.is_empty() {
                convert.args(["-o", options]);
            }
            convert.arg(&last.0).arg(&target);
            if session.check(&format!("{name}-{cache}"), &mut convert, LONG) {
                compare(
                    session,
                    &format!("{name}-{cache}"),
                    &source,
                    &target,
                    format,
                );
                last = (target, format);
            }
        }
    }
    session.place.remount()?;
    for cache in CACHES {
        for (name, format, _) in FORMATS {
            let target = session.file(&format!("{name}-{cache}"));
            let check = format!("{name}-{cache}-remounted");
            compare(session, &check, &source, &target, format);
        }
    }
    // Off the mount again.
    let back = folder.join("back.qcow2");
    let mut convert = image_tool("convert");
    convert
        .args(["-f", last.1, "-O", "qcow2"])
        .arg(&last.0)
        .arg(&back);
    if session.check("back", &mut convert, LONG) {
        compare(session, "back", &source, &back, "qcow2");
    }
    Ok(())
}

fn compare(session: &mut Session<'_>, name: &str, source: &Path, target: &Path, format: &str) {
    let mut compare = image_tool("compare");
    compare
        .args(["-f", "raw", "-F", format])
        .arg(source)
        .arg(target);
    session.check(&format!("{name}-same"), &mut compare, LONG);
    if format != "raw" {
        let mut check = image_tool("check");
        check.args(["-f", format]).arg(target);
        // Flat VMDKs have nothing to check, which qemu-img reports as 63.
        if !name.contains("flat") {
            session.check(&format!("{name}-checked"), &mut check, LONG);
        }
    }
}

fn image_tool(verb: &str) -> Command {
    let mut command = Command::new("qemu-img");
    command.arg(verb);
    command
}

/// A raw disk of `size` bytes, a quarter of it data in runs of all lengths.
fn make(path: &Path, size: u64) -> Result<()> {
    let file = File::create(path)?;
    file.set_len(size)?;
    let mut random = Random::new(3);
    let mut left = size / 4;
    while left > 0 {
        let length = left.min(512 << random.below(13));
        let offset = random.below(size - length) / 512 * 512;
        file.write_all_at(&pattern(random.bits(), length as usize), offset)?;
        left -= length;
    }
    Ok(())
}
