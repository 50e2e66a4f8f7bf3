//! Damaged volumes, and repairing them without changing them.

#![allow(dead_code, reason = "each test uses a part of it")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use fsck_vmfs::plan::Plan;
use fsck_vmfs::{Code, FsckError, Mode, Options, Outcome, run};
use rustix::fs::{MemfdFlags, SeekFrom, memfd_create, seek};
use vmfs_core::format::{FdAddr, Layout, ZeroLevel};
use vmfs_core::fs::FileSystem;
use vmfs_core::lvm::{open_luns, open_paths};
use vmfs_core::scsi::{Access, FaultLun, Faults, FileLun, Lun};
use vmfs_fixtures::{Fixture, Kind, Known, What};

/// A volume that can be damaged, and what is where on it.
pub(crate) struct Subject {
    pub(crate) fixture: Fixture,
    pub(crate) fs: FileSystem,
}

impl Subject {
    pub(crate) fn new(kind: Kind) -> Self {
        Self::of(kind.build().expect("fixture"))
    }

    pub(crate) fn of(fixture: Fixture) -> Self {
        let volume = open_paths(&fixture.paths(), Access::ReadOnly).expect("volume");
        let fs = FileSystem::open(volume).expect("file system");
        Self { fixture, fs }
    }

    pub(crate) fn layout(&self) -> &Layout {
        self.fs.layout()
    }

    pub(crate) fn write(&self, offset: u64, bytes: &[u8]) {
        self.fixture.write(offset, bytes).expect("write");
    }

    pub(crate) fn read(&self, offset: u64, length: usize) -> Vec<u8> {
        self.fixture.read(offset, length).expect("read")
    }

    /// Where a file descriptor lies.
    pub(crate) fn place(&self, fd: FdAddr) -> u64 {
        self.fs.inode(fd).expect("inode").offset().0
    }

    /// Where a field of a file descriptor's metadata lies.
    pub(crate) fn field(&self, fd: FdAddr, offset: u64) -> u64 {
        self.place(fd) + self.layout().fd_meta + offset
    }

    /// The regular files with file blocks in their address arrays, in the order of the manifest.
    pub(crate) fn block_files(&self) -> Vec<FdAddr> {
        self.files(|inode| {
            inode.map().zero_level() == ZeroLevel::FileBlock
                && inode.map().addresses().first().is_some_and(|&raw| raw != 0)
        })
    }

    /// Regular files that `wanted` accepts.
    pub(crate) fn files(&self, wanted: impl Fn(&vmfs_core::fs::Inode) -> bool) -> Vec<FdAddr> {
        let files = self.fixture.manifest().iter();
        let files = files.filter(|known| matches!(known.what, What::File(_)));
        files
            .map(|known| known.fd)
            .filter(|&fd| wanted(&self.fs.inode(fd).expect("inode")))
            .collect()
    }

    /// Where the entry of a file in /files lies on the volume.
    pub(crate) fn entry_of(&self, fd: FdAddr) -> u64 {
        let root = self.fs.resolve(b"/files", false).expect("/files");
        let mut content = vec![0; root.length() as usize];
        self.fs.read(&root, 0, &mut content).expect("read");
        let raw = fd.raw().to_le_bytes();
        // Behind the entries of the directory itself and the one above.
        let start = if self.layout().md_block == 512 {
            280
        } else {
            0x1_1000
        };
        let at = content[start..]
            .windows(4)
            .position(|bytes| bytes == raw)
            .expect("an entry")
            + start
            - 4;
        self.in_directory(&root, at as u64)
    }

    /// Where an offset in the root directory lies on the volume.
    pub(crate) fn in_root(&self, offset: u64) -> u64 {
        self.in_directory(&self.fs.root().expect("root"), offset)
    }

    /// Where an offset in a directory lies on the volume.
    pub(crate) fn in_directory(&self, directory: &vmfs_core::fs::Inode, offset: u64) -> u64 {
        let run = self.fs.run_at(directory, offset, offset + 1).expect("run");
        match run.place {
            vmfs_core::fs::Place::Data(place) => place.0,
            other => panic!("{other:?}"),
        }
    }

    /// The devices as they are.
    pub(crate) fn luns(&self) -> Vec<Arc<dyn Lun>> {
        let open = |path| Arc::new(FileLun::open(path, Access::ReadOnly).expect("lun")) as _;
        self.fixture.paths().iter().map(|path| open(path)).collect()
    }

    /// The devices, to be written to in memory.
    pub(crate) fn scratch(&self) -> Vec<Arc<dyn Lun>> {
        let plan = Arc::new(Plan::default());
        let wrap = |lun| plan.wrap(lun) as Arc<dyn Lun>;
        self.luns().into_iter().map(wrap).collect()
    }
}

/// Copies of a volume's devices, sparse files in memory that can be written to.
pub(crate) struct Copies(Vec<File>);

impl Copies {
    pub(crate) fn of(subject: &Subject) -> Self {
        let copy = |source: &File| {
            let copy = File::from(memfd_create("copy", MemfdFlags::CLOEXEC).expect("memfd"));
            copy.set_len(source.metadata().expect("metadata").len())
                .expect("length");
            each_piece(source, |at, bytes| {
                copy.write_all_at(bytes, at).expect("write");
            });
            copy
        };
        Self(subject.fixture.files().iter().map(copy).collect())
    }

    pub(crate) fn luns(&self) -> Vec<Arc<dyn Lun>> {
        let path = |file: &File| PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
        let open = |file| FileLun::open(&path(file), Access::ReadWrite).expect("lun");
        self.0
            .iter()
            .map(|file| Arc::new(open(file)) as _)
            .collect()
    }

