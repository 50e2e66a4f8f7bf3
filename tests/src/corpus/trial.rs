use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use rustix::fs::SeekFrom;
use vmfs_core::format::FdAddr;
use vmfs_core::fs::{Creator, FileSystem};
use vmfs_core::lvm::open_paths;
use vmfs_core::scsi::Access;
use vmfs_fixtures::{Known, What};

use super::base::Base;
use super::place::Places;
use super::recipe::Recipe;
use crate::crash::volume::new_host;

/// The programs under test.
#[derive(Debug, Clone)]
pub struct Programs {
    /// `fsck.vmfs`.
    pub fsck: PathBuf,
    /// `vmfs`.
    pub vmfs: PathBuf,
}

/// The programs, built as this one was; `VMFS_PROGRAMS` names another folder that has them.
///
/// # Panics
/// When they don't build.
pub fn programs() -> Programs {
    let folder = std::env::var_os("VMFS_PROGRAMS").map_or_else(build, PathBuf::from);
    Programs {
        fsck: folder.join("fsck-vmfs"),
        vmfs: folder.join("vmfs"),
    }
}

fn build() -> PathBuf {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args([
        "build",
        "--quiet",
        "--bins",
        "-p",
        "fsck-vmfs",
        "-p",
        "vmfs",
    ]);
    if !cfg!(debug_assertions) {
        command.arg("--release");
    }
    let status = command.current_dir(crate::images::workspace()).status();
    assert!(
        status.expect("cargo starts").success(),
        "the programs don't build"
    );
    // Tests lie one folder below.
    let own = std::env::current_exe().expect("a path");
    let mut folders = own.ancestors().skip(1);
    let folder = folders.find(|folder| folder.join("fsck-vmfs").exists());
    folder.expect("a folder with the programs").to_owned()
}

/// Copies the data of a sparse file; what there is at `to` is lost.
///
/// # Errors
/// What the files return.
pub fn copy_sparse(from: &Path, to: &Path) -> Result<()> {
    let source = File::open(from)?;
    let target = File::create(to)?;
    let length = source.metadata()?.len();
    target.set_len(length)?;
    for_each_data(&source, length, |at, bytes| {
        Ok(target.write_all_at(bytes, at)?)
    })
}

/// Calls `visit` with the data of a sparse file, piece by piece.
fn for_each_data(
    file: &File,
    length: u64,
    mut visit: impl FnMut(u64, &[u8]) -> Result<()>,
) -> Result<()> {
    let mut bytes = vec![0; 1 << 20];
    let mut at = 0;
    while at < length {
        let Ok(data) = rustix::fs::seek(file, SeekFrom::Data(at)) else {
            return Ok(());
        };
        let hole = rustix::fs::seek(file, SeekFrom::Hole(data))?;
        at = data;
        while at < hole {
            let part = (hole - at).min(bytes.len() as u64) as usize;
            file.read_exact_at(&mut bytes[..part], at)?;
            visit(at, &bytes[..part])?;
            at += part as u64;
        }
    }
    Ok(())
}

/// Whether both files have the same bytes, holes being zeros.
///
/// # Errors
/// What the files return.
pub fn same(a: &Path, b: &Path) -> Result<bool> {
    let (one, other) = (File::open(a)?, File::open(b)?);
    let length = one.metadata()?.len();
    let mut same = other.metadata()?.len() == length;
    for (one, other) in [(&one, &other), (&other, &one)] {
        let mut bytes = vec![0; 1 << 20];
        for_each_data(one, length, |at, data| {
            let theirs = &mut bytes[..data.len()];
            other.read_exact_at(theirs, at)?;
            same &= theirs == data;
            Ok(())
        })?;
    }
    Ok(same)
}

/// Makes the image of `recipe` in `folder`; returns its devices.
///
/// # Errors
/// The damage names something that isn't there.
pub fn make(recipe: &Recipe, base: &Base, folder: &Path) -> Result<Vec<PathBuf>> {
    let places = Places::new(base)?;
    let mut devices = Vec::new();
    for (index, device) in base.devices.iter().enumerate() {
        let path = folder.join(format!("{}-{index}.img", recipe.name));
        copy_sparse(device, &path)?;
        devices.push(path);
    }
    for damage in &recipe.damage {
        let (device, at, bytes) = places.change(damage, &devices)?;
        let file = File::options().write(true).open(&devices[device])?;
        file.write_all_at(&bytes, at)?;
    }
    Ok(devices)
}

/// What a trial looks at.
struct Trial<'a> {
    base: &'a Base,
    programs: &'a Programs,
    devices: Vec<PathBuf>,
    original: Vec<PathBuf>,
    undo: PathBuf,
    left_out: &'a BTreeSet<usize>,
}

/// What a run of fsck.vmfs reported, by codes.
#[derive(Debug, Default)]
struct Records {
    findings: BTreeSet<String>,
    notes: BTreeSet<String>,
}

