//! A LUN's connection as callers have it.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use rustix::event::EventfdFlags;

use crate::answer::{Answer, Data};
use crate::error::{ConnectError, Unanswered};
use crate::event_loop::EventLoop;
use crate::moment::Moment;
use crate::raw::{Loan, lend};
use crate::settings::Settings;

/// The time between a login and the loss of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(u64);

/// A connection to a LUN, which is made anew whenever it is lost. Dropping it logs out.
#[derive(Debug)]
pub struct Connection {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// What callers and the thread have in common.
#[derive(Debug)]
pub(crate) struct Shared {
    queue: Mutex<Queue>,
    /// Written to wake the thread.
    wake: OwnedFd,
    link: Mutex<Link>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    requests: Vec<Request>,
    /// The thread waits for events and doesn't look here.
    sleeping: bool,
    closing: bool,
    /// The thread is gone.
    over: bool,
}

#[derive(Debug)]
struct Link {
    /// The epoch, while there is a session.
    epoch: Option<Epoch>,
    last: Epoch,
    /// Attempts to connect that failed since there was a session.
    failures: usize,
    /// Why the last session or attempt ended.
    failure: Option<ConnectError>,
    /// The thread is gone.
    over: bool,
}

/// Something for the thread to do.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) epoch: Epoch,
    pub(crate) what: What,
    /// When it was made.
    pub(crate) made: Moment,
    /// How long an answer may take.
    pub(crate) patience: Duration,
    pub(crate) loan: Loan,
}

#[derive(Debug)]
pub(crate) enum What {
    /// A SCSI command: its descriptor block and how long that is.
    Command([u8; 16], usize),
    /// LOGICAL UNIT RESET.
    ResetLun,
    /// Ends the epoch if there are commands in flight.
    Renew,
}

impl Connection {
    /// Connects, which takes one attempt for each address at most.
    ///
    /// # Errors
    /// Why the last address didn't do.
    pub fn open(settings: Settings) -> Result<Self, ConnectError> {
        if let Some(problem) = settings.problem() {
            return Err(ConnectError::Settings(problem));
        }
        let system = |what: &str, error: &dyn std::fmt::Display| {
            ConnectError::System(format!("{what}: {error}"))
        };
        let wake = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|errno| system("can't make an eventfd", &errno))?;
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            wake,
            link: Mutex::new(Link {
                epoch: None,
                last: Epoch(0),
                failures: 0,
                failure: None,
                over: false,
            }),
            changed: Condvar::new(),
        });
        let attempts = settings.portals.len();
        let its = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("iscsi".to_owned())
            .spawn(move || {
                // Says so however the loop ends, after the session is gone.
                let _over = Over(&its);
                EventLoop::new(settings, &its).run();
            })
            .map_err(|error| system("can't start a thread", &error))?;
        let connection = Self {
            shared,
            thread: Some(thread),
        };
        let mut link = connection.shared.link.lock();
        while link.epoch.is_none() && link.failures < attempts && !link.over {
            connection.shared.changed.wait(&mut link);
        }
        if link.epoch.is_some() {
            drop(link);
            return Ok(connection);
        }
        Err(link.failure())
    }

    /// The present epoch. While the connection is lost, waits for it until `until`.
    ///
    /// # Errors
    /// Why there is no connection.
    pub fn epoch(&self, until: Moment) -> Result<Epoch, ConnectError> {
        let mut link = self.shared.link.lock();
        loop {
            if let Some(epoch) = link.epoch {
                return Ok(epoch);
            }
            let left = until.since(Moment::now());
            if left.is_zero() || link.over {
                return Err(link.failure());
            }
            self.shared.changed.wait_for(&mut link, left);
        }
    }

    /// Sends a command in `epoch` and waits for its answer. If none comes within `patience` the
    /// connection is given up, and made anew. A command that could not be sent half a second
    /// after this was called isn't sent any more.
    ///
    /// # Errors
    /// What is known of a command without an answer.
    pub fn execute(
        &self,
        epoch: Epoch,
        cdb: &[u8],
        data: Data<'_>,
        patience: Duration,
    ) -> Result<Answer, Unanswered> {
        let mut bytes = [0; 16];
        let Some(command) = bytes.get_mut(..cdb.len()) else {
            return Err(Unanswered::NotSent);
        };
        command.copy_from_slice(cdb);
        self.request(epoch, What::Command(bytes, cdb.len()), data, patience)
    }

    /// Sends LOGICAL UNIT RESET in `epoch` and waits for its answer.
    ///
    /// # Errors
    /// What is known if there is no answer.
    pub fn reset_lun(&self, epoch: Epoch, patience: Duration) -> Result<Answer, Unanswered> {
        self.request(epoch, What::ResetLun, Data::None, patience)
    }

    /// Ends `epoch` if commands are in flight, which then are unanswered: for when they may have
    /// been ended without an answer.
    pub fn renew(&self, epoch: Epoch) {
        // Nothing to know: whether it is over already doesn't matter.
        let _ = self.request(epoch, What::Renew, Data::None, Duration::ZERO);
    }

    fn request(
        &self,
        epoch: Epoch,
        what: What,
        data: Data<'_>,
        patience: Duration,
    ) -> Result<Answer, Unanswered> {
        let answer = lend(data, |loan| {
            self.shared.push(Request {
                epoch,
                what,
                made: Moment::now(),
                patience,
                loan,
            });
        });
        answer.unwrap_or(Err(Unanswered::Lost))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.shared.queue.lock().closing = true;
        self.shared.wake();
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been reported by itself.
            let _ = thread.join();
        }
    }
}

