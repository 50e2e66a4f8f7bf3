//! The thread that owns libiscsi's context.

use std::collections::HashMap;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::connection::{Epoch, Request, Shared, What};
use crate::error::{ConnectError, LoginError, Unanswered};
use crate::moment::Moment;
use crate::raw::{Session, Stage};
use crate::settings::Settings;

/// Pause after the first attempt to connect that fails; it doubles with every other.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// Longest pause between attempts to connect.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How long logging out may take.
const FAREWELL: Duration = Duration::from_secs(1);
/// How old a request may be when it is sent: who made it may have lost the right to meanwhile,
/// and is asked again.
const STALE: Duration = Duration::from_millis(500);
/// How far apart two looks at the clock for commands in flight are, at least.
const TICK: Duration = Duration::from_millis(10);

/// The state of the thread.
pub(crate) struct EventLoop<'a> {
    settings: Settings,
    shared: &'a Shared,
    state: State,
    flights: HashMap<u64, Flight>,
    next_token: u64,
    /// Which of the addresses is tried next.
    portal: usize,
    pause: Duration,
}

enum State {
    /// Waiting before the next attempt.
    Pausing { until: Moment },
    /// Connecting and logging in.
    Connecting { session: Session, until: Moment },
    /// Logged in.
    Ready(Ready),
}

struct Ready {
    session: Session,
    epoch: Epoch,
    /// When the target last answered anything, or had nothing to answer.
    heard: Moment,
    /// The last question whether the target is there, if it has not answered.
    ping: Option<u64>,
    /// When flights are looked through for those that take too long.
    next_look: Moment,
}

/// A command that has been sent.
struct Flight {
    deadline: Moment,
}

impl<'a> EventLoop<'a> {
    pub(crate) fn new(settings: Settings, shared: &'a Shared) -> Self {
        Self {
            settings,
            shared,
            state: State::Pausing {
                until: Moment::now(),
            },
            flights: HashMap::new(),
            next_token: 1,
            portal: 0,
            pause: FIRST_PAUSE,
        }
    }

    /// Runs until the connection is dropped.
    pub(crate) fn run(mut self) {
        loop {
            let (requests, closing) = self.shared.requests();
            if closing {
                return self.log_out();
            }
            let idle = requests.is_empty();
            // After a standstill of this process, before anything is sent.
            self.look_at_clock();
            for request in requests {
                self.take(request);
            }
            // New commands are sent at once; the socket nearly always has room.
            let ready = match self.state {
                _ if idle => self.wait(),
                State::Ready(_) => PollFlags::IN | PollFlags::OUT,
                // While it connects, a socket that can be written to has another meaning.
                _ => PollFlags::empty(),
            };
            self.step(ready);
        }
    }

    /// Sends a request, or answers that it isn't sent.
    fn take(&mut self, request: Request) {
        let Request {
            epoch,
            what,
            made,
            patience,
            loan,
        } = request;
        let now = Moment::now();
        let ready = match &mut self.state {
            State::Ready(ready) if ready.epoch == epoch && now.since(made) < STALE => ready,
            _ => return loan.answer(Err(Unanswered::NotSent)),
        };
        let deadline = now + patience;
        if self.flights.is_empty() {
            ready.heard = now;
        }
        let token = self.next_token;
        let sent = match what {
            What::Command(cdb, len) => ready.session.submit(token, &cdb[..len], loan),
            What::ResetLun => ready.session.reset_lun(token, loan),
            What::Renew if self.flights.is_empty() => return drop(loan),
            What::Renew => Err("commands may have been ended by a reset".to_owned()),
        };
        self.next_token += 1;
        match sent {
            Ok(()) => {
                ready.next_look = ready.next_look.min(deadline.max(now + TICK));
                self.flights.insert(token, Flight { deadline });
            }
            Err(reason) => self.cut(reason),
        }
    }

    /// Waits until there is something to do; gives what the socket is ready for.
    fn wait(&self) -> PollFlags {
        let (session, until) = match &self.state {
            State::Pausing { until } => (None, Some(*until)),
            State::Connecting { session, until } => (Some(session), Some(*until)),
            State::Ready(ready) => {
                let until = (!self.flights.is_empty()).then(|| self.next_event(ready));
                (Some(&ready.session), until)
            }
        };
        let timeout = until.map(|until| {
            let left = until.since(Moment::now());
            Timespec {
                tv_sec: left.as_secs().cast_signed(),
                tv_nsec: left.subsec_nanos().into(),
            }
        });
        let mut fds = vec![PollFd::new(self.shared.waker(), PollFlags::IN)];
        let socket = session.and_then(|session| Some((session.socket()?, session.interest())));
        if let Some((socket, interest)) = socket {
            fds.push(PollFd::from_borrowed_fd(socket, interest));
        }
        // An interrupted wait is a short one.
        let _ = poll(&mut fds, timeout.as_ref());
        if fds.first().is_some_and(|fd| !fd.revents().is_empty()) {
            let mut count = [0; 8];
            let _ = rustix::io::read(self.shared.waker(), &mut count);
        }
        fds.get(1).map_or(PollFlags::empty(), PollFd::revents)
    }

    /// When something is due in a session with commands in flight.
    fn next_event(&self, ready: &Ready) -> Moment {
        let half = self.settings.silence / 2;
        let quiet = match ready.ping {
            None => ready.heard + half,
            Some(_) => ready.heard + self.settings.silence,
        };
        quiet.min(ready.next_look)
    }

    /// Does what is due, with a socket that is `ready` for something.
    fn step(&mut self, ready: PollFlags) {
        match &mut self.state {
            State::Pausing { until } if Moment::now() < *until => {}
            State::Pausing { .. } => self.connect(),
            State::Connecting { .. } => self.go_on_connecting(ready),
            State::Ready(state) => {
                let result = state.session.service(ready);
                self.collect();
                match result {
                    Ok(()) => self.look_at_clock(),
                    Err(reason) => self.cut(reason),
                }
            }
        }
    }

