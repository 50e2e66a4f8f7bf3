//! Threads of which one runs at a time, and time that passes only when all wait.
//!
//! Each simulated thread is a thread of the system, but runs only while it has the baton. It gives
//! the baton away where it waits: for time to pass, for an answer of the LUN, for another thread's
//! lock. The seed chooses who has it next, so a run depends on nothing but its seed.

use std::hash::Hasher;
use std::rc::Rc;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use parking_lot::{Condvar, Mutex, MutexGuard};
use vmfs_core::sync::{Waiter, wait_by};

use super::world::World;

/// A thread's number.
pub type ThreadId = usize;
/// A host's number.
pub type HostId = usize;

/// What a thread waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// The baton.
    Ready,
    /// A time.
    Sleeping(Duration),
    /// Another thread of its host to do something since the host had made so many steps.
    Waiting {
        seen: u64,
        /// It was waiting before, and did nothing since.
        in_vain: bool,
        until: Option<Duration>,
    },
    /// The answer to a command.
    Commanding(u64),
    /// Nothing any more.
    Finished,
}

#[derive(Debug)]
struct Thread {
    host: Option<HostId>,
    status: Status,
    turn: Arc<Condvar>,
}

/// A host's threads together.
#[derive(Debug, Clone, Default)]
pub struct Machine {
    /// Nothing of it runs before.
    pub paused_until: Option<Duration>,
    /// Its clock stands still meanwhile.
    pub is_frozen: bool,
    paused_since: Duration,
    /// Time that its clock has missed.
    pub missed: Duration,
    steps: u64,
}

/// Who runs, and when.
#[derive(Debug)]
pub struct Turns {
    /// Time since the start.
    pub now: Duration,
    /// Machines by host.
    pub machines: Vec<Machine>,
    threads: Vec<Thread>,
    running: Option<ThreadId>,
    /// Turns given so far.
    pub turns: u64,
    trace: Trace,
    over: bool,
}

/// A number for all that has happened (FNV-1a).
#[derive(Debug)]
pub struct Trace(u64);

impl Hasher for Trace {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        }
    }
}

impl Turns {
    /// Nobody runs.
    pub fn new(hosts: usize) -> Self {
        Self {
            now: Duration::ZERO,
            machines: vec![Machine::default(); hosts],
            threads: Vec::new(),
            running: None,
            turns: 0,
            trace: Trace(0xcbf2_9ce4_8422_2325),
            over: false,
        }
    }

    /// Takes something that has happened into the trace.
    pub fn note(&mut self, what: &[u64]) {
        for number in what {
            self.trace.write(&number.to_le_bytes());
        }
    }

    /// The trace so far.
    pub fn trace(&self) -> u64 {
        self.trace.finish()
    }

    /// Stops a host for `time`.
    pub fn pause(&mut self, host: HostId, time: Duration, freeze: bool) {
        let machine = &mut self.machines[host];
        if machine.paused_until.is_none() {
            machine.paused_since = self.now;
            machine.is_frozen = freeze;
            machine.paused_until = Some(self.now + time);
        }
    }

    /// Lets a host go on.
    pub fn resume(&mut self, host: HostId) {
        let machine = &mut self.machines[host];
        machine.paused_until = None;
        if std::mem::take(&mut machine.is_frozen) {
            machine.missed += self.now - machine.paused_since;
        }
    }

    /// Time that a host's clock has not seen by now.
    pub fn missed(&self, host: HostId) -> Duration {
        let machine = &self.machines[host];
        let running = if machine.is_frozen {
            self.now - machine.paused_since
        } else {
            Duration::ZERO
        };
        machine.missed + running
    }

    /// Threads that are not done, and what they wait for.
    pub fn shown(&self) -> String {
        let threads = self.threads.iter().enumerate();
        let open = threads.filter(|(_, thread)| thread.status != Status::Finished);
        let open =
            open.map(|(id, thread)| format!("{id} of {:?} {:?}", thread.host, thread.status));
        open.collect::<Vec<_>>().join(", ")
    }

    fn may_run(&self, thread: &Thread, answered: impl Fn(u64) -> Option<Duration>) -> bool {
        let machine = thread.host.map(|host| &self.machines[host]);
        if machine.is_some_and(|machine| machine.paused_until.is_some()) {
            return false;
        }
        match thread.status {
            Status::Ready => true,
            Status::Sleeping(until) => until <= self.now,
            Status::Waiting { seen, until, .. } => {
                machine.is_some_and(|machine| machine.steps != seen)
                    || until.is_some_and(|until| until <= self.now)
            }
            Status::Commanding(ticket) => answered(ticket).is_some_and(|at| at <= self.now),
            Status::Finished => false,
        }
    }
}

/// The world, with the baton that its threads hand on.
#[derive(Debug)]
pub struct Baton {
    world: Mutex<World>,
    over: Condvar,
}

thread_local! {
    static ME: std::cell::Cell<Option<ThreadId>> = const { std::cell::Cell::new(None) };
}

impl Baton {
    /// Nobody has the baton.
    pub fn new(world: World) -> Arc<Self> {
        Arc::new(Self {
            world: Mutex::new(world),
            over: Condvar::new(),
        })
    }

