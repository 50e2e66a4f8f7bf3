//! The processes that are a host: one that has the volume mounted itself, or `vmfs-fuse` and one that works on its mountpoint.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, Signal, kill_process};

use super::ground::Ground;
use super::host::ARGUMENTS;
use super::mounts::{FENCED, SAYS_FENCED, is_mounted};
use super::run::Plan;

/// Times that a host may fail to mount in a row: it may have been stopped on the way, and taken over from.
const FAILURES: u32 = 5;

/// How a host is started.
#[derive(Debug, Clone)]
pub struct Program {
    /// What becomes a host by what [`ARGUMENTS`] has.
    pub path: PathBuf,
    pub arguments: Vec<String>,
}

/// A host. Dropped, it is killed.
#[derive(Debug)]
pub(super) struct Process {
    number: usize,
    child: Child,
    /// Closed, the host ends.
    orders: Option<ChildStdin>,
    /// `vmfs-fuse`, and its mountpoint.
    mount: Option<(Child, PathBuf)>,
    pub(super) stopped_until: Option<Instant>,
    /// How long the log and the history were when it started.
    log: u64,
    history: u64,
    failures: u32,
}

impl Process {
    pub(super) fn start(
        program: &Program,
        ground: &Ground,
        plan: &Plan,
        number: usize,
        seed: u64,
    ) -> Self {
        let log = length(&ground.log(number));
        let mount = plan.fuse.as_ref().map(|fuse| {
            let folder = ground.mountpoint(number);
            // It is there from the time before.
            let _ = fs::create_dir(&folder);
            (start_mount(fuse, ground, plan, number, &folder), folder)
        });
        let lun = ground.lun_of(number);
        let history = ground.history(number);
        let mut arguments = vec![
            format!("--image={}", lun.display()),
            format!("--history={}", history.display()),
            format!("--number={number}"),
            format!("--seed={seed}"),
            format!("--heartbeat={}", plan.heartbeat),
            format!("--lease={}", plan.lease),
            format!("--names={}", plan.hosts + 8),
            format!("--pause={}", plan.pause),
        ];
        arguments.extend(
            mount
                .iter()
                .map(|(_, folder)| format!("--mount={}", folder.display())),
        );
        let mut command = if mount.is_some() {
            Command::new(&program.path)
        } else {
            ground.program(number, &program.path)
        };
        let mut child = command
            .args(&program.arguments)
            .env(ARGUMENTS, arguments.join("\n"))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(open_log(ground, number))
            .spawn()
            .expect("a host starts");
        let orders = child.stdin.take();
        Self {
            number,
            child,
            orders,
            mount,
            stopped_until: None,
            log,
            history: length(&history),
            failures: 0,
        }
    }

    /// Sends a signal to what has the volume mounted.
    pub(super) fn signal(&self, signal: Signal) {
        let child = self.mount.as_ref().map_or(&self.child, |mount| &mount.0);
        let _ = kill_process(Pid::from_child(child), signal);
    }

