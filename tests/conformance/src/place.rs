//! What is under test: one of our mounts, or something to compare it with.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;
use vmfs_core::format::Family;
use vmfs_tests::walk;

use crate::mount::{Mount, is_mounted};
use crate::process::Processes;

/// Size of the volumes that are made, which take the space that is written to them.
const VOLUME: &str = "24G";

/// A host that is found dead after seconds, so that mounting after a kill doesn't take long.
pub(crate) const MOUNT_OPTIONS: &str = "rw,allow_other,dev,suid,heartbeat=0.5,lease=3";

/// What to test.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// Our mount of a new volume.
    Vmfs(Family),
    /// libfuse's passthrough_ll: what fails there as well is FUSE's.
    Passthrough,
    /// A directory: what fails there as well is the machine's.
    Directory(PathBuf),
}

impl std::str::FromStr for Kind {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        match word {
            "vmfs5" => Ok(Self::Vmfs(Family::Vmfs5)),
            "vmfs6" => Ok(Self::Vmfs(Family::Vmfs6)),
            "passthrough" => Ok(Self::Passthrough),
            path if Path::new(path).is_dir() => Ok(Self::Directory(path.into())),
            _ => Err("neither vmfs5, vmfs6, passthrough nor a directory".into()),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vmfs(Family::Vmfs5) => f.write_str("vmfs5"),
            Self::Vmfs(_) => f.write_str("vmfs6"),
            Self::Passthrough => f.write_str("passthrough"),
            Self::Directory(path) => path.display().fmt(f),
        }
    }
}

/// Where our programs are, and how others are started.
#[derive(Debug, Clone)]
pub struct Tools {
    /// Starts programs.
    pub processes: Processes,
    /// The folder of `vmfs-fuse` and `mkfs-vmfs`.
    pub programs: PathBuf,
}

impl Tools {
    /// Makes a volume in a new, sparse image.
    ///
    /// # Errors
    /// When mkfs fails.
    pub fn mkfs(&self, family: Family, image: &Path) -> Result<()> {
        let format = if family == Family::Vmfs5 {
            "vmfs5"
        } else {
            "vmfs6"
        };
        let mut command = Command::new(self.programs.join("mkfs-vmfs"));
        command
            .args(["--type", format, "--size", VOLUME])
            .arg(image);
        self.processes
            .must(&mut command, Duration::from_secs(60))
            .map(drop)
    }

    /// The command that mounts a volume in the foreground, without its mountpoint.
    pub fn vmfs_fuse(&self) -> Command {
        Command::new(self.programs.join("vmfs-fuse"))
    }
}

/// An empty place of some kind, mounted; it goes when dropped.
#[derive(Debug)]
pub struct Place {
    kind: Kind,
    tools: Tools,
    // Before the folder: a mount must go before what it is on.
    mount: Option<Mount>,
    folder: TempDir,
    // What passthrough_ll shows. On tmpfs, which takes O_DIRECT however it is aligned.
    below: Option<TempDir>,
    path: PathBuf,
}

impl Place {
    /// A new one, with all it needs below `scratch`.
    ///
    /// # Errors
    /// When it can't be made or mounted.
    pub fn new(kind: &Kind, tools: &Tools, scratch: &Path) -> Result<Self> {
        let below = match kind {
            Kind::Directory(path) => path,
            _ => scratch,
        };
        let folder = tempfile::Builder::new()
            .prefix("conformance-")
            .tempdir_in(below)?;
        let path = match kind {
            Kind::Directory(_) => folder.path().join("files"),
            _ => folder.path().join("mnt"),
        };
        // mkdtemp's mode would keep pjdfstest's other users out.
        open_to_all(folder.path())?;
        fs::create_dir(&path)?;
        let mut place = Self {
            kind: kind.clone(),
            tools: tools.clone(),
            mount: None,
            folder,
            below: None,
            path,
        };
        match kind {
            Kind::Vmfs(family) => tools.mkfs(*family, &place.image())?,
            Kind::Passthrough => {
                vmfs_benches::programs::passthrough(&place.passthrough())?;
                place.below = Some(in_memory()?);
            }
            Kind::Directory(_) => {}
        }
        place.mount()?;
        open_to_all(&place.path)?;
        Ok(place)
    }

    /// What kind it is.
    pub fn kind(&self) -> &Kind {
        &self.kind
    }

    /// Our format, where it is ours.
    pub fn family(&self) -> Option<Family> {
        match self.kind {
            Kind::Vmfs(family) => Some(family),
            _ => None,
        }
    }

