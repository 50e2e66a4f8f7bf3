//! Programs that are run with a limit, and ended when it is over or the user has had enough.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process_group};

/// How often a waiting thread looks.
const PAUSE: Duration = Duration::from_millis(10);

/// How long a killed process may take to go; one that waits for a dead mount goes with the mount.
const DEATH: Duration = Duration::from_secs(10);

/// How much of a failed program's words is repeated.
const TOLD: usize = 900;

/// Starts programs; all stop when the user interrupts.
#[derive(Debug, Clone)]
pub struct Processes {
    interrupted: Arc<AtomicBool>,
}

/// What a program said, and how it ended.
#[derive(Debug)]
pub struct Said {
    /// How it ended.
    pub status: ExitStatus,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Processes {
    /// Takes over what Ctrl-C and a polite kill do.
    ///
    /// # Errors
    /// When the signals can't be had.
    pub fn new() -> Result<Self> {
        let interrupted = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            signal_hook::flag::register(signal, Arc::clone(&interrupted))?;
        }
        Ok(Self { interrupted })
    }

    /// Whether the user wants the end.
    pub fn interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }

    /// Starts a program in a process group of its own, which ends with the returned guard.
    ///
    /// # Errors
    /// When it doesn't start.
    pub fn start(&self, command: &mut Command) -> Result<Running> {
        let child = command
            .process_group(0)
            .spawn()
            .with_context(|| format!("start {}", name(command)))?;
        Ok(Running {
            child,
            name: name(command),
            processes: self.clone(),
        })
    }

    /// Runs a program to its end, and returns what it said.
    ///
    /// # Errors
    /// When it doesn't start, isn't done within `limit`, or the user interrupts.
    pub fn run(&self, command: &mut Command, limit: Duration) -> Result<Said> {
        let (mut out, mut err) = (tempfile::tempfile()?, tempfile::tempfile()?);
        command
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(err.try_clone()?);
        let mut running = self.start(command)?;
        let status = running.wait(limit);
        let (out, err) = (text(&mut out)?, text(&mut err)?);
        let status = status.with_context(|| format!("it said: {}", end(&format!("{out}{err}"))))?;
        Ok(Said { status, out, err })
    }

    /// Runs a program that must succeed, and returns its standard output.
    ///
    /// # Errors
    /// Those of [`run`](Self::run), and when it fails.
    pub fn must(&self, command: &mut Command, limit: Duration) -> Result<String> {
        let said = self.run(command, limit)?;
        ensure!(
            said.status.success(),
            "{} failed ({}): {}",
            name(command),
            said.status,
            end(&format!("{}{}", said.out, said.err))
        );
        Ok(said.out)
    }
}

/// A program that runs; it and its children end when this is dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    name: String,
    processes: Processes,
}

impl Running {
    /// The program's process.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Waits for the end.
    ///
    /// # Errors
    /// When it isn't done within `limit` or the user interrupts; it is ended then.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if self.processes.interrupted() {
                self.kill();
                bail!("interrupted");
            }
            if start.elapsed() > limit {
                self.kill();
                bail!("{} was not done after {limit:?}", self.name);
            }
            thread::sleep(PAUSE);
        }
    }

    /// Ends the program and all it started in its group, at once.
    pub fn kill(&mut self) {
        if let Some(group) = Pid::from_raw(self.child.id().cast_signed()) {
            let _ = kill_process_group(group, Signal::KILL);
        }
        let start = Instant::now();
        while start.elapsed() < DEATH && matches!(self.child.try_wait(), Ok(None)) {
            thread::sleep(PAUSE);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // The group may outlive its leader.
        self.kill();
    }
}

/// Waits until `condition` holds; `false` when it doesn't within `limit`.
pub fn wait_for(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    while !condition() {
        if start.elapsed() > limit {
            return false;
        }
        thread::sleep(PAUSE);
    }
    true
}

/// The end of a long text.
pub fn end(text: &str) -> &str {
    let text = text.trim();
    let mut from = text.len().saturating_sub(TOLD);
    while !text.is_char_boundary(from) {
        from += 1;
    }
    &text[from..]
}

fn name(command: &Command) -> String {
    let program = command.get_program().to_string_lossy().into_owned();
    let words = command.get_args().map(|word| word.to_string_lossy());
    words.fold(program, |line, word| format!("{line} {word}"))
}

fn text(file: &mut File) -> Result<String> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
