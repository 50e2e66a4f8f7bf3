//! A host: this program once more, as a process of its own that does what it is told.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write};
use std::ops::Range;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread::JoinHandle;

use rustix::process::{Pid, Signal, kill_process};
use vmfs_core::scsi::{
    Access, Comparison, DeviceOffset, FileLun, Key, Lun, LunError, PersistentReserve,
    ReservationType,
};

/// What makes this program a host, and which one.
const IMAGE: &str = "SHARED_LUN_IMAGE";
const NAME: &str = "SHARED_LUN_NAME";
/// What a host's answers start with: the test harness talks on the same pipe.
const MARK: &str = "> ";
/// Bytes of a block.
pub(crate) const BLOCK: usize = 512;

/// A process that has the LUN open. Dropped, it is killed.
pub(crate) struct Host {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Host {
    /// Starts a host; it has the LUN open afterwards.
    pub(crate) fn start(image: &Path, name: &str) -> Self {
        let program = std::env::current_exe().expect("this program");
        let mut child = Command::new(program)
            .args(["--exact", "host::host", "--nocapture", "--test-threads=1"])
            .env(IMAGE, image)
            .env(NAME, name)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a host starts");
        let orders = child.stdin.take().expect("piped");
        let answers = BufReader::new(child.stdout.take().expect("piped"));
        let mut host = Self {
            child,
            orders,
            answers,
        };
        assert_eq!(host.answer(), "ok");
        host
    }

    /// Gives an order and waits for the answer.
    pub(crate) fn run(&mut self, order: &str) -> String {
        self.order(order);
        self.answer()
    }

    /// Gives an order that must be carried out; what there is to tell.
    #[track_caller]
    pub(crate) fn good(&mut self, order: &str) -> String {
        let answer = self.run(order);
        let told = answer.strip_prefix("ok");
        told.unwrap_or_else(|| panic!("{order}: {answer}"))
            .trim()
            .to_owned()
    }

    /// Gives an order whose answer is read later.
    pub(crate) fn order(&mut self, order: &str) {
        writeln!(self.orders, "{order}").expect("the host listens");
    }

    /// Waits for an answer.
    pub(crate) fn answer(&mut self) -> String {
        loop {
            let mut line = String::new();
            let length = self.answers.read_line(&mut line).expect("the host speaks");
            assert_ne!(length, 0, "the host has died");
            // The harness may have begun the line.
            if let Some(at) = line.find(MARK) {
                return line[at + MARK.len()..].trim_end().to_owned();
            }
        }
    }

    pub(crate) fn stop(&self) {
        self.signal(Signal::STOP);
        // It may take a moment until all of its threads have.
        let all_stopped = || {
            let tasks = format!("/proc/{}/task", self.child.id());
            let tasks = std::fs::read_dir(tasks).expect("tasks");
            tasks.flatten().all(|task| {
                let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
                let state = stat
                    .rsplit(')')
                    .next()
                    .and_then(|rest| rest.trim().chars().next());
                state.is_none_or(|state| state == 'T')
            })
        };
        while !all_stopped() {
            std::thread::yield_now();
        }
    }

