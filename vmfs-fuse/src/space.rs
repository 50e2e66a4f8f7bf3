//! The volume's free space, counted in the background.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use fuser::{Errno, ReplyStatfs};
use vmfs_core::fs::{FileSystem, Space};

/// Counts once; who asks before it is done is answered then, without holding a thread.
#[derive(Debug)]
pub(crate) struct SpaceCount {
    name_max: u32,
    state: Mutex<State>,
}

#[derive(Debug)]
enum State {
    Counting(Vec<ReplyStatfs>),
    Known(Space),
    Failed,
}

impl SpaceCount {
    /// Starts counting.
    pub(crate) fn start(fs: &Arc<FileSystem>) -> Arc<Self> {
        let count = Arc::new(Self {
            name_max: fs.layout().max_name() as u32,
            state: Mutex::new(State::Counting(Vec::new())),
        });
        let (fs, counting) = (Arc::clone(fs), Arc::clone(&count));
        let thread = thread::Builder::new().name("space".to_owned());
        if thread
            .spawn(move || counting.finish(State::Known(fs.space())))
            .is_err()
        {
            count.finish(State::Failed);
        }
        count
    }

    /// Answers now or as soon as the count is known.
    pub(crate) fn answer(&self, reply: ReplyStatfs) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *state {
            State::Counting(waiting) => waiting.push(reply),
            State::Known(space) => self.send(*space, reply),
            State::Failed => reply.error(Errno::EIO),
        }
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

    fn send(&self, space: Space, reply: ReplyStatfs) {
        let block_size = space.block_size as u32;
        reply.statfs(
            space.blocks,
            space.free_blocks,
            space.free_blocks,
            space.file_descriptors,
            space.free_file_descriptors,
            block_size,
            self.name_max,
            block_size,
        );
    }
}
