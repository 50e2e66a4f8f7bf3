//! The file `IMAGE.array.hosts`, in which the hosts of an image meet, and the part of it that they
//! have in memory together.
//!
//! | bytes | what |
//! |---|---|
//! | 0 | magic, version, inode and birth time of the image that the file belongs to |
//! | 64 | words that every command reads: which version of the record counts and where it is, who has reserved the LUN, how many seats were ever taken |
//! | 128 | the last incarnation given |
//! | 512 | counters of hosts that have left |
//! | 1024 | for each seat how many lanes it uses |
//! | 2048 | for each seat how much room it has used for moved blocks |
//! | 4096 | 128 seats of 1 KiB: incarnation, process, time, name; 32 lanes; counters |
//! | 1 MiB | versions of the record (reservations, which blocks were moved): two places of 64 KiB for each seat |
//! | 32 MiB | contents of moved blocks: 256 MiB for each seat, of which little is ever there |

use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, UNIX_EPOCH};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use vm_memory::mmap::{MmapRegion, MmapRegionBuilder};
use vm_memory::{FileOffset, VolatileMemory};

use super::locks::{self, Mode};
use crate::scsi::lun::Access;

/// Seats, and with that processes that may have the LUN open.
pub(super) const SEATS: usize = 128;
/// Commands of a seat that may run at a time.
pub(super) const LANES: usize = 32;
/// Bytes of a name.
pub(super) const MAX_NAME: usize = 224;
/// Bytes of a version of the record.
pub(super) const RECORD_SIZE: u64 = 64 << 10;
/// Bytes that a seat has for contents of moved blocks.
pub(super) const AREA_SIZE: u64 = 256 << 20;

const MAGIC: u64 = u64::from_le_bytes(*b"VMFShost");
const VERSION: u64 = 1;
const SUFFIX: &str = ".hosts";
const SEAT_SIZE: usize = 1024;
const FIRST_SEAT: usize = 4096;
/// Bytes that are always there, so that no access to a word finds the disk full.
const LENGTH: u64 = (FIRST_SEAT + SEATS * SEAT_SIZE) as u64;
const RECORDS: u64 = 1 << 20;
const AREAS: u64 = 32 << 20;

/// Locks lie where no byte ever will: one for each seat, and this.
const LOCKS: u64 = 1 << 62;
const REPLACE_LOCK: u64 = LOCKS + 0x2000;
/// On the image itself: which file of this kind its users meet in, as an inode number.
const MEETING_LOCKS: u64 = 1 << 61;
const MEETINGS: u64 = 1 << 40;

/// A word that processes share.
#[derive(Debug, Clone, Copy)]
pub(super) enum Word {
    /// The version of the record that counts, and the seat that wrote it (`record::Version`).
    Version,
    /// Port that has reserved the LUN; 0 for none.
    Reserved,
    /// One more than the highest seat ever taken.
    Seats,
    /// Last incarnation given.
    Incarnation,
    /// A counter of the hosts that have left.
    Retired(usize),
    /// One more than the highest lane that a seat has used.
    LanesOf(usize),
    /// Bytes that a seat has used for moved blocks since there were none.
    AreaOf(usize),
    /// A seat's incarnation; 0 if nobody ever sat there or the last one left in order.
    SeatIncarnation(usize),
    /// Process that has the seat.
    SeatProcess(usize),
    /// When it was taken, in seconds since 1970.
    SeatTime(usize),
    /// Bytes of the seat's name.
    SeatNameLength(usize),
    /// A lane of a seat.
    Lane(usize, usize),
    /// A counter of a seat.
    SeatCounter(usize, usize),
}

impl Word {
    fn offset(self) -> usize {
        let seat = |seat: usize, word: usize| FIRST_SEAT + seat * SEAT_SIZE + 8 * word;
        match self {
            Self::Version => 64,
            Self::Reserved => 72,
            Self::Seats => 80,
            Self::Incarnation => 128,
            Self::Retired(counter) => 512 + 8 * counter,
            Self::LanesOf(seat) => 1024 + 8 * seat,
            Self::AreaOf(seat) => 2048 + 8 * seat,
            Self::SeatIncarnation(at) => seat(at, 0),
            Self::SeatProcess(at) => seat(at, 1),
            Self::SeatTime(at) => seat(at, 2),
            Self::SeatNameLength(at) => seat(at, 3),
            Self::Lane(at, lane) => seat(at, 32 + lane),
            Self::SeatCounter(at, counter) => seat(at, 64 + counter),
        }
    }
}

const NAME_IN_SEAT: usize = 32;
const _: () = assert!(NAME_IN_SEAT + MAX_NAME <= 32 * 8 && 32 + LANES <= 64);
const _: () = assert!(crate::scsi::counters::Snapshot::WORDS <= 64 && SEATS <= 128);
const _: () = assert!(LENGTH.is_multiple_of(4096) && LENGTH <= RECORDS);
const _: () = assert!(RECORDS + 2 * SEATS as u64 * RECORD_SIZE <= AREAS);

