//! Locks of open file descriptions: the kernel drops them when the last process that has the
//! description open is gone, however it died.

use std::fs::File;
use std::io;
use std::ops::Range;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc::{self, flock};

/// How a range is locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// Together with others.
    Shared,
    /// Alone.
    Exclusive,
}

impl Mode {
    fn kind(self) -> i32 {
        match self {
            Self::Shared => libc::F_RDLCK,
            Self::Exclusive => libc::F_WRLCK,
        }
    }
}

/// Locks bytes of `file` if nobody else has them; they need not exist.
pub(super) fn try_lock(file: &File, bytes: Range<u64>, mode: Mode) -> io::Result<bool> {
    match fcntl(file, FcntlArg::F_OFD_SETLK(&describe(mode.kind(), bytes))) {
        Ok(_) => Ok(true),
        Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// Gives bytes back.
pub(super) fn unlock(file: &File, bytes: Range<u64>) -> io::Result<()> {
    fcntl(file, FcntlArg::F_OFD_SETLK(&describe(libc::F_UNLCK, bytes)))?;
    Ok(())
}

/// Whether another description has locked any of the bytes so that they can't be had in `mode`.
pub(super) fn is_locked(file: &File, bytes: Range<u64>, mode: Mode) -> io::Result<bool> {
    let mut found = describe(mode.kind(), bytes);
    fcntl(file, FcntlArg::F_OFD_GETLK(&mut found))?;
    Ok(i32::from(found.l_type) != libc::F_UNLCK)
}

fn describe(kind: i32, bytes: Range<u64>) -> flock {
    flock {
        l_type: kind as i16,
        l_whence: libc::SEEK_SET as i16,
        l_start: bytes.start.cast_signed(),
        l_len: (bytes.end - bytes.start).cast_signed(),
        l_pid: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_ends_with_its_description() {
        let file = tempfile::NamedTempFile::new().expect("file");
        let open = || File::options().read(true).write(true).open(file.path());
        let (a, b) = (open().expect("open"), open().expect("open"));
        let bytes = 1 << 62..(1 << 62) + 3;
        assert!(try_lock(&a, bytes.clone(), Mode::Exclusive).expect("lock"));
        assert!(!try_lock(&b, bytes.clone(), Mode::Shared).expect("lock"));
        assert!(is_locked(&b, 1 << 62..(1 << 62) + 1, Mode::Shared).expect("look"));
        assert!(!is_locked(&a, bytes.clone(), Mode::Exclusive).expect("one's own"));
        drop(a);
        assert!(!is_locked(&b, bytes.clone(), Mode::Exclusive).expect("look"));
        assert!(try_lock(&b, bytes.clone(), Mode::Shared).expect("lock"));
        let c = open().expect("open");
        assert!(!is_locked(&c, bytes.clone(), Mode::Shared).expect("look"));
        assert!(is_locked(&c, bytes.clone(), Mode::Exclusive).expect("look"));
        unlock(&b, bytes).expect("unlock");
    }
}