    pub(super) fn kill(&mut self) {
        // Who waits for the mount can't be killed before it is gone. Only once: the next host mounts on the same folder.
        if let Some((mut fuse, folder)) = self.mount.take() {
            let _ = fuse.kill();
            let _ = fuse.wait();
            let _ = unmount(&folder, UnmountFlags::DETACH);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Has the host go on, and end.
    pub(super) fn tell_to_end(&mut self) {
        self.signal(Signal::CONT);
        self.orders = None;
    }

    /// Looks whether the host is at work; false if it must be started anew, since its mount was taken over from.
    ///
    /// # Errors
    /// When it ended by itself.
    pub(super) fn is_at_work(&mut self, ground: &Ground, plan: &Plan) -> Result<bool, String> {
        let number = self.number;
        if let Some(status) = self.child.try_wait().expect("its state") {
            if self.was_fenced(ground, status)? {
                return Ok(false);
            }
            return Err(format!("host {number} ended by itself: {status}"));
        }
        let has_mounted = self.has_mounted(ground);
        let Some((fuse, folder)) = &mut self.mount else {
            return Ok(true);
        };
        if let Some(status) = fuse.try_wait().expect("its state") {
            self.failures += 1;
            if has_mounted || self.failures > FAILURES {
                return Err(format!(
                    "vmfs-fuse of host {number} ended by itself: {status}"
                ));
            }
            thread::sleep(Duration::from_millis(plan.lease) / 16);
            let program = plan.fuse.as_ref().expect("it was started");
            *fuse = start_mount(program, ground, plan, number, folder);
        }
        Ok(true)
    }

    /// Whether the host has the volume mounted, or had.
    pub(super) fn has_mounted(&self, ground: &Ground) -> bool {
        length(&ground.history(self.number)) > self.history
    }

    /// Whether the process that ended like this did so because its mount was taken over from.
    fn was_fenced(&self, ground: &Ground, status: ExitStatus) -> Result<bool, String> {
        if self.mount.is_none() || status.code() != Some(FENCED.into()) {
            return Ok(false);
        }
        if said(ground, self.number, self.log).contains(SAYS_FENCED) {
            return Ok(true);
        }
        Err(format!(
            "host {} can't write any more, and nobody has taken over from it",
            self.number
        ))
    }

    /// Waits until the host has ended as it was told to.
    pub(super) fn wait(&mut self, ground: &Ground, patience: Instant) -> Result<(), String> {
        let number = self.number;
        let status = wait(&mut self.child, patience).ok_or(format!("host {number} doesn't end"))?;
        if !status.success() && !self.was_fenced(ground, status)? {
            return Err(format!("host {number} ended with {status}"));
        }
        let Some((fuse, folder)) = &mut self.mount else {
            return Ok(());
        };
        let was_mounted = is_mounted(folder);
        let _ = kill_process(Pid::from_child(fuse), Signal::TERM);
        let status =
            wait(fuse, patience).ok_or(format!("vmfs-fuse of host {number} doesn't end"))?;
        let fenced = said(ground, number, self.log).contains(SAYS_FENCED);
        if was_mounted && !status.success() && !fenced {
            return Err(format!("vmfs-fuse of host {number} ended with {status}"));
        }
        if is_mounted(folder) {
            return Err(format!("vmfs-fuse of host {number} has left its mount"));
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

fn start_mount(fuse: &Path, ground: &Ground, plan: &Plan, number: usize, folder: &Path) -> Child {
    let seconds = |millis: u64| millis as f64 / 1000.0;
    let times = format!(
        "heartbeat={},lease={}",
        seconds(plan.heartbeat),
        seconds(plan.lease)
    );
    ground
        .program(number, fuse)
        .arg(ground.lun_of(number))
        .arg(folder)
        .args(["-f", "-o", &times, "--host", &format!("host{number}")])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(open_log(ground, number))
        .spawn()
        .expect("vmfs-fuse starts")
}

fn open_log(ground: &Ground, number: usize) -> File {
    let mut options = File::options();
    let log = options.create(true).append(true).open(ground.log(number));
    log.expect("a log")
}

/// What a host has said since its log was so long.
fn said(ground: &Ground, number: usize, since: u64) -> String {
    let Ok(log) = File::open(ground.log(number)) else {
        return String::new();
    };
    let mut bytes = vec![0; (length(&ground.log(number)) - since) as usize];
    log.read_exact_at(&mut bytes, since).expect("the log");
    String::from_utf8_lossy(&bytes).into_owned()
}

fn length(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |found| found.len())
}

fn wait(child: &mut Child, patience: Instant) -> Option<ExitStatus> {
    while Instant::now() < patience {
        if let Some(status) = child.try_wait().expect("wait") {
            return Some(status);
        }
        thread::sleep(Duration::from_millis(5));
    }
    None
}