    /// The world, for who has the baton.
    pub fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock()
    }

    /// Starts a thread, which runs when it is its turn.
    pub fn spawn(self: &Arc<Self>, host: Option<HostId>, work: impl FnOnce() + Send + 'static) {
        let turn = Arc::new(Condvar::new());
        let id = {
            let mut world = self.world.lock();
            let threads = &mut world.turns.threads;
            threads.push(Thread {
                host,
                status: Status::Ready,
                turn: Arc::clone(&turn),
            });
            threads.len() - 1
        };
        let baton = Arc::clone(self);
        let run = move || {
            {
                let mut world = baton.world.lock();
                while world.turns.running != Some(id) {
                    turn.wait(&mut world);
                }
            }
            ME.set(Some(id));
            wait_by(Some(Rc::new(ByBaton(Arc::clone(&baton)))));
            let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
            wait_by(None);
            let mut world = baton.world.lock();
            if let Err(panic) = done {
                let text = panic.downcast_ref::<String>().cloned();
                let text = text.or_else(|| panic.downcast_ref::<&str>().map(|&s| s.to_owned()));
                world.fail(format!("a thread panicked: {}", text.unwrap_or_default()));
            }
            world.turns.threads[id].status = Status::Finished;
            baton.hand_on(&mut world, id);
        };
        let builder = thread::Builder::new().stack_size(1 << 20);
        builder.spawn(run).expect("a thread");
    }

    /// Hands the baton out for the first time and waits until all threads are done, or something is
    /// wrong: then the threads stay where they are.
    pub fn run(&self) {
        let mut world = self.world.lock();
        self.hand_on(&mut world, usize::MAX);
        while !world.turns.over {
            self.over.wait(&mut world);
        }
    }

    /// The calling thread waits for something.
    pub fn wait(&self, status: impl FnOnce(&mut World, Option<HostId>) -> Status) {
        let me = ME.get().expect("a simulated thread");
        let mut world = self.world.lock();
        let host = world.turns.threads[me].host;
        world.turns.threads[me].status = status(&mut world, host);
        self.hand_on(&mut world, me);
        let turn = Arc::clone(&world.turns.threads[me].turn);
        while world.turns.running != Some(me) {
            turn.wait(&mut world);
        }
    }

    /// Waits for `time`.
    pub fn sleep(&self, time: Duration) {
        self.wait(|world, _| Status::Sleeping(world.turns.now + time));
    }

    fn hand_on(&self, world: &mut World, from: ThreadId) {
        if let Some(host) = world.turns.threads.get(from).and_then(|thread| thread.host) {
            let Turns {
                machines, threads, ..
            } = &mut world.turns;
            let (status, steps) = (&mut threads[from].status, &mut machines[host].steps);
            if !matches!(status, Status::Waiting { in_vain: true, .. }) {
                *steps += 1;
            }
            // Who waits for others doesn't count as one of them.
            if let Status::Waiting { seen, .. } = status {
                *seen = *steps;
            }
        }
        let next = world
            .failure()
            .is_none()
            .then(|| Self::next(world))
            .flatten();
        world.turns.running = next;
        match next {
            Some(next) => {
                world.turns.turns += 1;
                let now = world.turns.now.as_nanos() as u64;
                world.turns.note(&[next as u64, now]);
                world.turns.threads[next].turn.notify_one();
            }
            None => {
                world.turns.over = true;
                self.over.notify_all();
            }
        }
    }

    /// The next thread; lets time pass until there is one.
    fn next(world: &mut World) -> Option<ThreadId> {
        loop {
            world.happen();
            if world.failure().is_some() {
                return None;
            }
            let threads = world.turns.threads.iter().enumerate();
            let able: Vec<ThreadId> = threads
                .filter(|(_, thread)| world.turns.may_run(thread, |ticket| world.answered(ticket)))
                .map(|(id, _)| id)
                .collect();
            if !able.is_empty() {
                return Some(*world.random.one_of(&able));
            }
            let threads = world.turns.threads.iter();
            if threads
                .clone()
                .all(|thread| thread.status == Status::Finished)
            {
                return None;
            }
            let times = threads.filter_map(|thread| match thread.status {
                Status::Sleeping(until) => Some(until),
                Status::Waiting { until, .. } => until,
                Status::Commanding(ticket) => world.answered(ticket),
                Status::Ready | Status::Finished => None,
            });
            let pauses = world.turns.machines.iter();
            let next = times
                .chain(pauses.filter_map(|machine| machine.paused_until))
                .chain(world.next_event())
                .filter(|&time| time > world.turns.now)
                .min();
            match next {
                Some(time) => world.turns.now = time,
                None => {
                    let text = format!("nobody can go on: {}", world.turns.shown());
                    world.fail(text);
                }
            }
        }
    }
}

/// How a simulated thread waits for another one's lock.
struct ByBaton(Arc<Baton>);

impl Waiter for ByBaton {
    fn wait(&self, in_vain: bool, until: Option<Duration>) {
        self.0.wait(|_, _| Status::Waiting {
            seen: 0,
            in_vain,
            until,
        });
    }

    fn uptime(&self) -> Duration {
        self.0.world().turns.now
    }
}
