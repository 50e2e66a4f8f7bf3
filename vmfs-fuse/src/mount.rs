//! From devices and a mountpoint to a mount that is served until it ends.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;

use anyhow::{Context, anyhow, bail};
use fuser::{Config, MountOption, Session, SessionACL};
use rustix::io::Errno;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use vmfs_core::fs::FileSystem;

use crate::daemon::{self, Ready, Role};
use crate::fuse::{Kernel, Mounted};
use crate::log::{self, Target};
use crate::mount_table;
use crate::mountpoint::Mountpoint;
use crate::options::{Options, Users};
use crate::upkeep;
use crate::volume;

/// How far the kernel reads ahead unless told otherwise, in KiB.
const READAHEAD: u32 = 4096;

/// What to mount, where and how.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) devices: Vec<PathBuf>,
    pub(crate) mountpoint: PathBuf,
    pub(crate) options: Options,
    pub(crate) log: Target,
    pub(crate) background: bool,
    pub(crate) verbose: bool,
    /// Do everything but mount.
    pub(crate) fake: bool,
}

/// Mounts, and serves the mount until it ends; in the background, returns in the caller as soon
/// as the mount is up.
pub(crate) fn run(request: &Request) -> anyhow::Result<ExitCode> {
    let ready = if request.background {
        match daemon::detach()? {
            Role::Daemon(ready) => Some(ready),
            Role::Caller(code) => return Ok(code),
        }
    } else {
        None
    };
    log::start(&request.log, request.verbose)?;
    let path = check_mountpoint(&request.mountpoint)?;
    if request.fake {
        volume::open_to_read(&request.devices, &request.options)?;
        return Ok(ExitCode::SUCCESS);
    }
    let opened = volume::open(&request.devices, &request.options)?;
    let fs = Arc::new(opened.fs);
    let served = if fs.is_writable() {
        upkeep::start(&fs)
    } else {
        Ok(())
    };
    let served = served.and_then(|()| serve(request, &fs, path, ready));
    let closed = fs.close().map_err(|error| {
        anyhow!("not everything is in its place; the next mount completes it: {error}")
    });
    tell_commands(&fs);
    // Whoever waits for the devices finds them as they are left.
    drop(opened.claim);
    let result = served.and(closed);
    if let (Err(error), true) = (&result, request.background) {
        tracing::error!("{error:#}");
    }
    result.map(|()| ExitCode::SUCCESS)
}

/// Logs what was sent to each LUN.
fn tell_commands(fs: &FileSystem) {
    for lun in fs.volume().luns() {
        let counted = lun.counters().snapshot();
        let used = counted
            .by_name()
            .into_iter()
            .filter(|(_, op)| op.commands > 0);
        let used: Vec<_> = used
            .map(|(name, op)| format!("{} {name}", op.commands))
            .collect();
        let (list, conflicts) = (used.join(", "), counted.conflicts);
        tracing::info!("{}: {list}; {conflicts} conflicts", lun.name());
    }
}

/// Mounts `fs` on `path`, and answers the kernel until the mount is gone.
fn serve(
    request: &Request,
    fs: &Arc<FileSystem>,
    path: PathBuf,
    ready: Option<Ready>,
) -> anyhow::Result<()> {
    let name = label(fs);

    // From here on a signal must not leave a mount behind that nobody serves.
    let signals = Signals::new([SIGTERM, SIGINT, SIGHUP]).context("can't catch signals")?;
    let kernel = Arc::<Kernel>::default();
    let config = config(request, fs.is_writable());
    let mounted = Mounted::new(Arc::clone(fs), &request.options, Arc::clone(&kernel));
    let session = Session::new(mounted, &path, &config).map_err(|error| explain(error, &path))?;
    if fs.is_writable() {
        kernel.connect(session.notifier());
    }
    let mut serving = session.spawn().context("can't serve the mount")?;
    // The mount is ours to undo: fuser's own way unmounts what it finds at the mountpoint even
    // if the volume isn't mounted there any more.
    let nothing = thread::spawn(|| Ok(()));
    let server = std::mem::replace(&mut serving.guard, nothing);
    std::mem::forget(serving);

    let mountpoint = Mountpoint::find(path)?;
    let ended = Arc::<AtomicBool>::default();
    unmount_on(
        signals,
        mountpoint.clone(),
        Arc::clone(fs),
        Arc::clone(&ended),
    );
    mountpoint.set_readahead(request.options.readahead.unwrap_or(READAHEAD));
    tracing::info!("{name} is mounted on {}", mountpoint.path().display());
    if let Some(ready) = ready {
        let told = ready.tell();
        if told.is_err() {
            mountpoint.unmount_lazily();
        }
        told?;
    }
    let served = server
        .join()
        .map_err(|_| anyhow!("a thread of the mount panicked"));
    ended.store(true, SeqCst);
    served
        .and_then(|result| result.context("the mount failed"))
        .inspect_err(|_| mountpoint.unmount_lazily())?;
    tracing::info!("{name} is unmounted from {}", mountpoint.path().display());
    Ok(())
}

