//! Disk locks of which nobody knows whether they were taken, those that change hands in part, and what another host
//! does between two commands.

mod common;

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use common::upkept::{HEARTBEAT, LEASE, Upkept, each_of};
use common::volume;
use vmfs_core::format::FdAddr;
use vmfs_core::fs::{Creator, FileSystem, FsError, OpenMode, Rename};
use vmfs_core::scsi::{Comparison, DeviceOffset, Lun, LunError, MemoryArray, MemoryPort};

const CREATOR: Creator = Creator {
    mode: 0o644,
    uid: 0,
    gid: 0,
};
/// Bytes of a descriptor's own address.
const ADDRESS: usize = 4;

/// Which commands of one thread have no answer any more.
#[derive(Debug, Default)]
struct Silence(Mutex<Option<(ThreadId, u32)>>);

impl Silence {
    /// What the calling thread sends fails, from the command on that comes after `good` more.
    fn after(&self, good: u32) {
        *self.0.lock().expect("lock") = Some((thread::current().id(), good));
    }

    fn end(&self) {
        *self.0.lock().expect("lock") = None;
    }

    /// Whether it has begun before this command (`None`), with it (`Some(true)`), or hasn't.
    fn falls(&self) -> Option<bool> {
        let mut set = self.0.lock().expect("lock");
        match &mut *set {
            Some((thread, 0)) if *thread == thread::current().id() => None,
            Some((thread, left)) if *thread == thread::current().id() => {
                *left -= 1;
                Some(*left == 0)
            }
            _ => Some(false),
        }
    }
}

/// What is done when a descriptor's address alone is read next.
#[derive(Default)]
struct Between(Mutex<Option<Box<dyn FnOnce() + Send>>>);

impl fmt::Debug for Between {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Between")
    }
}

/// A LUN whose path goes away in the middle of a command: the array has carried it out.
#[derive(Debug)]
struct SilentLun {
    port: MemoryPort,
    silence: Arc<Silence>,
    between: Arc<Between>,
}

impl SilentLun {
    fn run<T>(&self, command: impl FnOnce() -> Result<T, LunError>) -> Result<T, LunError> {
        let silent = || LunError::Io {
            lun: "the LUN".to_owned(),
            operation: "a command",
            offset: DeviceOffset(0),
            length: 0,
            source: io::Error::other("no answer, on purpose"),
        };
        match self.silence.falls() {
            None => Err(silent()),
            Some(true) => {
                let _ = command();
                Err(silent())
            }
            Some(false) => command(),
        }
    }
}

impl Lun for SilentLun {
    vmfs_core::forward_lun!(port: name capacity block_size access capabilities persistent_reserve reservations reset attentions counters);

    fn read(&self, offset: DeviceOffset, buf: &mut [u8]) -> Result<(), LunError> {
        if buf.len() == ADDRESS
            && let Some(work) = self.between.0.lock().expect("lock").take()
        {
            work();
        }
        self.run(|| self.port.read(offset, buf))
    }

    fn write(&self, offset: DeviceOffset, data: &[u8]) -> Result<(), LunError> {
        self.run(|| self.port.write(offset, data))
    }

    fn write_zeros(&self, offset: DeviceOffset, length: u64) -> Result<(), LunError> {
        self.run(|| self.port.write_zeros(offset, length))
    }

    fn flush(&self) -> Result<(), LunError> {
        self.run(|| self.port.flush())
    }

    fn compare_and_write(
        &self,
        offset: DeviceOffset,
        expected: &[u8],
        new: &[u8],
    ) -> Result<Comparison, LunError> {
        self.run(|| self.port.compare_and_write(offset, expected, new))
    }

    fn reserve(&self) -> Result<(), LunError> {
        self.run(|| self.port.reserve())
    }

    fn release(&self) -> Result<(), LunError> {
        // With the path the session ends, and with that the reservation.
        let _ = self.port.release();
        self.run(|| Ok(()))
    }
}

/// A host whose path goes away.
struct Host {
    fs: Arc<FileSystem>,
    upkept: Upkept,
    silence: Arc<Silence>,
    between: Arc<Between>,
}

impl Host {
    fn mount(array: &MemoryArray, number: u32) -> Self {
        let (silence, between) = (Arc::<Silence>::default(), Arc::<Between>::default());
        let lun = Arc::new(SilentLun {
            port: array.port(&format!("host{number}")),
            silence: Arc::clone(&silence),
            between: Arc::clone(&between),
        });
        let upkept = Upkept::on(lun, number, Duration::from_millis(40), |_| true);
        Self {
            fs: Arc::clone(&upkept.fs),
            upkept,
            silence,
            between,
        }
    }

    fn unmount(self) {
        self.upkept.unmount();
    }
}

fn each(test: impl Fn(&MemoryArray)) {
    each_of(volume, test);
}

/// Tries until it works, for less than the time after which other hosts count as dead.
fn soon<T>(what: &str, mut call: impl FnMut() -> Result<T, FsError>) -> T {
    let start = Instant::now();
    loop {
        match call() {
            Ok(done) => return done,
            Err(error) => assert!(start.elapsed() < LEASE * 4, "{what}: {error}"),
        }
        thread::sleep(HEARTBEAT / 10);
    }
}