/// The open file.
#[derive(Debug)]
pub(super) struct Memory {
    file: Arc<File>,
    region: MmapRegion,
    writable: bool,
    path: PathBuf,
    /// Stands in for words that don't exist, of which none is ever asked for.
    nowhere: AtomicU64,
}

impl Memory {
    /// The file beside `image`, which is made for who opens the image for writing.
    ///
    /// `None` if there is none and none can be made: then no two hosts can share the image.
    pub(super) fn open(
        image: &Path,
        metadata: &Metadata,
        access: Access,
    ) -> io::Result<Option<Self>> {
        // As the kernel names it, so that all who come by different paths meet.
        let image = fs::canonicalize(image)?;
        let mut path = super::super::ArrayState::path(&image).into_os_string();
        path.push(SUFFIX);
        let path = PathBuf::from(path);
        // Each round ends, or finds that another process has made or replaced the file.
        for _ in 0..100 {
            let file = File::options().read(true).write(true).open(&path);
            let (file, writable) = match (file, access) {
                (Ok(file), _) => (file, true),
                (Err(error), Access::ReadOnly) if error.kind() == io::ErrorKind::NotFound => {
                    return Ok(None);
                }
                (Err(error), Access::ReadWrite) if error.kind() == io::ErrorKind::NotFound => {
                    if create(&path, metadata, false)? {
                        continue;
                    }
                    return Ok(None);
                }
                (Err(_), Access::ReadOnly) => match File::open(&path) {
                    Ok(file) => (file, false),
                    Err(_) => return Ok(None),
                },
                (Err(error), Access::ReadWrite) => {
                    return Err(describe(&path, &error.to_string()));
                }
            };
            let found = file.metadata()?;
            if !fs::metadata(&path).is_ok_and(|now| now.ino() == found.ino()) {
                continue;
            }
            let mut header = [0; 32];
            file.read_exact_at(&mut header, 0)
                .map_err(|_| describe(&path, "it is cut short"))?;
            let word = |at: usize| {
                let bytes = header[at..at + 8].iter().rev();
                bytes.fold(0_u64, |value, &byte| value << 8 | u64::from(byte))
            };
            if word(0) != MAGIC || word(8) != VERSION || found.len() < LENGTH {
                return Err(describe(&path, "it is of another version, or damaged"));
            }
            if (word(16), word(24)) == (metadata.ino(), born(metadata)) {
                return Self::map(file, writable, path).map(Some);
            }
            // Of an image that was here before, or that this one is a copy of.
            if access == Access::ReadOnly {
                return Ok(None);
            }
            replace(&file, &path, metadata)?;
        }
        Err(describe(&path, "it changes all the time"))
    }

    fn map(file: File, writable: bool, path: PathBuf) -> io::Result<Self> {
        use nix::libc::{MAP_SHARED, PROT_READ, PROT_WRITE};
        let file = Arc::new(file);
        let protection = PROT_READ | if writable { PROT_WRITE } else { 0 };
        let region = MmapRegionBuilder::new(LENGTH as usize)
            .with_file_offset(FileOffset::from_arc(Arc::clone(&file), 0))
            .with_mmap_prot(protection)
            .with_mmap_flags(MAP_SHARED)
            .build()
            .map_err(|error| describe(&path, &error.to_string()))?;
        Ok(Self {
            file,
            region,
            writable,
            path,
            nowhere: AtomicU64::new(0),
        })
    }

    /// A shared word. It may only be changed if the file is writable.
    pub(super) fn word(&self, word: Word) -> &AtomicU64 {
        let offset = word.offset();
        let found = self.region.get_atomic_ref(offset);
        debug_assert!(found.is_ok(), "{word:?}");
        found.unwrap_or(&self.nowhere)
    }

    /// The file, for locks and for what isn't words.
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Where the file is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether words may be changed.
    pub(super) fn is_writable(&self) -> bool {
        self.writable
    }

    /// Bytes to lock for a seat.
    pub(super) fn seat_lock(seat: usize) -> std::ops::Range<u64> {
        let at = LOCKS + seat as u64;
        at..at + 1
    }

    /// Where a seat writes a version of the record with this number: not where it wrote the one
    /// before.
    pub(super) fn record_place(seat: usize, number: u64) -> u64 {
        RECORDS + (2 * seat as u64 + number % 2) * RECORD_SIZE
    }

    /// Where a seat's contents of moved blocks start.
    pub(super) fn area(seat: usize) -> u64 {
        AREAS + seat as u64 * AREA_SIZE
    }

    /// The name of who has or had a seat.
    pub(super) fn name_of(&self, seat: usize) -> io::Result<String> {
        use std::sync::atomic::Ordering::Relaxed;
        let length = self.word(Word::SeatNameLength(seat)).load(Relaxed);
        let mut name = vec![0; (length as usize).min(MAX_NAME)];
        self.file
            .read_exact_at(&mut name, Self::name_offset(seat))?;
        Ok(String::from_utf8_lossy(&name).into_owned())
    }

