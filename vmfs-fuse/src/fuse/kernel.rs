//! What a mount tells the kernel unasked.

use std::sync::{OnceLock, mpsc};
use std::thread;

use fuser::{INodeNo, Notifier};

/// The way to the kernel, which is there once the mount is.
#[derive(Debug, Default)]
pub(crate) struct Kernel {
    connection: OnceLock<Connection>,
}

#[derive(Debug)]
struct Connection {
    notifier: Notifier,
    flusher: mpsc::Sender<Flush>,
}

/// Pages to write back, and what waits for that.
struct Flush {
    node: INodeNo,
    from: i64,
    then: Box<dyn FnOnce() + Send>,
}

impl Kernel {
    /// Takes the way to the kernel of the mount that was just made.
    pub(crate) fn connect(&self, notifier: Notifier) {
        let (flusher, flushes) = mpsc::channel::<Flush>();
        let for_thread = notifier.clone();
        let thread = thread::Builder::new().name("flush".to_owned());
        let started = thread.spawn(move || {
            for flush in flushes {
                // Zero bytes means all up to the end.
                if let Err(error) = for_thread.inval_inode(flush.node, flush.from, 0) {
                    tracing::debug!("the kernel didn't write back {}: {error}", flush.node);
                }
                (flush.then)();
            }
        });
        match started {
            Ok(_) => {
                let connection = Connection { notifier, flusher };
                // There is one mount, so one connection.
                let _ = self.connection.set(connection);
            }
            Err(error) => tracing::warn!("can't start a thread: {error}"),
        }
    }

    /// Makes the kernel ask for a file's attributes again.
    pub(super) fn forget_attributes(&self, node: INodeNo) {
        if let Some(connection) = self.connection.get() {
            // A negative offset leaves the pages alone.
            let told = connection.notifier.inval_inode(node, -1, 0);
            if let Err(error) = told {
                tracing::debug!("the kernel keeps the attributes of {node}: {error}");
            }
        }
    }

    /// Has the kernel write back what it holds of a file from `from` on, and then calls `then`.
    ///
    /// Writing back comes as requests to the mount, so no thread that answers those may wait for
    /// it: another one does.
    pub(super) fn flush_then(
        &self,
        node: INodeNo,
        from: i64,
        then: impl FnOnce() + Send + 'static,
    ) {
        let then = Box::new(then);
        let flush = Flush { node, from, then };
        let unsent = match self.connection.get() {
            Some(connection) => connection.flusher.send(flush).map_err(|error| error.0),
            None => Err(flush),
        };
        if let Err(flush) = unsent {
            (flush.then)();
        }
    }
}
