//! Programs of two hosts that do one thing after another, beside the same in memory: each host shows what both have
//! done, also when one of them leaves, dies or comes back.
//!
//! `VMFS_MODEL_SEED` and `VMFS_MODEL_COUNT` say from which seed on (1) and how many runs on each format (1), and
//! `VMFS_MODEL_CALLS` how many calls a run has (250).

mod common;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use common::volume::{GIB, Volume};
use common::{Mount, wait_for};
use rustix::fs::OFlags;
use rustix::process::Signal;
use vmfs_core::format::Family;
use vmfs_tests::random::{Random, setting};

const HEARTBEAT: Duration = Duration::from_millis(300);
const TIMES: &str = "heartbeat=0.3,lease=4";
/// What a host may do that is there.
const HOW: [&str; 6] = [
    "dies",
    "leaves",
    "leaves for long",
    "leaves for long",
    "leaves for long",
    "leaves for long",
];
const NAMES: u64 = 6;
const FOLDERS: usize = 3;
/// Offsets, lengths and memory of direct writes are multiples of this.
const BLOCK: usize = 4096;
const LENGTHS: [u64; 9] = [1, 10, 500, 1024, 3000, 4096, 8192, 70_000, 150_000];

#[repr(C, align(4096))]
struct Aligned([u8; 2 * BLOCK]);

struct Run<'a> {
    volume: &'a Volume,
    random: Random,
    /// Hosts `a` and `b`, of which one at least is there.
    hosts: [Option<Mount>; 2],
    files: BTreeMap<String, Vec<u8>>,
    folders: Vec<String>,
    /// What was done, for who has to find out why.
    told: String,
}

impl Run<'_> {
    fn new(volume: &Volume, seed: u64) -> Run<'_> {
        Run {
            volume,
            random: Random::new(seed),
            hosts: [0, 1].map(|host| Some(mount(volume, host))),
            files: BTreeMap::new(),
            folders: vec![String::new()],
            told: String::new(),
        }
    }

    fn tell(&mut self, host: usize, what: &str) {
        // Writing to a string can't fail.
        let _ = writeln!(self.told, "{}: {what}", ["a", "b"][host]);
    }

    /// One of the hosts that are there.
    fn host(&mut self) -> usize {
        let host = self.random.below(2) as usize;
        if self.hosts[host].is_some() {
            host
        } else {
            1 - host
        }
    }

    fn path(&self, host: usize, name: &str) -> PathBuf {
        self.hosts[host].as_ref().expect("it is there").file(name)
    }

    fn name(&mut self) -> String {
        let folder = self.random.one_of(&self.folders).clone();
        format!("{folder}n{}", self.random.below(NAMES))
    }

    fn data(&mut self) -> Vec<u8> {
        let length = *self.random.one_of(&LENGTHS);
        let byte = self.random.bits() as u8;
        (0..length)
            .map(|at| byte.wrapping_add((at / 7) as u8))
            .collect()
    }

    /// A host leaves, dies or comes back.
    fn come_and_go(&mut self) {
        let host = self.random.below(2) as usize;
        let there = self.hosts.iter().flatten().count();
        match self.hosts[host].take() {
            None => {
                self.tell(host, "comes");
                self.hosts[host] = Some(mount(self.volume, host));
            }
            Some(mount) if there == 2 => {
                let how = *self.random.one_of(&HOW);
                self.tell(host, how);
                if how == "dies" {
                    mount.signal(Signal::KILL);
                }
                drop(mount);
                if how == "leaves for long" {
                    // So that the other one finds that it is alone.
                    thread::sleep(HEARTBEAT * 4);
                }
            }
            alone => self.hosts[host] = alone,
        }
    }

    fn call(&mut self) {
        let (host, name) = (self.host(), self.name());
        let kind = self.random.below(12);
        self.tell(host, &format!("{kind} {name}"));
        let random = self.random.clone();
        patiently(|| {
            // The same call each time.
            self.random = random.clone();
            self.try_call(host, name.clone(), kind)
        });
    }

    fn try_call(&mut self, host: usize, name: String, kind: u64) -> io::Result<()> {
        let path = self.path(host, &name);
        let mut open = OpenOptions::new();
        match kind {
            0 | 1 => {
                let data = self.data();
                fs::write(&path, &data)?;
                self.files.insert(name, data);
                return Ok(());
            }
            2 | 3 => {
                let data = self.data();
                open.append(true)
                    .create(true)
                    .open(&path)?
                    .write_all(&data)?;
                self.files.entry(name).or_default().extend(data);
                return Ok(());
            }
            4 => return self.list(host),
            5 if self.folders.len() < FOLDERS => {
                let folder = format!("d{}/", self.folders.len());
                fs::create_dir(self.path(host, &folder))?;
                self.folders.push(folder);
                return Ok(());
            }
            _ => {}
        }
        let new_name = self.name();
        let data = self.data();
        let somewhere = self.random.below(200_000);
        let Some(content) = self.files.get_mut(&name) else {
            assert!(fs::symlink_metadata(&path).is_err(), "{name} isn't there");
            return Ok(());
        };
        match kind {
            6 => {
                open.write(true)
                    .open(&path)?
                    .write_all_at(&data, somewhere)?;
                put(content, somewhere, &data);
            }
            7 => {
                nix::unistd::truncate(&path, somewhere.cast_signed())?;
                content.resize(somewhere as usize, 0);
            }
            8 => {
                let at = somewhere / BLOCK as u64 * BLOCK as u64;
                let block = Aligned([data[0]; 2 * BLOCK]);
                let direct = OFlags::DIRECT.bits().cast_signed();
                open.write(true).custom_flags(direct);
                open.open(&path)?.write_all_at(&block.0, at)?;
                put(content, at, &block.0);
            }
            9 => {
                fs::remove_file(&path)?;
                self.files.remove(&name);
            }
            10 => {
                fs::rename(&path, self.path(host, &new_name))?;
                let content = self.files.remove(&name).expect("looked up above");
                self.files.insert(new_name, content);
            }
            _ => assert_eq!(fs::metadata(&path)?.len(), content.len() as u64),
        }
        Ok(())
    }

    fn list(&mut self, host: usize) -> io::Result<()> {
        let folder = self.random.one_of(&self.folders).clone();
        let mut found = Vec::new();
        for entry in fs::read_dir(self.path(host, &folder))? {
            let name = entry?.file_name().into_string().expect("UTF-8");
            if !name.starts_with('.') {
                found.push(format!("{folder}{name}"));
            }
        }
        found.sort();
        let folders = self.folders.iter().map(|name| name.trim_end_matches('/'));
        let all = self.files.keys().map(String::as_str).chain(folders);
        let is_in = |name: &&str| {
            let parent = name.rfind('/').map_or("", |at| &name[..=at]);
            !name.is_empty() && parent == folder
        };
        let mut expected: Vec<&str> = all.filter(is_in).collect();
        expected.sort_unstable();
        assert_eq!(found, expected);
        Ok(())
    }

    /// Compares a file, or all of them, on the hosts that are there.
    fn compare(&self, only: Option<&str>) {
        for mount in self.hosts.iter().flatten() {
            for (name, content) in &self.files {
                if only.is_none_or(|only| only == name) {
                    let found = patiently(|| fs::read(mount.file(name)));
                    let differs = found.iter().zip(content).position(|(a, b)| a != b);
                    let lengths = (found.len(), content.len());
                    assert!(
                        found == *content,
                        "{name}: {lengths:?}, from {differs:?} on"
                    );
                }
            }
        }
    }

    fn go(&mut self, calls: u64) {
        for _ in 0..calls {
            if self.random.below(20) == 0 {
                self.come_and_go();
            }
            self.call();
            // Rarely: what isn't looked at stays in the kernel as it was.
            if self.random.below(8) == 0
                && let Some(name) = self.files.keys().nth(self.random.below(NAMES) as usize)
            {
                self.compare(Some(name));
            }
        }
        for host in 0..2 {
            if self.hosts[host].is_none() {
                self.hosts[host] = Some(mount(self.volume, host));
            }
        }
        self.compare(None);
    }
}

