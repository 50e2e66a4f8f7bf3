//! Hosts in network namespaces that share a LUN of an iSCSI target, Debian's tgtd: an array with
//! SCSI-2 reservations only. Their links are cut, the target is killed and started anew, and so is a
//! host.
//!
//! `VMFS_ISCSI_HOSTS` and `VMFS_ISCSI_SECONDS` make more of it, `VMFS_ISCSI_SEED` repeats what is
//! done to whom.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use tempfile::TempDir;
use vmfs_core::format::Family;
use vmfs_core::scsi::{self, Access};
use vmfs_fixtures::mkfs_vmfs::{Options, Plan, apply};
use vmfs_tests::network::Network;
use vmfs_tests::random::{Random, setting};
use vmfs_tests::tgt::{self, Target};

use common::{VMFS_FUSE, wait_for};

const GIB: u64 = 1 << 30;
/// Operation codes.
const COMPARE_AND_WRITE: u8 = 0x89;
const RESERVE: u8 = 0x16;
/// How hosts show that they live; cuts are shorter than the lease.
const HOST: &str = "heartbeat=0.5,lease=10";
const LONGEST_CUT: u64 = 1500;
/// Bytes by which a file grows.
const STEP: usize = 64 << 10;
/// Steps by which each host's file grows at most.
const STEPS: u64 = 512;

/// A mount on a host, and the program that serves it.
struct Mounted {
    folder: TempDir,
    log: PathBuf,
    program: Child,
}

impl Mounted {
    fn new(network: &Network, target: &Target, host: u32, logs: &Path, options: &str) -> Self {
        let folder = tempfile::tempdir().expect("mountpoint");
        let log = logs.join(format!("host{host}.log"));
        let program = network
            .program(host, Path::new(VMFS_FUSE))
            .arg(target.url_from(&network.gateway(host), 1))
            .arg(folder.path())
            .args(["-f", "-v", "-o", options, "--host", &format!("host{host}")])
            .arg("--log")
            .arg(&log)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("nsenter runs");
        let mut mounted = Self {
            folder,
            log,
            program,
        };
        wait_for("the mount", || {
            let ended = mounted.program.try_wait().expect("its state");
            assert!(ended.is_none(), "it doesn't mount:\n{}", mounted.said());
            mounted.is_mounted()
        });
        mounted
    }

    fn is_mounted(&self) -> bool {
        let table = fs::read_to_string("/proc/self/mountinfo").expect("mount table");
        table.contains(&format!(" {} ", self.path().display()))
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn unmount(mut self) {
        rustix::mount::unmount(self.path(), rustix::mount::UnmountFlags::empty()).expect("unmount");
        let status = self.program.wait().expect("its end");
        assert!(status.success(), "{status}:\n{}", self.said());
    }

    /// Kills the host, as kill -9 does.
    fn kill(&mut self) {
        self.program.kill().expect("kill");
        self.program.wait().expect("its end");
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("{}", self.said());
        }
        // Nothing of these matters any more when the mount and the program are gone already.
        let _ = self.program.kill();
        let _ = self.program.wait();
        let lazily = rustix::mount::UnmountFlags::DETACH;
        let _ = rustix::mount::unmount(self.folder.path(), lazily);
    }
}

/// A target with a fresh volume on its LUN.
fn target() -> Target {
    let target = Target::start_with(tgt::Options {
        size: 4 * GIB,
        address: "0.0.0.0".to_owned(),
        ..tgt::Options::default()
    });
    let lun = scsi::open(target.url().as_ref(), Access::ReadWrite, Some("mkfs")).expect("the LUN");
    let mut options = Options::new(Family::Vmfs6, &[lun.capacity()]);
    let identity = lun.identity().expect("an identity");
    options.devices[0].disk_id = identity.as_str().as_bytes().to_vec();
    let plan = Plan::new(options).expect("a plan");
    apply(&plan, &[lun]).expect("a volume");
    target
}

fn check(target: &Target) {
    let fs = vmfs_tests::walk::open(&[PathBuf::from(target.url())]);
    let report = fsck_vmfs::check(&fs, &mut |_| {});
    assert!(report.is_clean(), "{:#?}", report.findings);
    let hosts = fs.hosts().expect("hosts");
    assert!(hosts.is_empty(), "a heartbeat was left: {hosts:?}");
}