    /// Checksums of all pieces that aren't zero, by device and offset: equal if all bytes are.
    pub(crate) fn contents(&self) -> BTreeMap<(usize, u64), u32> {
        let mut sums = BTreeMap::new();
        for (device, file) in self.0.iter().enumerate() {
            each_piece(file, |at, bytes| {
                if bytes.iter().any(|&byte| byte != 0) {
                    sums.insert((device, at), crc32fast::hash(bytes));
                }
            });
        }
        sums
    }
}

/// Calls `visit` with each piece of a sparse file that isn't a hole. Pieces begin at multiples of
/// their greatest length.
fn each_piece(file: &File, mut visit: impl FnMut(u64, &[u8])) {
    const PIECE: u64 = 1 << 20;
    let length = file.metadata().expect("metadata").len();
    let mut at = 0;
    while at < length
        && let Ok(data) = seek(file, SeekFrom::Data(at))
    {
        let start = data / PIECE * PIECE;
        let mut bytes = vec![0; (length - start).min(PIECE) as usize];
        file.read_exact_at(&mut bytes, start).expect("read");
        visit(start, &bytes);
        at = start + PIECE;
    }
}

pub(crate) fn options() -> Options {
    Options {
        lease: std::time::Duration::from_millis(50),
        ..Options::default()
    }
}

pub(crate) fn repair(luns: &[Arc<dyn Lun>], mode: Mode) -> Result<Outcome, FsckError> {
    run(luns, mode, &options(), &mut |_| {})
}

pub(crate) fn checked(luns: &[Arc<dyn Lun>]) -> Outcome {
    repair(luns, Mode::Check).expect("a check")
}

pub(crate) fn codes(outcome: &Outcome) -> BTreeSet<&'static str> {
    let codes = outcome.report.totals.keys();
    codes.map(|code: &Code| code.name()).collect()
}

/// Repairs with the LUNs cut off after so many writes.
pub(crate) fn cut_repair(luns: &[Arc<dyn Lun>], writes: u64) -> Result<Outcome, FsckError> {
    repair(&cut(luns, writes), Mode::Yes)
}

/// The LUNs, cut off together after so many writes.
pub(crate) fn cut(luns: &[Arc<dyn Lun>], writes: u64) -> Vec<Arc<dyn Lun>> {
    let faults = Arc::new(Faults::none(false, false));
    faults.set(writes, u64::MAX);
    let cut = |lun: &Arc<dyn Lun>| FaultLun::new(Arc::clone(lun), Arc::clone(&faults));
    luns.iter()
        .map(|lun| Arc::new(cut(lun)) as Arc<dyn Lun>)
        .collect()
}

/// Whether the files of the manifest that aren't in `hit` have their names and hold what they did.
pub(crate) fn intact(
    luns: &[Arc<dyn Lun>],
    manifest: &[Known],
    hit: &[FdAddr],
) -> Result<(), String> {
    let fs = FileSystem::open(open_luns(luns.to_vec()).expect("volume")).expect("mounts");
    let block = fs.layout().file_block_size();
    for known in manifest.iter().filter(|known| !hit.contains(&known.fd)) {
        let What::File(content) = &known.what else {
            continue;
        };
        let inode = fs
            .resolve(known.path.as_bytes(), false)
            .map_err(|error| format!("{}: {error}", known.path))?;
        if inode.length() != content.length() {
            return Err(format!("{}: {} bytes", known.path, inode.length()));
        }
        // The ends, where data is in most of them.
        let length = content.length();
        for range in [
            0..length.min(1 << 16),
            length.saturating_sub(1 << 16)..length,
        ] {
            let mut found = vec![0; (range.end - range.start) as usize];
            fs.read(&inode, range.start, &mut found)
                .map_err(|error| format!("{}: {error}", known.path))?;
            if found != content.expected(range, block) {
                return Err(format!("{}: other content", known.path));
            }
        }
    }
    Ok(())
}

/// Damage is found as expected, if anything is, and repaired; then nothing is found, and files that
/// weren't hit are what they were.
pub(crate) fn finds_and_repairs(name: &str, subject: &Subject, hit: &[FdAddr], expected: &[&str]) {
    let before = checked(&subject.luns());
    let expected: BTreeSet<&str> = expected.iter().copied().collect();
    assert!(
        expected.is_empty() || codes(&before) == expected,
        "{name}: {:?}, expected {expected:?}: {:#?}",
        codes(&before),
        before.report.findings
    );
    let luns = subject.scratch();
    let repaired = repair(&luns, Mode::Yes).expect("a repair");
    let after = checked(&luns);
    assert!(
        after.report.is_clean() && repaired.exit_code() == 1,
        "{name}: exit {}, then {:#?}",
        repaired.exit_code(),
        after.report.findings
    );
    let intact = intact(&luns, subject.fixture.manifest(), hit);
    let findings = repaired.report.findings;
    assert_eq!(intact, Ok(()), "{name}: {findings:#?}");
}

/// A repair that is cut off at any write is gone on with by another one.
pub(crate) fn goes_on(name: &str, subject: &Subject, hit: &[FdAddr]) {
    let mut writes = 0;
    loop {
        let luns = subject.scratch();
        if cut_repair(&luns, writes).is_ok() {
            assert!(writes > 0, "{name}: nothing was written");
            break;
        }
        let again = repair(&luns, Mode::Yes)
            .unwrap_or_else(|error| panic!("{name}, cut at {writes}: {error}"));
        let after = checked(&luns);
        assert!(
            after.report.is_clean(),
            "{name}, cut at {writes}, then {}: {:#?}",
            again.exit_code(),
            after.report.findings
        );
        let intact = intact(&luns, subject.fixture.manifest(), hit);
        assert_eq!(intact, Ok(()), "{name}, cut at {writes}");
        writes += 1;
    }
}
