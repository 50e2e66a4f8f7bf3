//! The volume's free space, counted in the background.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use fuser::{Errno, ReplyStatfs};
use vmfs_core::fs::FileSystem;

/// Counts once; who asks before it is done is answered then, without holding a thread.
#[derive(Debug)]
pub(crate) struct SpaceCount {
    fs: Arc<FileSystem>,
    state: Mutex<State>,
}

#[derive(Debug)]
enum State {
    Counting(Vec<ReplyStatfs>),
    /// The file system keeps the numbers up to date from here on.
    Known,
    Failed,
}

impl SpaceCount {
    /// Starts counting.
    pub(crate) fn start(fs: &Arc<FileSystem>) -> Arc<Self> {
        let count = Arc::new(Self {
            fs: Arc::clone(fs),
            state: Mutex::new(State::Counting(Vec::new())),
        });
        let counting = Arc::clone(&count);
        let thread = thread::Builder::new().name("space".to_owned());
        let started = thread.spawn(move || {
            counting.fs.space();
            counting.finish(State::Known);
        });
        if started.is_err() {
            count.finish(State::Failed);
        }
        count
    }

    /// Answers now or as soon as the count is known.
    pub(crate) fn answer(&self, reply: ReplyStatfs) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *state {
            State::Counting(waiting) => return waiting.push(reply),
            State::Failed => return reply.error(Errno::EIO),
            State::Known => {}
        }
        drop(state);
        self.send(reply);
    }

    fn finish(&self, found: State) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *state, found);
        drop(state);
        if let State::Counting(waiting) = before {
            for reply in waiting {
                self.answer(reply);
            }
        }
    }

    fn send(&self, reply: ReplyStatfs) {
        let space = self.fs.space();
        let block_size = space.block_size as u32;
        reply.statfs(
            space.blocks,
            space.free_blocks,
            space.free_blocks,
            space.file_descriptors,
            space.free_file_descriptors,
            block_size,
            self.fs.layout().max_name() as u32,
            block_size,
        );
    }
}
