//! Reading, and finding holes.

use std::cell::RefCell;

use fuser::{Errno, INodeNo, ReplyData, ReplyLseek};
use vmfs_core::scsi::AlignedBuf;

use super::files::Files;
use super::{MAX_REQUEST, Mounted};

thread_local! {
    /// Where this thread reads file contents to, so that no read allocates or zeroes memory.
    static BUFFER: RefCell<AlignedBuf> = RefCell::default();
}

impl Mounted {
    /// Answers with up to `size` bytes at `offset`.
    pub(super) fn read_file(&self, node: INodeNo, offset: u64, size: u32, reply: ReplyData) {
        BUFFER.with_borrow_mut(|buffer| {
            match self.read_into(node, offset, size as usize, buffer) {
                Ok(data) => reply.data(data),
                Err(errno) => reply.error(errno),
            }
        });
    }

    /// Reads into `buffer` and returns what is there.
    fn read_into<'a>(
        &self,
        node: INodeNo,
        offset: u64,
        size: usize,
        buffer: &'a mut AlignedBuf,
    ) -> Result<&'a [u8], Errno> {
        if buffer.len() < size {
            *buffer = AlignedBuf::new(size.max(MAX_REQUEST as usize));
        }
        let inode = self.files.inode(node)?;
        let read = self.files.fs.read(&inode, offset, &mut buffer[..size]);
        let length = self.files.heard(inode.fd(), read)?;
        Ok(&buffer[..length])
    }

    /// Answers where data or a hole starts.
    pub(super) fn seek_in_file(&self, node: INodeNo, offset: i64, whence: i32, reply: ReplyLseek) {
        let files = self.files.clone();
        let answer = move || match files.seek(node, offset, whence) {
            Ok(found) => reply.offset(found),
            Err(errno) => reply.error(errno),
        };
        // The kernel asks without writing back first, and takes for a hole what it has only in
        // its cache.
        match (&self.changing, Files::fd(node)) {
            (Some(changing), Ok(fd))
                if changing.is_cached && changing.opens.is_being_written(fd) =>
            {
                // A hole before `offset` matters to nobody, and its page may be a large one.
                changing.kernel.flush_then(node, offset.max(0), answer);
            }
            _ => answer(),
        }
    }
}
