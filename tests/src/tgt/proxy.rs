//! A TCP proxy whose connections can be cut and stalled.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Condvar, Mutex};
use std::thread::{self, JoinHandle};

use super::commands::Commands;

/// A proxy on this machine. Ends when dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    over: AtomicBool,
    accepted: AtomicU64,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Nothing goes to the target, to hosts.
    stalled: [bool; 2],
    /// Bytes that went to the target.
    sent: u64,
    /// Commands that went to the target, by operation code.
    commands: BTreeMap<u8, u64>,
    /// Bytes that go from the target to the host before everything is cut.
    answers_left: Option<u64>,
    /// Both ends of every connection that is there, or was.
    sockets: Vec<TcpStream>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    ToTarget = 0,
    ToHost = 1,
}

impl Proxy {
    /// Starts one before `target`, which listens at `address`.
    ///
    /// # Panics
    /// When this machine has no port for it.
    pub fn start(target: String, address: &str) -> Self {
        let listener = TcpListener::bind((address, 0)).expect("a port");
        let address = listener.local_addr().expect("its address");
        let shared = Arc::new(Shared::default());
        let its = Arc::clone(&shared);
        let acceptor = thread::spawn(move || {
            for host in listener.incoming() {
                if its.over.load(SeqCst) {
                    return;
                }
                its.accepted.fetch_add(1, SeqCst);
                // Without a target the host's connection is closed at once.
                if let (Ok(host), Ok(target)) = (host, TcpStream::connect(&target)) {
                    its.join(&host, &target);
                }
            }
        });
        Self {
            address,
            shared,
            acceptor: Some(acceptor),
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections that were made so far.
    pub fn accepted(&self) -> u64 {
        self.shared.accepted.load(SeqCst)
    }

    /// Cuts all connections; new ones can be made.
    pub fn cut(&self) {
        self.shared.cut(&mut self.shared.lock());
    }

    /// Cuts all connections once `bytes` more have gone to hosts.
    pub fn cut_after(&self, bytes: u64) {
        self.shared.lock().answers_left = Some(bytes);
    }

    /// Lets nothing through any more, in either direction; new connections stall as well.
    pub fn stall(&self) {
        self.shared.lock().stalled = [true; 2];
    }

    /// Lets no answers through any more, only commands.
    pub fn stall_answers(&self) {
        self.shared.lock().stalled[Way::ToHost as usize] = true;
    }

    /// Bytes that have gone to the target so far.
    pub fn sent(&self) -> u64 {
        self.shared.lock().sent
    }

    /// How many commands with an operation code have gone to the target so far.
    pub fn commands(&self, code: u8) -> u64 {
        let state = self.shared.lock();
        state.commands.get(&code).copied().unwrap_or(0)
    }

    /// Lets everything through again, what has come meanwhile first.
    pub fn resume(&self) {
        self.shared.lock().stalled = [false; 2];
        self.shared.changed.notify_all();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.over.store(true, SeqCst);
        self.resume();
        self.cut();
        // Wakes the acceptor; if this fails it is gone already.
        let _ = TcpStream::connect(self.address);
        if let Some(acceptor) = self.acceptor.take() {
            // A panic in it has been reported.
            let _ = acceptor.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("no panic with the lock held")
    }

    fn join(self: &Arc<Self>, host: &TcpStream, target: &TcpStream) {
        let copy = |socket: &TcpStream| socket.try_clone().expect("a file descriptor");
        for socket in [host, target] {
            socket.set_nodelay(true).expect("no delay");
        }
        self.lock().sockets.extend([copy(host), copy(target)]);
        for (from, to, way) in [
            (copy(host), copy(target), Way::ToTarget),
            (copy(target), copy(host), Way::ToHost),
        ] {
            let shared = Arc::clone(self);
            thread::spawn(move || shared.copy(from, to, way));
        }
    }

    /// Carries bytes until one end is closed.
    fn copy(&self, mut from: TcpStream, mut to: TcpStream, way: Way) {
        let mut buffer = vec![0; 256 << 10];
        let mut commands = Commands::default();
        while let Ok(len) = from.read(&mut buffer)
            && len > 0
        {
            let mut state = self.lock();
            while state.stalled[way as usize] && !self.over.load(SeqCst) {
                state = self.changed.wait(state).expect("no panic");
            }
            let mut part = len;
            if way == Way::ToHost
                && let Some(left) = state.answers_left
            {
                part = part.min(usize::try_from(left).unwrap_or(usize::MAX));
                state.answers_left = Some(left - part as u64);
            }
            if way == Way::ToTarget {
                state.sent += part as u64;
                for code in commands.follow(&buffer[..part]) {
                    *state.commands.entry(code).or_default() += 1;
                }
            }
            drop(state);
            if to.write_all(&buffer[..part]).is_err() {
                break;
            }
            let mut state = self.lock();
            if way == Way::ToHost && state.answers_left == Some(0) {
                state.answers_left = None;
                self.cut(&mut state);
            }
        }
        // Fails if it was cut already.
        let _ = from.shutdown(Shutdown::Both);
        let _ = to.shutdown(Shutdown::Both);
    }

    fn cut(&self, state: &mut State) {
        for socket in state.sockets.drain(..) {
            // Fails if its other end was faster.
            let _ = socket.shutdown(Shutdown::Both);
        }
        // Stalled bytes of connections that are no more can't go anywhere.
        self.changed.notify_all();
    }
}