    pub(crate) fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// Kills it, and waits until it is gone.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("kill");
        self.child.wait().expect("wait");
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).expect("signal");
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // Fails if it is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a host runs; nothing when this is a test among others.
#[test]
fn host() {
    let Ok(image) = std::env::var(IMAGE) else {
        return;
    };
    let name = std::env::var(NAME).expect("name");
    let lun = FileLun::open_as(Path::new(&image), Access::ReadWrite, &name).expect("open");
    let mut worker = Worker {
        lun: Arc::new(lun),
        load: None,
    };
    println!("{MARK}ok");
    for order in std::io::stdin().lines().map_while(Result::ok) {
        let words: Vec<&str> = order.split(' ').collect();
        match worker.carry_out(&words) {
            Ok(told) => println!("{MARK}ok {told}"),
            Err(error) => println!("{MARK}{}", kind(&error)),
        }
    }
}

fn kind(error: &LunError) -> String {
    match error {
        LunError::ReservationConflict { .. } => "conflict".to_owned(),
        LunError::ReservationLost { .. } => "lost".to_owned(),
        LunError::Unsupported { .. } => "unsupported".to_owned(),
        LunError::Invalid { .. } => "invalid".to_owned(),
        error => error.to_string(),
    }
}

struct Worker {
    lun: Arc<FileLun>,
    load: Option<Load>,
}

/// Threads that write all the time.
struct Load {
    enough: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<(), LunError>>>,
}

impl Worker {
    fn carry_out(&mut self, order: &[&str]) -> Result<String, LunError> {
        let lun = &self.lun;
        let number = |at: usize| {
            let word = order.get(at).expect("an argument");
            word.parse::<u64>().expect("a number")
        };
        let mut told = String::new();
        match order[0] {
            "write" => {
                let data = vec![number(3) as u8; number(2) as usize];
                lun.write(DeviceOffset(number(1)), &data)?;
            }
            "read" => {
                let mut found = vec![0; number(2) as usize];
                lun.read(DeviceOffset(number(1)), &mut found)?;
                found.dedup();
                write!(told, "{found:?}").expect("a string");
            }
            "zero" => lun.write_zeros(DeviceOffset(number(1)), number(2))?,
            "unmap" => lun.unmap(DeviceOffset(number(1)), number(2))?,
            "flush" => lun.flush()?,
            "compare" => {
                let (old, new) = ([number(2) as u8; BLOCK], [number(3) as u8; BLOCK]);
                let comparison = lun.compare_and_write(DeviceOffset(number(1)), &old, &new)?;
                write!(told, "{comparison:?}").expect("a string");
            }
            "reserve" => lun.reserve()?,
            "release" => lun.release()?,
            "reset" => lun.reset()?,
            "count-by-comparing" => count_by_comparing(lun, number(1), number(2))?,
            "count-by-reserving" => count_by_reserving(lun, number(1), number(2))?,
            "attentions" => write!(told, "{:?}", lun.attentions()).expect("a string"),
            "counters" => {
                let counters = lun.counters().snapshot();
                write!(
                    told,
                    "miscompares {} conflicts {}",
                    counters.miscompares, counters.conflicts
                )
                .expect("a string");
            }
            "registrations" => {
                let found = lun.reservations()?;
                let keys = found
                    .registrations
                    .iter()
                    .map(|r| (&r.initiator, r.key.0, r.holder));
                write!(told, "{:?} {:?}", keys.collect::<Vec<_>>(), found.kind).expect("a string");
            }
            "register" => {
                let key = Some(Key(number(1))).filter(|key| key.0 != 0);
                lun.persistent_reserve(PersistentReserve::Register { key })?;
            }
            "hold" => lun.persistent_reserve(PersistentReserve::Reserve {
                key: Key(number(1)),
                kind: ReservationType::WriteExclusiveRegistrantsOnly,
            })?,
            "preempt" => lun.persistent_reserve(PersistentReserve::Preempt {
                key: Key(number(1)),
                victim: Key(number(2)),
                kind: ReservationType::WriteExclusiveRegistrantsOnly,
            })?,
            "clear" => lun.persistent_reserve(PersistentReserve::Clear {
                key: Key(number(1)),
            })?,
            // Blocks from and to which, with which byte.
            "load" => self.load = Some(load(lun, number(1)..number(2), number(3) as u8, false)),
            // The same, but conflicts don't end it.
            "storm" => self.load = Some(load(lun, number(1)..number(2), number(3) as u8, true)),
            "relax" => self.load.take().expect("a load").end()?,
            "quit" => std::process::exit(0),
            other => panic!("no such order: {other}"),
        }
        Ok(told)
    }
}

/// Adds 1 to a number on the LUN, again and again, with COMPARE AND WRITE.
fn count_by_comparing(lun: &FileLun, offset: u64, times: u64) -> Result<(), LunError> {
    let offset = DeviceOffset(offset);
    for _ in 0..times {
        loop {
            let mut old = [0; BLOCK];
            lun.read(offset, &mut old)?;
            let new = add_one(&old);
            if lun.compare_and_write(offset, &old, &new)? == Comparison::Written {
                break;
            }
        }
    }
    Ok(())
}

/// Adds 1 to a number on the LUN, again and again, under RESERVE.
fn count_by_reserving(lun: &FileLun, offset: u64, times: u64) -> Result<(), LunError> {
    let offset = DeviceOffset(offset);
    for _ in 0..times {
        while let Err(error) = lun.reserve() {
            let LunError::ReservationConflict { .. } = error else {
                return Err(error);
            };
            std::thread::yield_now();
        }
        let mut old = [0; BLOCK];
        lun.read(offset, &mut old)?;
        lun.write(offset, &add_one(&old))?;
        lun.release()?;
    }
    Ok(())
}

/// A block with the same number everywhere, so that a torn one shows.
fn add_one(old: &[u8; BLOCK]) -> [u8; BLOCK] {
    let (numbers, _) = old.as_chunks::<8>();
    assert!(
        numbers.iter().all(|number| number == &numbers[0]),
        "a torn block"
    );
    let next = u64::from_le_bytes(numbers[0]) + 1;
    let mut new = [0; BLOCK];
    new.as_chunks_mut::<8>().0.fill(next.to_le_bytes());
    new
}

/// Two threads that write blocks of every length, and one that compares and writes, until the first
/// error; a conflict is one unless it is `tough`.
fn load(lun: &Arc<FileLun>, blocks: Range<u64>, byte: u8, tough: bool) -> Load {
    let enough = Arc::new(AtomicBool::new(false));
    let threads = (0..3_u64).map(|thread| {
        let (lun, enough, blocks) = (Arc::clone(lun), Arc::clone(&enough), blocks.clone());
        std::thread::spawn(move || {
            let (mut turn, all) = (thread, blocks.end - blocks.start);
            while !enough.load(SeqCst) {
                turn += 1;
                let length = (turn * 37 % 64 + 1).min(all);
                let first = blocks.start + turn * 7919 % (all - length + 1);
                let offset = DeviceOffset(first * BLOCK as u64);
                let result = if thread == 2 {
                    let block = [byte; BLOCK];
                    let compared = lun.compare_and_write(offset, &block, &block);
                    compared.map(|_| ())
                } else {
                    lun.write(offset, &vec![byte; length as usize * BLOCK])
                };
                match result {
                    Err(LunError::ReservationConflict { .. }) if tough => {}
                    result => result?,
                }
            }
            Ok(())
        })
    });
    Load {
        threads: threads.collect(),
        enough,
    }
}

impl Load {
    /// Ends it; how it ended.
    fn end(self) -> Result<(), LunError> {
        self.enough.store(true, SeqCst);
        let ended: Vec<_> = self
            .threads
            .into_iter()
            .map(|thread| thread.join().expect("no panic"))
            .collect();
        ended.into_iter().collect()
    }
}