/// What a host has done, as far as it knows.
#[derive(Default)]
struct Done {
    /// Its files in the common directory: the number in their content by their names.
    files: BTreeMap<String, u64>,
    /// Names that the last call was about, if that failed because the host was killed.
    unsure: Vec<String>,
    /// Steps of its growing file that were answered by fsync, and that were written.
    synced: u64,
    steps: u64,
    calls: u64,
    /// Which of the names that all want to have made it has made.
    won: Vec<u64>,
}

/// The content of file `number` of `host`.
fn content(host: u32, number: u64) -> Vec<u8> {
    let line = format!("file {number} of host {host}\n");
    line.repeat(1 + (number % 700) as usize).into_bytes()
}

fn step(host: u32, number: u64) -> Vec<u8> {
    format!("{host:08x}{number:08x}")
        .repeat(STEP / 16)
        .into_bytes()
}

impl Done {
    /// As text, for another process.
    fn write(&self, path: &Path) -> io::Result<()> {
        let mut text = format!("{} {} {}\n", self.synced, self.steps, self.calls);
        let files = self.files.iter();
        text.extend(files.map(|(name, number)| format!("file {name} {number}\n")));
        text.extend(self.unsure.iter().map(|name| format!("unsure {name} 0\n")));
        text.extend(self.won.iter().map(|round| format!("won once {round}\n")));
        fs::write(path, text)
    }

    fn read(path: &Path) -> Self {
        let text = fs::read_to_string(path).expect("what a host has done");
        let mut lines = text.lines();
        let numbers = lines.next().unwrap_or_default().split(' ');
        let numbers: Vec<u64> = numbers
            .map(|word| word.parse().expect("a number"))
            .collect();
        let mut done = Self {
            synced: numbers[0],
            steps: numbers[1],
            calls: numbers[2],
            ..Self::default()
        };
        for line in lines {
            let words: Vec<_> = line.split(' ').collect();
            let number = words[2].parse().expect("a number");
            match words[0] {
                "file" => drop(done.files.insert(words[1].to_owned(), number)),
                "unsure" => done.unsure.push(words[1].to_owned()),
                _ => done.won.push(number),
            }
        }
        done
    }
}

fn errno(error: &io::Error) -> Option<Errno> {
    Errno::from_io_error(error)
}

/// Not a test: what a host does, in a process of its own. A process that has files of a mount open
/// could start nothing while the mount waits for the target: the child closes its copies of them.
#[test]
#[ignore = "started by hosts_share_a_lun_while_links_and_target_come_and_go"]
fn works_until_it_is_told_to_stop() {
    let Some(mount) = std::env::var_os("VMFS_WORK_MOUNT") else {
        return;
    };
    let host = u32::try_from(setting("VMFS_WORK_HOST", 0)).expect("small");
    let results = PathBuf::from(std::env::var_os("VMFS_WORK_RESULTS").expect("given as well"));
    let mut done = Done::default();
    let stop = results.join("stop");
    let result = try_work(Path::new(&mount), host, &|| stop.exists(), &mut done);
    match result {
        Ok(()) => done.unsure.clear(),
        Err(error) => {
            // The mount is gone: this host was killed.
            let gone = [Errno::NOTCONN, Errno::CONNABORTED];
            assert!(
                errno(&error).is_some_and(|errno| gone.contains(&errno)),
                "host {host}: {error}"
            );
        }
    }
    done.write(&results.join(host.to_string()))
        .expect("results");
}

/// Starts what a host does on `mount`.
fn start_work(mount: &Path, host: u32, results: &Path) -> Child {
    Command::new(std::env::current_exe().expect("this test"))
        .args([
            "works_until_it_is_told_to_stop",
            "--exact",
            "--ignored",
            "--nocapture",
        ])
        .env("VMFS_WORK_MOUNT", mount)
        .env("VMFS_WORK_HOST", host.to_string())
        .env("VMFS_WORK_RESULTS", results)
        .stdin(Stdio::null())
        .spawn()
        .expect("a process")
}