/// The mountpoint's absolute path.
fn check_mountpoint(path: &Path) -> anyhow::Result<PathBuf> {
    let shown = path.display();
    // What stat(2) tells may come from the cache of a mount that is dead; this doesn't.
    let answer = rustix::fs::statvfs(path);
    answer.map_err(|error| match error {
        Errno::NOENT => anyhow!("{shown}: no such directory to mount on"),
        Errno::NOTCONN | Errno::CONNABORTED => anyhow!(
            "{shown}: the program that served the mount here has died; unmount it first: `umount -l {shown}`, or `fusermount3 -uz {shown}` as the user who mounted it"
        ),
        _ => anyhow!("{shown}: can't mount here: {error}"),
    })?;
    if !path.is_dir() {
        bail!("{shown}: not a directory, can't mount on it");
    }
    path.canonicalize().with_context(|| format!("{shown}"))
}

fn label(fs: &FileSystem) -> String {
    let fsd = fs.descriptor();
    format!("volume {} ({})", fsd.label(), fsd.uuid)
}

fn config(request: &Request, writable: bool) -> Config {
    let options = &request.options;
    let by_root = rustix::process::geteuid().is_root();
    let source = options
        .fsname
        .clone()
        .unwrap_or_else(|| source(&request.devices));
    // fusermount3 splits its options at commas; the system call takes the name as it is.
    let source = if by_root {
        source
    } else {
        source.replace('\\', "\\\\").replace(',', "\\,")
    };
    let subtype = options.subtype.as_deref().unwrap_or("vmfs");
    let mut list = vec![
        MountOption::FSName(source),
        if writable {
            MountOption::RW
        } else {
            MountOption::RO
        },
    ];
    // xfstests knows "fuse" without a subtype only.
    if !subtype.is_empty() {
        // fuser drops its own Subtype when it mounts by the system call.
        list.push(MountOption::CUSTOM(format!("subtype={subtype}")));
    }
    // Where nobody but root gets in, modes forbid next to nothing, and with this the kernel asks for
    // a directory's attributes after every change in it.
    let only_root = by_root && options.users != Users::All;
    if options.default_permissions || options.users == Users::All || (writable && !only_root) {
        list.push(MountOption::DefaultPermissions);
    }
    list.extend(options.flags.iter().cloned());
    let mut config = Config::default();
    config.mount_options = list;
    config.acl = match options.users {
        Users::Owner => SessionACL::Owner,
        Users::OwnerAndRoot => SessionACL::RootAndOwner,
        Users::All => SessionACL::All,
    };
    config.n_threads = Some(options.threads.unwrap_or_else(default_threads));
    config.clone_fd = true;
    config
}

/// A thread waits while its read is on the way, so a LUN that takes its time has no more reads
/// under way than there are threads; idle ones cost next to nothing.
fn default_threads() -> usize {
    let cpus = thread::available_parallelism().map_or(2, usize::from);
    (2 * cpus).clamp(8, 16)
}

/// What the mount table calls the volume: its first device, as mount(8) would write it.
fn source(devices: &[PathBuf]) -> String {
    let Some(first) = devices.first() else {
        return "vmfs".to_owned();
    };
    mount_table::source(first).display().to_string()
}

/// Says what to do about a mount that the system refused.
fn explain(error: io::Error, path: &Path) -> anyhow::Error {
    let advice = if !Path::new("/dev/fuse").exists() {
        "/dev/fuse isn't there; load the kernel's module with `modprobe fuse`"
    } else if error.to_string().contains("user_allow_other") {
        "allow_other and allow_root need the line user_allow_other in /etc/fuse.conf, or root"
    } else if error.kind() == ErrorKind::NotFound {
        "fusermount3 isn't there; only root can mount without it (Debian: apt install fuse3)"
    } else if error.raw_os_error() == Some(Errno::ACCESS.raw_os_error()) {
        "this user may not use /dev/fuse or the directory; on most systems /dev/fuse is open to all (chmod 666 /dev/fuse)"
    } else {
        return anyhow::Error::new(error).context(format!("can't mount on {}", path.display()));
    };
    anyhow!("can't mount on {}: {advice}", path.display())
}

/// The first signal unmounts, the second ends the program whatever is still open, the third at
/// once. Once the mount has ended, what is left to do isn't disturbed.
fn unmount_on(
    mut signals: Signals,
    mountpoint: Mountpoint,
    fs: Arc<FileSystem>,
    ended: Arc<AtomicBool>,
) {
    thread::spawn(move || {
        let mut count = 0;
        for signal in signals.forever() {
            if ended.load(SeqCst) {
                continue;
            }
            count += 1;
            match count {
                1 => mountpoint.unmount(),
                2 => {
                    tracing::warn!("ended by signal {signal} while files were open");
                    let fs = Arc::clone(&fs);
                    thread::spawn(move || {
                        if let Err(error) = fs.close() {
                            tracing::error!("not everything is in its place: {error}");
                        }
                        std::process::exit(1);
                    });
                }
                _ => std::process::exit(1),
            }
        }
    });
}