    /// Writes the name of who takes a seat.
    pub(super) fn set_name(&self, seat: usize, name: &str) -> io::Result<()> {
        use std::sync::atomic::Ordering::Relaxed;
        self.file
            .write_all_at(name.as_bytes(), Self::name_offset(seat))?;
        let length = self.word(Word::SeatNameLength(seat));
        length.store(name.len() as u64, Relaxed);
        Ok(())
    }

    fn name_offset(seat: usize) -> u64 {
        (FIRST_SEAT + seat * SEAT_SIZE + NAME_IN_SEAT) as u64
    }

    /// Makes sure that all who use `image` through files like this one use this very one: it might
    /// have been deleted meanwhile, or the image have a second name in another folder.
    pub(super) fn announce(&self, image: &File) -> io::Result<()> {
        let mine = self.file.metadata()?.ino() % MEETINGS;
        let at = MEETING_LOCKS + mine;
        let joined = locks::try_lock(image, at..at + 1, Mode::Shared)?;
        let before = MEETING_LOCKS - 1..at;
        let after = at + 1..MEETING_LOCKS + MEETINGS + 1;
        if joined
            && !locks::is_locked(image, before, Mode::Exclusive)?
            && !locks::is_locked(image, after, Mode::Exclusive)?
        {
            return Ok(());
        }
        Err(describe(
            &self.path,
            "the image is in use by processes that don't see this file: it was deleted meanwhile, or the image has another name elsewhere",
        ))
    }
}

/// Takes an image that can't be shared for this process alone; an error if others have it open.
pub(super) fn claim_alone(image: &File) -> io::Result<()> {
    let all = MEETING_LOCKS - 1..MEETING_LOCKS + MEETINGS + 1;
    match locks::try_lock(image, all, Mode::Exclusive) {
        // A file system without such locks has no way to share either.
        Ok(true) | Err(_) => Ok(()),
        Ok(false) => Err(io::Error::new(
            io::ErrorKind::ResourceBusy,
            "another process has it open for writing, and the file in which they would share it can't be made",
        )),
    }
}

fn describe(path: &Path, problem: &str) -> io::Error {
    let path = path.display();
    io::Error::other(format!(
        "hosts can't share it through {path}: {problem}; if no process has the image open, {path} can be deleted"
    ))
}

/// When a file was made, in nanoseconds since 1970; 0 if its file system doesn't tell. With the
/// inode number it tells files apart that had the number one after the other.
fn born(metadata: &Metadata) -> u64 {
    let time = metadata.created().ok();
    let time = time.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    time.map_or(0, |time| time.as_nanos() as u64)
}

/// Makes the file, complete before anybody sees it. `false` if nothing can be made in this folder.
fn create(path: &Path, image: &Metadata, replace: bool) -> io::Result<bool> {
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(format!(".{}.new", std::process::id()));
    let unfinished = PathBuf::from(unfinished);
    let made = write_new(&unfinished, image).and_then(|()| {
        let flags = if replace {
            RenameFlags::empty()
        } else {
            RenameFlags::NOREPLACE
        };
        renameat_with(CWD, &unfinished, CWD, path, flags).map_err(io::Error::from)
    });
    let Err(error) = made else {
        return Ok(true);
    };
    // Left behind it would only be in the way.
    let _ = fs::remove_file(&unfinished);
    match error.kind() {
        io::ErrorKind::AlreadyExists => Ok(true),
        io::ErrorKind::PermissionDenied
        | io::ErrorKind::ReadOnlyFilesystem
        | io::ErrorKind::NotFound
        | io::ErrorKind::InvalidFilename => Ok(false),
        _ => Err(describe(path, &error.to_string())),
    }
}

fn write_new(path: &Path, image: &Metadata) -> io::Result<()> {
    let file = File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    let mut bytes = vec![0; LENGTH as usize];
    for (at, word) in [MAGIC, VERSION, image.ino(), born(image)]
        .iter()
        .enumerate()
    {
        bytes[8 * at..8 * at + 8].copy_from_slice(&word.to_le_bytes());
    }
    file.write_all_at(&bytes, 0)?;
    // Who may use the image may use this; as an ordinary user it has our owner anyway.
    let _ = std::os::unix::fs::fchown(&file, Some(image.uid()), Some(image.gid()));
    file.set_permissions(image.permissions())
}

/// Puts a new file in the place of `old`, which belongs to another image.
fn replace(old: &File, path: &Path, image: &Metadata) -> io::Result<()> {
    let lock = REPLACE_LOCK..REPLACE_LOCK + 1;
    let mut tries = 0;
    while !locks::try_lock(old, lock.clone(), Mode::Exclusive)? {
        tries += 1;
        if tries > 1000 {
            return Err(describe(
                path,
                "another process is replacing it, and doesn't end",
            ));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    // Unless another process has just done it. The lock goes with the description.
    let ino = old.metadata()?.ino();
    if fs::metadata(path).is_ok_and(|now| now.ino() == ino) && !create(path, image, true)? {
        return Err(describe(path, "it belongs to another image"));
    }
    Ok(())
}
