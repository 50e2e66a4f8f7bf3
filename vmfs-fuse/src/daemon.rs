//! Going into the background.
//!
//! The program starts itself again as the daemon, in a session of its own, and waits until that
//! says that the mount is up or ends without having said so. Starting anew instead of forking
//! needs no `unsafe` and can't copy a half-set-up process.

use std::env;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};

use anyhow::Context;

/// Tells the process that it is the daemon, and that its standard output is [`Ready`]'s.
const MARK: &str = "VMFS_FUSE_DAEMON";
/// What the daemon writes when the mount is up.
const UP: u8 = b'+';

/// What this process is.
#[derive(Debug)]
pub(crate) enum Role {
    /// The daemon: go on, and say when the mount is up.
    Daemon(Ready),
    /// The program that was called: the daemon is up or failed, end with this.
    Caller(ExitCode),
}

/// Tells the caller that the mount is up.
#[derive(Debug)]
pub(crate) struct Ready {
    caller: io::Stdout,
}

/// Whether this process is the daemon that another one started.
pub(crate) fn is_daemon() -> bool {
    env::var_os(MARK).is_some()
}

/// Starts the daemon, or finds that this process is it.
pub(crate) fn detach() -> anyhow::Result<Role> {
    if is_daemon() {
        rustix::process::setsid().context("can't leave the session")?;
        let caller = io::stdout();
        return Ok(Role::Daemon(Ready { caller }));
    }
    let mut arguments = env::args_os();
    let mut command = Command::new("/proc/self/exe");
    if let Some(name) = arguments.next() {
        command.arg0(name);
    }
    let mut daemon = command
        .args(arguments)
        .env(MARK, "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("can't start the daemon from /proc/self/exe")?;
    let mut said = Vec::new();
    if let Some(stdout) = daemon.stdout.take() {
        let listened = stdout.take(1).read_to_end(&mut said);
        listened.context("can't listen to the daemon")?;
    }
    if said == [UP] {
        return Ok(Role::Caller(ExitCode::SUCCESS));
    }
    let status = daemon.wait().context("can't wait for the daemon")?;
    let code = match status.code() {
        Some(code) if code != 0 => u8::try_from(code).unwrap_or(1),
        _ => {
            eprintln!("vmfs-fuse: the daemon ended before the mount was up: {status}");
            1
        }
    };
    Ok(Role::Caller(ExitCode::from(code)))
}

impl Ready {
    /// The mount is up: lets the caller end, and lets go of its terminal and directory.
    ///
    /// # Errors
    /// When the caller has gone away meanwhile.
    pub(crate) fn tell(mut self) -> anyhow::Result<()> {
        // Standard output is line-buffered, so only the flush meets a caller that is gone.
        self.caller
            .write_all(&[UP])
            .and_then(|()| self.caller.flush())
            .context("the program that waited for the mount has ended")?;
        let null = File::options().read(true).write(true).open("/dev/null");
        let null = null.context("can't open /dev/null")?;
        rustix::stdio::dup2_stdout(&null)?;
        rustix::stdio::dup2_stderr(&null)?;
        env::set_current_dir("/").context("can't leave the directory")
    }
}