/// What came of an image.
#[derive(Debug, Default, serde::Serialize)]
pub struct Observed {
    /// The codes that `-n` found.
    pub findings: BTreeSet<String>,
    /// The notes that it made.
    pub notes: BTreeSet<String>,
    /// The codes that only `-y` found.
    pub settled: BTreeSet<String>,
    /// Exit code of `-n`.
    pub check: i32,
    /// Exit code of `-p`.
    pub preen: i32,
    /// Exit code of `-y`.
    pub yes: i32,
    /// Exit code of `-n` after `-y`.
    pub again: i32,
    /// What that found.
    pub left: BTreeSet<String>,
    /// Paths that aren't as they were made any more.
    pub hit: Vec<String>,
    /// Files in /lost+found.
    pub orphans: u64,
}

/// Checks, repairs, checks again, mounts and undoes the image of `recipe`. `folder` is for this trial
/// alone.
///
/// # Errors
/// What must never happen: `-n` writes, or `-p` where it says that it didn't, undoing doesn't restore the
/// image, or a volume that is clean can't be mounted and written to.
pub fn observe(
    recipe: &Recipe,
    base: &Base,
    programs: &Programs,
    folder: &Path,
) -> Result<Observed> {
    let devices = make(recipe, base, folder)?;
    let mut original = Vec::new();
    for device in &devices {
        let copy = device.with_extension("original");
        copy_sparse(device, &copy)?;
        original.push(copy);
    }
    let trial = Trial {
        base,
        programs,
        devices,
        original,
        undo: folder.join(format!("{}.undo", recipe.name)),
        left_out: &recipe.left_out,
    };
    let result = trial.run();
    for path in trial
        .devices
        .iter()
        .chain(&trial.original)
        .chain([&trial.undo])
    {
        let _ = fs::remove_file(path);
    }
    result
}