/// Makes, renames, removes and reads files in a directory that all hosts use.
fn try_work(
    mount: &Path,
    host: u32,
    is_over: &dyn Fn() -> bool,
    done: &mut Done,
) -> io::Result<()> {
    let mut random = Random::new(setting("VMFS_ISCSI_SEED", 1) ^ u64::from(host) << 32);
    let random = &mut random;
    let mut round = 0;
    let common = mount.join("common");
    let mut growing = File::create(mount.join(format!("growing{host}")))?;
    let mut number = 0;
    while !is_over() {
        done.calls += 1;
        done.unsure.clear();
        number += 1;
        let own: Vec<&String> = done.files.keys().collect();
        let pick = (!own.is_empty()).then(|| (*random.one_of(&own)).clone());
        let name = format!("{host}-{number}");
        match (random.below(6), pick) {
            (0, Some(old)) => {
                done.unsure = vec![old.clone(), name.clone()];
                match fs::rename(common.join(&old), common.join(&name)) {
                    Err(error) if errno(&error) == Some(Errno::BUSY) => {}
                    renamed => {
                        renamed?;
                        let number = done.files.remove(&old).expect("it was there");
                        done.files.insert(name, number);
                    }
                }
            }
            (1, Some(old)) => {
                done.unsure = vec![old.clone()];
                match fs::remove_file(common.join(&old)) {
                    // Another host reads it.
                    Err(error) if errno(&error) == Some(Errno::BUSY) => {}
                    removed => {
                        removed?;
                        done.files.remove(&old);
                    }
                }
            }
            (2, _) => read_any(&common, random)?,
            (3, _) if done.steps < STEPS => {
                growing.write_all(&step(host, done.steps))?;
                done.steps += 1;
                if done.steps.is_multiple_of(8) {
                    growing.sync_all()?;
                    done.synced = done.steps;
                }
            }
            (4, _) => {
                if make_once(&common, round)? {
                    done.won.push(round);
                }
                round += 1;
            }
            _ => {
                done.unsure = vec![name.clone()];
                fs::write(common.join(&name), content(host, number))?;
                done.files.insert(name, number);
            }
        }
    }
    growing.sync_all()?;
    done.synced = done.steps;
    Ok(())
}

/// Makes a name that all hosts want to have made; gives whether it was this one.
fn make_once(common: &Path, round: u64) -> io::Result<bool> {
    let path = common.join(format!("once{round}"));
    match OpenOptions::new().write(true).create_new(true).open(path) {
        Err(error) if matches!(errno(&error), Some(Errno::EXIST | Errno::BUSY)) => Ok(false),
        made => made.map(|_| true),
    }
}