    /// The directory to write to.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Programs and how to start them.
    pub fn tools(&self) -> &Tools {
        &self.tools
    }

    /// The folder of all that belongs to it.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A folder beside the place, for what a suite needs besides.
    ///
    /// # Errors
    /// When it can't be made.
    pub fn beside(&self, name: &str) -> Result<PathBuf> {
        let path = self.folder.path().join(name);
        fs::create_dir_all(&path)?;
        Ok(path)
    }

    /// The volume's image, where it is ours.
    pub fn image(&self) -> PathBuf {
        self.folder.path().join("volume.img")
    }

    /// Unmounts and mounts again; a directory's pages are written back, which is all one can do.
    ///
    /// # Errors
    /// When either fails.
    pub fn remount(&mut self) -> Result<()> {
        self.unmount()?;
        self.mount()
    }

    /// Whether it can be cut off.
    pub fn can_be_killed(&self) -> bool {
        self.mount.is_some()
    }

    /// Kills the server with SIGKILL; [`mount`](Self::mount) brings the place back.
    ///
    /// # Errors
    /// When there is no server, or the mount stays.
    pub fn kill(&mut self) -> Result<()> {
        match self.mount.take() {
            Some(mount) => mount.kill(),
            None => bail!("a plain directory has no server"),
        }
    }

    /// Unmounts.
    ///
    /// # Errors
    /// When the mount is in use or its server fails.
    pub fn unmount(&mut self) -> Result<()> {
        if let Some(mount) = self.mount.take() {
            return mount.unmount();
        }
        let mut command = Command::new("sync");
        let sync = command.arg("-f").arg(&self.path);
        let limit = Duration::from_secs(600);
        self.tools.processes.must(sync, limit).map(drop)
    }

    /// Mounts what was unmounted or killed.
    ///
    /// # Errors
    /// When it doesn't mount.
    pub fn mount(&mut self) -> Result<()> {
        let mut command = match self.kind {
            Kind::Vmfs(_) => {
                let mut command = self.tools.vmfs_fuse();
                command.arg(self.image()).arg(&self.path);
                command.args(["--foreground", "-o", MOUNT_OPTIONS]);
                command
            }
            Kind::Passthrough => {
                let mut command = Command::new(self.passthrough());
                let below = self.below.as_ref().context("a folder below")?;
                let options = "allow_other,default_permissions,dev,suid,cache=auto,source=";
                let options = format!("{options}{}", below.path().display());
                command.args(["-f", "-o", &options]).arg(&self.path);
                command
            }
            Kind::Directory(_) => return Ok(()),
        };
        ensure!(!is_mounted(&self.path), "it is mounted");
        let log = self.log();
        let mount = Mount::new(&self.tools.processes, &mut command, &self.path, &log);
        self.mount = Some(mount.with_context(|| format!("mount {}", self.kind))?);
        Ok(())
    }

    /// The file that the server's words go to.
    pub fn log(&self) -> PathBuf {
        self.folder.path().join("server.log")
    }

    /// Leaves everything where it is and says where that is.
    pub fn keep(mut self) -> PathBuf {
        let _ = self.unmount();
        self.folder.disable_cleanup(true);
        self.folder.path().to_owned()
    }

    /// Checks the unmounted volume; other places have nothing to check.
    ///
    /// # Errors
    /// With what is wrong.
    pub fn fsck(&self) -> Result<()> {
        if self.family().is_none() {
            return Ok(());
        }
        self.fsck_image(&self.image())
    }

    /// Checks a volume that isn't mounted.
    ///
    /// # Errors
    /// With what is wrong.
    pub fn fsck_image(&self, image: &Path) -> Result<()> {
        let volume = walk::open(&[image]);
        let report = fsck_vmfs::check(&volume, &mut |_| {});
        ensure!(
            report.is_clean(),
            "fsck: {:?}, first: {:?}",
            report.totals,
            report.findings.iter().take(5).collect::<Vec<_>>()
        );
        Ok(())
    }

    /// The program of [`Kind::Passthrough`].
    pub fn passthrough(&self) -> PathBuf {
        self.folder.path().join("passthrough_ll")
    }
}

/// A folder on tmpfs.
///
/// # Errors
/// When it can't be made.
pub fn in_memory() -> Result<TempDir> {
    let folder = tempfile::tempdir_in("/dev/shm")?;
    open_to_all(folder.path())?;
    Ok(folder)
}

fn open_to_all(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
        .with_context(|| path.display().to_string())
}