impl Drop for Run<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("{}", self.told);
        }
    }
}

/// Calls until the file isn't busy any more: a host that has died keeps it so until others take over from it.
fn patiently<T>(mut call: impl FnMut() -> io::Result<T>) -> T {
    let mut result = None;
    wait_for("a file of a dead host", || {
        let done = call();
        let is_busy = |error: &io::Error| error.kind() == io::ErrorKind::ResourceBusy;
        if !done.as_ref().is_err_and(is_busy) {
            result = Some(done.expect("the call works"));
        }
        result.is_some()
    });
    result.expect("waited for")
}

fn mount(volume: &Volume, host: usize) -> Mount {
    volume.mount(&["--host", ["a", "b"][host], "-o", TIMES])
}

fn put(content: &mut Vec<u8>, at: u64, data: &[u8]) {
    let range = at as usize..at as usize + data.len();
    content.resize(content.len().max(range.end), 0);
    content[range].copy_from_slice(data);
}

#[test]
fn two_hosts_show_what_both_have_done() {
    let (first, count) = (
        setting("VMFS_MODEL_SEED", 1),
        setting("VMFS_MODEL_COUNT", 1),
    );
    let calls = setting("VMFS_MODEL_CALLS", 250);
    for family in [Family::Vmfs5, Family::Vmfs6] {
        let volume = Volume::new(family, 4 * GIB);
        for seed in first..first + count {
            eprintln!("{family}: VMFS_MODEL_SEED={seed}");
            let mut run = Run::new(&volume, seed);
            run.go(calls);
            // The next run begins with what the kernels know of the files of this one.
            let host = run.hosts[0].as_ref().expect("it is there");
            for name in run.files.keys() {
                fs::remove_file(host.file(name)).expect("remove");
            }
            for folder in run.folders.iter().skip(1) {
                fs::remove_dir(host.file(folder)).expect("remove");
            }
        }
        let last = mount(&volume, 0);
        wait_for("dead hosts to be taken over from", || {
            let fs = vmfs_tests::walk::open(&[volume.image()]);
            fs.hosts().expect("hosts").len() == 1
        });
        drop(last);
        volume.check();
    }
}