/// Reads a file that any host has made: all of it is there, or it is busy or gone.
fn read_any(common: &Path, random: &mut Random) -> io::Result<()> {
    let mut names = Vec::new();
    for entry in fs::read_dir(common)? {
        let name = entry?.file_name().into_string().expect("UTF-8");
        if !name.starts_with("once") {
            names.push(name);
        }
    }
    if names.is_empty() {
        return Ok(());
    }
    let name = random.one_of(&names);
    match fs::read(common.join(name)) {
        // It was made, and not written to yet.
        Ok(bytes) if bytes.is_empty() => Ok(()),
        Ok(bytes) => {
            let text = String::from_utf8_lossy(&bytes);
            let mut words = text.split_whitespace();
            let number = words.nth(1).and_then(|number| number.parse().ok());
            let host = words.nth(2).and_then(|host| host.parse().ok());
            let expected = number.zip(host).map(|(number, host)| content(host, number));
            assert!(
                expected.is_some_and(|all| all == bytes),
                "{name} has {} bytes",
                bytes.len()
            );
            Ok(())
        }
        Err(error) if matches!(errno(&error), Some(Errno::NOENT | Errno::BUSY)) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Cuts links, connections and the target for `time`.
fn disturb(network: &Network, target: &mut Target, hosts: u32, time: Duration) -> [u32; 3] {
    let mut random = Random::new(setting("VMFS_ISCSI_SEED", 1));
    let start = Instant::now();
    let mut done = [0; 3];
    while start.elapsed() < time {
        thread::sleep(Duration::from_millis(random.below(1000)));
        match done.iter().sum::<u32>() % 3 {
            0 => {
                let host = random.below(hosts.into()) as u32;
                network.set_link(host, false);
                thread::sleep(Duration::from_millis(random.below(LONGEST_CUT)));
                network.set_link(host, true);
                done[0] += 1;
            }
            1 => {
                target.proxy().cut_after(random.below(100_000));
                done[1] += 1;
            }
            _ => {
                target.restart();
                done[2] += 1;
            }
        }
    }
    done
}

/// Compares what `done` says of `host` with what a mount shows.
fn compare(mount: &Path, host: u32, done: &Done) {
    let common = mount.join("common");
    let prefix = format!("{host}-");
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(&common).expect("read") {
        let name = entry
            .expect("read")
            .file_name()
            .into_string()
            .expect("UTF-8");
        if name.starts_with(&prefix) && !done.unsure.contains(&name) {
            found.insert(name);
        }
    }
    for (name, number) in &done.files {
        if done.unsure.contains(name) {
            continue;
        }
        assert!(found.remove(name), "{name} is gone");
        let bytes = fs::read(common.join(name)).expect("read");
        assert!(bytes == content(host, *number), "{name} has other bytes");
    }
    assert!(found.is_empty(), "nobody made {found:?}");
    let growing = File::open(mount.join(format!("growing{host}"))).expect("open");
    let length = growing.metadata().expect("its size").len();
    assert!(
        length >= done.synced * STEP as u64,
        "{length} bytes of {} steps",
        done.synced
    );
    let mut bytes = vec![0; STEP];
    for number in 0..done.synced {
        growing
            .read_exact_at(&mut bytes, number * STEP as u64)
            .expect("read");
        assert!(bytes == step(host, number), "step {number} of host {host}");
    }
}

#[test]
fn hosts_share_a_lun_while_links_and_target_come_and_go() {
    let hosts = u32::try_from(setting("VMFS_ISCSI_HOSTS", 3)).expect("not so many");
    let time = Duration::from_secs(setting("VMFS_ISCSI_SECONDS", 12));
    let Some(network) = Network::new(hosts) else {
        return;
    };
    let mut target = target();
    let logs = tempfile::tempdir().expect("folder");
    let mount = |target: &Target, host| Mounted::new(&network, target, host, logs.path(), HOST);
    let mut mounts: Vec<_> = (0..hosts).map(|host| mount(&target, host)).collect();
    fs::create_dir(mounts[0].path().join("common")).expect("a directory");

    let results = tempfile::tempdir().expect("folder");
    let mut workers: Vec<_> = (0..)
        .zip(&mounts)
        .map(|(host, mount)| start_work(mount.path(), host, results.path()))
        .collect();
    let counts = disturb(&network, &mut target, hosts, time);
    eprintln!("links cut, connections cut, targets killed: {counts:?}");
    // The last host is killed and taken over from while the others go on.
    let victim = hosts - 1;
    mounts[victim as usize].kill();
    let start = Instant::now();
    let url = PathBuf::from(target.url());
    wait_for("the dead host to be taken over from", || {
        let fs = vmfs_tests::walk::open(&[&url]);
        fs.hosts().expect("hosts").len() < hosts as usize
    });
    eprintln!("taken over after {:?}", start.elapsed());
    File::create(results.path().join("stop")).expect("a file");
    for worker in &mut workers {
        assert!(
            worker.wait().expect("its end").success(),
            "a host has failed"
        );
    }
    let done: Vec<_> = (0..hosts)
        .map(|host| Done::read(&results.path().join(host.to_string())))
        .collect();
    let calls: Vec<u64> = done.iter().map(|done| done.calls).collect();
    eprintln!("calls of each host: {calls:?}");

    // The victim comes back and finds everything.
    mounts.pop();
    mounts.push(mount(&target, victim));
    for (host, done) in (0..).zip(&done) {
        compare(mounts[victim as usize].path(), host, done);
    }
    let mut won: Vec<u64> = done.iter().flat_map(|done| done.won.clone()).collect();
    won.sort_unstable();
    let count = won.len();
    won.dedup();
    assert_eq!(won.len(), count, "two hosts have made the same name");
    for round in &won {
        assert!(
            mounts[0]
                .path()
                .join(format!("common/once{round}"))
                .exists()
        );
    }
    mounts.into_iter().for_each(Mounted::unmount);
    check(&target);
    let proxy = target.proxy();
    assert_eq!(
        proxy.commands(COMPARE_AND_WRITE),
        0,
        "a legacy array has no such command"
    );
    assert!(proxy.commands(RESERVE) > 0, "hosts lock by reservations");
    assert!(
        calls.iter().all(|calls| *calls > 5),
        "a host starves: {calls:?}"
    );
}
