//! The settings of `vmfs-fuse` that speed depends on, for the ceiling.
//!
//! The ceiling is worth something only as long as the defaults are those of vmfs-fuse's `mount.rs`
//! and `fuse.rs` for a volume that no host has mounted. The flags are for finding better ones.

use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::Result;
use fuser::{Config, Errno, InitFlags, KernelConfig, MountOption};

/// How long the kernel may keep names and attributes.
pub const TTL: Duration = Duration::from_secs(24 * 60 * 60);

/// When the kernel asks for attributes along with names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum ReadDirPlus {
    /// When the process that lists also looks at the files.
    Auto,
    /// With every listing.
    Always,
    /// With none.
    Never,
}

/// What a session is started with.
#[derive(Debug, Clone, clap::Args)]
pub struct Settings {
    /// Threads that answer requests; default: one a CPU, 2 to 16
    #[arg(long)]
    pub threads: Option<usize>,
    /// Let all threads share one descriptor of /dev/fuse
    #[arg(long)]
    pub shared_fd: bool,
    /// How far the kernel reads ahead, in KiB
    #[arg(long, default_value_t = 4096)]
    pub read_ahead: u32,
    /// Most requests that nobody waits for, such as reading ahead
    #[arg(long, default_value_t = 64)]
    pub background: u16,
    /// Most bytes of a request
    #[arg(long, default_value_t = 1 << 20)]
    pub max_request: u32,
    /// Attributes along with names
    #[arg(long, value_enum, default_value = "auto")]
    pub readdirplus: ReadDirPlus,
    /// Answer opens instead of telling the kernel that it needs not ask
    #[arg(long)]
    pub answer_opens: bool,
    /// Don't let the kernel send direct reads while others are under way
    #[arg(long)]
    pub no_async_dio: bool,
}

impl Settings {
    /// fuser's configuration.
    pub fn config(&self) -> Config {
        let cpus = thread::available_parallelism().map_or(2, Into::into);
        let mut config = Config::default();
        config.mount_options = vec![
            MountOption::FSName("memfs-ceiling".to_owned()),
            MountOption::RO,
        ];
        config.n_threads = Some(self.threads.unwrap_or(cpus.clamp(2, 16)));
        config.clone_fd = !self.shared_fd;
        config
    }

    /// Asks the kernel for what `Filesystem::init` may.
    pub fn negotiate(&self, kernel: &mut KernelConfig) {
        let mut wanted = InitFlags::FUSE_ASYNC_READ
            | InitFlags::FUSE_PARALLEL_DIROPS
            | InitFlags::FUSE_EXPORT_SUPPORT
            | InitFlags::FUSE_CACHE_SYMLINKS
            | InitFlags::FUSE_EXPLICIT_INVAL_DATA;
        if !self.no_async_dio {
            wanted |= InitFlags::FUSE_ASYNC_DIO;
        }
        if !self.answer_opens {
            wanted |= InitFlags::FUSE_NO_OPEN_SUPPORT | InitFlags::FUSE_NO_OPENDIR_SUPPORT;
        }
        wanted |= match self.readdirplus {
            ReadDirPlus::Never => InitFlags::empty(),
            ReadDirPlus::Always => InitFlags::FUSE_DO_READDIRPLUS,
            ReadDirPlus::Auto => InitFlags::FUSE_DO_READDIRPLUS | InitFlags::FUSE_READDIRPLUS_AUTO,
        };
        // What an older kernel lacks makes it slower, no more.
        let _ = kernel.add_capabilities(wanted & kernel.capabilities());
        let _ = kernel.set_max_write(self.max_request);
        let _ = kernel.set_max_background(self.background);
    }

    /// What an open is answered with: an error that tells the kernel never to ask again, or none.
    ///
    /// # Errors
    /// That error.
    pub fn open(&self) -> Result<fuser::FopenFlags, Errno> {
        if self.answer_opens {
            Ok(fuser::FopenFlags::FOPEN_KEEP_CACHE | fuser::FopenFlags::FOPEN_CACHE_DIR)
        } else {
            Err(Errno::ENOSYS)
        }
    }

    /// Sets the read-ahead of the mount at `point`, as root may.
    ///
    /// # Errors
    /// The mount doesn't answer.
    pub fn set_read_ahead(&self, point: &Path) -> Result<()> {
        let device = rustix::fs::stat(point)?.st_dev;
        let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
        let setting = format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb");
        if let Err(error) = std::fs::write(&setting, self.read_ahead.to_string()) {
            eprintln!("{setting}: {error}");
        }
        Ok(())
    }
}