    fn connect(&mut self) {
        let Some(&portal) = self.settings.portals.get(self.portal) else {
            self.portal = 0;
            return;
        };
        match Session::connect(&self.settings, portal) {
            Ok(session) => {
                let until = Moment::now() + self.settings.silence;
                self.state = State::Connecting { session, until };
            }
            Err(reason) => self.fail(ConnectError::Unreachable { portal, reason }),
        }
    }

    fn go_on_connecting(&mut self, ready: PollFlags) {
        let State::Connecting { session, until } = &mut self.state else {
            return;
        };
        let result = session.service(ready);
        let portal = self.settings.portals[self.portal];
        match session.stage() {
            Stage::Ready => {}
            Stage::Connecting if result.is_ok() && Moment::now() < *until => return,
            Stage::Connecting if result.is_ok() => {
                let reason = format!("not in {:?}", self.settings.silence);
                return self.fail(ConnectError::Unreachable { portal, reason });
            }
            Stage::Connecting | Stage::Failed => {
                let reason = session.error();
                let failure = if reason.contains("log in") || reason.contains("CHAP") {
                    let kind = LoginError::of(&reason);
                    ConnectError::Login {
                        portal,
                        kind,
                        reason,
                    }
                } else {
                    ConnectError::Unreachable { portal, reason }
                };
                return self.fail(failure);
            }
        }
        let pausing = State::Pausing {
            until: Moment::now(),
        };
        if let State::Connecting { session, .. } = std::mem::replace(&mut self.state, pausing) {
            let epoch = self.shared.begin_epoch();
            tracing::debug!(%portal, ?epoch, target = %self.settings.target, "logged in");
            self.pause = FIRST_PAUSE;
            let now = Moment::now();
            self.state = State::Ready(Ready {
                session,
                epoch,
                heard: now,
                ping: None,
                next_look: now,
            });
        }
    }

    /// An attempt to connect has failed: the next address, or a pause.
    fn fail(&mut self, why: ConnectError) {
        tracing::debug!(target = %self.settings.target, "{why}");
        self.portal += 1;
        let mut until = Moment::now();
        if self.portal >= self.settings.portals.len() {
            self.portal = 0;
            until = until + self.pause;
            self.pause = LONGEST_PAUSE.min(self.pause * 2);
        }
        self.state = State::Pausing { until };
        self.shared.end_epoch(why);
    }

    /// The session is over: what is in flight stays without an answer.
    fn cut(&mut self, reason: String) {
        let portal = self.settings.portals[self.portal];
        let reason = if reason.is_empty() {
            "the target closed it".to_owned()
        } else {
            reason
        };
        tracing::warn!(%portal, target = %self.settings.target, flights = self.flights.len(),
            "connection lost: {reason}");
        self.shared.end_epoch(ConnectError::Cut { portal, reason });
        self.flights.clear();
        // The session goes, and with it the loans; the next one is begun at once.
        self.state = State::Pausing {
            until: Moment::now(),
        };
    }

    /// Hands out answers.
    fn collect(&mut self) {
        let State::Ready(ready) = &mut self.state else {
            return;
        };
        let mut broken = false;
        let finished = ready.session.finished();
        if !finished.is_empty() {
            ready.heard = Moment::now();
        }
        for one in finished {
            self.flights.remove(&one.token);
            if ready.ping == Some(one.token) {
                ready.ping = None;
            }
            match (one.answer, one.loan) {
                (Some(answer), Some(loan)) => loan.answer(Ok(answer)),
                (Some(_), None) => {}
                (None, _) => broken = true,
            }
        }
        if broken {
            let reason = ready.session.error();
            self.cut(reason);
        }
    }

    /// Notices that the target is silent.
    fn look_at_clock(&mut self) {
        let State::Ready(ready) = &mut self.state else {
            return;
        };
        if self.flights.is_empty() {
            return;
        }
        let now = Moment::now();
        let silence = self.settings.silence;
        if now >= ready.next_look {
            let deadlines = self.flights.values().map(|flight| flight.deadline);
            let first = deadlines.min().unwrap_or(now);
            if first <= now {
                return self.cut("a command was not answered in time".to_owned());
            }
            ready.next_look = first.max(now + TICK);
        }
        if ready.ping.is_some() && now >= ready.heard + silence {
            return self.cut(format!("nothing was heard for {silence:?}"));
        }
        if ready.ping.is_none() && now >= ready.heard + silence / 2 {
            let token = self.next_token;
            self.next_token += 1;
            ready.ping = Some(token);
            if let Err(reason) = ready.session.ping(token) {
                self.cut(reason);
            }
        }
    }

    /// Ends the session in order, if that doesn't take long.
    fn log_out(&mut self) {
        let token = self.next_token;
        let until = Moment::now() + FAREWELL;
        if let State::Ready(ready) = &mut self.state
            && ready.session.log_out(token).is_ok()
        {
            self.flights.clear();
            self.flights.insert(token, Flight { deadline: until });
            self.say_farewell(token, until);
        }
    }

    fn say_farewell(&mut self, token: u64, until: Moment) {
        loop {
            let State::Ready(ready) = &mut self.state else {
                return;
            };
            ready.next_look = until;
            ready.heard = until;
            let ready = self.wait();
            let State::Ready(state) = &mut self.state else {
                return;
            };
            let result = state.session.service(ready);
            let said = state
                .session
                .finished()
                .iter()
                .any(|one| one.token == token);
            if said || result.is_err() || Moment::now() >= until {
                return;
            }
        }
    }
}