#[test]
fn a_lock_is_given_back_whose_taking_has_no_answer() {
    each(|array| {
        let (a, b) = (Host::mount(array, 1), Host::mount(array, 2));
        let file = a.fs.create(FdAddr::ROOT, b"disk", CREATOR).expect("create");
        let file = file.fd();
        let mut failed = 0;
        for opened in [None, Some(OpenMode::Read)] {
            for good in 1..60 {
                if let Some(mode) = opened {
                    soon("open", || a.fs.open_file(file, mode));
                }
                a.silence.after(good);
                let done = a.fs.open_file(file, OpenMode::Write);
                a.silence.end();
                failed += u32::from(done.is_err());
                if done.is_ok() {
                    a.fs.close_file(file, OpenMode::Write);
                }
                if let Some(mode) = opened {
                    // As it was before.
                    soon("read beside", || b.fs.open_file(file, mode));
                    b.fs.close_file(file, mode);
                    a.fs.close_file(file, mode);
                }
                soon("open for writing", || b.fs.open_file(file, OpenMode::Write));
                b.fs.close_file(file, OpenMode::Write);
                if done.is_ok() {
                    break;
                }
            }
        }
        assert!(failed > 4, "{failed}");
        a.unmount();
        b.unmount();
    });
}

#[test]
fn who_only_reads_in_the_end_leaves_the_writers_their_mode() {
    each(|array| {
        let hosts = [1, 2, 3].map(|number| Host::mount(array, number));
        let [a, b, c] = &hosts;
        let file = a.fs.create(FdAddr::ROOT, b"disk", CREATOR).expect("create");
        let file = file.fd();
        a.fs.write(file, 0, &vec![1; 1 << 20]).expect("write");
        for host in [a, b] {
            soon("open", || host.fs.open_file(file, OpenMode::MultiWriter));
        }
        a.fs.open_file(file, OpenMode::Read).expect("open again");
        a.fs.close_file(file, OpenMode::MultiWriter);
        // What it reads may change yet.
        for byte in 2..6 {
            b.fs.write(file, 4096, &[byte; 512]).expect("write");
            let inode = a.fs.inode(file).expect("inode");
            let mut found = [0; 512];
            a.fs.read(&inode, 4096, &mut found).expect("read");
            assert_eq!(found, [byte; 512]);
        }
        assert!(matches!(
            c.fs.open_file(file, OpenMode::Read),
            Err(FsError::Busy { .. })
        ));
        b.fs.close_file(file, OpenMode::MultiWriter);
        soon("read beside who reads", || {
            c.fs.open_file(file, OpenMode::Read)
        });
        c.fs.close_file(file, OpenMode::Read);
        a.fs.close_file(file, OpenMode::Read);
        hosts.into_iter().for_each(Host::unmount);
    });
}

#[test]
fn a_descriptor_that_becomes_another_file_while_it_is_looked_at_is_not_damaged() {
    each(|array| {
        let (a, b) = (Host::mount(array, 1), Host::mount(array, 2));
        let file = a.fs.create(FdAddr::ROOT, b"file", CREATOR).expect("create");
        let file = file.fd();
        a.fs.unlink(FdAddr::ROOT, b"file").expect("unlink");
        // From here on it is zeros on the LUN.
        soon("look", || match b.fs.inode(file) {
            Err(FsError::Stale { .. }) => Ok(()),
            Err(error) => Err(error),
            Ok(_) => Err(FsError::Stale { fd: file }),
        });
        let made = Arc::new(Mutex::new(None));
        let (its, fs) = (Arc::clone(&made), Arc::clone(&a.fs));
        *b.between.0.lock().expect("lock") = Some(Box::new(move || {
            let made = fs.create(FdAddr::ROOT, b"file", CREATOR).expect("create");
            *its.lock().expect("lock") = Some(made.fd());
            // It has to be on the LUN before the address is read.
            fs.sync().expect("sync");
        }));
        let found = b.fs.inode(file);
        assert_eq!(*made.lock().expect("lock"), Some(file), "made again");
        match found {
            Ok(inode) => assert_eq!(inode.fd(), file),
            Err(error) => assert!(matches!(error, FsError::Stale { .. }), "{error}"),
        }
        a.unmount();
        b.unmount();
    });
}

#[test]
fn what_a_rename_replaced_goes_though_the_rename_failed() {
    each(|array| {
        let (a, b) = (Host::mount(array, 1), Host::mount(array, 2));
        let mut failed = 0;
        for good in 1..80 {
            let (old, new) = (format!("old{good}"), format!("new{good}"));
            for name in [&old, &new] {
                soon("create", || {
                    a.fs.create(FdAddr::ROOT, name.as_bytes(), CREATOR)
                });
            }
            let root = FdAddr::ROOT;
            a.silence.after(good);
            let done =
                a.fs.rename(root, old.as_bytes(), root, new.as_bytes(), Rename::Replace);
            a.silence.end();
            if done.is_ok() {
                break;
            }
            failed += 1;
        }
        assert!(failed > 10, "{failed}");
        a.unmount();
        b.unmount();
    });
}