/// Tells callers that the thread is gone, when it is.
struct Over<'a>(&'a Shared);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        let mut queue = self.0.queue.lock();
        queue.over = true;
        // Given back without an answer.
        let left = std::mem::take(&mut queue.requests);
        drop(queue);
        drop(left);
        let mut link = self.0.link.lock();
        link.epoch = None;
        link.over = true;
        self.0.changed.notify_all();
    }
}

impl Link {
    fn failure(&self) -> ConnectError {
        let failure = self.failure.clone();
        failure
            .unwrap_or_else(|| ConnectError::System("no attempt to connect has ended".to_owned()))
    }
}

impl Shared {
    fn push(&self, request: Request) {
        let mut queue = self.queue.lock();
        if queue.over {
            drop(queue);
            return request.loan.answer(Err(Unanswered::NotSent));
        }
        queue.requests.push(request);
        if std::mem::take(&mut queue.sleeping) {
            drop(queue);
            self.wake();
        }
    }

    fn wake(&self) {
        // Fails only if the thread has been woken 2⁶⁴ times without noticing.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    /// What there is to do, and whether the connection is being dropped. If there is nothing to
    /// do the thread is woken by the next request.
    pub(crate) fn requests(&self) -> (Vec<Request>, bool) {
        let mut queue = self.queue.lock();
        let requests = std::mem::take(&mut queue.requests);
        queue.sleeping = requests.is_empty();
        (requests, queue.closing)
    }

    /// What the thread is woken by.
    pub(crate) fn waker(&self) -> &OwnedFd {
        &self.wake
    }

    /// A session has begun.
    pub(crate) fn begin_epoch(&self) -> Epoch {
        let mut link = self.link.lock();
        let epoch = Epoch(link.last.0 + 1);
        link.last = epoch;
        link.epoch = Some(epoch);
        link.failures = 0;
        self.changed.notify_all();
        epoch
    }

    /// The session, or the attempt at one, has ended.
    pub(crate) fn end_epoch(&self, why: ConnectError) {
        let mut link = self.link.lock();
        if link.epoch.take().is_none() {
            link.failures += 1;
        }
        link.failure = Some(why);
        self.changed.notify_all();
    }
}