/// Tries the image of `recipe` and compares what comes of it with what the recipe says.
///
/// # Errors
/// Those of [`observe`], and what is otherwise than the recipe says.
pub fn run(recipe: &Recipe, base: &Base, programs: &Programs, folder: &Path) -> Result<()> {
    let seen = observe(recipe, base, programs, folder)?;
    let expected = &recipe.expected;
    let codes = (seen.check, seen.preen, seen.yes, seen.again);
    let hit = |path: &String| {
        expected.hit.iter().any(|hit| {
            path.strip_prefix(hit.trim_end_matches('/'))
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
    };
    let lost: Vec<_> = seen.hit.iter().filter(|path| !hit(path)).collect();
    ensure!(
        seen.findings == recipe.findings,
        "-n finds {:?}, expected {:?}",
        seen.findings,
        recipe.findings
    );
    ensure!(
        (&seen.notes, &seen.settled) == (&expected.notes, &expected.settled),
        "-n notes {:?}, expected {:?}; -y finds {:?} besides, expected {:?}",
        seen.notes,
        expected.notes,
        seen.settled,
        expected.settled
    );
    ensure!(
        codes == (expected.check, expected.preen, expected.yes, expected.again),
        "-n, -p, -y and -n exit with {codes:?}, expected {:?}; left is {:?}",
        (expected.check, expected.preen, expected.yes, expected.again),
        seen.left
    );
    ensure!(lost.is_empty(), "no longer as they were made: {lost:?}");
    ensure!(
        seen.orphans == expected.orphans,
        "{} orphans, expected {}",
        seen.orphans,
        expected.orphans
    );
    Ok(())
}

impl Trial<'_> {
    fn run(&self) -> Result<Observed> {
        let mut seen = Observed::default();
        let Records { findings, notes } = self.fsck(&["-n", "--json"], &mut seen.check)?;
        (seen.findings, seen.notes) = (findings, notes);
        ensure!(self.is_original()?, "-n has written");
        let undo = self.undo.display().to_string();
        self.fsck(&["-p", "--json", "--undo", &undo], &mut seen.preen)?;
        if seen.preen & 1 != 0 {
            self.undo("-p")?;
        } else {
            ensure!(
                self.is_original()?,
                "-p has written, and says {}",
                seen.preen
            );
        }
        let _ = fs::remove_file(&self.undo);
        let repaired = self.fsck(&["-y", "--json", "--undo", &undo], &mut seen.yes)?;
        seen.settled = &repaired.findings - &seen.findings;
        let again = self.fsck(&["-n", "--json"], &mut seen.again)?;
        seen.left = again.findings;
        // What only ESXi can replay keeps the volume from being mounted.
        if seen.again == 0 && !again.notes.contains("journal-foreign") {
            (seen.hit, seen.orphans) = self.compare_files()?;
            self.write_to()?;
        }
        if seen.yes & 1 != 0 {
            self.undo("-y")?;
        } else {
            ensure!(self.is_original()?, "-y has written, and says {}", seen.yes);
        }
        Ok(seen)
    }

    /// Runs fsck.vmfs; what it found, and its exit code in `exit`.
    fn fsck(&self, arguments: &[&str], exit: &mut i32) -> Result<Records> {
        // Nobody else has the image: a dead host needn't be waited for long.
        let arguments = [arguments, &["--lease", "20"]].concat();
        let output = self.start(&self.programs.fsck, &arguments)?;
        let text = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        let mut records = Records::default();
        for line in text.lines() {
            let record: serde_json::Value = serde_json::from_str(line)?;
            let codes = match record["record"].as_str() {
                Some("finding") => &mut records.findings,
                Some("note") => &mut records.notes,
                _ => continue,
            };
            codes.extend(record["code"].as_str().map(str::to_owned));
        }
        let code = output.status.code();
        let code = code.filter(|code| *code != 101);
        *exit = code.with_context(|| format!("{arguments:?}: {}\n{errors}", output.status))?;
        Ok(records)
    }

    fn start(&self, program: &Path, arguments: &[&str]) -> Result<Output> {
        let arguments = arguments.iter().map(OsString::from);
        let given = |index: &usize| !self.left_out.contains(index);
        let devices = self.devices.iter().enumerate();
        let devices = devices.filter_map(|(index, path)| given(&index).then_some(path));
        let devices = devices.map(|path| path.as_os_str().to_owned());
        Ok(Command::new(program)
            .args(arguments.chain(devices))
            .output()?)
    }

    fn is_original(&self) -> Result<bool> {
        for (device, original) in self.devices.iter().zip(&self.original) {
            if !same(device, original)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn undo(&self, after: &str) -> Result<()> {
        let undo = self.undo.display().to_string();
        let output = self.start(&self.programs.vmfs, &["undo", &undo])?;
        ensure!(
            output.status.success(),
            "vmfs undo after {after}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        ensure!(
            self.is_original()?,
            "vmfs undo after {after} doesn't restore the image"
        );
        Ok(())
    }

    /// The paths that don't lead to what they were made as, and the number of orphans.
    fn compare_files(&self) -> Result<(Vec<String>, u64)> {
        let fs = FileSystem::open(open_paths(&self.devices, Access::ReadOnly)?)?;
        let known = self.base.manifest.iter();
        let hit = known.filter(|known| compare(&fs, known).is_err());
        let hit = hit.map(|known| known.path.clone()).collect();
        let mut orphans = 0;
        if let Ok(folder) = fs.resolve(b"/lost+found", false) {
            fs.read_dir(&folder, 0, |_| {
                orphans += 1;
                true
            })?;
        }
        Ok((hit, orphans))
    }

    /// Mounts the repaired volume for writing and writes a file, on a copy.
    fn write_to(&self) -> Result<()> {
        let mut copies = Vec::new();
        for device in &self.devices {
            let copy = device.with_extension("written");
            copy_sparse(device, &copy)?;
            copies.push(copy);
        }
        let result = write_to(&copies);
        for copy in copies {
            let _ = fs::remove_file(copy);
        }
        result.context("writing to the repaired volume")
    }
}

fn write_to(devices: &[PathBuf]) -> Result<()> {
    let (host, _clock) = new_host();
    let volume = open_paths(devices, Access::ReadWrite)?;
    let fs = FileSystem::open_for_writing(volume, host)?;
    let creator = Creator {
        mode: 0o644,
        uid: 0,
        gid: 0,
    };
    let file = fs.create(FdAddr::ROOT, b"written after the repair", creator)?;
    let content = vmfs_fixtures::pattern(99, 100_000);
    fs.write(file.fd(), 0, &content)?;
    fs.close()?;
    drop(fs);
    let fs = FileSystem::open(open_paths(devices, Access::ReadOnly)?)?;
    let file = fs.resolve(b"/written after the repair", false)?;
    let mut found = vec![0; content.len()];
    fs.read(&file, 0, &mut found)?;
    ensure!(found == content, "what was written isn't there");
    Ok(())
}

/// Whether the file is what it was made as.
fn compare(fs: &FileSystem, known: &Known) -> Result<()> {
    const PIECE: u64 = 1 << 20;
    let inode = fs.resolve(known.path.as_bytes(), false)?;
    match &known.what {
        What::File(content) => {
            ensure!(
                inode.length() == content.length(),
                "length {}",
                inode.length()
            );
            let mut at = 0;
            while at < content.length() {
                let end = (at + PIECE).min(content.length());
                let mut found = vec![0; (end - at) as usize];
                fs.read(&inode, at, &mut found)?;
                let expected = content.expected(at..end, fs.layout().file_block_size());
                ensure!(found == expected, "content from {at:#x} on");
                at = end;
            }
        }
        What::Symlink(target) => {
            ensure!(fs.read_link(&inode)? == target.as_bytes(), "another target");
        }
        What::Directory => ensure!(inode.is_directory(), "no directory"),
        What::Rdm(length) => ensure!(inode.length() == *length, "length {}", inode.length()),
        What::Link => {}
    }
    Ok(())
}
